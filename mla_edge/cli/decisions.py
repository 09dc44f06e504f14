"""How ``run`` shows decisions: JSON lines for programs, words for people."""

import json
import sys
import time
from typing import Any, Dict, Optional, Sequence

import typer

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
        typer.echo(in_words(fault), err=True)

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
        "truth": prediction.truth,
        "certificate": prediction.certificate,
    }


class Words:
    """A line for each change of the label, on a terminal one that is always up to date too."""

    def __init__(self) -> None:
        """Start the clock that the lines show."""
        self._live = sys.stdout.isatty()
        self._start_s = time.monotonic()
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
        self._end_live_line()
        typer.echo(in_words(fault), err=True)

    def close(self, summary: Dict[str, Any], failure: Optional[MlaEdgeError]) -> None:
        """Print the closing table."""
        self._end_live_line()
        typer.echo("\n".join(f"{name:<12}{text}" for name, text in _table(summary)))

    def _line(self, prediction: Prediction) -> str:
        truth = "" if prediction.truth is None else f"  truth {prediction.truth}"
        return (
            f"{time.monotonic() - self._start_s:7.2f} s  {prediction.label:<8}"
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
    if summary["accuracy"] is not None:
        rows.append(
            ("accuracy", f"{summary['accuracy']:.1%} of {summary['judged']} with known truth")
        )
    for what, name in (("latency_ms", "latency"), ("age_ms", "age"), ("skew_ms", "skew")):
        spread = summary[what]
        if spread["p50"] is not None:
            rows.append((name, "  ".join(f"{key} {spread[key]:.1f} ms" for key in spread)))
    drops = [f"{name} {count}" for name, count in summary["drops"].items()]
    rows.append(("drops", ", ".join(drops)))
    faults = [
        f"{name} {what} {count}"
        for name, counts in summary["faults"].items()
        for what, count in counts.items()
    ]
    rows.append(("faults", ", ".join(faults) or "none"))
    return rows
