"""Lets a finished graph give what a person wants to see of it: gate weights and attention.

Nothing is computed for it. The softmax is there already, in float32, and gets a name outside.
"""

from __future__ import annotations

import math
import re
from typing import Any, Mapping

from mla_edge.errors import ExportError, MissingDependency
from mla_edge.exporter.onnx_graph import nodes_within

try:
    import onnx
except ImportError as error:
    raise MissingDependency(
        f"onnx cannot be loaded, and graphs are written with it: {error}",
        hint="pip install 'mla-edge[export]'",
    ) from error

Shown = Mapping[str, "tuple[str, tuple[int, ...]]"]
"""By name of the output: the module whose softmax it is, as torch names it, and its shape."""


def shown_by(module: Any) -> Shown:
    """What the ``module`` of a tier says can be shown of it: its ``shows``, if it has any."""
    return getattr(module, "shows", {})


def show(data: bytes, shown: Shown) -> bytes:
    """The ONNX model in ``data`` with the outputs ``shown`` besides its own.

    ExportError: a module has not one softmax, or it is of another size.
    """
    if not shown:
        return data
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    for name, (path, shape) in shown.items():
        tensor = _softmax_of(model, name, path)
        _check_size(graph, name, tensor, shape)
        sizes = f"{name}/shape"
        graph.initializer.append(
            onnx.helper.make_tensor(sizes, onnx.TensorProto.INT64, [len(shape)], shape)
        )
        graph.node.append(onnx.helper.make_node("Reshape", [tensor, sizes], [name], name))
        graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        )
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"show: {', '.join(shown)} cannot be outputs of the graph: {error}",
            hint="correct the network's `shows`, or take it away",
        ) from error
    return bytes(model.SerializeToString(deterministic=True))


def _check_size(graph: Any, name: str, tensor: str, shape: tuple[int, ...]) -> None:
    for value in graph.value_info:
        found = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.name == tensor and math.prod(found) != math.prod(shape):
            raise ExportError(
                f"show: {name!r} is to be {list(shape)}, but the softmax is {found}",
                hint="correct the network's `shows`, or take it away",
            )


def _softmax_of(model: Any, name: str, path: str) -> str:
    """The tensor that the softmax of the module ``path`` gives."""
    scope = "/" + re.sub(r"\.(?!\d)", "/", path) + "/"
    within = set(nodes_within(model, [scope]))
    found = [n for n in model.graph.node if n.name in within and n.op_type == "Softmax"]
    if len(found) != 1:
        raise ExportError(
            f"show: {name!r} is to be the softmax of the module {path!r}, which has "
            f"{len(found)} of them in the graph",
            hint="correct the network's `shows`, or take it away",
        )
    return str(found[0].output[0])
