"""Linear layers on [1, tokens, channels] as Gemm on two axes.

ONNX Runtime makes a Gemm of every MatMul with a bias, but then leaves its INT8 weights to be
dequantized at each run (measured: slower than float). As a Gemm with an INT8 bias the layer
becomes one integer operator. TensorRT has no use for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy as np
from onnx import NodeProto, helper, numpy_helper

if TYPE_CHECKING:
    from mla_edge.exporter.layers import Layer


def flatten_layers(model: Any, layers: Sequence[Layer]) -> None:
    """Rewrite in ``model`` every MatMul of ``layers`` that has a bias; names stay."""
    linear = {layer.node.name: layer for layer in layers if layer.bias is not None}
    gone = {layer.bias.name for layer in linear.values()}
    gone |= {layer.activation.name for layer in linear.values() if layer.activation}
    rewriter = _Rewriter(model.graph)
    for node in model.graph.node:
        if node.name in linear:
            rewriter.flatten(linear[node.name])
        elif node.name not in gone:
            rewriter.keep(node)
    rewriter.finish()


class _Rewriter:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        values = (*graph.input, *graph.output, *graph.value_info)
        self.shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values
        }
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.flat: dict[str, str] = {}  # tensor -> the same on two axes
        self.nodes: list[Any] = []

    def keep(self, node: Any) -> None:
        """A node that stays; a Reshape of a flat tensor can start from it as well."""
        self.nodes.append(NodeProto.FromString(node.SerializeToString()))
        if node.op_type == "Reshape" and node.input[0] in self.flat:
            sizes = self.constants.get(node.input[1])
            if sizes is not None and (numpy_helper.to_array(sizes) != 0).all():
                self.nodes[-1].input[0] = self.flat[node.input[0]]

    def flatten(self, layer: Layer) -> None:
        """MatMul, Add and activation as Reshape, Gemm, activation and Reshape."""
        shape, flat = self.shapes[layer.source], len(self.shapes[layer.source]) == 2
        if layer.source not in self.flat:
            self.flat[layer.source] = layer.source if flat else f"{layer.source}/flat"
            if not flat:
                rows = int(np.prod(shape[:-1]))
                self._reshape(layer.source, self.flat[layer.source], [rows, shape[-1]])
        bias = next(name for name in layer.bias.input if name in self.constants)
        out = layer.out if flat else f"{layer.out}/flat"
        inner = f"{layer.node.name}/flat" if layer.activation else out
        inputs = [self.flat[layer.source], layer.node.input[1], bias]
        self.nodes.append(helper.make_node("Gemm", inputs, [inner], layer.node.name))
        if layer.activation:
            self.nodes.append(NodeProto.FromString(layer.activation.SerializeToString()))
            self.nodes[-1].input[0], self.nodes[-1].output[0] = inner, out
        if not flat:
            self.flat[layer.out] = out
            self._reshape(out, layer.out, [*shape[:-1], layer.weight.dims[1]])

    def finish(self) -> None:
        """Put the nodes into the graph, but for Reshapes that nobody reads."""
        used = {name for node in self.nodes for name in node.input}
        used |= {value.name for value in self.graph.output}
        del self.graph.node[:]
        self.graph.node.extend(node for node in self.nodes if used & set(node.output))

    def _reshape(self, tensor: str, name: str, shape: Sequence[int]) -> None:
        sizes = f"shape/{'x'.join(str(size) for size in shape)}"
        if sizes not in self.constants:
            self.constants[sizes] = numpy_helper.from_array(np.array(shape, np.int64), sizes)
            self.graph.initializer.append(self.constants[sizes])
        self.nodes.append(
            helper.make_node("Reshape", [tensor, sizes], [name], f"{name}/reshape")
        )
