"""How much each layer of a tier suffers from INT8: one layer rounded, all others in float.

The other way round (one layer in float, all others rounded) says what a layer in float would
win, but hides it behind the noise of all the others. What a layer alone loses does add up, so
the order of this table is the order in which layers are given back to float.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper

from mla_edge.bundle import sha256_of
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter.agreement import OutputError, output_error
from mla_edge.exporter.calibrators import quantized
from mla_edge.exporter.float_graphs import tune_feeds
from mla_edge.exporter.int8 import matching
from mla_edge.exporter.layer_runs import RoundedLayers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import layers_to_quantize, run_with
from mla_edge.exporter.steps import hash_of

if TYPE_CHECKING:
    from mla_edge.exporter.job import Job
    from mla_edge.exporter.layers import Layer
    from mla_edge.exporter.ranges import Ranges
    from mla_edge.networks import TierNetwork
    from mla_edge.signals import Tensors

SAMPLES = 8  # of the tune samples; every layer costs a run of what lies behind it with each
_CUTS = 6  # of the graph: what lies before a cut is not computed again for the layers behind
_FILE = "sensitivity.json"


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer alone in INT8, and how far the network's logits are off by it."""

    layer: str
    operator: str
    calibrator: str  # of its input's range, or that its weights are INT4
    sqnr_db: float
    divergence: float
    changed: int
    samples: int


def layer_table(
    job: Job, part: TierNetwork, float_graph: Path, ranges: Ranges, style: str
) -> list[LayerSensitivity]:
    """The table of a tier in one style, from an earlier export where nothing has changed."""
    name = part.tier.name
    int4 = bool(job.recipe.tier(name).weights)
    keep = matching(float_graph, job.recipe.tier(name).keep_float)
    key = hash_of(
        "sensitivity", job.base, sha256_of(float_graph), keep, ranges.to_json(), style, int4,
        job.calibration.sha256,
    )  # fmt: skip
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused("sensitivity", name)
    else:
        with job.steps.step("sensitivity", name):
            samples = tune_feeds(job, part, SAMPLES)
            table = tabulate(float_graph, ranges, style, samples, keep, int4=int4)
            text = json.dumps([asdict(row) for row in table])
            entry = job.cache.store(key, lambda to: _write(to, text))
            job.steps.note(_in_words(table, style))
    rows = json.loads((entry / _FILE).read_text(encoding="utf-8"))
    return [LayerSensitivity(**row) for row in rows]


def tabulate(
    float_graph: Path,
    ranges: Ranges,
    style: str,
    samples: Sequence[Tensors],
    keep_float: Sequence[str] = (),
    *,
    int4: bool = False,
) -> list[LayerSensitivity]:
    """Every layer that `quantize` would round, worst first.

    A layer alone in INT8 is its input and its weights rounded and its bias corrected. The
    rounded branch beside an Add, and on a processor the rounded output, are not counted to it.
    With ``int4`` a linear layer has only its weights rounded, to INT4.
    """
    model = load_model(float_graph)
    layers = layers_to_quantize(model, style, keep_float)
    rows = []
    for group, suffix in _suffixes(model, layers):
        names = [layer.node.name for layer in group]
        known = {name: ranges.rounding(style, name) for name in names}
        whole = {name: steps for name, steps in known.items() if steps is not None}
        rounded = RoundedLayers(model, group, whole=whole, int4=int4)
        for layer, error in _errors(model, rounded, suffix, ranges, style, samples):
            node = layer.node
            by = "INT4 weights" if node.name in rounded.int4 else ""
            by = by or ranges.by(style, f"{node.name}:in")
            rows.append(LayerSensitivity(node.name, node.op_type, by, **asdict(error)))
        rounded.close()
    return sorted(rows, key=lambda row: (row.sqnr_db, row.layer))


def _suffixes(model: Any, layers: Sequence[Layer]) -> Iterator[tuple[list[Layer], Any]]:
    """Some neighbouring layers, and the graph from the first of them on."""
    where = {node.name: i for i, node in enumerate(model.graph.node)}
    ordered = sorted(layers, key=lambda layer: where[layer.node.name])
    size = max(1, -(-len(ordered) // _CUTS))
    for begin in range(0, len(ordered), size):
        group = ordered[begin : begin + size]
        yield group, _suffix(model, where[group[0].node.name], group)


def _suffix(model: Any, start: int, group: Sequence[Layer]) -> Any:
    """The nodes from ``start`` on, with an input that is added to the output of each layer."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    shapes = {value.name: value for value in values}
    added = {layer.node.name for layer in group}
    nodes, inputs = [], []
    for original in model.graph.node[start:]:
        node = NodeProto.FromString(original.SerializeToString())
        nodes.append(node)
        if node.name in added:
            out = node.output[0]
            node.output[0] = f"{out}/float"
            nodes.append(helper.make_node("Add", [f"{out}/float", f"{out}/error"], [out]))
            value = type(shapes[out])()
            value.CopyFrom(shapes[out])
            value.name = f"{out}/error"
            inputs.append(value)
    made = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in read]
    known = {*made, "", *(tensor.name for tensor in constants)}
    known |= {value.name for value in inputs}
    inputs += [shapes[name] for name in sorted(read - known)]
    logits = [value for value in model.graph.output if value.name == "logits"]
    graph = helper.make_graph(nodes, "suffix", inputs, logits, constants)
    suffix: ModelProto = helper.make_model(graph, opset_imports=model.opset_import)
    suffix.ir_version = model.ir_version
    return suffix


def _errors(  # noqa: PLR0913 - a part of the graph, how it is rounded, and samples
    model: Any,
    rounded: RoundedLayers,
    suffix: Any,
    ranges: Ranges,
    style: str,
    samples: Sequence[Tensors],
) -> Iterator[tuple[Layer, OutputError]]:
    engine, group = _engine(suffix), rounded.layers
    outputs = [layer.node.output[0] for layer in group]
    errors = {f"{out}/error" for out in outputs}
    needed = {spec.name for spec in engine.inputs} - errors
    inputs = {value.name for value in model.graph.input}
    wanted: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {out: [] for out in outputs}
    for values in run_with(
        model, sorted({*needed, *rounded.sources, *outputs} - inputs), samples
    ):
        given = {name: values[name] for name in rounded.sources}
        for layer in group:
            if layer.node.name not in rounded.int4:
                found_range = ranges.places[f"{layer.node.name}:in"]
                given[layer.source] = quantized(values[layer.source], found_range, style)
        results = rounded.run(given)
        feed = {name: values[name] for name in needed}
        feed.update((f"{out}/error", np.zeros_like(values[out])) for out in outputs)
        wanted.append(values["logits"].ravel())
        for layer in group:
            out = layer.node.output[0]
            change = results[out] - values[out]
            bias = ranges.correction(style, layer.node.name)
            if bias is not None and layer.node.name not in rounded.int4:
                after = change.ndim - 2 if layer.node.op_type == "Conv" else 0
                change = change + bias.astype(np.float32).reshape(-1, *[1] * after)
            logits = engine.run({**feed, f"{out}/error": change})["logits"]
            found[out].append(logits.ravel().copy())
    engine.close()
    right = np.stack(wanted).astype(np.float64)
    for layer in group:
        rows = np.stack(found[layer.node.output[0]]).astype(np.float64)
        yield layer, output_error(right, rows)


def _engine(model: Any) -> OnnxRuntimeEngine:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "suffix.onnx"
        path.write_bytes(model.SerializeToString())
        return OnnxRuntimeEngine(path)


def _write(folder: Path, text: str) -> None:
    (folder / _FILE).write_text(text, encoding="utf-8")


def _in_words(table: Sequence[LayerSensitivity], style: str) -> str:
    if not table:
        return f"{style}: no layer is in INT8"
    worst = table[0]
    return f"{style}: {len(table)} layers, worst {worst.layer} with {worst.sqnr_db:.1f} dB"
