"""The layers of a graph that have weights, and what around each of them fuses with it."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from onnx import TensorProto, helper

from mla_edge.errors import ConfigError
from mla_edge.exporter.onnx_graph import kept_nodes

KEPT = "mla_edge.keep_float"  # metadata: the layers that `quantize` was told to keep
ACTIVATIONS = ("Relu", "Clip")  # what both engines fuse into the operator before


@dataclass
class Layer:
    """A Conv, Gemm or MatMul with constant weights, and the tensors around it."""

    node: Any
    source: str
    weight: Any
    axis: int  # of the weight's output channels
    out: str  # after its bias, and after its activation if one follows it alone
    bias: Any = None  # the Add of a constant that a MatMul feeds alone
    activation: Any = None
    add: Any = None  # the Add of another tensor that a Conv feeds alone
    beside: str = ""  # what that Add adds
    total: str = ""  # after the Add and its activation

    @property
    def places(self) -> dict[str, str]:
        """The tensors that ranges are kept of, by place."""
        tensors = {"in": self.source, "out": self.out, "beside": self.beside, "sum": self.total}
        return {f"{self.node.name}:{k}": tensor for k, tensor in tensors.items() if tensor}


def find_layers(model: Any, keep_float: Sequence[str] = ()) -> list[Layer]:
    """The layers to quantize: those with constant weights that nothing keeps in float.

    What keeps them is a module marked ``keep_float32``, or their name in ``keep_float``;
    ConfigError for a name there that no node has.
    """
    names = {node.name for node in model.graph.node}
    for name in keep_float:
        if name not in names:
            near = difflib.get_close_matches(name, names, 3, 0.3)
            raise ConfigError(
                f"quantize: no node is called {name!r}", hint=f"nearest: {', '.join(near)}"
            )
    kept = {*kept_nodes(model), *keep_float}
    surroundings = _Surroundings(model.graph)
    layers = (surroundings.layer(node) for node in model.graph.node if node.name not in kept)
    return [layer for layer in layers if layer]


def floating_layers(model: Any) -> list[str]:
    """Names of the nodes of a quantized graph that were to stay float."""
    kept = {entry.key: entry.value for entry in model.metadata_props}.get(KEPT, "[]")
    return [*kept_nodes(model), *json.loads(kept)]


class _Surroundings:
    """Who takes which tensor of a graph."""

    def __init__(self, graph: Any) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.takers: dict[str, list[Any]] = {}
        for node in graph.node:
            for tensor in node.input:
                self.takers.setdefault(tensor, []).append(node)

    def layer(self, node: Any) -> Layer | None:
        """What ``node`` is the middle of; None if it has no constant weights."""
        axis = channel_axis(node, self.constants)
        if axis is None or node.input[0] in self.constants:
            return None
        layer = Layer(node, node.input[0], self.constants[node.input[1]], axis, node.output[0])
        add = self._only_taker(layer.out, ("Add",))
        if add and node.op_type == "MatMul" and self._is_bias(add, layer.out):
            layer.bias, layer.out = add, add.output[0]
        elif add and node.op_type == "Conv" and not set(add.input) & set(self.constants):
            layer.add, layer.total = add, add.output[0]
            layer.beside = next((t for t in add.input if t != layer.out), layer.out)
        layer.activation = self._only_taker(layer.total or layer.out, ACTIVATIONS)
        if layer.activation and layer.total:
            layer.total = layer.activation.output[0]
        elif layer.activation:
            layer.out = layer.activation.output[0]
        return layer

    def _only_taker(self, tensor: str, kinds: Sequence[str]) -> Any:
        takers = self.takers.get(tensor, [])
        alone = len(takers) == 1 and tensor not in self.outputs
        return takers[0] if alone and takers[0].op_type in kinds else None

    def _is_bias(self, add: Any, tensor: str) -> bool:
        others = [name for name in add.input if name != tensor]
        return len(others) == 1 and len(getattr(self.constants.get(others[0]), "dims", ())) == 1


def channel_axis(node: Any, constants: Mapping[str, Any]) -> int | None:
    """The axis of the output channels in a layer's weights; None if it has no such weights."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in constants:
        return None
    weight = constants[node.input[1]]
    if weight.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        return 0
    if len(weight.dims) != 2 or attributes.get("transA") or attributes.get("alpha", 1) != 1:
        return None
    return 0 if attributes.get("transB") else 1


def structure_of(layers: Sequence[Layer]) -> str:
    """A sha256 over the layers' names, kinds and weights' shapes, but not the weights."""
    rows = [
        (layer.node.name, layer.node.op_type, list(layer.weight.dims), sorted(layer.places))
        for layer in layers
    ]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()
