"""What cost the accuracy of an export that the gate refuses: pruning, precision, or both."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from mla_edge.errors import AccuracyGateError
from mla_edge.exporter import report as reporting
from mla_edge.exporter.held_back import compare
from mla_edge.exporter.sensitivity import LayerSensitivity, layer_table

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.exporter.tiers import TierResult

_LAYERS = 12


@dataclass(frozen=True)
class Loss:
    """Points of accuracy that a tier's worse graph lost; negative where it won."""

    pruning: float  # of the pruned float graph
    precision: float  # what came on top of that
    layers: tuple[LayerSensitivity, ...]  # that INT8 hurt, worst first


def refuse(
    target: Path,
    job: Job,
    results: Sequence[TierResult],
    held: HeldBack,
    facts: dict[str, Any],
) -> None:
    """Write the report of a failed gate beside where the bundle would be, and raise."""
    worst = max(results, key=lambda result: result.worst_drop)
    loss = explain(job, worst, held)
    for tier in facts["tiers"]:
        if tier["name"] == worst.name:
            tier["lost_points"] = {"pruning": loss.pruning, "precision": loss.precision}
            tier["worst_layers"] = [dataclasses.asdict(layer) for layer in loss.layers]
    path = reporting.write_failed(target, facts)
    raise AccuracyGateError(
        f"tier {worst.name!r} lost {worst.worst_drop:.2f} points of accuracy, "
        f"{facts['gate']['max_drop_points']:g} are allowed; nothing was published. "
        + _in_words(job, worst, loss),
        hint=f"see {path}; {_advice(job, worst.name, loss)}, or raise --max-drop",
        report=str(path),
    )


def explain(job: Job, result: TierResult, held: HeldBack) -> Loss:
    """What pruning cost, measured on its float graph; the rest, and the layers it is lost in.

    Layers are named only where the tier became INT8 and that cost something.
    """
    part = next(part for part in job.network.tiers if part.tier.name == result.name)
    pruned = 0.0
    if result.shrunk["pruned"]:
        pruned = compare(job, part, result.float_graph, held, "pruned").drop_points
    rest = round(result.worst_drop - pruned, 6)
    with job.steps.step("explain", result.name):
        job.steps.note(f"{pruned:.2f} points by pruning, {rest:.2f} by {job.precision}")
    form = max(result.agreement, key=lambda name: result.agreement[name].drop_points)
    quantized = result.cpu_graph if form == "cpu" else result.tensorrt_graph
    if rest <= 0 or result.ranges is None or quantized == result.float_graph:
        return Loss(pruned, rest, ())
    style = "cpu" if form == "cpu" else "tensorrt"
    table = layer_table(job, part, result.float_graph, result.ranges.ranges, style)
    return Loss(pruned, rest, tuple(table[:_LAYERS]))


def _in_words(job: Job, result: TierResult, loss: Loss) -> str:
    parts = []
    if result.shrunk["pruned"]:
        parts.append(f"Pruning alone lost {loss.pruning:.2f}")
    if loss.precision > 0:
        layers = ", ".join(row.layer for row in loss.layers[:3])
        where = f", most of it in {layers}" if layers else ""
        parts.append(f"{job.precision.upper()} lost {loss.precision:.2f}{where}")
    return "; ".join(parts)


def _advice(job: Job, tier: str, loss: Loss) -> str:
    if loss.pruning >= loss.precision:
        taught = "" if job.trains else ", or let it learn from training data (--data)"
        if job.goal is not None and job.goal.tier == tier:
            return f"ask for less than {job.goal}{taught}"
        return f"prune less in the recipe{taught}"
    if job.precision != "int8":
        return "export with --recipe fp32"
    return (
        "name the layers in keep_float of the recipe, calibrate with your own data "
        "(--data, --calibration)"
    )
