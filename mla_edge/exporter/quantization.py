"""INT8 for a float graph: ranges from samples, then a graph for TensorRT and one for a CPU.

Both come from the same float graph and the same ranges. TensorRT takes signed, symmetric INT8
with float biases; ONNX Runtime is fast on unsigned activations with a zero point, and on a
symmetric graph slower than in float.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Iterator, Sequence

import numpy as np

from mla_edge.bundle import write_atomically
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ConfigError, ExportError, MissingDependency
from mla_edge.exporter.bias_correction import correct_biases
from mla_edge.exporter.calibrators import (
    CALIBRATORS,
    collect_histograms,
    steps,
    weight_scales,
    whole_weights,
)
from mla_edge.exporter.flattening import flatten_layers
from mla_edge.exporter.int4_weights import takes_int4, write_int4
from mla_edge.exporter.layers import KEPT, Layer, find_layers, structure_of
from mla_edge.exporter.onnx_graph import OnnxGraph, load_model, merge_constants, read_graph
from mla_edge.exporter.ranges import Ranges, check_samples
from mla_edge.signals import Tensors

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise MissingDependency(
        "onnx is not installed, and quantizing needs it", hint="pip install 'mla-edge[export]'"
    ) from error

STYLES = ("tensorrt", "cpu")
HALF_SCALES = 19  # the first opset whose Q/DQ take FP16
# Fewer, and a CPU is faster in float: 0.76 of the time for the lite digits network.
MIN_CONV_CHANNELS = 4


def calibrate(graph: Path, samples: Sequence[Tensors], *, method: str = "mse") -> Ranges:
    """Run the float graph on ``samples`` and take every range by one of ``CALIBRATORS``.

    One histogram a tensor is kept, and never the tensors themselves. To choose tensor by
    tensor, and to correct biases, see `post_training.calibrate_by_tensor`.
    """
    if method not in CALIBRATORS:
        known = ", ".join(CALIBRATORS)
        raise ConfigError(f"calibration method {method!r}", hint=f"one of {known}")
    check_samples(samples, read_graph(graph).inputs)
    model = load_model(graph)
    layers = find_layers(model)
    tensors = sorted({tensor for layer in layers for tensor in layer.places.values()})
    found = collect_histograms(run_with(model, tensors, samples), tensors, graph.name)
    ranges = {tensor: histogram.range(method) for tensor, histogram in found.items()}
    places = {place: ranges[t] for layer in layers for place, t in layer.places.items()}
    return Ranges(structure_of(layers), method, len(samples), places)


def run_with(
    model: Any, tensors: Sequence[str], samples: Sequence[Tensors], *, optimise: bool = True
) -> Iterator[Tensors]:
    """Run ``model`` on each sample, giving inner ``tensors`` as well as its outputs."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    there = {value.name: value for value in model.graph.value_info}
    inputs = {value.name for value in model.graph.input}
    known = {value.name for value in model.graph.output} | inputs
    wider.graph.output.extend(there[name] for name in tensors if name not in known)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(wider.SerializeToString())
        engine = OnnxRuntimeEngine(path, optimise=optimise)
    for sample in samples:
        given = {name: sample[name] for name in inputs}
        yield {**given, **engine.run(given)}
    engine.close()


def quantize(  # noqa: PLR0913 - a graph, where to, and each choice of its form
    graph: Path,
    out: Path,
    ranges: Ranges,
    *,
    style: str,
    keep_float: Sequence[str] = (),
    int8_weights: bool = False,
    int4: bool = False,
) -> OnnxGraph:
    """Write the INT8 form of the float ``graph`` to ``out``.

    Of a graph in half precision too (opset 19 and up, style ``tensorrt``): what is not INT8
    stays in FP16 then, for builders that take every type from the graph. The ranges are those
    of its float32 form.

    ``tensorrt``: signed, zero point 0, float biases, and also the other branch of an Add that
    fuses into a Conv. Its weights stay float with a Q/DQ pair, because TensorRT before 10
    refuses INT8 constants; ``int8_weights`` stores them as INT8, a quarter of the size.
    ``cpu``: unsigned activations with a zero point, signed weights, quantized biases, and Conv
    outputs too; convolutions over 1 to 3 channels stay float. ``keep_float`` names layers that
    stay float. With ``int4`` (graphs of opset 20 and up) linear layers get weights in INT4
    instead, with their inputs in float. ExportError if ``ranges`` were made for another graph.
    """
    if style not in STYLES:
        raise ConfigError(f"quantization style {style!r}", hint=f"one of {', '.join(STYLES)}")
    model = load_model(graph)
    if structure_of(find_layers(model)) != ranges.structure:
        raise ExportError(
            f"quantize: the ranges were made for another graph than {graph.name}",
            hint="calibrate again with this network",
        )
    layers = layers_to_quantize(model, style, keep_float)
    if int4:
        write_int4(model, [layer for layer in layers if takes_int4(layer)])
        layers = layers_to_quantize(model, style, keep_float)
    correct_biases(model, layers, ranges, style)
    if style == "cpu":
        flatten_layers(model, find_layers(model, keep_float))
        layers = layers_to_quantize(model, style, keep_float)
    rewriter = _Rewriter(model, ranges, style, int8_weights or style == "cpu")
    rewriter.rewrite(layers)
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEPT, json.dumps(sorted(keep_float))
    onnx.checker.check_model(model, full_check=True)
    write_atomically(out, model.SerializeToString(deterministic=True))
    return read_graph(out)


def layers_to_quantize(model: Any, style: str, keep_float: Sequence[str] = ()) -> list[Layer]:
    """The layers of a float graph that become INT8 in one style."""
    layers = find_layers(model, keep_float)
    return [layer for layer in layers if style != "cpu" or not _is_narrow(layer)]


def _is_narrow(layer: Layer) -> bool:
    """Whether a convolution sums over so few values that a CPU is faster in float."""
    groups = [a.i for a in layer.node.attribute if a.name == "group"]
    alone = layer.node.op_type == "Conv" and groups in ([], [1])
    return alone and layer.weight.dims[1] < MIN_CONV_CHANNELS


class _Rewriter:
    """Puts QuantizeLinear and DequantizeLinear around layers."""

    def __init__(self, model: Any, ranges: Ranges, style: str, int8_weights: bool) -> None:
        self.graph, self.ranges, self.style = model.graph, ranges, style
        self.cpu, self.int8_weights = style == "cpu", int8_weights
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.after: dict[str, list[Any]] = {}  # tensor -> nodes to put behind its producer
        self.scales: dict[str, float] = {}  # dequantized tensor -> its scale
        self.dtype: Any = np.float32  # of the layer at hand

    def rewrite(self, layers: Sequence[Layer]) -> None:
        outputs = {value.name for value in self.graph.output}
        sources = {layer.source for layer in layers}
        for layer in layers:
            name = layer.node.name
            self.dtype = numpy_helper.to_array(layer.weight).dtype
            layer.node.input[0] = self._dequantized(layer.source, f"{name}:in")
            self._weights(layer)
            if layer.add is not None and (layer.total in sources or self.cpu):
                self._replace([layer.add], layer.beside, f"{name}:beside")
                if self.cpu and layer.total not in outputs:
                    self._replace(self.graph.node, layer.total, f"{name}:sum")
            if self.cpu and layer.node.op_type == "Conv" and layer.out not in outputs:
                self._replace(self.graph.node, layer.out, f"{name}:out")
        self._arrange()

    def _replace(self, nodes: Sequence[Any], tensor: str, place: str) -> None:
        """Let ``nodes`` read the dequantized form of ``tensor``."""
        dequantized = self._dequantized(tensor, place)
        for node in nodes:
            for i, name in enumerate(node.input):
                if name == tensor:
                    node.input[i] = dequantized

    def _dequantized(self, tensor: str, place: str) -> str:
        if tensor in self.scales:
            return tensor  # it is the dequantized form of another
        found = self.ranges.places[place]
        scale, middle, _, _ = steps(found, self.style)
        if self.cpu:
            zero = np.array(middle, np.uint8)
        else:
            scale, zero = float(self._representable(scale)), np.array(middle, np.int8)
        name = f"{tensor}/dequantized"
        if name not in self.scales:
            self.scales[name] = scale
            self._pair(tensor, tensor, scale, zero)
        return name

    def _representable(self, scale: Any) -> Any:
        """``scale`` as the layer's type holds it: rounding must use what engines will read."""
        least = np.finfo(self.dtype).smallest_subnormal
        return np.maximum(np.asarray(scale).astype(self.dtype), least)

    def _pair(self, tensor: str, name: str, scale: Any, zero: np.ndarray, **axis: Any) -> None:
        """tensor -> QuantizeLinear -> DequantizeLinear -> name/dequantized."""
        scales = self._constant(f"{name}/scale", np.asarray(scale, self.dtype))
        zeros = self._constant(f"{name}/zero", zero)
        q, dq = f"{name}/quantized", f"{name}/dequantized"
        self.after.setdefault(tensor, []).extend((
            helper.make_node("QuantizeLinear", [tensor, scales, zeros], [q], q, **axis),
            helper.make_node("DequantizeLinear", [q, scales, zeros], [dq], dq, **axis),
        ))  # fmt: skip

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def _weights(self, layer: Layer) -> None:
        source, axis = layer.node.input[1], layer.axis
        values = numpy_helper.to_array(layer.weight).astype(np.float32)
        scale = self._representable(weight_scales(values, axis))
        whole = self.ranges.rounding(self.style, layer.node.name)
        if whole is not None:
            shape = [-1 if i == axis else 1 for i in range(values.ndim)]
            values = whole.reshape(values.shape) * scale.astype(np.float32).reshape(shape)
            source = f"{layer.node.name}/rounded_weight"
            self._constant(source, values.astype(self.dtype))
        name = source
        bias = layer.node.input[2] if len(layer.node.input) > 2 else ""
        if self.cpu and bias in self.constants:
            scale = self._bias(layer, bias, scale)
            name = f"{layer.node.name}/weight"  # its scale may depend on this layer's bias
        zero = np.zeros(len(scale), np.int8)
        dq = f"{name}/dequantized"
        if not self.int8_weights:
            if dq not in self.scales:
                self._pair(source, name, scale, zero, axis=axis)
        elif dq not in self.scales:
            whole = whole_weights(values, scale.astype(np.float32), axis)
            inputs = [
                self._constant(f"{name}/quantized", whole),
                self._constant(f"{name}/scale", scale),
                self._constant(f"{name}/zero", zero),
            ]
            node = helper.make_node("DequantizeLinear", inputs, [dq], dq, axis=axis)
            self.after.setdefault("", []).append(node)
        self.scales[dq] = 0.0
        layer.node.input[1] = dq

    def _bias(self, layer: Layer, bias: str, scale: np.ndarray) -> np.ndarray:
        """Make the bias INT32 in steps of input scale x weight scale; gives the weight scale,
        wider where the bias would not fit."""
        values = numpy_helper.to_array(self.constants[bias]).ravel().astype(np.float64)
        values = np.broadcast_to(values, (len(scale),))
        source = self.scales[layer.node.input[0]]
        scale = np.maximum(scale, (np.abs(values) / source / 2**30).astype(np.float32))
        steps = (scale * np.float32(source)).astype(np.float32)
        name = f"{layer.node.name}/bias"
        inputs = [
            self._constant(f"{name}/quantized", np.rint(values / steps).astype(np.int32)),
            self._constant(f"{name}/scale", steps),
            self._constant(f"{name}/zero", np.zeros(len(scale), np.int32)),
        ]
        dq = f"{name}/dequantized"
        self.after.setdefault("", []).append(
            helper.make_node("DequantizeLinear", inputs, [dq], dq, axis=0)
        )
        layer.node.input[2] = dq
        return scale

    def _arrange(self) -> None:
        """Put the new nodes behind what they read."""
        nodes = list(self.after.pop("", []))
        for name in [*self.constants, *(value.name for value in self.graph.input)]:
            nodes.extend(self.after.get(name, []))
        for node in self.graph.node:
            nodes.append(node)
            for tensor in node.output:
                nodes.extend(self.after.get(tensor, []))
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        constants = list(self.constants.values())
        constants = [onnx.TensorProto.FromString(c.SerializeToString()) for c in constants]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(constants)
        merge_constants(self.graph)
