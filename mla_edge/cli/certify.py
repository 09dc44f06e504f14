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
    from mla_edge.runtime.certification import Outcome

_TOLD_EVERY = 50  # samples, on a terminal


def certify(
    bundle: Annotated[Path, typer.Argument(help="The folder that export wrote.")],
    recording: Annotated[
        Path, typer.Option(help="Moments with their classes (.npz) that chose nothing before.")
    ],
    epsilon: Annotated[
        float, typer.Option(help="Share of decisions that routing may spoil, at most.")
    ] = 0.01,
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

    with Interrupts() as interrupts:
        outcome = certify_bundle(
            bundle,
            recording,
            epsilon=epsilon,
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
            f"{bundle}: no mode can be certified at epsilon {epsilon:g}, delta {delta:g}\n"
            + "\n".join(_words(outcome)),
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
        "modes": {
            each.mode: {
                "certified": each.certificate is not None,
                "units": each.units,
                "units_needed": each.needed,
                "why": each.why,
                **(
                    {"claim": each.certificate.claim(each.mode), **asdict(each.certificate)}
                    if each.certificate
                    else {}
                ),
            }
            for each in outcome.modes
        },
    }


def _words(outcome: "Outcome", dry_run: bool = False) -> List[str]:
    lines = []
    for each in outcome.modes:
        held = each.certificate
        if held is not None:
            lines.append(f"{each.mode}: certified: {held.claim(each.mode)}")
            lines.append(
                f"  lite is kept from {held.threshold:.4f} on, in {held.kept:.1%} of the "
                f"units; {held.losses} of {held.units} were lost, p = {held.p_value:.2g}"
            )
        elif dry_run and not each.why:
            lines.append(
                f"{each.mode}: {each.units} independent units, "
                f"{each.needed} pass four times in five if a quarter of epsilon is lost"
            )
        else:
            lines.append(f"{each.mode}: not certified: {each.why}")
    if outcome.attempt > 1:
        lines.append(f"this was attempt {outcome.attempt} on this data; its claim counts all")
    return lines
