"""Which ONNX operators a board's TensorRT takes, by NVIDIA's own tables."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from onnx import TensorProto, numpy_helper

from mla_edge.errors import ConfigError, ExportError
from mla_edge.exporter.onnx_graph import load_model

TABLES = Path(__file__).with_name("tensorrt_operators.json")
INT8_CONSTANTS = (10, 0)  # the first TensorRT that takes weights stored as INT8
STRONG_ONLY = (11, 0)  # the first that takes every type from the graph, as RTX does

_QUANTIZE = ("QuantizeLinear", "DequantizeLinear")
_FIXES = {
    "LayerNormalization": "export at opset 16, which spells it out",
    "Gelu": "export at an opset below 20, which spells it out",
    "DynamicQuantizeLinear": "quantize with fixed ranges: mla_edge.exporter.quantization",
}


def check_operators(graph: Path, tensorrt: str) -> None:
    """Compare the operators of ``graph`` with the table of TensorRT ``tensorrt`` (``8.5``, …).

    Where NVIDIA published no table of that release, the nearest before it counts; ``rtx-1.7``
    is newer than all. Quantized graphs are held to what its parser demands as well. ExportError
    names node, operator, version and what to do; ConfigError a version without a table.
    """
    version, supported, later = _tables(tensorrt)
    model = load_model(graph)
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in supported:
            first = next((v for v, table in later.items() if node.op_type in table), None)
            newer = f"take a board with TensorRT {first} or later, or " if first else ""
            raise ExportError(
                f"check_operators: {node.name or node.output[0]}: TensorRT {tensorrt} has no "
                f"operator {node.op_type}",
                hint=_FIXES.get(node.op_type)
                or f"{newer}write that part of the network with other operators",
            )
    _check_quantization(model, tensorrt, version)


def takes_int8_weights(tensorrt: str | None) -> bool:
    """Whether TensorRT ``tensorrt`` takes weights stored as INT8; before 10 it refuses them."""
    return _from(tensorrt, INT8_CONSTANTS)


def is_only_strongly_typed(tensorrt: str | None) -> bool:
    """Whether what the graph leaves in FP32 runs in FP32: no builder flag says otherwise."""
    return tensorrt is not None and _from(tensorrt, STRONG_ONLY)


def _from(tensorrt: str | None, first: tuple[int, int]) -> bool:
    if tensorrt is None or tensorrt.startswith("rtx"):
        return True
    return _number(tensorrt)[:2] >= first


def _tables(tensorrt: str) -> tuple[tuple[int, ...], set[str], Mapping[str, list[str]]]:
    """The version as numbers, its operators, and the tables of later versions."""
    tables: dict[str, list[str]] = json.loads(TABLES.read_text(encoding="utf-8"))["supported"]
    known = {_number(version): version for version in tables}
    if tensorrt.startswith("rtx"):
        version = max(known)
    elif re.fullmatch(r"\d+\.\d+(\.\d+)*", tensorrt):
        version = _number(tensorrt)[:2]
    else:
        raise ConfigError(
            f"TensorRT version {tensorrt!r}", hint="write it as 8.5 or 10.3, or rtx-1.7"
        )
    older = [number for number in known if number <= version]
    if not older:
        raise ConfigError(
            f"TensorRT {tensorrt} is too old: its operators are not known",
            hint=f"take a board with TensorRT {known[min(known)]} or later",
        )
    later = {
        known[number]: tables[known[number]] for number in sorted(known) if number > version
    }
    return version, set(tables[known[max(older)]]), later


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _check_quantization(model: Any, tensorrt: str, version: tuple[int, ...]) -> None:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in _QUANTIZE:
            continue
        what = ""
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        stored = constants.get(node.input[0])
        if zero is not None and np.any(numpy_helper.to_array(zero)):
            what = "a zero point that is not 0"
        elif zero is not None and zero.data_type == TensorProto.UINT8:
            what = "unsigned values"
        elif stored is not None and stored.data_type == TensorProto.INT32:
            what = "a bias stored as INT32"
        elif (
            stored is not None
            and stored.data_type == TensorProto.INT8
            and version < INT8_CONSTANTS
        ):
            what = "weights stored as INT8"
        if what:
            raise ExportError(
                f"check_operators: {node.name}: TensorRT {tensorrt} refuses {node.op_type} of "
                f"{what}",
                hint="quantize in the style 'tensorrt', with int8_weights only from 10 on",
            )
