"""How ``run`` shows decisions: JSON lines for programs, words for people."""

import json
import sys
import time
from typing import Any, Callable, Dict, Optional, Sequence

import typer

from mla_edge.cli.outputs import say
from mla_edge.errors import MlaEdgeError
from mla_edge.runtime.sense import BACK, Fault
from mla_edge.signals import InputSpec, Prediction

CLEAR_LINE = "\r\x1b[K"


class JsonLines:
    """A JSON object for each decision, and the summary last."""

    def __init__(self, inputs: Sequence[InputSpec]) -> None:
        """Name the capture time of each of ``inputs``, null where it was masked."""
        self._names = [spec.name for spec in inputs]

    def show(self, prediction: Prediction) -> None:
        """Print a line."""
        typer.echo(json.dumps(as_row(prediction, self._names)))

    def show_fault(self, fault: Fault) -> None:
        """Say it on stderr."""
        self.say(in_words(fault))

    def say(self, words: str) -> None:
        """Say it on stderr."""
        say(words)

    def close(self, summary: Dict[str, Any], failure: Optional[MlaEdgeError]) -> None:
        """Print the summary; after a failure it is a part of the object that tells of that."""
        if failure is None:
            typer.echo(json.dumps({"summary": summary}))
        else:
            failure.details["summary"] = summary


def as_row(prediction: Prediction, names: Sequence[str]) -> Dict[str, Any]:
    """A decision for JSON; the capture time of each of ``names``, null where it was masked."""
    times, ages = prediction.capture_time_s, prediction.ages_ms
    return {
        "label": prediction.label,
        "confidence": round(prediction.confidence, 6),
        "tier": prediction.tier,
        "reason": prediction.reason,
        "mode": prediction.mode,
        "capture_time_s": {
            name: round(times[name], 6) if name in times else None for name in names
        },
        "decision_time_s": round(prediction.decision_time_s, 6),
        "latency_ms": round(prediction.latency_ms, 3),
        "age_ms": round(prediction.age_ms, 3),
        "ages_ms": {name: round(ages[name], 3) if name in ages else None for name in names},
        "skew_ms": round(prediction.skew_ms, 3),
        "reused_ms": round(prediction.reused_ms, 3),
        "repeated": list(prediction.repeated),
        "truth": prediction.truth,
        "certificate": prediction.certificate,
        "degraded": list(prediction.degraded),
    }


class Words:
    """A line for each change of the label, on a terminal one that is always up to date too."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """The lines show the seconds of ``clock`` from now on."""
        self._live = sys.stdout.isatty()
        self._clock = clock
        self._start_s = clock()
        self._label = ""

    def show(self, prediction: Prediction) -> None:
        """Print a line if the label is another one; bring the live line up to date."""
        line = self._line(prediction)
        if prediction.label != self._label:
            self._label = prediction.label
            typer.echo((CLEAR_LINE if self._live else "") + line)
        if self._live:
            typer.echo(CLEAR_LINE + line, nl=False)

    def show_fault(self, fault: Fault) -> None:
        """Say it on stderr, on a line of its own."""
        self.say(in_words(fault))

    def say(self, words: str) -> None:
        """Say it on stderr, on a line of its own."""
        self._end_live_line()
        say(words)

    def close(self, summary: Dict[str, Any], failure: Optional[MlaEdgeError]) -> None:
        """Print the closing table."""
        self._end_live_line()
        typer.echo("\n".join(f"{name:<12}{text}" for name, text in _table(summary)))

    def _line(self, prediction: Prediction) -> str:
        truth = "" if prediction.truth is None else f"  truth {prediction.truth}"
        return (
            f"{self._clock() - self._start_s:7.2f} s  {prediction.label:<8}"
            f"{prediction.confidence:6.1%}  {prediction.tier:<6}{prediction.mode:<13}"
            f"latency {prediction.latency_ms:5.1f} ms  age {prediction.age_ms:4.0f} ms{truth}"
        )

    def _end_live_line(self) -> None:
        if self._live:
            typer.echo(CLEAR_LINE, nl=False)


def in_words(fault: Fault) -> str:
    """What happened to a modality, as a sentence."""
    if fault.what == BACK:
        return f"{fault.modality} is {'back' if fault.masked else 'well again'}"
    state = {"ended": "has ended"}.get(fault.what, f"is {fault.what}")
    left_out = " and is left out" if fault.masked else ", but used"
    return f"{fault.modality} {state}{left_out}: {fault.why}"


def _table(summary: Dict[str, Any]) -> "list[tuple[str, str]]":
    rows = [
        (
            "decisions",
            f"{summary['decisions']} in {summary['seconds']:.1f} s"
            f" ({summary['rate_hz'] or 0:.1f} a second)",
        )
    ]
    for what in ("tiers", "modes"):
        shares = [f"{name} {part['share']:.1%}" for name, part in summary[what].items()]
        rows.append((what, ", ".join(shares) or "-"))
    if summary["certified"]["decisions"]:
        rows.append(("certified", f"{summary['certified']['share']:.1%} of the decisions"))
    deadline = summary["deadline"]
    if deadline is not None:
        missed, degraded = (deadline[what]["share"] for what in ("missed", "degraded"))
        rows.append(
            (
                "deadline",
                f"{deadline['ms']:g} ms: {missed:.1%} late, {degraded:.1%} by lite for it",
            )
        )
    if summary["accuracy"] is not None:
        rows.append(
            ("accuracy", f"{summary['accuracy']:.1%} of {summary['judged']} with known truth")
        )
    for what, name in (("latency_ms", "latency"), ("age_ms", "age"), ("skew_ms", "skew")):
        spread = _spread(summary[what])
        if spread:
            rows.append((name, spread))
    drops = [f"{name} {count}" for name, count in summary["drops"].items()]
    rows.append(("drops", ", ".join(drops)))
    faults = [
        f"{name} {what} {count}"
        for name, counts in summary["faults"].items()
        for what, count in counts.items()
    ]
    rows.append(("faults", ", ".join(faults) or "none"))
    more = {"audits": _audited, "board": _board, "recording": _recorded}
    rows += [(what, words(summary[what])) for what, words in more.items() if summary.get(what)]
    return rows + (_replayed(summary["replay"]) if "replay" in summary else [])


def _audited(audits: Dict[str, Any]) -> str:
    texts = [
        f"{mode} {found['disagreements']} of {found['audits']} otherwise"
        + ("" if found["monitored"] else ", no certificate to hold it against")
        + (", alarm" if found["alarm"] else "")
        for mode, found in audits.items()
    ]
    return "; ".join(texts) or "none yet"


def _board(board: Dict[str, Any]) -> str:
    """How hot it grew, what it drew, and what was held back for that."""
    parts = []
    hottest = max(board["hottest_c"].items(), key=lambda item: item[1], default=None)
    if hottest is not None:
        parts.append(f"{hottest[0]} at most {hottest[1]:.1f} °C")
    if board["power_w"] is not None:
        parts.append(f"{board['power_w']['mean']:.1f} W")
    if board["joules_per_decision"] is not None:
        parts.append(f"{board['joules_per_decision']:.3g} J a decision")
    held = [f"{reason} {count}" for reason, count in board["held_back"].items() if count]
    if held:
        parts.append(f"by lite for it: {', '.join(held)}")
    if board["throttled_s"]:
        parts.append(f"throttled for {board['throttled_s']:.0f} s")
    return ", ".join(parts) or "-"


def _recorded(recording: Dict[str, Any]) -> str:
    files, left_out = recording["files"], recording["left_out"]
    text = files[0] if len(files) == 1 else f"{files[0]} to {files[-1]}"
    text += f", {recording['mb']:.1f} MB"
    if recording["removed"]:
        text += f", {recording['removed']} older files removed"
    if left_out:
        text += ", left out " + ", ".join(f"{name} {n}" for name, n in left_out.items())
    return text + (f", stopped: {recording['stopped']}" if recording["stopped"] else "")


def _replayed(replay: Dict[str, Any]) -> "list[tuple[str, str]]":
    count = replay["compared"]
    text = f"all {count} decisions are as recorded"
    if replay["different"]:
        text = (
            f"of {count} decisions {replay['other_label']} have another label than recorded, "
            f"{replay['other_routing']} are routed otherwise, "
            f"{replay['other_confidence']} have another confidence"
        )
    rows = [("replay", text)]
    if replay["impossible"]:
        what = "decisions cannot be made again: what they used is not in the file"
        rows.append(("", f"{replay['impossible']} {what}"))
    here = _spread(replay["latency_here_ms"])
    return rows + ([("here", here)] if here else [])


def _spread(values: Dict[str, Any]) -> str:
    known = {key: value for key, value in values.items() if value is not None}
    return "  ".join(f"{key} {value:.1f} ms" for key, value in known.items())
