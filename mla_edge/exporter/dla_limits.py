"""Which nodes of a graph a DLA takes, by the limits that NVIDIA publishes.

The limits of each layer are those of
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/dla-layer-restrictions.html
and, for JetPack 5, of the developer guide of TensorRT 8.5; which ONNX operator becomes such a
layer is in https://github.com/NVIDIA/Deep-Learning-Accelerator-SW/blob/main/operators/README.md.
Where these differ between versions, the narrower one counts until TensorRT 10. What the DLA
compiler refuses beyond that is seen on the board only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper, numpy_helper

MAX_BATCH, MAX_SIZE = 4096, 8192
MAX_LOADABLES = 16  # that one core loads at a time

_CBUF_BANKS = 16
_LONG_KERNELS = (64, 96, 128)  # of a deconvolution, in one direction
_SLOW_TO_COMPILE = range(23, 33)  # deconvolutions that TensorRT does not hand to a DLA
_LRN_SIZES = (3, 5, 7, 9)
_CLIPPED = (1, 127)
_SOFTMAX_AXIS = 1024
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Dla:
    """The accelerator of a board: whose it is, and the TensorRT that hands it layers."""

    soc: str  # "xavier" or "orin"
    version: tuple[int, ...]  # of TensorRT


class Layers:
    """The nodes of a float graph that are layers, with what the limits are about.

    What is computed from constants and static shapes alone is folded by TensorRT: no layer.
    """

    def __init__(self, model: Any) -> None:
        """Look through ``model``, whose shapes are static and inferred."""
        graph = model.graph
        values = (*graph.input, *graph.output, *graph.value_info)
        self._types = {value.name: value.type.tensor_type for value in values}
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        known = set(self.constants)
        self.nodes = []
        for node in graph.node:
            if node.op_type == "Shape" or all(not name or name in known for name in node.input):
                known.update(node.output)
            else:
                self.nodes.append(node)
        self._known = known

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The sizes of ``tensor``; 0 stands for one that is not static."""
        if tensor in self.constants:
            return tuple(self.constants[tensor].shape)
        return tuple(dim.dim_value for dim in self._types[tensor].shape.dim)

    def is_constant(self, tensor: str) -> bool:
        """Whether ``tensor`` is known before the network runs."""
        return tensor in self._known

    def activations(self, tensors: Iterable[str]) -> list[str]:
        """Those of ``tensors`` that are float numbers and not known before the network runs."""
        return [
            name
            for name in dict.fromkeys(tensors)
            if name and name not in self._known and self._types[name].elem_type in _FLOATS
        ]

    def macs(self, node: Any) -> int:
        """Multiplications with an addition that a convolution or matrix product makes."""
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return 0
        out, weight = self.shape(node.output[0]), self.shape(node.input[1])
        if node.op_type == "Conv":
            return math.prod(out) * math.prod(weight[1:])
        if node.op_type == "ConvTranspose":
            return math.prod(self.shape(node.input[0])) * math.prod(weight[1:])
        axis = 0 if _attributes(node).get("transA") else -1
        return math.prod(out) * self.shape(node.input[0])[axis]

    def refusal(self, node: Any, dla: Dla) -> str:
        """Why ``dla`` does not take ``node``; empty where it does."""
        rule = _RULES.get(node.op_type)
        if rule is None or node.domain not in ("", "ai.onnx"):
            return f"{node.op_type} is not among the layers that a DLA takes"
        tensors = [name for name in (*node.input, *node.output) if name]
        moving = [name for name in tensors if not self.is_constant(name)]
        if self.activations(moving) != list(dict.fromkeys(moving)):
            return "works on tensors that are neither FP16 nor INT8"
        for name in moving:
            sizes = self.shape(name)
            if 0 in sizes:
                return f"the shape of {name} is not static"
            if len(sizes) != 4 and not (rule is _product and len(sizes) == 2):
                return f"works on {len(sizes)} axes, a DLA on 4 (N, C, H, W)"
            if sizes[0] > MAX_BATCH:
                return f"batch {sizes[0]} is above {MAX_BATCH}"
            if max(sizes[1:]) > MAX_SIZE:
                return f"an axis of {max(sizes[1:])} is above {MAX_SIZE}"
        return rule(_View(self, node, dla))


@dataclass(frozen=True)
class _View:
    """A node as its rule sees it."""

    layers: Layers
    node: Any
    dla: Dla

    @property
    def attributes(self) -> dict[str, Any]:
        return _attributes(self.node)

    @property
    def inputs(self) -> list[str]:
        return [name for name in self.node.input if name]

    @property
    def moving(self) -> list[str]:
        """The inputs that are not constants."""
        return [name for name in self.inputs if not self.layers.is_constant(name)]

    def sizes(self, index: int = 0) -> tuple[int, ...]:
        return self.layers.shape(self.node.input[index])

    def value(self, index: int) -> np.ndarray | None:
        """The constant at input ``index``; None where there is none."""
        given = self.node.input[index] if len(self.node.input) > index else ""
        return self.layers.constants.get(given)


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _outside(what: str, values: Iterable[int], low: int, high: int) -> str:
    """What is wrong with ``values``; empty where all are between ``low`` and ``high``."""
    wrong = [value for value in values if not low <= value <= high]
    return f"{what} {wrong[0]} is outside {low} to {high}" if wrong else ""


def _first(*faults: str) -> str:
    return next((fault for fault in faults if fault), "")


def _padding(attributes: Mapping[str, Any]) -> Sequence[int]:
    """The padding on each side; what ``auto_pad`` adds is always below the kernel."""
    return list(attributes.get("pads", [0, 0, 0, 0]))


def _convolution(view: _View) -> str:
    if not view.layers.is_constant(view.node.input[1]):
        return "its weights are computed, a DLA's are constant"
    attributes, weight = view.attributes, view.sizes(1)
    kernel, pads = weight[2:], _padding(attributes)
    dilations = list(attributes.get("dilations", [1, 1]))
    wide = [pad for pad, size in zip(pads, (*kernel, *kernel)) if pad >= size > 0]
    return _first(
        _outside("kernel", kernel, 1, 32),
        _outside("stride", attributes.get("strides", [1, 1]), 1, 8),
        _outside("padding", pads, 0, 31),
        f"padding {wide[0]} is not below the kernel" if wide else "",
        _outside("dilation", dilations, 1, 32),
        _outside("groups", [attributes.get("group", 1)], 1, MAX_SIZE),
        _buffer(view.sizes(), kernel, dilations),
    )


def _buffer(sizes: Sequence[int], kernel: Sequence[int], dilations: Sequence[int]) -> str:
    """Whether the convolution buffer holds a kernel and its data in INT8, in banks."""
    _, channels, _, width = sizes
    weights = math.ceil(math.ceil(channels * kernel[0] * kernel[1] / 128) * 128 / 32768)
    entries = math.ceil(math.ceil(channels / 32) * width / 4)
    data = math.ceil(entries * ((kernel[0] - 1) * dilations[0] + 1) / 256)
    if weights + data > _CBUF_BANKS:
        return (
            f"needs {weights + data} banks of the convolution buffer, {_CBUF_BANKS} are there"
        )
    return ""


def _deconvolution(view: _View) -> str:
    if not view.layers.is_constant(view.node.input[1]):
        return "its weights are computed, a DLA's are constant"
    attributes, kernel = view.attributes, view.sizes(1)[2:]
    strides = list(attributes.get("strides", [1, 1]))
    padded = any((*_padding(attributes), *attributes.get("output_padding", ())))
    long = 1 in kernel and max(kernel) in _LONG_KERNELS
    slow = kernel[0] == kernel[1] and {*kernel, *strides} & set(_SLOW_TO_COMPILE)
    return _first(
        "" if long else _outside("kernel", kernel, 1, 32),
        "a square kernel or stride of 23 to 32 compiles too slowly" if slow else "",
        "a deconvolution with padding" if padded else "",
        "a deconvolution in groups" if attributes.get("group", 1) != 1 else "",
        "a dilated deconvolution" if set(attributes.get("dilations", [1])) != {1} else "",
    )


def _pooling(view: _View) -> str:
    attributes, pads = view.attributes, _padding(view.attributes)
    exclusive = view.node.op_type == "AveragePool" and not attributes.get("count_include_pad")
    return _first(
        "gives indices as well" if len(view.node.output) > 1 else "",
        _outside("window", attributes["kernel_shape"], 1, 8),
        _outside("stride", attributes.get("strides", [1, 1]), 1, 16),
        _outside("padding", pads, 0, 7),
        "a dilated window" if set(attributes.get("dilations", [1])) != {1} else "",
        "the average leaves the padding out, Xavier's counts it"
        if exclusive and any(pads) and view.dla.soc == "xavier"
        else "",
    )


def _activation(view: _View) -> str:
    return ""


def _clip(view: _View) -> str:
    low, high = view.value(1), view.value(2)
    if low is None or high is None or float(low) != 0:
        return "clips to something else than 0 to a constant"
    within = _CLIPPED[0] <= float(high) <= _CLIPPED[1]
    return "" if within else f"clips at {float(high):g}, outside {_CLIPPED[0]} to {_CLIPPED[1]}"


def _leaky(view: _View) -> str:
    return "its slope is negative" if view.attributes.get("alpha", 0.01) < 0 else ""


def _prelu(view: _View) -> str:
    slope = view.value(1)
    if slope is None or slope.ndim != 4:
        return "its slope is not a constant of 4 axes"
    return ""


def _scale(view: _View) -> str:
    """An addition or product: with a constant it is a Scale layer, else an ElementWise one."""
    if len(view.moving) == len(view.inputs):
        return _elementwise(view)
    whole = view.layers.shape(view.moving[0])
    for name in set(view.inputs) - set(view.moving):
        sizes = view.layers.shape(name) if name in view.layers.constants else (0,)
        sizes = (1,) * (4 - len(sizes)) + sizes
        if math.prod(sizes) != 1 and sizes not in (whole, (1, whole[1], 1, 1)):
            return (
                "its constant is neither one number, one a channel, nor of the tensor's shape"
            )
    return ""


def _elementwise(view: _View) -> str:
    if len(view.moving) < len(view.inputs):
        return "one side is a constant: a DLA takes that of sums and products only"
    shapes = [view.layers.shape(name) for name in view.inputs]
    whole = max(shapes, key=math.prod)
    equal = {whole}
    if view.dla.version >= (10,):  # earlier guides say nothing of broadcasting
        equal |= {(*whole[:2], 1, 1), (whole[0], 1, 1, 1)}
    return "" if set(shapes) <= equal else f"shapes {shapes[0]} and {shapes[1]} are not equal"


def _division(view: _View) -> str:
    """Division and power, which TensorRT hands over from 10 on."""
    if view.dla.version < (10,):
        return f"TensorRT before 10 hands no {view.node.op_type} to a DLA"
    second = view.value(1)
    if second is None and len(view.moving) == 2 and view.node.op_type == "Div":
        return _elementwise(view)
    if second is None or len(set(second.ravel().tolist())) != 1:
        return "its second input is not one constant number"
    return ""


def _product(view: _View) -> str:
    """A matrix product with constant weights: as a convolution with a kernel of 1 x 1."""
    if view.layers.is_constant(view.node.input[0]) or len(view.moving) != 1:
        return "multiplies two computed tensors, a DLA's weights are constant"
    if view.attributes.get("transA"):
        return "transposes its input"
    if len(view.sizes()) != 2 or len(view.sizes(1)) != 2:
        return f"works on {len(view.sizes())} axes, not on one row of features"
    return _buffer((1, view.sizes()[1], 1, 1), (1, 1), (1, 1))


def _concatenation(view: _View) -> str:
    axis = view.attributes.get("axis", 1) % 4
    return _first(
        f"joins along axis {axis}, a DLA along the channels" if axis != 1 else "",
        "joins a constant" if len(view.moving) < len(view.inputs) else "",
        "joins fewer than two tensors" if len(view.inputs) < 2 else "",
    )


def _lrn(view: _View) -> str:
    size = view.attributes["size"]
    return "" if size in _LRN_SIZES else f"window {size} is none of 3, 5, 7, 9"


def _resize(view: _View) -> str:
    mode = view.attributes.get("mode", b"nearest").decode()
    high = {"nearest": 32, "linear": 4}.get(mode)
    if high is None:
        return f"mode {mode!r} is neither nearest nor linear"
    before, after = view.sizes(), view.layers.shape(view.node.output[0])
    if before[:2] != after[:2]:
        return "resizes the channels"
    scales = [big / small for small, big in zip(before[2:], after[2:])]
    wrong = [scale for scale in scales if scale != int(scale) or not 1 <= scale <= high]
    return f"scale {wrong[0]:g} is no whole number of 1 to {high}" if wrong else ""


def _softmax(view: _View) -> str:
    if view.dla.soc != "orin":
        return "Softmax is for the DLA of Orin only"
    sizes = view.sizes()
    axis = view.attributes.get("axis", -1) % 4
    others = [size for i, size in enumerate(sizes) if i not in (0, axis)]
    if axis and max(others) > 1 and sizes[axis] > _SOFTMAX_AXIS:
        return f"axis of {sizes[axis]} is above {_SOFTMAX_AXIS}"
    return "" if axis else "works along the batch"


def _slice(view: _View) -> str:
    if len(view.moving) > 1:
        return "its bounds are computed"
    axes = view.value(3) if view.node.op_type == "Slice" else None
    along = [view.attributes.get("axis", 0)] if view.node.op_type == "Split" else axes
    touched = range(4) if along is None else [int(axis) % 4 for axis in along]
    return "cuts the batch" if 0 in touched else ""


def _shuffle(view: _View) -> str:
    order = view.attributes.get("perm", [3, 2, 1, 0])
    moved = view.node.op_type == "Transpose" and order[0] != 0
    moved = moved or view.sizes()[0] != view.layers.shape(view.node.output[0])[0]
    return "moves the batch" if moved else ""


def _reduction(view: _View) -> str:
    if view.dla.version < (10,):
        return "TensorRT before 10 hands no ReduceMax to a DLA"
    axes = view.attributes.get("axes", view.value(1))
    touched = range(4) if axes is None else [int(axis) % 4 for axis in axes]
    return "reduces the batch" if 0 in touched else ""


_RULES: Mapping[str, Callable[[_View], str]] = {
    "Conv": _convolution,
    "ConvTranspose": _deconvolution,
    "Gemm": _product,
    "MatMul": _product,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Abs", "BatchNormalization"), _activation),
    "Clip": _clip,
    "LeakyRelu": _leaky,
    "PRelu": _prelu,
    **dict.fromkeys(("Add", "Sub", "Mul"), _scale),
    **dict.fromkeys(("Max", "Min", "Sum"), _elementwise),
    **dict.fromkeys(("Div", "Pow"), _division),
    "Concat": _concatenation,
    "LRN": _lrn,
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Softmax": _softmax,
    **dict.fromkeys(("Slice", "Split"), _slice),
    **dict.fromkeys(("Reshape", "Transpose"), _shuffle),
    "ReduceMax": _reduction,
}
