"""``build``: a bundle's TensorRT engines, on the machine that will run them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from mla_edge.cli.interrupts import Interrupts
from mla_edge.cli.progress import show_progress
from mla_edge.errors import ConfigError

if TYPE_CHECKING:
    from mla_edge.exporter.building import BuildResult
    from mla_edge.exporter.part_timing import TableRequest


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
    latency_table: Annotated[
        Optional[Path],
        typer.Option(
            help="Measure what every width costs here into this file, and build nothing else "
            "(export with --latency-parts)."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built; write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; words go to stderr.")
    ] = False,
) -> None:
    """Build and prove a bundle's TensorRT engines on this machine.

    Each engine is compared with the float network on the golden samples; the bundle gets its
    engines only when all of them pass. With --latency-table it measures instead.
    """
    from mla_edge.exporter import building

    if latency_table is not None:
        if dla:
            raise ConfigError(
                "--latency-table is of the GPU: --dla has no part in it",
                hint="leave --dla out; it is for the build of the bundle's own engines",
            )
        from mla_edge.exporter.part_timing import TableRequest

        table = TableRequest(bundle, latency_table, workspace_mb, level, again)
        _measure(table, dry_run, as_json)
        return
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


def _measure(request: "TableRequest", dry_run: bool, as_json: bool) -> None:
    """With ``--latency-table``: time the parts of the bundle's tiers."""
    from mla_edge.exporter import part_timing

    with Interrupts() as interrupts, show_progress(interrupts) as on_step:
        if dry_run:
            plan = part_timing.describe(request, on_step)
            lines = [f"would measure {plan['table']} with {plan['with']}:"]
            lines += [f"  {step}" for step in plan["steps"]]
            typer.echo(json.dumps(plan) if as_json else "\n".join(lines))
            return
        result = part_timing.measure(request, on_step)
    tables = result.file.tables
    tiers = {
        tier: {
            "whole_ms": table.whole_ms,
            "groups": len(table.rows),
            "idle": len(table.idle),
            "left_out": list(table.left_out),
            "measured_on": table.measured_on,
            "precision": table.precision,
        }
        for tier, table in tables.items()
    }
    if as_json:
        seconds = round(result.seconds, 2)
        shown = {"ok": True, "table": str(result.path), "tiers": tiers, "seconds": seconds}
        typer.echo(json.dumps(shown))
        return
    typer.echo(f"{result.path}: written ({result.seconds:.0f} s)")
    for tier, found in tiers.items():
        typer.echo(
            f"  {tier}: {found['whole_ms']:.3f} ms with nothing pruned, "
            f"{found['groups']} groups, {found['precision']}, on {found['measured_on']}"
        )
    typer.echo(
        f"  next, where you export: mla-edge export --profile {result.file.profile} "
        f"--latency-table {result.path.name} --target-speedup 1.5"
    )


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
