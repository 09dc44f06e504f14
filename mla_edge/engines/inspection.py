"""What TensorRT made of a graph: which layers came out in INT8, and what it copies around.

The form is that of the engine inspector at verbosity DETAILED: ``Layers``, each with ``Name``,
``LayerType``, ``ParameterType`` and, for its ``Inputs`` and ``Outputs``, a ``Format/Datatype``
in words (https://docs.nvidia.com/deeplearning/tensorrt, "Engine Inspector").
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Mapping

_WEIGHTED = ("conv", "gemm", "matrixmultiply", "matmul", "fullyconnected")
_FP32 = re.compile(r"\b(fp32|float|float32)\b", re.IGNORECASE)  # not BFloat16


@dataclass(frozen=True)
class Inspection:
    """The layers of one engine; ``told`` is False where the engine keeps no details."""

    told: bool
    layers: int
    int8: int  # weighted layers that read INT8
    not_int8: tuple[str, ...]  # weighted layers that do not
    reformats: int  # layers that only copy one format into another
    fp32: int  # other layers that read or write FP32

    @property
    def in_words(self) -> str:
        """One line."""
        if not self.told:
            return "TensorRT tells no details of its layers"
        return (
            f"{self.layers} layers; with weights: {self.int8} in INT8, {len(self.not_int8)} "
            f"not; {self.fp32} read or write FP32; {self.reformats} copies between formats"
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Inspection:
        """What went through JSON, which has no tuples; TypeError or KeyError if it is other."""
        return cls(**{**values, "not_int8": tuple(values["not_int8"])})


def inspect_layers(text: str) -> Inspection:
    """Sum up the inspector's JSON; text that is no such JSON tells nothing."""
    try:
        layers = list(json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError):
        layers = []
    # Without details a layer is its name alone.
    known = [layer for layer in layers if isinstance(layer, dict)]
    weighted = [layer for layer in known if _is_weighted(layer)]
    int8 = [layer for layer in weighted if _reads_int8(layer)]
    plain = tuple(str(la.get("Name", "?")) for la in weighted if not _reads_int8(la))
    reformats = [layer for layer in known if _is_reformat(layer)]
    fp32 = [la for la in known if not _is_reformat(la) and _touches_fp32(la)]
    return Inspection(
        told=bool(known),
        layers=len(layers),
        int8=len(int8),
        not_int8=plain,
        reformats=len(reformats),
        fp32=len(fp32),
    )


def _is_weighted(layer: Mapping[str, Any]) -> bool:
    kind = f"{layer.get('ParameterType', '')} {layer.get('LayerType', '')}".lower()
    return any(word in kind for word in _WEIGHTED)


def _is_reformat(layer: Mapping[str, Any]) -> bool:
    reformats = str(layer.get("LayerType", "")).lower() == "reformat"
    return reformats or str(layer.get("Name", "")).startswith("Reformatting CopyNode")


def _reads_int8(layer: Mapping[str, Any]) -> bool:
    return any("int8" in words.lower() for words in _formats(layer, "Inputs"))


def _touches_fp32(layer: Mapping[str, Any]) -> bool:
    return any(
        _FP32.search(words) for side in ("Inputs", "Outputs") for words in _formats(layer, side)
    )


def _formats(layer: Mapping[str, Any], side: str) -> list[str]:
    tensors = layer.get(side)
    if not isinstance(tensors, list):
        return []
    return [str(t.get("Format/Datatype", "")) for t in tensors if isinstance(t, dict)]
