"""Leave in float the layers that INT8 breaks: the fewest with which the gate holds.

Layers come in the order of what each of them alone does to the network's logits. Their number
is doubled until what is lost fits, then narrowed down; then those that turn out not to be
needed are given back to INT8. Tune samples decide all that; the test samples say only that it
is needed, and measure what came of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

from mla_edge.exporter.agreement import measure
from mla_edge.exporter.held_back import compare, hold_back
from mla_edge.exporter.int8 import matching, quantize_tier, read_ranges
from mla_edge.exporter.layers import channel_axis, find_layers
from mla_edge.exporter.onnx_graph import kept_nodes, load_model
from mla_edge.exporter.quantization import layers_to_quantize
from mla_edge.exporter.sensitivity import layer_table

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.networks import TierNetwork

SHARE = 0.5  # of the gate, on the tune samples: test samples may lose a little more
_GIVEN_BACK = 8  # layers that are tried in INT8 again, the least sensitive first

Kept = Mapping[str, Mapping[str, str]]
"""By form the layers that are left in float, each with the reason."""


def hold_gate(
    job: Job,
    part: TierNetwork,
    float_graph: Path,
    quantized: Path,
    held: HeldBack,
    forms: Sequence[str],
) -> tuple[Path, dict[str, Mapping[str, str]]]:
    """The folder of the INT8 graphs that hold the gate, and what is float in them.

    ``quantized`` is the folder with every layer in INT8: it is what comes back where it holds
    the gate, and where no layers in float would help.
    """
    kept: dict[str, Mapping[str, str]] = {}
    for form in forms:
        graph = quantized / f"{form}.onnx"
        lost = compare(job, part, graph, held, form).drop_points
        if lost <= job.max_drop:
            continue
        tuned = hold_back(job, "tune")
        if not _holds(job, part, float_graph, form, tuned):
            continue  # it was not INT8 that lost it
        found = _fewest(job, part, float_graph, graph, kept, tuned)
        if found is not None:
            quantized, reasons = found
            cause = f"with all layers in INT8 {lost:.2f} points were lost; "
            kept[form] = {layer: cause + why for layer, why in reasons.items()}
    return quantized, kept


def _holds(job: Job, part: TierNetwork, graph: Path, form: str, tuned: HeldBack) -> bool:
    """Whether ``graph`` loses little enough on tune samples."""
    samples = [{name: feed[name] for name in part.tier.inputs} for feed in tuned.feeds]
    wanted, labels = list(tuned.logits[part.tier.name]), tuned.labels.tolist()
    found = measure(wanted, graph, samples, labels, exact=job.exact(form))
    return found.drop_points <= job.max_drop * SHARE


def _fewest(  # noqa: PLR0913 - a tier's graphs, what is float in others, and the samples
    job: Job,
    part: TierNetwork,
    float_graph: Path,
    graph: Path,
    kept: Kept,
    tuned: HeldBack,
) -> tuple[Path, dict[str, str]] | None:
    """The folder with the fewest layers of ``graph`` in float, and these; None: none helps."""
    form = graph.stem
    table = layer_table(job, part, float_graph, read_ranges(graph.parent), form)
    order = [row.layer for row in table]
    reasons = {
        row.layer: f"this one alone leaves {row.sqnr_db:.1f} dB, place {place} of {len(table)}"
        for place, row in enumerate(table, 1)
    }

    def attempt(layers: Sequence[str]) -> Path | None:
        others: dict[str, Sequence[str]] = {key: list(names) for key, names in kept.items()}
        folder, _ = quantize_tier(job, part, float_graph, {**others, form: layers})
        return folder if _holds(job, part, folder / f"{form}.onnx", form, tuned) else None

    fails, holds, best = 0, 1, None
    while holds <= len(order):
        best = attempt(order[:holds])
        if best is not None or holds == len(order):
            break
        fails, holds = holds, min(2 * holds, len(order))
    if best is None:
        return None
    while holds - fails > 1:
        middle = (holds + fails) // 2
        found = attempt(order[:middle])
        if found is None:
            fails = middle
        else:
            best, holds = found, middle
    left = order[:holds]
    for layer in order[:holds][-2 : -2 - _GIVEN_BACK : -1]:  # without the last, it did not hold
        fewer = [name for name in left if name != layer]
        found = attempt(fewer)
        if found is not None:
            best, left = found, fewer
    return best, {layer: reasons[layer] for layer in left}


def float_layers(
    job: Job, tier: str, float_graph: Path, kept: Kept, forms: Sequence[str]
) -> list[dict[str, Any]]:
    """Every layer with weights that is not INT8: its name, the forms, and why."""
    model = load_model(float_graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    weighted = [n.name for n in model.graph.node if channel_axis(n, constants) is not None]
    by_recipe = set(matching(float_graph, job.recipe.tier(tier).keep_float))
    by_network = set(kept_nodes(model))
    reasons: dict[tuple[str, str], list[str]] = {}
    for form in forms:
        rounded = {la.node.name for la in layers_to_quantize(model, form, sorted(by_recipe))}
        narrow = {la.node.name for la in find_layers(model, sorted(by_recipe))} - rounded
        for name in weighted:
            why = kept.get(form, {}).get(name, "")
            if name in by_network:
                why = "the network says so (keep_float32)"
            elif name in by_recipe:
                why = "the recipe says so (keep_float)"
            elif name in narrow:
                why = "a convolution over so few channels is faster in float on a processor"
            if why:
                reasons.setdefault((name, why), []).append(form)
    return [
        {"layer": name, "forms": forms, "reason": why} for (name, why), forms in reasons.items()
    ]
