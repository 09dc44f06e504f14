"""``certify``: prove on recorded moments how much routing may lose, and write that down."""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Union

import typer
from typing_extensions import Annotated

from mla_edge.cli.interrupts import Interrupts
from mla_edge.errors import AccuracyGateError, ConfigError

if TYPE_CHECKING:
    from mla_edge.runtime.certification import ModeOutcome, Moments, Outcome
    from mla_edge.runtime.session_certification import SessionOutcome

EPSILON = 0.01
_TABLE = "labels.csv"
_OWN_DATA = ("mnist.npz", "grid.json")  # in the folders that the built-in networks train on
_AGAIN = "this was attempt {} on this data; its claim counts all"
_RID = " (only another export drops it)"
_TOLD_EVERY = 50  # samples, on a terminal


def certify(
    bundle: Annotated[Path, typer.Argument(help="The folder that export wrote.")],
    recording: Annotated[
        Optional[Path],
        typer.Option(
            help="Moments with their classes (.npz) that chose nothing before; or a folder of "
            "what record wrote, a whole session each."
        ),
    ] = None,
    data: Annotated[
        Optional[Path],
        typer.Option(
            help="Or a folder of them: labels.csv, image/ and audio/; or the one that digits "
            "or commands is trained on, of which what was held back is used."
        ),
    ] = None,
    epsilon: Annotated[
        Optional[List[float]],
        typer.Option(
            help="Share of decisions that routing may spoil, at most; several make a ladder. "
            "Default: 0.01.",
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option(help="The chance that the claim is wrong, at most.")
    ] = 0.05,
    again: Annotated[
        bool, typer.Option("--again", help="Use data that was used before; that is counted.")
    ] = False,
    engine: Annotated[str, typer.Option(help="As of run: a certificate is of one.")] = "auto",
    threads: Annotated[
        Optional[int],
        typer.Option(min=0, help="Of each engine, 0 for every core; default: the profile's."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say whether there is enough data; look at none.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; words go to stderr.")
    ] = False,
) -> None:
    """Certify a bundle's routing: how often may lite be wrong where full was right.

    In each mode the boldest threshold that holds takes the place of the one chosen at export;
    `run` then says which decisions are covered.
    """
    options: Dict[str, Any] = {
        "delta": delta,
        "again": again,
        "dry_run": dry_run,
        "engine": engine,
        "threads": threads,
        "on_progress": _tell_progress,
    }
    epsilons = epsilon or [EPSILON]
    if recording is not None and data is None and _is_of_sessions(recording):
        _certify_sessions(bundle, recording, epsilons, options, as_json)
    else:
        _certify_modes(bundle, _choose(recording, data), epsilons, options, as_json)


def _certify_modes(
    bundle: Path,
    moments: "Union[Path, Moments]",
    epsilons: List[float],
    options: Dict[str, Any],
    as_json: bool,
) -> None:
    from mla_edge.runtime.certification import certify_bundle

    with Interrupts() as interrupts:
        outcome = certify_bundle(bundle, moments, epsilon=epsilons, **options)
        interrupts.check()
    shown = _summary(outcome)
    certified = any(each.certificate for each in outcome.modes)
    _tell(
        f"{bundle}: no mode can be certified at epsilon {max(epsilons):g}, delta "
        f"{options['delta']:g}",
        shown,
        _words(outcome, options["dry_run"]),
        ok=certified or options["dry_run"],
        as_json=as_json,
    )
    if not outcome.told_units:
        typer.echo(
            "the data names no units (the array 'units', the column 'group'): every row was "
            "taken as independent of all others",
            err=True,
        )


def _certify_sessions(
    bundle: Path,
    recordings: Path,
    epsilons: List[float],
    options: Dict[str, Any],
    as_json: bool,
) -> None:
    from mla_edge.runtime.session_certification import certify_sessions

    if len(epsilons) > 1:
        raise ConfigError(
            f"{recordings}: sessions are certified at one epsilon, and there are "
            f"{len(epsilons)}",
            hint="a ladder is of moments (--data, or a recording .npz); give one here",
        )
    with Interrupts() as interrupts:
        outcome = certify_sessions(bundle, recordings, epsilon=epsilons[0], **options)
        interrupts.check()
    _tell(
        f"{bundle}: sessions cannot be certified at epsilon {epsilons[0]:g}, delta "
        f"{options['delta']:g}",
        _sessions(outcome),
        _session_words(outcome),
        ok=outcome.certificate is not None or options["dry_run"],
        as_json=as_json,
    )


def _tell(
    problem: str, shown: Dict[str, Any], words: List[str], *, ok: bool, as_json: bool
) -> None:
    """What came of it; AccuracyGateError where nothing holds."""
    if not ok:
        refused = AccuracyGateError(
            problem + "\n" + "\n".join(words),
            hint=f"record {'new ones' if shown['attempt'] else 'more'}, independent of one "
            "another, or claim less: a larger --epsilon",
        )
        refused.details.update(shown)
        raise refused
    typer.echo(json.dumps({"ok": True, **shown}) if as_json else "\n".join(words))


def _is_of_sessions(recording: Path) -> bool:
    return recording.is_dir() or recording.suffix == ".mcap"


def _choose(recording: Optional[Path], data: Optional[Path]) -> "Union[Path, Moments]":
    """Where the moments come from; of a folder without a table, from its network's code."""
    if (recording is None) == (data is None):
        raise ConfigError(
            "certify takes its moments from one place",
            hint="give --recording FILE.npz, or --data DIR",
        )
    if recording is not None:
        return recording
    assert data is not None
    if not data.is_dir():
        raise ConfigError(f"{data}: no such folder", hint="give --data a folder")
    if (data / _TABLE).exists() or not any((data / name).exists() for name in _OWN_DATA):
        return data
    from mla_edge.networks.unseen import unseen_moments  # needs PyTorch

    return partial(unseen_moments, data)


def _tell_progress(mode: str, done: int, of: int) -> None:
    if sys.stderr.isatty() and (done % _TOLD_EVERY == 0 or done == of):
        end = "\n" if done == of else ""
        typer.echo(f"\r{mode}: {done} of {of}{end}", err=True, nl=False)


def _summary(outcome: "Outcome") -> Dict[str, Any]:
    return {
        "bundle": str(outcome.bundle.folder),
        "attempt": outcome.attempt,
        "told_units": outcome.told_units,
        "modes": {each.mode: _mode(each) for each in outcome.modes},
    }


def _mode(outcome: "ModeOutcome") -> Dict[str, Any]:
    """All of one mode; what a ladder has several of is that of its boldest rung."""
    held, boldest = outcome.certificate, outcome.rungs[-1]
    return {
        "certified": held is not None,
        "units": outcome.units,
        "copies": outcome.copies,
        "units_needed": boldest.needed,
        "why": boldest.why,
        **({"stays": asdict(outcome.stays)} if outcome.stays is not None else {}),
        **(
            {"claim": held.claim(outcome.mode), "pays": held.pays, **asdict(held)}
            if held is not None
            else {}
        ),
        "rungs": [
            {
                "epsilon": each.epsilon,
                "certified": each.rung is not None,
                "units_needed": each.needed,
                "why": each.why,
                **(asdict(each.rung) if each.rung is not None else {}),
            }
            for each in outcome.rungs
        ],
    }


def _sessions(outcome: "SessionOutcome") -> Dict[str, Any]:
    held = outcome.certificate
    return {
        "bundle": str(outcome.bundle.folder),
        "attempt": outcome.attempt,
        "sessions": {
            "certified": held is not None,
            "sessions": outcome.sessions,
            "sessions_needed": outcome.needed,
            "left_out": outcome.left_out,
            "why": outcome.why,
            **({"stays": asdict(outcome.stays)} if outcome.stays is not None else {}),
            "mean_loss_by_reuse_ms": {f"{k:g}": v for k, v in outcome.mean_loss.items()},
            **({"claim": held.claim(), **asdict(held)} if held is not None else {}),
        },
    }


def _session_words(outcome: "SessionOutcome") -> List[str]:
    held = outcome.certificate
    if held is not None:
        lines = [
            f"sessions: certified: {held.claim()}",
            f"  {held.mean_loss:.2%} of the decisions of a session were lost on average "
            f"({held.decisions} decisions), p = {held.p_value:.2g}",
        ]
    elif outcome.why:
        lines = [f"sessions: not certified: {outcome.why}"]
    else:
        lines = [
            f"sessions: there are {outcome.sessions}; {outcome.needed} pass four times in five "
            "if a quarter of epsilon is lost"
        ]
    if outcome.stays is not None:
        lines.append(
            f"  the certificate of {outcome.stays.made} stays, though this failed: at most "
            f"{outcome.stays.epsilon:g}, reuse for up to {outcome.stays.reuse_ms:g} ms{_RID}"
        )
    for reuse_ms, loss in outcome.mean_loss.items():
        lines.append(f"  reuse for up to {reuse_ms:g} ms: {loss:.2%} lost on average")
    if outcome.left_out:
        lines.append(
            f"  {outcome.left_out} decisions were left out: a deadline, heat or power held "
            "the full tier back, which no certificate covers"
        )
    if outcome.attempt > 1:
        lines.append(_AGAIN.format(outcome.attempt))
    return lines


def _words(outcome: "Outcome", dry_run: bool = False) -> List[str]:
    lines = [
        f"{each.mode}: {each.copies} units are copies of others, and left out"
        for each in outcome.modes
        if each.copies
    ]
    for each in outcome.modes:
        if each.certificate is not None:
            lines.append(f"{each.mode}: certified: {each.certificate.claim(each.mode)}")
        for tried in each.rungs:
            is_ladder = len(each.rungs) > 1
            name = each.mode + (f", epsilon {tried.epsilon:g}" if is_ladder else "")
            rung = tried.rung
            if rung is not None:
                at = f"epsilon {tried.epsilon:g}: " if is_ladder else ""
                lines.append(
                    f"  {at}lite is kept from {rung.threshold:.7g} on, in {rung.kept:.1%} "
                    f"of the units; {rung.losses} of {each.units} were lost, "
                    f"p = {rung.p_value:.2g}"
                )
            elif dry_run and not tried.why:
                lines.append(
                    f"{name}: {each.units} independent units, "
                    f"{tried.needed} pass four times in five if a quarter of epsilon is lost"
                )
            else:
                lines.append(f"{name}: not certified: {tried.why}")
        if each.stays is not None:
            lines.append(
                f"  its certificate of {each.stays.made} stays and routes, though this failed: "
                f"at most {each.stays.epsilon:g}; of these {each.units} units its threshold "
                f"loses {each.stays.losses}{_RID}"
            )
        if each.certificate is not None and not each.certificate.pays:
            lines.append(
                "  but it stays on full alone: routing pays where more than "
                f"{each.certificate.break_even:.1%} is kept"
            )
    if outcome.voids_sessions:
        lines.append("whole sessions were certified with other thresholds: do so again")
    if outcome.attempt > 1:
        lines.append(_AGAIN.format(outcome.attempt))
    return lines
