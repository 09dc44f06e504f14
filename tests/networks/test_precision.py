"""Training in bfloat16, where the processor computes in it."""

import platform
from pathlib import Path

import pytest
import torch

from mla_edge.networks import precision

CPUINFO = Path("/proc/cpuinfo")


@pytest.fixture(autouse=True)
def asked_anew():
    precision.computes_bfloat16.cache_clear()
    yield
    precision.computes_bfloat16.cache_clear()


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="reads Linux's list of x86"
)
def test_it_is_what_the_kernel_says_of_this_processor():
    flags = CPUINFO.read_text(encoding="utf-8").split()
    native = "amx_bf16" in flags or "avx512_bf16" in flags
    assert precision.computes_bfloat16() is native


@pytest.mark.parametrize(
    ("capabilities", "computed"),
    [
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"neon": True, "bf16": True}, torch.bfloat16),
    ],
)
def test_products_are_in_the_format_that_is_quick(monkeypatch, capabilities, computed):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    with precision.mixed_precision():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == computed


def test_a_pytorch_that_does_not_tell_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not precision.computes_bfloat16()
