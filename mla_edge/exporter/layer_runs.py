"""What each layer gives when its input and its weights are rounded, and nothing else is.

All layers of a graph run side by side, each on what the float network feeds it, so that the
error of one is not that of those before it.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter.calibrators import CALIBRATORS, quantized, weight_scales, whole_weights
from mla_edge.exporter.int4_weights import rounded as int4_rounded
from mla_edge.exporter.int4_weights import takes_int4
from mla_edge.exporter.quantization import STYLES, run_with

if TYPE_CHECKING:
    from mla_edge.exporter.calibrators import Range
    from mla_edge.exporter.layers import Layer
    from mla_edge.signals import Tensors

_NONE = 1e-30
_ALONE = "/alone"


class RoundedLayers:
    """The layers of a float graph, detached from each other, with their weights rounded."""

    def __init__(
        self,
        model: Any,
        layers: Sequence[Layer],
        *,
        whole: Mapping[str, np.ndarray] | None = None,
        int4: bool = False,
    ) -> None:
        """``model`` is the graph that ``layers`` were found in; it is not changed.

        ``whole`` has by layer weights in whole steps that are not the nearest ones. With
        ``int4`` linear layers have their weights in INT4, as `quantize` gives them.
        """
        shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
        }
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.layers = layers
        self.int4 = {layer.node.name for layer in layers if int4 and takes_int4(layer)}
        self.sources = sorted({layer.source for layer in layers})
        nodes, weights = [], []
        for layer in layers:
            node = NodeProto.FromString(layer.node.SerializeToString())
            values = numpy_helper.to_array(layer.weight)
            scales = weight_scales(values, layer.axis).astype(np.float32)
            shape = [-1 if i == layer.axis else 1 for i in range(values.ndim)]
            steps = (whole or {}).get(node.name)
            steps = whole_weights(values, scales, layer.axis) if steps is None else steps
            rounded = steps.reshape(values.shape) * scales.reshape(shape)
            if node.name in self.int4:
                rounded = int4_rounded(values, layer.axis)
            node.input[1] = f"{node.name}/rounded"
            node.output[0] += _ALONE  # what it gives may be what another layer takes
            weights.append(numpy_helper.from_array(rounded, node.input[1]))
            nodes.append(node)
        biases = {name for node in nodes for name in node.input[2:] if name}
        graph = helper.make_graph(
            nodes,
            "layers",
            [_tensor(name, shapes[name]) for name in self.sources],
            [_tensor(n.output[0], shapes[n.output[0][: -len(_ALONE)]]) for n in nodes],
            [*weights, *(constants[name] for name in sorted(biases))],
        )
        detached = helper.make_model(graph, opset_imports=model.opset_import)
        detached.ir_version = model.ir_version
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layers.onnx"
            path.write_bytes(detached.SerializeToString())
            self._engine = OnnxRuntimeEngine(path)

    def run(self, sources: Tensors) -> Tensors:
        """The output of every layer's operator, by its name, for the given inputs of layers."""
        found = self._engine.run(sources)
        return {name[: -len(_ALONE)]: value for name, value in found.items()}

    def close(self) -> None:
        """Free the session."""
        self._engine.close()


@dataclass
class LayerErrors:
    """What rounding did, by style, calibrator and tensor (``noise``) or layer (``shift``).

    ``noise`` is the error's share of the energy: of the outputs of all layers that read the
    tensor, or of the tensor itself where none does. ``shift`` is by how much the mean of each
    output channel moved, [channels].
    """

    noise: dict[tuple[str, str, str], float] = field(default_factory=dict)
    shift: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)


def measure_layers(
    model: Any,
    layers: Sequence[Layer],
    candidates: Mapping[str, Mapping[str, Range]],
    samples: Sequence[Tensors],
) -> LayerErrors:
    """Try every calibrator's range of every tensor in ``candidates`` on ``samples``."""
    rounded = RoundedLayers(model, layers)
    alone = sorted(set(candidates) - set(rounded.sources))
    outputs = {layer.node.output[0]: layer for layer in layers}
    energy = dict.fromkeys((*outputs, *alone), _NONE)
    error: dict[tuple[str, str, str], float] = {}
    moved: dict[tuple[str, str, str], Any] = {}
    inputs = {value.name for value in model.graph.input}
    wanted = sorted({*candidates, *outputs} - inputs)

    def count(key: tuple[str, str, str], difference: np.ndarray) -> None:
        error[key] = error.get(key, 0.0) + _energy(difference)

    for values in run_with(model, wanted, samples):
        for name in energy:
            energy[name] += _energy(values[name])
        for style, calibrator in _ways():
            given = {
                tensor: quantized(values[tensor], ranges[calibrator], style)
                for tensor, ranges in candidates.items()
            }
            found = rounded.run({tensor: given[tensor] for tensor in rounded.sources})
            for name, layer in outputs.items():
                difference = found[name] - values[name]
                count((style, calibrator, name), difference)
                key = (style, calibrator, layer.node.name)
                moved[key] = moved.get(key, 0.0) + _means(difference, layer) / len(samples)
            for name in alone:
                count((style, calibrator, name), given[name] - values[name])
    rounded.close()
    readers = {
        tensor: [layer.node.output[0] for layer in layers if layer.source == tensor] or [tensor]
        for tensor in candidates
    }
    noise = {
        (style, calibrator, tensor): sum(
            error[style, calibrator, name] / energy[name] for name in names
        )
        for tensor, names in readers.items()
        for style, calibrator in _ways()
    }
    return LayerErrors(noise, moved)


def _ways() -> Iterator[tuple[str, str]]:
    return ((style, calibrator) for style in STYLES for calibrator in CALIBRATORS)


def _means(values: np.ndarray, layer: Layer) -> np.ndarray:
    """The mean of each output channel: a Conv's are on axis 1, a product's on the last."""
    channel = 1 if layer.node.op_type == "Conv" else values.ndim - 1
    others = tuple(i for i in range(values.ndim) if i != channel)
    return np.asarray(values.mean(axis=others, dtype=np.float64))


def _energy(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _tensor(name: str, shape: Sequence[int]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
