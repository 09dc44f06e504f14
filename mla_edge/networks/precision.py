"""The number format that training computes in."""

from __future__ import annotations

import functools

import torch


@functools.lru_cache(maxsize=None)
def computes_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16.

    Emulated, on AVX2, a linear layer took 26 times as long as in float32. A PyTorch too old
    to tell means no.
    """
    if not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def mixed_precision() -> torch.autocast:
    """Convolutions and products in bfloat16 where that is quick, else all in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16())
