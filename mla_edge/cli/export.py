"""``export``: from a network to a bundle."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from mla_edge.cli.interrupts import Interrupts
from mla_edge.cli.progress import show_progress

if TYPE_CHECKING:
    from mla_edge.exporter.pipeline import ExportRequest, ExportResult


def export(
    network: Annotated[
        str,
        typer.Argument(help="digits, commands, package.module:function or file.py:function."),
    ] = "digits",
    profile: Annotated[
        str, typer.Option(help="The device: a name in device_profiles/, or a path.")
    ] = "",
    recipe: Annotated[str, typer.Option(help="A name in export/, or a path.")] = "default",
    out: Annotated[Path, typer.Option(help="Where the bundle goes.")] = Path("bundles"),
    data: Annotated[
        Optional[Path],
        typer.Option(help="A folder of real samples, to distil and calibrate on."),
    ] = None,
    weights: Annotated[
        Optional[Path],
        typer.Option(help="A file of adapt, in place of the network's own weights."),
    ] = None,
    calibration: Annotated[
        Optional[str],
        typer.Option(
            help="A name in calibration/, a .toml, or recorded samples: an .npz, or an .mcap."
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0.0, help="Points of accuracy that may be lost, at most.")
    ] = 1.0,
    golden: Annotated[
        int,
        typer.Option(
            min=1,
            help="Samples in the bundle that prove a board; with 230 of a mode `build` "
            "chooses its routing again there.",
        ),
    ] = 12,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the bundle that is there, under a dated name.")
    ] = False,
    dla: Annotated[
        bool,
        typer.Option("--dla", help="For a board with a DLA: what it takes, and its INT8 form."),
    ] = False,
    target_latency_ms: Annotated[
        Optional[float],
        typer.Option(
            help="Prune a tier to this latency: one thread here, or by --latency-table."
        ),
    ] = None,
    target_speedup: Annotated[
        Optional[float],
        typer.Option(help="Prune a tier until it is so many times faster than unpruned."),
    ] = None,
    target_tier: Annotated[
        str, typer.Option(help="The tier that has that goal; default: the last one.")
    ] = "",
    latency_table: Annotated[
        Optional[Path],
        typer.Option(
            help="Prune by this table, measured where it will run: build --latency-table."
        ),
    ] = None,
    latency_parts: Annotated[
        bool,
        typer.Option("--latency-parts", help="Let the bundle have what such a table needs."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; words go to stderr.")
    ] = False,
) -> None:
    """Prune, quantize and prove a network for a device, and write a bundle."""
    from mla_edge._content import names
    from mla_edge.errors import ConfigError

    if not profile:
        raise ConfigError(
            "for which device? --profile is missing",
            hint=f"--profile is one of {', '.join(names('device_profiles'))}",
        )
    from mla_edge.exporter.packages import check_packages

    check_packages()
    from mla_edge.exporter import pipeline

    request = pipeline.ExportRequest(
        profile=profile,
        network=network,
        recipe=recipe,
        out=out,
        data=data,
        weights=weights,
        calibration=calibration,
        max_drop=max_drop,
        golden=golden,
        keep=keep,
        dla=dla,
        target_latency_ms=target_latency_ms,
        target_speedup=target_speedup,
        target_tier=target_tier,
        latency_table=latency_table,
        latency_parts=latency_parts,
    )
    if dry_run:
        _tell_plan(pipeline.describe_plan(request), as_json)
        return
    with Interrupts() as interrupts, show_progress(interrupts) as on_step:
        result = pipeline.export(request, on_step)
    shown = _summary(result)
    typer.echo(json.dumps(shown) if as_json else _words(result, shown, request))


def _summary(result: "ExportResult") -> Dict[str, Any]:
    """What ``--json`` prints."""
    report = result.report
    return {
        "ok": True,
        "bundle": str(result.bundle.folder),
        "reused": result.reused,
        "kept": str(result.kept) if result.kept else None,
        "replaced": result.replaced is not None,
        "network": result.bundle.network,
        "profile": result.bundle.profile,
        "opset": report["profile"]["opset"],
        "precision": report["precision"],
        "tiers": {
            tier["name"]: {
                "size_bytes": tier["size_bytes"],
                "parameters": tier["parameters_after"],
                "cpu_precision": tier["cpu_precision"],
                "drop_points": {f: a["drop_points"] for f, a in tier["agreement"].items()},
                "agreement": tier["agreement"],
                "tensorrt": tier["tensorrt"]["status"],
                "exempt": len(tier["tensorrt"]["exempt"]),
                "left_in_float": tier["left_in_float"],
                "dla": _without_nodes(tier["dla"]),
                "shares": tier["shares"],
                "goal": tier["goal"],
            }
            for tier in report["tiers"]
        },
        "worst_drop_points": report["gate"]["worst_drop_points"],
        "routing": report["routing"],
        "calibration_sha256": report["calibration"]["sha256"],
        "report": str(result.bundle.folder / "report.html"),
        "seconds": round(result.seconds, 2),
    }


def _without_nodes(plan: Optional[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """The plan without its longest part, which the report has."""
    return plan and {key: value for key, value in plan.items() if key != "nodes"}


def _words(result: "ExportResult", shown: Dict[str, Any], request: "ExportRequest") -> str:
    """What a person is told."""
    from mla_edge.exporter.publishing import UNREADABLE

    how = "reused, nothing it was made from has changed" if result.reused else "written"
    if result.replaced == UNREADABLE:
        how = "replaced a bundle that could not be read"
    elif result.replaced:
        how = f"replaced the bundle of {result.replaced}"
    lines = [f"{shown['bundle']}: {how} ({shown['seconds']:.0f} s)"]
    routing = shown["routing"]
    for name, tier in shown["tiers"].items():
        sizes = tier["size_bytes"]
        drops = tier["drop_points"]
        lines.append(
            f"  {name}: {sizes['cpu'] / 1e6:.2f} MB (float {sizes['float'] / 1e6:.2f} MB), "
            f"{routing['cost_ms'][name]:.2f} ms here "
            f"(float {routing['float_cost_ms'][name]:.2f} ms), "
            f"{-max(drops.values()) + 0.0:+.2f} points, TensorRT: {tier['tensorrt']}"
            + _exempt_words(tier["exempt"])
        )
        lines += _shares_words(tier["shares"])
        lines += _goal_words(tier["goal"])
        for form, layers in tier["left_in_float"].items():
            lines.append(f"    {form}: INT8 broke {', '.join(layers)}, left in float")
    lines += _dla_words(shown["tiers"])
    if len(shown["tiers"]) > 1:
        for mode in routing["modes"]:
            verb = "pays" if mode["threshold"] <= 1 else "does not pay"
            lines.append(
                f"  routing {verb} with {mode['mode']}: {mode['kept']:.0%} kept, "
                f"break-even {mode['break_even']:.0%}, {mode['cost_ms']:.2f} ms a decision"
                f"{_score_words(mode)}"
            )
    for one in routing.get("solo", ()):  # older reports have none
        if one["threshold"] is not None:
            lines.append(
                f"  with {one['mode']}, {one['input']} alone is enough for {one['kept']:.0%}: "
                f"{one['cost_ms']:.2f} ms a decision instead of {one['cost_before_ms']:.2f}"
            )
    if result.kept:
        lines.append(f"  the bundle that was there is now {result.kept}")
    lines.append(f"  report: {shown['report']}")
    return "\n".join(lines)


def _score_words(mode: Dict[str, Any]) -> str:
    """How the learned score and confidence did, where one was learned, and which routes."""
    both = {
        name: value for name, value in mode.get("normalised", {}).items() if value is not None
    }
    if not both:
        return ""
    figures = ", ".join(f"{name} {value:.2f}" for name, value in both.items())
    return f", by {mode['score']} (score: {figures})"


def _exempt_words(count: int) -> str:
    return f", {count} layer{'s' if count > 1 else ''} exempt from INT8" if count else ""


def _shares_words(shares: Optional[Dict[str, Any]]) -> List[str]:
    """Whether the recipe's shares made the tier faster."""
    if not shares:
        return []
    lines = []
    if shares["kept"]:
        ratio = shares["whole_ms"] / shares["ms"]
        lines.append(
            f"    pruned by the recipe's shares: {ratio:.2f} times faster here, one thread"
        )
    if shares["rolled_back"]:
        idle = ", ".join(cut["what"] for cut in shares["rolled_back"])
        lines.append(f"    rolled back, for it made nothing faster here: {idle}")
    return lines


def _goal_words(goal: Optional[Dict[str, Any]]) -> List[str]:
    """What came of a goal of latency."""
    if not goal:
        return []
    here = goal["timed_here"]
    where = "on one thread" if here else f"by the table of {goal['measured_on']}"
    lines = [
        f"    asked for {goal['wanted']} ({goal['target_ms']:.2f} ms {where}): "
        f"{goal['reached_ms']:.2f} ms, {goal['whole_ms']:.2f} ms with nothing pruned"
    ]
    if not here:
        lines.append("      not timed here: mla-edge build or bench, on that machine, does it")
    for network in goal["networks"]:
        lines.append(
            f"      {network['name']}: {network['ms']:.2f} ms, "
            f"{network['test_accuracy']:.1%} right, "
            f"{network['parameters'] / 1e6:.2f} M parameters"
        )
    if goal["rolled_back"]:
        idle = ", ".join(cut["what"] for cut in goal["rolled_back"])
        lines.append(f"      rolled back, for it made nothing faster: {idle}")
    return [*lines, f"      {goal['verdict']}"]


def _dla_words(tiers: Dict[str, Any]) -> List[str]:
    """A line a tier on what a DLA takes, and what to mind on the board."""
    from mla_edge.exporter.dla_export import summarise

    plans = {name: tier["dla"] for name, tier in tiers.items() if tier["dla"]}
    lines = []
    for name, plan in plans.items():
        lines.append(f"  DLA, {name}: {summarise(plan)} ({plan['reason']})")
        if plan["without_range"]:
            lines.append(f"    in FP16 for want of a range: {', '.join(plan['without_range'])}")
    warnings = [plan["warnings"] for plan in plans.values()][:1]
    return lines + [f"  {warning}" for found in warnings for warning in found]


def _tell_plan(plan: Dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plan, default=str))
        return
    typer.echo(f"would write {plan['bundle']} and do this:")
    for step in plan["steps"]:
        typer.echo(f"  {step}")
