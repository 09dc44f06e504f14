"""INT8 as an exported graph computes it, in PyTorch, so that a network can learn with it.

What is rounded, and how, is read from the quantized graph itself. Inputs of layers, outputs of
convolutions and both sides of a residual sum are rounded with its scales, which never change;
weights as the quantizer will round them, whatever they have become. Gradients pass straight
through the rounding, and not where a value is cut off (Jacob et al. 2018).
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import torch
from onnx import numpy_helper
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from mla_edge.exporter.distillation import first_output
from mla_edge.exporter.layers import Layer, find_layers
from mla_edge.exporter.tracing import FORWARD_ERRORS

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_NORMS = torch.nn.modules.batchnorm._BatchNorm
_LAYERS = (*_CONVOLUTIONS, torch.nn.Linear)
_WEIGHTED = ("Conv", "Gemm", "MatMul")
_SUMS = {
    torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__,
    torch.Tensor.__radd__, torch.Tensor.__iadd__,
}  # fmt: skip
_SAME = 1e-3  # of the largest output: a folded network gives that of the network


@dataclass(frozen=True)
class Rounding:
    """What a pair of QuantizeLinear and DequantizeLinear makes of a tensor."""

    scale: float
    zero: int
    low: int
    high: int

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values of ``tensor`` that INT8 has; the gradient is that of a clamp."""
        return torch.fake_quantize_per_tensor_affine(
            tensor, self.scale, self.zero, self.low, self.high
        )


@dataclass(frozen=True)
class LayerRoundings:
    """What is rounded around one layer of a quantized graph, besides its weights."""

    source: Rounding | None
    out: Rounding | None = None
    beside: Rounding | None = None  # what a residual sum adds to it
    total: Rounding | None = None  # that sum


def read_roundings(plain: Any, quantized: Any) -> dict[str, LayerRoundings]:
    """The layers of the float model ``plain`` that are INT8 in ``quantized``, by name."""
    graph = _Rounded(quantized.graph)
    found = {}
    for layer in find_layers(plain):
        node = graph.nodes.get(layer.node.name)
        if node is not None and graph.is_dequantized(node.input[1]):
            found[layer.node.name] = graph.around(node, layer)
    return found


class _Rounded:
    """Who makes and who takes which tensor of a quantized graph."""

    def __init__(self, graph: Any) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self.nodes = {node.name: node for node in graph.node}
        self.makers = {tensor: node for node in graph.node for tensor in node.output}
        self.takers: dict[str, list[Any]] = {}
        for node in graph.node:
            for tensor in node.input:
                self.takers.setdefault(tensor, []).append(node)

    def around(self, node: Any, layer: Layer) -> LayerRoundings:
        source = self._before(node.input[0])
        if layer.node.op_type != "Conv":
            return LayerRoundings(source)
        beside = None
        if layer.add is not None:
            add = self.nodes[layer.add.name]
            place = list(layer.add.input).index(layer.beside)
            beside = self._before(add.input[place])
        return LayerRoundings(source, self._after(layer.out), beside, self._after(layer.total))

    def is_dequantized(self, tensor: str) -> bool:
        maker = self.makers.get(tensor)
        return maker is not None and maker.op_type == "DequantizeLinear"

    def _before(self, tensor: str) -> Rounding | None:
        return self._of(self.makers[tensor]) if self.is_dequantized(tensor) else None

    def _after(self, tensor: str) -> Rounding | None:
        """How ``tensor`` is rounded for everyone who takes it."""
        takers = self.takers.get(tensor, [])
        if tensor in self.outputs or {node.op_type for node in takers} != {"QuantizeLinear"}:
            return None
        return self._of(takers[0])

    def _of(self, node: Any) -> Rounding:
        scale, zero = (numpy_helper.to_array(self.constants[n]) for n in node.input[1:3])
        low, high = (0, 255) if zero.dtype.kind == "u" else (-128, 127)
        return Rounding(float(scale), int(zero), low, high)


def match_calls(
    model: Any,
    module: torch.nn.Module,
    scopes: Mapping[str, Sequence[str]],
    roundings: Mapping[str, LayerRoundings],
) -> tuple[dict[str, list[LayerRoundings | None]], list[str]]:
    """What each call of each layer of ``module`` rounds, by its name, and who was not found.

    ``scopes`` says where a module is in the node names of ``model``. Not found are nodes that
    no Conv or Linear makes, as where a module multiplies by a parameter of its own.
    """
    owners = {
        scope: path
        for path, places in scopes.items()
        for scope in places
        if isinstance(module.get_submodule(path), _LAYERS)
        and isinstance(module.get_submodule(path)._parameters.get("weight"), torch.nn.Parameter)
    }
    turns: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for node in model.graph.node:
        if node.op_type in _WEIGHTED:
            owner = _owner(node.name.rpartition("/")[0] + "/", owners)
            if owner is not None:
                path, turn = owner
                turns.setdefault(path, []).append((turn, node.name))
    calls = {
        path: [roundings.get(name) for _, name in sorted(nodes)]
        for path, nodes in turns.items()
        if any(name in roundings for _, name in nodes)
    }
    there = {name for nodes in turns.values() for _, name in nodes}
    return calls, [name for name in roundings if name not in there]


def _owner(scope: str, owners: Mapping[str, str]) -> tuple[str, tuple[int, ...]] | None:
    """The module that made a node in ``scope``, and in which of its calls."""
    if scope in owners:
        return owners[scope], ()
    # Where a module is called again, the exporter counts: /gate/inner_1/MatMul.
    for place, path in owners.items():
        parts = place.split("/")[1:-1]
        pattern = "".join(rf"/{re.escape(part)}(?:_(\d+))?" for part in parts) + "/"
        found = re.fullmatch(pattern, scope)
        if found:
            return path, tuple(int(number or 0) for number in found.groups())
    return None


class Simulation(torch.nn.Module):
    """A module that computes as its INT8 graph does; what it learns stays in float."""

    def __init__(
        self, module: torch.nn.Module, calls: Mapping[str, Sequence[LayerRoundings | None]]
    ) -> None:
        """Watch the layers of ``module`` named in ``calls``, until `remove`."""
        super().__init__()
        self.module = module
        self._layers = {path: module.get_submodule(path) for path in calls}
        self._sums = _Sums()
        self._turns = dict.fromkeys(calls, 0)
        self._hooks: list[Any] = []
        for path, roundings in calls.items():
            self._watch(path, roundings)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """What ``module`` gives for ``inputs``, in INT8."""
        self._turns = dict.fromkeys(self._turns, 0)
        self._sums.waiting.clear()
        with self._sums:
            return self.module(*inputs)

    def remove(self) -> torch.nn.Module:
        """The module again as it was, with the float weights that it has learned."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        return self.module

    def _watch(self, path: str, roundings: Sequence[LayerRoundings | None]) -> None:
        layer = self._layers[path]
        parametrize.register_parametrization(layer, "weight", _RoundedWeights())

        def enter(_: Any, arguments: Any) -> Any:
            around = roundings[self._turns[path] % len(roundings)]
            if around is None or around.source is None:
                return arguments
            return (around.source(arguments[0]), *arguments[1:])

        def leave(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            around = roundings[self._turns[path] % len(roundings)]
            self._turns[path] += 1
            if around is None:
                return output
            if around.out is not None:
                output = around.out(output)
            if around.beside is not None or around.total is not None:
                self._sums.waiting[id(output)] = output, around
            return output

        self._hooks.append(layer.register_forward_pre_hook(enter))
        self._hooks.append(layer.register_forward_hook(leave))


class _RoundedWeights(torch.nn.Module):
    """Weights [out, ...] in steps of a 127th of the largest of each output channel."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        largest = weight.detach().abs().flatten(1).amax(1)
        scale = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
        zero = torch.zeros(len(scale), dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -127, 127)


class _Sums(TorchFunctionMode):
    """Rounds what is added to the output of a convolution, and their sum."""

    def __init__(self) -> None:
        super().__init__()
        # By identity; the tensor is kept, so that no other can have its identity.
        self.waiting: dict[int, tuple[torch.Tensor, LayerRoundings]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if self.waiting and func in _SUMS and len(args) == 2:
            for here, other in ((0, 1), (1, 0)):
                _, around = self.waiting.pop(id(args[here]), (None, None))
                if around is not None and isinstance(args[other], torch.Tensor):
                    pair = list(args)
                    if around.beside is not None:
                        pair[other] = around.beside(pair[other])
                    total = func(*pair, **(kwargs or {}))
                    return total if around.total is None else around.total(total)
        return func(*args, **(kwargs or {}))


def fold_batch_norms(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor]
) -> torch.nn.Module:
    """A copy of ``module`` whose convolutions hold the batch norms that follow them.

    As the exporter folds them, so that what is rounded are the weights of the graph. A norm is
    found where it takes what a convolution gave when ``inputs`` ran; where the copy gives
    something else than the module, none is folded.
    """
    folded = copy.deepcopy(module)
    with torch.no_grad():
        for convolution, path in _pairs(folded, inputs):
            norm: Any = folded.get_submodule(path)
            convolution.weight, convolution.bias = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, norm.running_mean, norm.running_var,
                norm.eps, norm.weight, norm.bias,
            )  # fmt: skip
            parent, _, name = path.rpartition(".")
            setattr(folded.get_submodule(parent), name, torch.nn.Identity())
        before = first_output(module(*inputs))
        try:
            after = first_output(folded(*inputs))
        except FORWARD_ERRORS:  # it reads a norm that is gone
            return copy.deepcopy(module)
    close = float((after - before).abs().max()) <= _SAME * (1e-6 + float(before.abs().max()))
    return folded if close else copy.deepcopy(module)


def _pairs(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> list[tuple[Any, str]]:
    """The convolutions and the names of the norms that take their outputs, each called once."""
    made: dict[int, tuple[torch.Tensor, torch.nn.Module]] = {}
    taken: list[tuple[torch.nn.Module | None, str]] = []
    called: list[torch.nn.Module] = []

    def note_output(convolution: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
        called.append(convolution)
        made[id(output)] = output, convolution

    def note_input(path: str) -> Any:
        def hook(_: Any, arguments: Any) -> None:
            taken.append((made.get(id(arguments[0]), (None, None))[1], path))

        return hook

    hooks = []
    for path, part in module.named_modules():
        if isinstance(part, _CONVOLUTIONS):
            hooks.append(part.register_forward_hook(note_output))
        elif isinstance(part, _NORMS) and part.running_mean is not None:
            hooks.append(part.register_forward_pre_hook(note_input(path)))
    module(*inputs)
    for hook in hooks:
        hook.remove()
    paths = [path for _, path in taken]
    return [
        (convolution, path)
        for convolution, path in taken
        if convolution is not None and called.count(convolution) == paths.count(path) == 1
    ]
