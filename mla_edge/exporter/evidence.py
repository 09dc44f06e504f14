"""What the report shows of an export beyond its gate: the curve, the layers, some samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

from mla_edge.exporter.curve import measure_curve
from mla_edge.exporter.layer_costs import measure_layers
from mla_edge.exporter.samples_shown import show_samples

if TYPE_CHECKING:
    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.exporter.policy import ModeRouting
    from mla_edge.exporter.tiers import TierResult


def gather(
    job: Job,
    results: Sequence[TierResult],
    held: HeldBack,
    routings: Sequence[ModeRouting],
) -> dict[str, Any]:
    """The report's ``curve``, ``layers`` by tier, and ``samples_shown``, ready for JSON."""
    return {
        "curve": measure_curve(job, results, held, routings),
        "layers": {result.name: measure_layers(job, result) for result in results},
        "samples_shown": show_samples(job, results[-1], held),
    }
