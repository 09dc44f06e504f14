"""Ask a real TensorRT on the host whether it takes a graph: parse, build, look for INT8.

TensorRT-RTX needs no GPU for that. It is always strongly typed, and its engines run on no
Jetson, so they are thrown away: what counts is that parser and builder accept the graph.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from mla_edge.engines.bindings import load_bindings
from mla_edge.errors import ExportError, MissingDependency
from mla_edge.exporter.engine_build import BuildSpec, build_engine, parse_network
from mla_edge.exporter.int4_weights import int4_layers
from mla_edge.exporter.layers import floating_layers
from mla_edge.exporter.onnx_graph import load_model

if TYPE_CHECKING:
    from pathlib import Path

NOT_INSTALLED = "tensorrt-rtx is not installed: pip install 'mla-edge[tensorrt-check]' (x86-64)"


@dataclass(frozen=True)
class BuildReport:
    """The verdict on one graph; ``undequantized`` were to be INT8 and are not.

    ``exempt`` have weights, and stay float because their module or the recipe says so: "ok"
    says nothing about their INT8.
    """

    status: str  # "ok", "refused" or "not checked"
    reason: str = ""
    version: str = ""
    seconds: float = 0.0
    layers: int = 0
    undequantized: tuple[str, ...] = ()
    exempt: tuple[str, ...] = ()


def tensorrt_version() -> str | None:
    """The version of TensorRT-RTX that gives the verdict; None if none is installed."""
    try:
        return load_bindings("rtx").version
    except MissingDependency:
        return None


def verify_tensorrt(
    graph: Path,
    *,
    int8: bool,
    keep_float: Sequence[str] = (),
    capabilities: Sequence[str] = ("SM86",),
) -> BuildReport:
    """Parse and build ``graph`` for each of ``capabilities`` (SM80, SM86, SM89, SM120).

    With ``int8`` every convolution and matrix product with weights must be fed by DEQUANTIZE on
    both sides, but for modules marked ``keep_float32``, the layers `quantize` was told to keep,
    and those in ``keep_float``; these are reported as ``exempt``. Without TensorRT-RTX
    installed the status is "not checked".
    """
    model = load_model(graph)
    floating = {*floating_layers(model), *keep_float, *int4_layers(model)}
    exempt = tuple(name for name in _weighted(model) if int8 and name in floating)
    try:
        bindings = load_bindings("rtx")
    except MissingDependency:
        return BuildReport("not checked", NOT_INSTALLED, exempt=exempt)
    began = time.monotonic()
    layers = 0

    def report(status: str, reason: str = "", without: Sequence[str] = ()) -> BuildReport:
        seconds = round(time.monotonic() - began, 3)
        told = bindings.title, seconds, layers, tuple(without), exempt
        return BuildReport(status, reason, *told)

    try:
        _builder, network, _parser = parse_network(bindings, graph)
        layers = network.num_layers
        without = _without_dequantize(bindings.trt, network, model) if int8 else []
        without = [name for name in without if name not in floating]
        if without:
            return report("refused", "weighted layers that are not INT8", without)
        for capability in capabilities:
            build_engine(bindings, BuildSpec(str(graph), capabilities=(capability,)))
    except ExportError as error:
        return report("refused", str(error))
    return report("ok")


def _without_dequantize(trt: Any, network: Any, model: Any) -> list[str]:
    """Convolutions and weight products that are not fed by DEQUANTIZE on both sides."""
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    producers = {
        layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)
    }
    views = (trt.LayerType.SHUFFLE, trt.LayerType.UNSQUEEZE, trt.LayerType.SQUEEZE)

    def dequantized(tensor: Any) -> bool:
        layer = producers.get(tensor.name) if tensor is not None else None
        while layer is not None and layer.type in views:
            layer = producers.get(layer.get_input(0).name)
        return layer is not None and layer.type == trt.LayerType.DEQUANTIZE

    weighted = _weighted(model)
    missing = []
    for layer in layers:
        convolution = layer.type == trt.LayerType.CONVOLUTION
        product = layer.type == trt.LayerType.MATRIX_MULTIPLY and layer.name in weighted
        if (convolution or product) and not all(
            dequantized(layer.get_input(i)) for i in (0, 1)
        ):
            missing.append(layer.name)
    return missing


def _weighted(model: Any) -> list[str]:
    """Names of the nodes, in order, whose second input is constant, quantized or not."""
    constant = {tensor.name for tensor in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in constant:
            constant.add(node.output[0])
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in constant:
            names.append(node.name)
    return names
