"""Puts the head of a learned score behind a finished graph; all of it is float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from mla_edge.errors import ExportError, MissingDependency
from mla_edge.exporter.onnx_graph import keep_float, nodes_within
from mla_edge.signals import PRESENT, SCORE

try:
    import onnx
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise MissingDependency(
        f"onnx cannot be loaded, and graphs are written with it: {error}",
        hint="pip install 'mla-edge[export]'",
    ) from error

if TYPE_CHECKING:
    from mla_edge.exporter.score import ScoreHead

_SCOPE = f"/{SCORE}/"
POOLED = "score/pooled"  # [1, features]


def find_pooled(model: Any, path: str) -> str | None:
    """The tensor that the module ``path`` gives; None where the graph has no such module."""
    within = set(nodes_within(model, [f"/{path}/"])) if path else set()
    last = [node for node in model.graph.node if node.name in within]
    return str(last[-1].output[0]) if last else None


def add_pooled(data: bytes, path: str) -> bytes:
    """The model in ``data`` that also gives ``POOLED``: what to fit a head to."""
    model = onnx.ModelProto.FromString(data)
    if _flatten(model, path) is not None:
        shaped = onnx.shape_inference.infer_shapes(model)
        model.graph.output.extend(v for v in shaped.graph.value_info if v.name == POOLED)
    return bytes(model.SerializeToString(deterministic=True))


def add_score(data: bytes, head: ScoreHead, path: str) -> bytes:
    """The ONNX model in ``data`` with the output ``SCORE`` [1, 1] of ``head`` besides its own.

    ExportError: it does not fit the graph.
    """
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    masked = any(value.name == PRESENT for value in graph.input)
    pooled = _flatten(model, path)
    parts = ["logits", *([PRESENT] if masked else []), *([pooled] if pooled else [])]
    # The normalization goes into the first layer; a unit that is always 1 brings the last bias.
    inner = np.pad(head.inner / head.spread[:, None], ((0, 0), (0, 1)))
    bias = np.append(head.inner_bias - (head.mean / head.spread) @ head.inner, 1.0)
    outer = np.concatenate([head.outer, head.outer_bias[None]])
    _add(graph, "Concat", parts, "inputs", axis=1)
    _add(graph, "Gemm", ["score/inputs", inner, bias], "hidden")
    _add(graph, "Relu", ["score/hidden"], "active")
    _add(graph, "Gemm", ["score/active", outer, "logits"], "full", beta=head.sharpness)
    _add(graph, "Softmax", ["score/full"], "odds", axis=1)
    _add(graph, "ArgMax", ["logits"], "best", axis=1, keepdims=1)
    _add(graph, "GatherElements", ["score/odds", "score/best"], "agrees", axis=1)
    _add(graph, "Sub", [np.ones((1, 1)), "score/agrees"], "contradicts")
    share: str | np.ndarray = np.full((1, 1), head.share_bias + float(head.share.sum()))
    if masked:
        of_mask: list[str | np.ndarray] = [
            PRESENT,
            head.share[:, None],
            np.array([head.share_bias]),
        ]
        _add(graph, "Gemm", of_mask, "share")
        share = "score/share"
    _add(graph, "Mul", ["score/contradicts", share], "probability")
    graph.node[-1].output[0] = SCORE
    keep_float(model, _SCOPE)
    graph.output.append(helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, (1, 1)))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"score: the head does not fit the graph: {error}",
            hint="this is a bug; report it with the network",
        ) from error
    return bytes(model.SerializeToString(deterministic=True))


def _flatten(model: Any, path: str) -> str | None:
    """Append what makes [1, features] float32 of the module ``path``'s tensor; its name."""
    found = find_pooled(model, path)
    if found is None:
        return None
    _add(model.graph, "Flatten", [found], "pooled", axis=1)
    return POOLED


def _add(
    graph: Any,
    operator: str,
    inputs: Sequence[str | np.ndarray],
    output: str,
    **attributes: Any,
) -> None:
    """Append a node; its arrays become constants, its output ``score/<output>``."""
    names = []
    for number, value in enumerate(inputs):
        if isinstance(value, str):
            names.append(value)
            continue
        names.append(f"{SCORE}/{output}/{number}")
        graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(value, np.float32), names[-1])
        )
    made = f"{SCORE}/{output}"
    graph.node.append(helper.make_node(operator, names, [made], f"/{made}", **attributes))
