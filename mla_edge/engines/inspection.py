"""What TensorRT made of a graph: which layers came out in INT8, and what it copies around.

The form is that of the engine inspector at verbosity DETAILED: ``Layers``, each with ``Name``,
``LayerType``, ``ParameterType`` and, for its ``Inputs`` and ``Outputs``, a ``Format/Datatype``
in words (https://docs.nvidia.com/deeplearning/tensorrt, "Engine Inspector").
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Mapping

_WEIGHTED = ("conv", "gemm", "matrixmultiply", "matmul", "fullyconnected")


@dataclass(frozen=True)
class Inspection:
    """The layers of one engine; ``told`` is False where the engine keeps no details."""

    told: bool
    layers: int
    int8: int  # weighted layers that read INT8
    not_int8: tuple[str, ...]  # weighted layers that do not
    reformats: int  # layers that only copy one format into another

    @property
    def in_words(self) -> str:
        """One line."""
        if not self.told:
            return "TensorRT tells no details of its layers"
        left = f", {len(self.not_int8)} are not" if self.not_int8 else ""
        return (
            f"{self.layers} layers, {self.int8} with weights in INT8{left}, "
            f"{self.reformats} copies between formats"
        )


def inspect_layers(text: str) -> Inspection:
    """Sum up the inspector's JSON; text that is no such JSON tells nothing."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        layers = []
    # Without details a layer is its name alone.
    known = [layer for layer in layers if isinstance(layer, dict)]
    weighted = [layer for layer in known if _is_weighted(layer)]
    int8 = [layer for layer in weighted if _reads_int8(layer)]
    plain = tuple(str(la.get("Name", "?")) for la in weighted if not _reads_int8(la))
    reformats = [layer for layer in known if _is_reformat(layer)]
    return Inspection(bool(known), len(layers), len(int8), plain, len(reformats))


def _is_weighted(layer: Mapping[str, Any]) -> bool:
    kind = f"{layer.get('ParameterType', '')} {layer.get('LayerType', '')}".lower()
    return any(word in kind for word in _WEIGHTED)


def _is_reformat(layer: Mapping[str, Any]) -> bool:
    reformats = str(layer.get("LayerType", "")).lower() == "reformat"
    return reformats or str(layer.get("Name", "")).startswith("Reformatting CopyNode")


def _reads_int8(layer: Mapping[str, Any]) -> bool:
    formats = [str(given.get("Format/Datatype", "")) for given in layer.get("Inputs", [])]
    return any("int8" in words.lower() for words in formats)
