"""Where in a graph the widths are that pruning makes smaller, and the graph with other widths.

They are found by comparing the graph with that of the same network pruned: a tensor whose shape
changed carries a width that was pruned, and every size that changed is a multiple of it.
Tensors hang together through all nodes but layers, which read one width and write another. So a
graph of any widths is made without the network, for timing; its weights mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from mla_edge.exporter.layers import channel_axis, find_layers
from mla_edge.exporter.onnx_graph import merge_constants, nodes_within
from mla_edge.exporter.quantization import run_with
from mla_edge.signals import Tensors

_TAKE_SIZES = ("Expand", "Reshape", "Slice", "Split", "Tile")


@dataclass(frozen=True)
class Region:
    """The tensors that carry a width, and the nodes that touch them, with what fuses there."""

    width: int
    tensors: frozenset[str]
    nodes: tuple[str, ...]


def fix_sizes(model: Any, sample: Tensors) -> Any:
    """``model`` with constants in place of the sizes that its nodes compute for each other."""
    constants = {tensor.name for tensor in model.graph.initializer}
    sizes = {
        name
        for node in model.graph.node
        if node.op_type in _TAKE_SIZES
        for name in node.input[1:]
        if name and name not in constants
    }
    integers = {
        value.name
        for value in model.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT64
    }
    computed = sorted(sizes & integers)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    if computed:
        values = next(run_with(model, computed, [sample]))
        for node in fixed.graph.node:
            node.input[:] = [
                f"{n}/fixed" if n in values and n in sizes else n for n in node.input
            ]
        fixed.graph.initializer.extend(
            numpy_helper.from_array(np.array(values[name]), f"{name}/fixed")
            for name in computed
        )
    return fixed


def find_regions(
    whole: Any, pruned: Any, scopes: Mapping[str, Sequence[str]], widths: Mapping[str, int]
) -> dict[str, Region]:
    """Where each group of ``widths`` is in the model ``whole``.

    ``pruned`` is the model with every width smaller, ``scopes`` where the module that makes
    each group's width is in the names of nodes. A group is left out whose width is found
    nowhere, or is one with another's: it was not pruned, or the exporter named it otherwise.
    """
    parts = list(_connected(whole, _changed(whole, pruned)))
    fused = {layer.node.name: layer for layer in find_layers(whole)}
    owners: dict[int, list[str]] = {}
    for group in widths:
        inside = set(nodes_within(whole, scopes.get(group, ())))
        made = {name for n in whole.graph.node if n.name in inside for name in n.output}
        for index, part in enumerate(parts):
            if part & made:
                owners.setdefault(index, []).append(group)
    shared = {group for groups in owners.values() if len(groups) > 1 for group in groups}
    regions = {}
    for group, width in widths.items():
        tensors = frozenset(t for i in owners if group in owners[i] for t in parts[i])
        if tensors and group not in shared:
            found = {n.name for n in whole.graph.node if tensors & {*n.input, *n.output}}
            for layer in [fused[name] for name in found if name in fused]:
                beside = (layer.bias, layer.add, layer.activation)
                found |= {node.name for node in beside if node is not None}
            nodes = tuple(n.name for n in whole.graph.node if n.name in found)
            regions[group] = Region(width, tensors, nodes)
    return regions


def cut_out(model: Any, region: Region) -> Any:
    """A model of ``region`` alone: it takes what its nodes read, and gives what others read."""
    inside = set(region.nodes)
    nodes = [node for node in model.graph.node if node.name in inside]
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    known = {value.name: value for value in _values(model)}
    made = dict.fromkeys(name for node in nodes for name in node.output if name)
    read = dict.fromkeys(name for node in nodes for name in node.input if name)
    outside = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.name not in inside:
            outside.update(node.input)
    graph = helper.make_graph(
        nodes,
        "region",
        [known[name] for name in read if name not in made and name not in constants],
        [known[name] for name in made if name in outside],
        [constants[name] for name in read if name in constants],
        value_info=[known[name] for name in made if name in known and name not in outside],
    )
    cut = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version
    )
    cut.metadata_props.extend(model.metadata_props)
    return cut


def narrow(
    model: Any, pruned: Any, regions: Mapping[str, Region], widths: Mapping[str, int]
) -> Any:
    """``model``, or what was cut out of it, with other ``widths`` by group.

    ValueError where that is no graph: what changed is no multiple of its width.
    """
    narrower = _Narrower(model, pruned, [(regions[name], new) for name, new in widths.items()])
    nodes = [narrower.narrow(node) for node in model.graph.node]
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for field, values in (
        (made.graph.node, nodes),
        (made.graph.initializer, list(narrower.made.values())),
        (made.graph.value_info, []),
    ):
        del field[:]
        field.extend(values)
    merge_constants(made.graph)
    try:
        made = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
        onnx.checker.check_model(made)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        raise ValueError(f"no graph with the widths {dict(widths)}: {error}") from error
    return made


class _Narrower:
    """Makes what belongs to some widths smaller, node by node."""

    def __init__(self, model: Any, pruned: Any, cuts: Sequence[tuple[Region, int]]) -> None:
        self.cuts = cuts
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.made = dict(self.constants)
        self.there = {tensor.name: tensor for tensor in pruned.graph.initializer}
        self.nodes_there = {node.name: node for node in pruned.graph.node}

    def narrow(self, node: Any) -> Any:
        """``node`` as it is with the smaller widths."""
        copied = onnx.NodeProto.FromString(node.SerializeToString())
        other = self.nodes_there.get(node.name)
        touched = {*node.input, *node.output}
        cuts = [cut for cut in self.cuts if cut[0].tensors & touched]
        if not cuts or other is None:
            return copied
        for index, (name, name_there) in enumerate(zip(node.input, other.input)):
            if name in self.constants and name_there in self.there:
                value = numpy_helper.to_array(self.constants[name])
                there = numpy_helper.to_array(self.there[name_there])
                smaller = value
                for region, width in cuts:
                    axes = self._axes(node, index, value.ndim, region)
                    smaller = _smaller(smaller, value, there, axes, (width, region.width))
                if smaller is not value:
                    copied.input[index] = f"{node.name}/{index}"
                    tensor = numpy_helper.from_array(smaller, copied.input[index])
                    self.made[tensor.name] = tensor
        theirs = {attribute.name: attribute for attribute in other.attribute}
        region, width = cuts[0]  # where there are two, it is a layer, which has no such sizes
        for attribute in copied.attribute:
            there = theirs.get(attribute.name, attribute)
            if attribute.i != there.i:
                attribute.i = _scaled(attribute.i, width, region.width)
            for index, (one, two) in enumerate(zip(attribute.ints, there.ints)):
                if one != two:
                    attribute.ints[index] = _scaled(one, width, region.width)
        return copied

    def _axes(self, node: Any, index: int, count: int, region: Region) -> Sequence[int]:
        """Which of the ``count`` axes of a node's constant are this region's to change."""
        if not _is_layer(node, self.constants):
            return range(count)
        out = channel_axis(node, self.constants) or 0
        writes = bool(region.tensors & set(node.output))
        if index > 1:  # the bias
            return [0] if writes else []
        reads = bool(region.tensors & set(node.input))
        return [*([1 - out] if reads else []), *([out] if writes else [])]


def _smaller(
    value: np.ndarray,
    before: np.ndarray,
    there: np.ndarray,
    axes: Sequence[int],
    ratio: tuple[int, int],
) -> np.ndarray:
    """``value`` with what ``there`` has otherwise than ``before`` scaled, or itself."""
    if before.shape == there.shape:
        changed = before != there
        if before.dtype != np.int64 or not changed.any():
            return value
        scaled = value.copy()  # the sizes of a Reshape, a Split, an Expand
        scaled[changed] = [_scaled(int(size), *ratio) for size in before[changed]]
        return scaled
    if before.ndim != there.ndim:
        raise ValueError(f"{before.shape} became {there.shape}")
    for axis, (one, two) in enumerate(zip(before.shape, there.shape)):
        if one != two and axis in axes:
            value = value.take(range(_scaled(one, *ratio)), axis)
    return value


def _scaled(size: int, width: int, of: int) -> int:
    scaled, rest = divmod(size * width, of)
    if rest:
        raise ValueError(f"{size} is no multiple of the width {of}")
    return scaled


def _changed(whole: Any, pruned: Any) -> set[str]:
    """The tensors that are there in both and have another shape."""
    before, after = _shapes(whole), _shapes(pruned)
    return {name for name, shape in before.items() if after.get(name, shape) != shape}


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in _values(model)
    }


def _values(model: Any) -> list[Any]:
    return [*model.graph.input, *model.graph.output, *model.graph.value_info]


def _connected(model: Any, tensors: set[str]) -> Iterator[set[str]]:
    """``tensors`` in sets that no layer lies between."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    beside: dict[str, set[str]] = {name: {name} for name in tensors}
    for node in model.graph.node:
        touched = tensors & {*node.input, *node.output}
        if touched and not _is_layer(node, constants):
            joined: set[str] = set().union(*(beside[name] for name in touched))
            for name in joined:
                beside[name] = joined
    seen: set[str] = set()
    for name in sorted(tensors):
        if name not in seen:
            seen |= beside[name]
            yield beside[name]


def _is_layer(node: Any, constants: Mapping[str, Any]) -> bool:
    """Whether what ``node`` writes has another width than what it reads."""
    grouped = any(a.name == "group" and a.i > 1 for a in node.attribute)
    return channel_axis(node, constants) is not None and not grouped
