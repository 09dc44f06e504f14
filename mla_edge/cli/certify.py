"""``certify``: prove on recorded moments how much routing may lose, and write that down."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from mla_edge.cli.interrupts import Interrupts
from mla_edge.errors import AccuracyGateError

if TYPE_CHECKING:
    from mla_edge.runtime.certification import ModeOutcome, Outcome

EPSILON = 0.01
_TOLD_EVERY = 50  # samples, on a terminal


def certify(
    bundle: Annotated[Path, typer.Argument(help="The folder that export wrote.")],
    recording: Annotated[
        Path, typer.Option(help="Moments with their classes (.npz) that chose nothing before.")
    ],
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
    from mla_edge.runtime.certification import certify_bundle

    epsilons = epsilon or [EPSILON]
    with Interrupts() as interrupts:
        outcome = certify_bundle(
            bundle,
            recording,
            epsilon=epsilons,
            delta=delta,
            again=again,
            dry_run=dry_run,
            engine=engine,
            threads=threads,
            on_progress=_tell_progress,
        )
        interrupts.check()
    shown = _summary(outcome)
    certified = any(each.certificate for each in outcome.modes)
    if not (certified or dry_run):
        problem = AccuracyGateError(
            f"{bundle}: no mode can be certified at epsilon {max(epsilons):g}, delta "
            f"{delta:g}\n" + "\n".join(_words(outcome)),
            hint="record more independent moments, or claim less: a larger --epsilon",
        )
        problem.details.update(shown)
        raise problem
    typer.echo(
        json.dumps({"ok": True, **shown}) if as_json else "\n".join(_words(outcome, dry_run))
    )
    if not outcome.told_units:
        typer.echo(
            "the recording has no 'units': every row was taken as independent of all others",
            err=True,
        )


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
        "units_needed": boldest.needed,
        "why": boldest.why,
        **({"claim": held.claim(outcome.mode), **asdict(held)} if held is not None else {}),
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


def _words(outcome: "Outcome", dry_run: bool = False) -> List[str]:
    lines = []
    for each in outcome.modes:
        if each.certificate is not None:
            lines.append(f"{each.mode}: certified: {each.certificate.claim(each.mode)}")
        for tried in each.rungs:
            name = each.mode
            if len(each.rungs) > 1:
                name += f", epsilon {tried.epsilon:g}"
            rung = tried.rung
            if rung is not None:
                lines.append(
                    f"  lite is kept from {rung.threshold:.4f} on, in {rung.kept:.1%} of the "
                    f"units; {rung.losses} of {each.units} were lost, p = {rung.p_value:.2g}"
                )
            elif dry_run and not tried.why:
                lines.append(
                    f"{name}: {each.units} independent units, "
                    f"{tried.needed} pass four times in five if a quarter of epsilon is lost"
                )
            else:
                lines.append(f"{name}: not certified: {tried.why}")
    if outcome.attempt > 1:
        lines.append(f"this was attempt {outcome.attempt} on this data; its claim counts all")
    return lines
