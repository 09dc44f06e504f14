"""``build``: a bundle's TensorRT engines, on the machine that will run them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from mla_edge.cli.interrupts import Interrupts
from mla_edge.cli.progress import show_progress

if TYPE_CHECKING:
    from mla_edge.exporter.building import BuildResult


def build(
    bundle: Annotated[Path, typer.Argument(help="The folder that export wrote.")],
    max_drop: Annotated[
        float, typer.Option(min=0.0, help="Points of accuracy that may be lost, at most.")
    ] = 1.0,
    workspace_mb: Annotated[
        Optional[int],
        typer.Option(min=64, help="Memory to try layers in; default: half of what is free."),
    ] = None,
    level: Annotated[
        Optional[int],
        typer.Option(min=0, max=5, help="TensorRT's optimisation level, where it has one."),
    ] = None,
    dla: Annotated[
        bool, typer.Option("--dla", help="Let the DLA take what it can (export with --dla).")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Build also where equal engines are there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built; write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; words go to stderr.")
    ] = False,
) -> None:
    """Build and prove a bundle's TensorRT engines on this machine.

    Each engine is compared with the float network on the golden samples; the bundle gets its
    engines only when all of them pass.
    """
    from mla_edge.exporter import building

    request = building.BuildRequest(
        bundle=bundle,
        max_drop=max_drop,
        workspace_mb=workspace_mb,
        optimisation_level=level,
        dla=dla,
        again=again,
    )
    with Interrupts() as interrupts, show_progress(interrupts) as on_step:
        if dry_run:
            _tell_plan(building.describe(request, on_step), as_json)
            return
        result = building.build(request, on_step)
    shown = _summary(result)
    typer.echo(json.dumps(shown) if as_json else "\n".join(_words(shown)))


def _summary(result: "BuildResult") -> Dict[str, Any]:
    """What ``--json`` prints."""
    facts = result.facts
    return {
        "ok": True,
        "bundle": str(result.bundle.folder),
        "engines": str(result.bundle.folder / "engines" / result.key),
        "reused": result.reused,
        "with": facts["with"],
        "target": facts["target"],
        "tiers": facts["tiers"],
        "proof": facts["proof"],
        "seconds": round(result.seconds, 2),
    }


def _words(shown: Dict[str, Any]) -> List[str]:
    """What a person is told."""
    from mla_edge.engines.inspection import Inspection

    how = "reused, they are for this machine" if shown["reused"] else "built"
    lines = [f"{shown['engines']}: {how} ({shown['seconds']:.0f} s), {shown['with']}"]
    proof = shown["proof"]
    for name, made in shown["tiers"].items():
        flags = f" {'+'.join(made['flags'])}" if made["flags"] else ""
        line = f"  {name}: {made['plan_bytes'] / 1e6:.2f} MB, {made['typing']}ly typed{flags}"
        found = proof["tiers"].get(name)
        if found is not None:
            line += f", {found['ms']:.2f} ms, {found['top1_agreement']:.1%} same answers"
        lines.append(line)
        if found is not None:
            lines.append(f"    {Inspection.from_json(found['inspection']).in_words}")
        if found is not None and found["warning"]:
            lines.append(f"    warning: {found['warning']}")
        lines += [f"    warning: {warning}" for warning in made["warnings"][:5]]
    if proof["status"] == "ok":
        lines.append(f"  proven to answer alike on {proof['samples']} golden samples")
        lines.append(f"  accuracy: {proof['accuracy']}")
        lines.append(f"  routing: {proof['routing']}")
    else:
        lines.append(f"  NOT PROVEN: {proof['reason']}")
    return lines


def _tell_plan(plan: Dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plan))
        return
    typer.echo(f"would build {plan['engines']} with {plan['with']}:")
    for step in plan["steps"]:
        typer.echo(f"  {step}")
