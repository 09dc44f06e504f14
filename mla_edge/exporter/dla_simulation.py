"""What INT8 on a DLA does to a network's answers, as a graph that ONNX Runtime can run.

On the DLA every tensor between layers is INT8 at the scale of the calibration cache, which is
more than the Q/DQ graph for a GPU rounds. This graph rounds as much: its weights are those that
INT8 leaves, and QuantizeLinear and DequantizeLinear stand where a tensor is kept. It is for
measuring only; what the DLA computes in FP16 is float32 here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Collection, Mapping

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import merge_constants

if TYPE_CHECKING:
    from mla_edge.exporter.dla import DlaPlan

# What a DLA computes in one pass, with nothing rounded in between.
_FUSED = {
    "Conv": {"Add", "BatchNormalization", "Relu", "Clip"},
    "Add": {"Relu", "Clip"},
    "BatchNormalization": {"Relu", "Clip"},
}


def simulate(
    model: Any, scales: Mapping[str, float], plan: DlaPlan, keep_float: Collection[str]
) -> Any:
    """``model``, a float graph, as it computes with ``scales`` on the DLA of ``plan``.

    What is left to the GPU has INT8 inputs and weights too where it has scales, as TensorRT
    gives it; ``keep_float`` names the layers that stay float.
    """
    return _Simulator(model, scales, plan, keep_float).run()


class _Simulator:
    def __init__(
        self,
        model: Any,
        scales: Mapping[str, float],
        plan: DlaPlan,
        keep_float: Collection[str],
    ) -> None:
        self.model = type(model)()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.dla = {node.name for node in plan.nodes if node.device == "dla"}
        layers = find_layers(model, list(keep_float))
        self.axes = {layer.node.name: layer.axis for layer in layers if layer.source in scales}
        inside = self._inside()
        self.scales = {name: scale for name, scale in scales.items() if name not in inside}
        self.made_by_dla = {
            name for node in self.graph.node for name in node.output if node.name in self.dla
        }

    def run(self) -> Any:
        nodes = []
        for value in self.graph.input:
            if value.name in self.scales:
                nodes += _pair(value.name, value.name, f"{value.name}/dequantized")
        for node in self.graph.node:
            nodes += self._rounded(NodeProto.FromString(node.SerializeToString()))
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        for tensor, scale in self.scales.items():
            self.graph.initializer.extend(_constants(tensor, scale))
        merge_constants(self.graph)
        return self.model

    def _inside(self) -> set[str]:
        """The tensors that the DLA never writes out."""
        readers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        inside: set[str] = set()
        entered: set[str] = set()  # a sum is computed in one pass with one of its inputs
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            after = readers.get(node.output[0], [])
            alone = len(after) == 1 and node.output[0] not in outputs
            if not alone or {node.name, after[0].name} - self.dla or after[0].name in entered:
                continue
            if after[0].op_type in _FUSED.get(node.op_type, ()):
                inside.add(node.output[0])
                entered.add(after[0].name)
        return inside

    def _rounded(self, node: Any) -> list[Any]:
        """``node`` with what it reads and writes rounded, and the steps behind it."""
        if node.name in self.dla or node.name in self.axes:
            for i, tensor in enumerate(node.input):
                if tensor in self.scales and tensor not in self.made_by_dla:
                    node.input[i] = f"{tensor}/dequantized"
            self._round_weights(node)
        steps = []
        for i, tensor in enumerate(node.output):
            if tensor in self.scales and node.name in self.dla:
                node.output[i] = f"{tensor}/float"  # all that read it read it rounded
                steps += _pair(f"{tensor}/float", tensor, tensor)
            elif tensor in self.scales:
                steps += _pair(tensor, tensor, f"{tensor}/dequantized")
        return [node, *steps]

    def _round_weights(self, node: Any) -> None:
        """Give ``node`` weights that are whole steps, one scale an output channel."""
        axis = 1 if node.op_type == "ConvTranspose" else self.axes.get(node.name)
        given = node.input[1] if axis is not None else ""
        found = [tensor for tensor in self.graph.initializer if tensor.name == given]
        if axis is None or not found:
            return
        values = numpy_helper.to_array(found[0])
        others = tuple(i for i in range(values.ndim) if i != axis)
        largest = np.abs(values).max(axis=others, keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
        whole = (np.clip(np.rint(values / scale), -127, 127) * scale).astype(np.float32)
        node.input[1] = f"{node.name}/rounded"
        self.graph.initializer.append(numpy_helper.from_array(whole, node.input[1]))


def _constants(tensor: str, scale: float) -> list[Any]:
    return [
        numpy_helper.from_array(np.array(scale, np.float32), f"{tensor}/scale"),
        helper.make_tensor(f"{tensor}/zero", TensorProto.INT8, [], [0]),
    ]


def _pair(source: str, tensor: str, out: str) -> list[Any]:
    """source -> QuantizeLinear -> DequantizeLinear -> out."""
    steps = [f"{tensor}/scale", f"{tensor}/zero"]
    q = f"{tensor}/quantized"
    return [
        helper.make_node("QuantizeLinear", [source, *steps], [q], q),
        helper.make_node("DequantizeLinear", [q, *steps], [out], f"{tensor}/dequantize"),
    ]
