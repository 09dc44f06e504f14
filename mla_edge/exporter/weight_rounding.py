"""Round the weights of a layer together, so that its output stays: not each by itself.

The inputs of a layer go together: what the rounding of one weight adds to the output, those
that are still to be rounded can take off again. They are rounded one after the other, by the
second moments of the layer's inputs (Frantar et al. 2022, "GPTQ"; a closed form, nothing is
trained). What the mean is moved by is left to the bias, where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence

import numpy as np
from onnx import helper, numpy_helper

from mla_edge.exporter.bias_correction import can_correct
from mla_edge.exporter.calibrators import weight_scales, whole_weights

if TYPE_CHECKING:
    from mla_edge.exporter.layers import Layer
    from mla_edge.signals import Tensors

_DAMPING = 0.01  # of the mean second moment: what was hardly seen stays near its nearest step
_POSITIONS = 256  # at most, of each sample, where a convolution slides or tokens are many
_MOST_INPUTS = 4096  # of one output: the moments are as many squared
_BLOCK = 128  # weights of an output after which the others learn what they are to take off


@dataclass(frozen=True)
class Rounding:
    """The weights of a layer in whole steps, int8, and what that moves its output's mean by.

    ``shift`` is against the nearest steps, [channels].
    """

    whole: np.ndarray
    shift: np.ndarray


def round_together(
    layers: Sequence[Layer], runs: Iterable[Tensors], constants: Any
) -> dict[str, Rounding]:
    """By name the layers of a float graph, rounded for the inputs that they have in ``runs``.

    ``constants`` names the graph's constants. Layers with too many inputs are left out.
    """
    seen = [_Moments(layer) for layer in layers]
    seen = [moments for moments in seen if moments.inputs <= _MOST_INPUTS]
    for values in runs:
        for moments in seen:
            moments.add(values[moments.layer.source])
    return {
        moments.layer.node.name: _round_layer(moments, can_correct(moments.layer, constants))
        for moments in seen
    }


class _Moments:
    """First and second moments of what each output of a layer sums over, by group."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        given = {a.name: helper.get_attribute_value(a) for a in layer.node.attribute}
        self._given: Mapping[str, Any] = given
        self.groups = int(given.get("group", 1)) if layer.node.op_type == "Conv" else 1
        dims = list(layer.weight.dims)
        self.inputs = int(np.prod(dims)) // dims[layer.axis]
        self._count = 0
        self._near: Any = None  # about the mean: sums of what is left keep their digits
        self._sums = np.zeros((self.groups, self.inputs))
        self._squares: Any = 0.0

    def add(self, values: np.ndarray) -> None:
        """Count what one sample feeds the layer."""
        rows = self._windows(values) if self.layer.node.op_type == "Conv" else values
        rows = rows.reshape(-1, self.groups, self.inputs)
        rows = rows[_spread(len(rows))].transpose(1, 0, 2)  # [groups, positions, inputs]
        if self._near is None:
            self._near = rows.mean(1, keepdims=True)
        rows = rows - self._near
        self._count += rows.shape[1]
        self._sums += rows.sum(1, dtype=np.float64)
        self._squares = self._squares + np.matmul(rows.transpose(0, 2, 1), rows)

    def mean(self) -> np.ndarray:
        """[groups, inputs]."""
        return np.asarray(self._near[:, 0] + self._sums / self._count)

    def second(self, *, centred: bool) -> np.ndarray:
        """[groups, inputs, inputs]; ``centred``, of what is left without the mean."""
        found = np.asarray(self._squares, np.float64) / self._count
        found = found - _squared(self._sums / self._count)
        return np.asarray(found if centred else found + _squared(self.mean()))

    def _windows(self, values: np.ndarray) -> np.ndarray:
        """What a convolution sums over at some of its positions, [positions, values]."""
        size = list(self.layer.weight.dims[2:])
        axes, get = len(size), self._given.get
        pads = list(get("pads", [0] * 2 * axes))
        padded = np.pad(values, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:])])
        apart = get("dilations", [1] * axes)
        reach = [(k - 1) * d + 1 for k, d in zip(size, apart)]
        windows = np.lib.stride_tricks.sliding_window_view(
            padded, reach, tuple(range(2, 2 + axes))
        )
        whole, slides = slice(None), get("strides", [1] * axes)
        windows = windows[(whole, whole, *(slice(None, None, n) for n in (*slides, *apart)))]
        places = windows.shape[2 : 2 + axes]
        where: Any = np.unravel_index(_spread(int(np.prod(places))), places)
        taken = np.moveaxis(windows[(whole, whole, *where)], 2, 1)
        return taken.reshape(-1, int(np.prod(taken.shape[2:])))


def _squared(means: np.ndarray) -> np.ndarray:
    return np.asarray(means[:, :, None] * means[:, None, :])


def _spread(count: int) -> np.ndarray:
    """Which of ``count`` positions are looked at."""
    return np.unique(np.linspace(0, count - 1, min(count, _POSITIONS)).astype(int))


def _along(steps: np.ndarray, axes: int, axis: int) -> np.ndarray:
    """[channels], so that it multiplies weights along ``axis``."""
    return steps.reshape([-1 if i == axis else 1 for i in range(axes)])


def _round_layer(moments: _Moments, centred: bool) -> Rounding:
    axis = moments.layer.axis
    values = numpy_helper.to_array(moments.layer.weight).astype(np.float64)
    steps = weight_scales(values, axis)
    flat = np.moveaxis(values / _along(steps, values.ndim, axis), axis, 0)
    grouped = flat.reshape(moments.groups, -1, moments.inputs)
    whole = np.stack(
        [_round(*group) for group in zip(grouped, moments.second(centred=centred))]
    )
    shaped = np.moveaxis(whole.reshape(flat.shape), 0, axis).astype(np.int8)
    nearest = np.moveaxis(whole_weights(values, steps, axis), axis, 0).reshape(whole.shape)
    shift = np.einsum("goi,gi->go", whole - nearest, moments.mean()).ravel() * steps
    return Rounding(np.ascontiguousarray(shaped), shift)


def _round(values: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """Whole steps for weights in steps, [outputs, inputs]; what is zero stays zero.

    Each output has the better one of these and the nearest steps.
    """
    order = np.argsort(-np.diag(moments), kind="stable")  # what counts most has most to mend it
    moments, left = moments[np.ix_(order, order)], values[:, order]
    size = len(moments)
    damped = moments + np.eye(size) * (_DAMPING * float(np.diag(moments).mean()) or 1.0)
    # Row i is how the weights from i on go together when those before are settled.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    zero, whole, nearest = left == 0, np.zeros_like(left), _nearest(left)
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        errors = np.zeros((len(left), last - first))
        for i in range(first, last):
            whole[:, i] = np.where(zero[:, i], 0, _nearest(left[:, i]))
            errors[:, i - first] = (left[:, i] - whole[:, i]) / factor[i, i]
            left[:, i + 1 : last] -= np.outer(errors[:, i - first], factor[i, i + 1 : last])
        left[:, last:] -= errors @ factor[first:last, last:]
    off, other = (steps - values[:, order] for steps in (whole, nearest))
    worse = ((off @ moments) * off).sum(1) > ((other @ moments) * other).sum(1)
    whole[worse] = nearest[worse]
    found = np.empty_like(whole)
    found[:, order] = whole
    return found


def _nearest(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(values), -127, 127))
