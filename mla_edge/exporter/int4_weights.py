"""Weights of linear layers in INT4, in blocks along their inputs; activations stay as they are.

Four bits and a scale for each 64 weights (ONNX opset 21, DequantizeLinear with block_size).
TensorRT from 10 on reads them so on Ampere and later, ONNX Runtime makes MatMulNBits of them.
It makes a network smaller, and faster where reading its weights is what takes time.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from mla_edge.exporter.layers import Layer

BLOCK = 64  # weights that share a scale, of one output and neighbouring inputs
SOURCE_OPSET = 20  # of the float graph; what 21 changes in its operators are new types only
OPSET, IR_VERSION = 21, 10  # the first with INT4
LEVELS = 7
NAMES = "mla_edge.int4"  # metadata: the layers with such weights


def takes_int4(layer: Layer) -> bool:
    """Whether it is a linear layer whose inputs fill whole blocks."""
    inputs = layer.weight.dims[1 - layer.axis] if len(layer.weight.dims) == 2 else 0
    return layer.node.op_type != "Conv" and inputs > 0 and inputs % BLOCK == 0


def int4_layers(model: Any) -> list[str]:
    """Names of the layers of a graph whose weights are INT4."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    return list(json.loads(entries.get(NAMES, "[]")))


def in_blocks(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers in -7…7 (int8, shaped like ``weights``), and the scale of each block.

    ``axis`` is that of the output channels; the other one is cut into blocks.
    """
    rows = np.asarray(weights if axis == 0 else weights.T, np.float32)  # [outputs, inputs]
    blocks = rows.reshape(rows.shape[0], -1, BLOCK)
    largest = np.abs(blocks).max(2)
    scales = np.where(largest > 0, largest / LEVELS, 1.0).astype(np.float32)
    whole = np.clip(np.rint(blocks / scales[:, :, None]), -LEVELS, LEVELS).astype(np.int8)
    whole = whole.reshape(rows.shape)
    return (whole, scales) if axis == 0 else (whole.T, scales.T)


def rounded(weights: np.ndarray, axis: int) -> np.ndarray:
    """``weights`` as INT4 leaves them, float32."""
    whole, scales = in_blocks(weights, axis)
    return np.asarray(whole * np.repeat(scales, BLOCK, axis=1 - axis), np.float32)


def write_int4(model: Any, layers: Sequence[Layer]) -> None:
    """Store the weights of ``layers`` as INT4, in place, and raise the graph to opset 21.

    ``model`` is of opset 20 or later. The nodes of ``layers`` are no longer part of it then.
    """
    nodes = []
    for layer in layers:
        node = layer.node
        dtype = numpy_helper.to_array(layer.weight).dtype
        whole, scales = in_blocks(numpy_helper.to_array(layer.weight), layer.axis)
        name = f"{node.name}/weight"
        packed = TensorProto(name=f"{name}/int4", data_type=TensorProto.INT4, dims=whole.shape)
        halves = np.ascontiguousarray(whole).ravel().astype(np.uint8) & 0xF
        packed.raw_data = (halves[0::2] | halves[1::2] << 4).astype(np.uint8).tobytes()
        scale = numpy_helper.from_array(scales.astype(dtype), f"{name}/scale")
        model.graph.initializer.extend([packed, scale])
        dequantize = helper.make_node(
            "DequantizeLinear",
            [packed.name, scale.name],
            [f"{name}/dequantized"],
            f"{name}/dequantized",
            axis=1 - layer.axis,
            block_size=BLOCK,
        )
        node.input[1] = dequantize.output[0]
        nodes.append(dequantize)
    nodes += [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for entry in model.opset_import:
        entry.version = max(entry.version, OPSET)
    model.ir_version = max(model.ir_version, IR_VERSION)
    told = model.metadata_props.add()
    told.key, told.value = NAMES, json.dumps(sorted(layer.node.name for layer in layers))
