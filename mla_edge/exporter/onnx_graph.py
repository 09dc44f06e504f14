"""A tier of a network as an ONNX graph: static, at the board's opset, named as the tier is."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import numpy as np

from mla_edge.bundle import write_atomically
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import BundleError, ConfigError, ExportError, MissingDependency
from mla_edge.exporter.tracing import (
    FORWARD_ERRORS,
    example_inputs,
    find_scopes,
    forward,
    halve,
)
from mla_edge.signals import Tensors, TensorSpec

try:
    import onnx
    import onnxslim
    import torch
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
except (ImportError, OSError) as error:  # OSError: a library of torch's is missing
    raise MissingDependency(
        f"exporting needs torch, onnx and onnxslim, and one cannot be loaded: {error}",
        hint="pip install 'mla-edge[export]'",
    ) from error

if TYPE_CHECKING:
    from mla_edge.networks import Network, TierNetwork

OPSETS = range(14, 21)  # what torch's exporter for exact opsets knows
KEEP_FLOAT32 = "mla_edge.keep_float32"  # metadata: the scopes that stay in float32

MIN_COSINE, MIN_COSINE_HALF = 0.9999, 0.99  # graph against network, on made-up inputs


@dataclass(frozen=True)
class OnnxGraph:
    """An ONNX file, what goes in and out of it, and its nodes that are to stay float32."""

    path: Path
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    keep_float: tuple[str, ...]


def to_onnx(
    network: Network, tier: TierNetwork, path: Path, *, opset: int, half: bool = False
) -> OnnxGraph:
    """Write ``tier`` to ``path``; equal networks give equal bytes.

    ``half`` computes in float16, but for modules that say ``keep_float32 = True`` (and layer
    norms where the opset has no operator for them); inputs and outputs stay float32.
    ConfigError for an opset that cannot be written; ExportError names what torch could not
    export, or an output in which the graph differs from the network.
    """
    name = tier.tier.name
    if opset not in OPSETS:
        raise ConfigError(
            f"opset {opset} cannot be written",
            hint=f"the profile's opset must be one of {OPSETS[0]} to {OPSETS[-1]}",
        )
    examples = example_inputs(network, tier, 2)
    module = copy.deepcopy(tier.module).eval()
    scopes, untouched = find_scopes(module, tier.tier.inputs, examples[0], name)
    expected = [forward(tier, example, network.labels) for example in examples]
    if half:
        halve(module, opset, untouched)
    model = _export(module, tier, examples[0], opset)
    model = _tidy(model, tier, examples[0])
    entry = model.metadata_props.add()
    entry.key, entry.value = KEEP_FLOAT32, json.dumps(scopes)
    _check_form(model, name, opset)
    _check_outputs(model, name, list(zip(examples, expected)), half)
    write_atomically(path, model.SerializeToString(deterministic=True))
    return read_graph(path)


def read_graph(path: Path) -> OnnxGraph:
    """The graph that `to_onnx` or `quantize` wrote to ``path``."""
    model = load_model(path)
    return OnnxGraph(
        path,
        next(entry.version for entry in model.opset_import if not entry.domain),
        tuple(_spec(value) for value in model.graph.input),
        tuple(_spec(value) for value in model.graph.output),
        tuple(kept_nodes(model)),
    )


def load_model(path: Path) -> Any:
    """The ONNX model in ``path``; ExportError if it is missing, cut off or no model."""
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ExportError(
            f"{path}: not an ONNX graph, or cut off: {error}", hint="export it again"
        ) from error
    return model


def merge_constants(graph: Any) -> None:
    """Keep one of equal constants, under its first name, and drop what no node reads."""
    first: dict[bytes, str] = {}
    names: dict[str, str] = {}
    for tensor in graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        key = repr((tensor.data_type, value.shape)).encode() + value.tobytes()
        names[tensor.name] = first.setdefault(key, tensor.name)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)
    used = {name for node in graph.node for name in node.input}
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer]
    del graph.initializer[:]
    graph.initializer.extend(tensor for tensor in kept if tensor.name in used)


def kept_nodes(model: Any) -> list[str]:
    """Names of the nodes inside the modules that say ``keep_float32``."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    return nodes_within(model, json.loads(entries.get(KEEP_FLOAT32, "[]")))


def keep_float(model: Any, scope: str) -> None:
    """Let the nodes in ``scope``, which ends in a slash, stay in float32 too."""
    entries = {entry.key: entry.value for entry in model.metadata_props}
    scopes = [*json.loads(entries.get(KEEP_FLOAT32, "[]")), scope]
    onnx.helper.set_model_props(model, {**entries, KEEP_FLOAT32: json.dumps(scopes)})


def nodes_within(model: Any, scopes: Sequence[str]) -> list[str]:
    """Names of the nodes that lie in one of ``scopes``, which end in a slash."""
    # Where a module is called again, the exporter counts: /gate/inner_1/MatMul.
    patterns = [
        re.compile(
            "".join(rf"/{re.escape(part)}(_\d+)?" for part in scope.split("/")[1:-1]) + "/"
        )
        for scope in scopes
    ]
    names = [node.name for node in model.graph.node]
    return [name for name in names if any(pattern.match(name) for pattern in patterns)]


@contextlib.contextmanager
def _exporter_warnings() -> Iterator[None]:
    """Silence torch while it traces: it says that its exporter for exact opsets is deprecated,
    and of every shape that it becomes a constant; `_check_outputs` is the real test.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _export(module: torch.nn.Module, tier: TierNetwork, example: Tensors, opset: int) -> Any:
    inputs = tuple(torch.from_numpy(example[name]) for name in tier.tier.inputs)
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _exporter_warnings():
            path = Path(folder) / "graph.onnx"
            torch.onnx.export(
                module,
                inputs,
                path,
                dynamo=False,
                opset_version=opset,
                input_names=list(tier.tier.inputs),
                output_names=list(tier.tier.outputs),
            )
            return onnx.load(str(path))
    except FORWARD_ERRORS as error:
        text = str(error).strip().split("\n")[0]
        operator = re.search(r"\b\w+::\w+", str(error))
        what = f"torch operator {operator.group()}: " if operator else ""
        raise ExportError(
            f"to_onnx: tier {tier.tier.name!r} at opset {opset}: {what}{text}",
            hint="write that part of the network with operators that ONNX has; a module with "
            "`keep_float32 = True` is left out of float16",
        ) from error


def _tidy(model: Any, tier: TierNetwork, example: Tensors) -> Any:
    """Fold constants, drop what does nothing, put every input in its place again."""
    # Its Gemm with a Reshape on either side helps no engine, and misses shared weights.
    model = onnxslim.slim(model, skip_fusion_patterns=["FusionGemm"])
    graph = model.graph
    there = {value.name: value for value in graph.input}
    del graph.input[:]
    for name in tier.tier.inputs:  # one that is not used stays an input all the same
        given = onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(example[name].dtype), example[name].shape
        )
        graph.input.append(there.get(name, given))
    merge_constants(graph)
    del graph.value_info[:]
    model.producer_version = ""
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def _check_form(model: Any, tier: str, opset: int) -> None:
    """ExportError unless the graph is whole, static, of ``opset`` and of standard operators."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"to_onnx: tier {tier!r}: {error}", hint="this is a bug: report it"
        ) from error
    domains = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if domains != {"ai.onnx": opset}:
        raise ExportError(
            f"to_onnx: tier {tier!r} needs {domains}, not opset {opset} of ONNX alone",
            hint="do not use custom operators",
        )
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if not all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
            raise ExportError(
                f"to_onnx: tier {tier!r}: the shape of {value.name!r} depends on the data",
                hint="use fixed sizes: a fixed k, masks instead of boolean indexing",
            )
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "TopK" and node.input[1] not in constants:
            raise ExportError(
                f"to_onnx: tier {tier!r}: {node.name}: TopK's k is computed in the graph",
                hint="give topk a number",
            )


def _check_outputs(
    model: Any, tier: str, cases: Sequence[tuple[Tensors, Tensors]], half: bool
) -> None:
    """ExportError if the graph does not give what the network gave: tracing froze a branch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        path.write_bytes(model.SerializeToString())
        try:
            engine = OnnxRuntimeEngine(path)
        except BundleError as error:
            raise ExportError(f"to_onnx: tier {tier!r}: {error}", hint=error.hint) from error
    for inputs, expected in cases:
        found = engine.run(inputs)
        for name, value in expected.items():
            a, b = value.ravel().astype(np.float64), found[name].ravel().astype(np.float64)
            size = np.linalg.norm(a) * np.linalg.norm(b)
            cosine = float(a @ b / size) if size else float(np.allclose(a, b))
            if not cosine >= (MIN_COSINE_HALF if half else MIN_COSINE):
                raise ExportError(
                    f"to_onnx: tier {tier!r}: the graph's {name!r} differs from the network's "
                    f"(cosine {cosine:.4f})",
                    hint="a Python `if` or loop on a tensor's values is frozen by tracing: use "
                    "torch.where" + ("; or mark a module keep_float32" if half else ""),
                )


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return TensorSpec(value.name, dtype.name, tuple(dim.dim_value for dim in tensor.shape.dim))
