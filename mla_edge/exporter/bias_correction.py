"""Give a layer back the mean that rounding takes from it (Nagel et al. 2019, section 4.2).

The rounding errors of weights and of clipped inputs do not cancel out: a channel's mean moves,
and all layers behind it see that. What it moved by was measured on calibration samples with
the float network's own inputs, so that no layer corrects what an earlier one does already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy as np
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from mla_edge.exporter.layers import Layer
    from mla_edge.exporter.ranges import Ranges


def can_correct(layer: Layer, constants: Any) -> bool:
    """Whether the layer has a bias, or can be given one without another operator."""
    node = layer.node
    if node.op_type == "MatMul":
        return layer.bias is not None
    beta = [helper.get_attribute_value(a) for a in node.attribute if a.name == "beta"]
    given = len(node.input) > 2 and node.input[2]
    return beta in ([], [1.0]) and (not given or node.input[2] in constants)


def correct_biases(model: Any, layers: Sequence[Layer], ranges: Ranges, style: str) -> None:
    """Add the corrections of ``ranges`` to the biases of ``layers``, in place."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in layers:
        change = ranges.correction(style, layer.node.name)
        if change is None or not can_correct(layer, constants):
            continue
        holder = layer.bias if layer.node.op_type == "MatMul" else layer.node
        place = _bias_input(holder, constants)
        old = numpy_helper.to_array(constants[holder.input[place]]) if place is not None else 0
        whole = (np.ravel(old).astype(np.float64) + change).astype(
            numpy_helper.to_array(layer.weight).dtype
        )
        name = f"{layer.node.name}/corrected_bias"
        model.graph.initializer.append(numpy_helper.from_array(whole, name))
        if place is None:
            del holder.input[2:]
            holder.input.append(name)
        else:
            holder.input[place] = name


def _bias_input(holder: Any, constants: Any) -> int | None:
    """Which input of a Conv, Gemm or Add the bias is; None if there is none yet."""
    if holder.op_type == "Add":
        return next(i for i, name in enumerate(holder.input) if name in constants)
    return 2 if len(holder.input) > 2 and holder.input[2] else None
