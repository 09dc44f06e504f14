"""Whether this processor adds up products of INT8 exactly.

ONNX Runtime multiplies unsigned activations with signed weights. On x86-64 without VNNI it adds
each two neighbouring products in 16 bits, saturated: 255 * 127 twice does not fit, and the
answer is wrong without a word.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mla_edge.bundle import Bundle

MINDED = "sums_of_16_bits"
"""In the provenance: was it exported for, and on, a processor whose sums are cut off?"""

_WHY = "this processor cuts off sums of INT8 (x86-64 without VNNI)"
_CURE = "mla-edge export --profile host on this machine"

# A product of activations, uint8 [16, 64], and weights, int8 [64, 32], which are all 127.
_GRAPH = Path(__file__).with_name("saturation.onnx")


@functools.lru_cache(maxsize=None)
def saturates() -> bool:
    """Whether sums of INT8 products are cut off on this processor: tried, not looked up."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False  # spares a board the time: Arm's kernels add up exactly
    from mla_edge.engines.ort import OnnxRuntimeEngine  # not everywhere installed

    engine = OnnxRuntimeEngine(_GRAPH, threads=1)
    activations = np.full((16, 64), 255, np.uint8)
    sums = engine.run({"activations": activations})["sums"]
    is_exact = bool((sums == 64 * 255 * 127).all())
    engine.close()
    return not is_exact


def spoils(bundle: Bundle) -> bool:
    """Whether the processor's graphs of ``bundle`` may answer wrongly here by such sums."""
    facts = bundle.provenance
    return facts.get("precision") == "int8" and not facts.get(MINDED) and saturates()


def warnings(bundle: Bundle) -> list[str]:
    """What there is to say before the processor's graphs of ``bundle`` run here."""
    if not spoils(bundle):
        return []
    return [
        f"{_WHY}, which the export of this bundle did not see: its answers may be wrong here. "
        f"How far: mla-edge verify {bundle.folder}; cure: {_CURE}"
    ]


def advice(bundle: Bundle) -> str:
    """What to do where only the processor's graphs were found wrong; empty: other reasons."""
    if not spoils(bundle):
        return ""
    where = "for which this bundle was not made: elsewhere it may be right"
    return f"{_WHY}, {where}. For here: {_CURE}"
