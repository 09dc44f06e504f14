"""Run one graph, whatever runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mla_edge.errors import ConfigError
from mla_edge.signals import Tensors, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path


class Engine(Protocol):
    """A graph that is ready to run, on the thread that made it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Tensors) -> Tensors:
        """The graph's outputs; they are valid until the next call."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...


def open_engine(path: Path, *, threads: int = 0, exact: bool = False) -> Engine:
    """Load the graph at ``path``; its suffix says what runs it; 0 threads means every core.

    With ``exact`` what is quantized is computed in float, without INT8 kernels.
    """
    if path.suffix == ".onnx":
        from mla_edge.engines.ort import OnnxRuntimeEngine

        return OnnxRuntimeEngine(path, threads=threads, exact=exact)
    raise ConfigError(
        f"{path}: nothing here runs {path.suffix!r} files", hint="give a .onnx graph"
    )
