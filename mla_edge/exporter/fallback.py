"""Leave in float the layers that INT8 breaks: the fewest with which the gate holds.

Layers come in the order of the error that each one adds. Their number is doubled until what is
lost fits, and then narrowed down. Tune samples decide how many; the test samples say only that
it is needed, and measure what came of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

from mla_edge.exporter.agreement import measure, sensitivity
from mla_edge.exporter.float_graphs import calibration_feeds
from mla_edge.exporter.held_back import compare, hold_back
from mla_edge.exporter.int8 import quantize_tier

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.networks import TierNetwork

_SAMPLES = 24  # through both graphs with all their tensors
SHARE = 0.5  # of the gate, on the tune samples: test samples may lose a little more


def hold_gate(
    job: Job,
    part: TierNetwork,
    float_graph: Path,
    quantized: Path,
    held: HeldBack,
    forms: Sequence[str],
) -> tuple[Path, dict[str, tuple[str, ...]]]:
    """The folder of the INT8 graphs that hold the gate, and by form what is float in them.

    ``quantized`` is the folder with every layer in INT8: it is what comes back where it holds
    the gate, and where no layers in float would help.
    """
    kept: dict[str, tuple[str, ...]] = {}
    for form in forms:
        graph = quantized / f"{form}.onnx"
        if compare(job, part, graph, held, form).drop_points <= job.max_drop:
            continue
        found = _fewest(job, part, float_graph, graph, kept)
        if found is not None:
            quantized, kept[form] = found
    return quantized, kept


def _fewest(
    job: Job,
    part: TierNetwork,
    float_graph: Path,
    graph: Path,
    kept: dict[str, tuple[str, ...]],
) -> tuple[Path, tuple[str, ...]] | None:
    """The folder with the fewest layers of ``graph`` in float, and these; None: none helps."""
    form = graph.stem
    with job.steps.step("sensitivity", part.tier.name):
        feeds = calibration_feeds(job, part)[:_SAMPLES]
        order = [name for name, error in sensitivity(float_graph, graph, feeds) if error > 0]
        job.steps.note(f"{form}: {len(order)} layers add error")
    tuned = hold_back(job, "tune")
    samples = [{name: feed[name] for name in part.tier.inputs} for feed in tuned.feeds]
    wanted, labels = list(tuned.logits[part.tier.name]), tuned.labels.tolist()

    def attempt(count: int) -> Path | None:
        layers = tuple(order[:count])
        folder, _ = quantize_tier(job, part, float_graph, {**kept, form: layers})
        lost = measure(wanted, folder / f"{form}.onnx", samples, labels).drop_points
        return folder if lost <= job.max_drop * SHARE else None

    fails, holds, best = 0, 1, None
    while holds <= len(order):
        best = attempt(holds)
        if best is not None or holds == len(order):
            break
        fails, holds = holds, min(2 * holds, len(order))
    if best is None:
        return None
    while holds - fails > 1:
        middle = (holds + fails) // 2
        found = attempt(middle)
        if found is None:
            fails = middle
        else:
            best, holds = found, middle
    return best, tuple(order[:holds])
