"""The machine that engines are built for and run on, as TensorRT and CUDA see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mla_edge.board import identify
from mla_edge.engines.sidecar import Target

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.engines.bindings import Bindings

# Every RTX GPU since Ampere. SM75 refuses products of matrices in FP32.
RTX_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")


def describe_target(bindings: Bindings, root: str | Path = "/") -> Target:
    """This machine; an engine of RTX is for every RTX GPU, so there no GPU is looked at.

    MissingDependency without pycuda; InferenceError without a GPU.
    """
    if bindings.flavour == "rtx":
        return Target("rtx", bindings.version, None, None, None, None, None)
    from mla_edge.engines.cuda import read_gpu

    gpu = read_gpu()
    board = identify(root)
    return Target(
        "tensorrt",
        bindings.version,
        gpu.sm,
        gpu.sm_count,
        gpu.name,
        board.module if board else None,
        board.power_mode if board else None,
    )
