"""Ask a real TensorRT on the host whether it takes a graph: parse, build, look for INT8.

TensorRT-RTX needs no GPU for that. It is always strongly typed, and its engines run on no
Jetson, so they are thrown away: what counts is that parser and builder accept the graph.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Sequence

from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import floating_layers

try:
    import tensorrt_rtx_bindings as trt
except ImportError:  # an extra; without it the verdict is "not checked"
    trt = None

if TYPE_CHECKING:
    from pathlib import Path

CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")
NOT_INSTALLED = "tensorrt-rtx is not installed: pip install 'mla-edge[tensorrt-check]' (x86-64)"


@dataclass(frozen=True)
class BuildReport:
    """The verdict on one graph; ``undequantized`` were to be INT8 and are not."""

    status: str  # "ok", "refused" or "not checked"
    reason: str = ""
    version: str = ""
    seconds: float = 0.0
    layers: int = 0
    undequantized: tuple[str, ...] = ()


def tensorrt_version() -> str | None:
    """The version of TensorRT-RTX that gives the verdict; None if none is installed."""
    return None if trt is None else str(trt.__version__)


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
    and those in ``keep_float``. Without TensorRT-RTX installed the status is "not checked".
    """
    if trt is None:
        return BuildReport("not checked", NOT_INSTALLED)
    model = load_model(graph)
    exempt = {*floating_layers(model), *keep_float}
    began = time.monotonic()
    _LOGGER.errors.clear()
    builder = trt.Builder(_LOGGER)
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = trt.OnnxParser(network, _LOGGER)
    version = f"TensorRT-RTX {trt.__version__}"

    def report(status: str, reason: str = "", without: Sequence[str] = ()) -> BuildReport:
        seconds = round(time.monotonic() - began, 3)
        layers = network.num_layers
        return BuildReport(status, reason, version, seconds, layers, tuple(without))

    if not parser.parse(model.SerializeToString()):
        found = [parser.get_error(i) for i in range(parser.num_errors)]
        return report(
            "refused",
            "; ".join(f"{e.node_name()} ({e.node_operator()}): {e.desc()}" for e in found)
            or "the parser gives no reason",
        )
    if int8:
        without = [name for name in _without_dequantize(network, model) if name not in exempt]
        if without:
            return report("refused", "weighted layers that are not INT8", without)
    for capability in capabilities:
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
        if builder.build_serialized_network(network, config) is None:
            reason = "; ".join(_LOGGER.errors) or "the builder gives no reason"
            return report("refused", f"{capability}: {reason}")
    return report("ok")


def _without_dequantize(network: Any, model: Any) -> list[str]:
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


def _weighted(model: Any) -> set[str]:
    """Names of the nodes whose second input is constant, quantized or not."""
    constant = {tensor.name for tensor in model.graph.initializer}
    names = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] in constant:
            constant.add(node.output[0])
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in constant:
            names.add(node.name)
    return names


def _make_logger() -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors; TensorRT knows one logger a process."""

        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


_LOGGER: Any = _make_logger() if trt is not None else None
