"""Run a graph with ONNX Runtime, on the processor or a GPU. The only module that imports it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from mla_edge._cache import cache_folder
from mla_edge.bundle import sha256_of
from mla_edge.errors import BundleError, ConfigError, InferenceError, MissingDependency
from mla_edge.signals import Tensors, TensorSpec

# From 1.29 on it tells Microsoft of every graph that is opened, from a thread of its own and
# with a database under ~/.cache, unless this is set when it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as failures
except ImportError as error:
    raise MissingDependency(
        f"ONNX Runtime cannot be loaded, and it runs the graphs: {error}",
        hint="pip install onnxruntime",
    ) from error

# ONNX Runtime's exceptions have no base of their own.
_FAILURES = (
    failures.EPFail,
    failures.EngineError,
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NoModel,
    failures.NoSuchFile,
    failures.NotImplemented,
    failures.RuntimeException,
    RuntimeError,
)
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_FATAL_ONLY = 4
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxRuntimeEngine:
    """One graph in an ONNX Runtime session that sleeps between runs."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int = 0,
        optimise: bool = True,
        exact: bool = False,
        provider: str = "cpu",
        profile: Path | None = None,
    ) -> None:
        """Load ``path``; 0 threads means every core; ``provider`` is a key of ``PROVIDERS``.

        With ``exact`` no INT8 kernels run: what is quantized is computed in float, as the graph
        says, so no sum is cut off on a processor whose kernels do that. With ``profile``, what
        each node takes is recorded in a file whose name begins so.
        BundleError names the file when it is missing, cut off, or not a graph of ours.
        MissingDependency: this ONNX Runtime lacks the provider, or cannot start it.
        """
        again = "export the bundle again: mla-edge export"
        if not path.is_file():
            raise BundleError(f"{path}: no such graph", hint=again)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = (
            onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            if optimise
            else onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        )
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Spinning triples the processor's load between ticks and makes no run faster.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if exact:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        # What it would log it also raises, and that is what we show.
        options.log_severity_level = _FATAL_ONLY
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        _require(provider)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=_providers(provider, path)
            )
        except _FAILURES as error:
            raise BundleError(
                f"{path}: ONNX Runtime cannot load it: {_first_line(error)}", hint=again
            ) from error
        # It falls back to the processor without a word when a library of the GPU is missing.
        if self._session.get_providers()[0] != PROVIDERS[provider]:
            raise _no_provider(provider, "it does not start on this machine")
        self._path = path
        self.inputs = tuple(_spec(node, path) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in self._session.get_outputs())
        self._expected = {spec.name: (np.dtype(spec.dtype), spec.shape) for spec in self.inputs}
        self._names = [spec.name for spec in self.outputs]

    def run(self, inputs: Tensors) -> Tensors:
        """The graph's outputs; they are valid until the next call.

        InferenceError says which input is missing, unknown, not finite, or of what wrong
        dtype or shape.
        """
        if self._session is None:
            raise InferenceError(f"{self._path}: the engine is closed")
        self._check(inputs)
        try:
            values = self._session.run(self._names, inputs)
        except _FAILURES as error:
            raise InferenceError(f"{self._path}: {_first_line(error)}") from error
        return dict(zip(self._names, values))

    def end_profile(self) -> Path:
        """End the recording of what each node takes; its file is JSON, in Chrome's format."""
        if self._session is None:
            raise InferenceError(f"{self._path}: the engine is closed")
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _check(self, inputs: Tensors) -> None:
        if inputs.keys() != self._expected.keys():
            raise InferenceError(
                f"{self._path}: expected inputs {', '.join(self._expected)}; "
                f"found {', '.join(inputs) or 'none'}"
            )
        for name, (dtype, shape) in self._expected.items():
            value = inputs[name]
            if value.dtype != dtype or value.shape != shape:
                raise InferenceError(
                    f"{self._path}: input {name!r}: expected {dtype} {list(shape)}, "
                    f"found {value.dtype} {list(value.shape)}"
                )
            if dtype.kind == "f" and not np.isfinite(value).all():
                raise InferenceError(
                    f"{self._path}: input {name!r} has values that are not finite "
                    "(NaN or infinite)"
                )


def _providers(provider: str, path: Path) -> list[Any]:
    """What to ask ONNX Runtime for; what the first cannot run falls to the next."""
    others: list[Any] = [PROVIDERS["cpu"]]
    if provider == "cpu":
        return others
    if provider == "cuda":
        return [PROVIDERS["cuda"], *others]
    folder = str(_engine_cache(path))
    cache = {
        "trt_fp16_enable": True,
        "trt_int8_enable": True,
        # Building takes minutes, so an engine is kept and found again.
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": folder,  # otherwise the working directory
    }
    return [(PROVIDERS["tensorrt"], cache), PROVIDERS["cuda"], *others]


def _engine_cache(path: Path) -> Path:
    """A folder for the engines of the graph at ``path``: its bundle may not be written to."""
    folder = cache_folder("onnxruntime") / sha256_of(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)  # ONNX Runtime makes only the last one
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be made: {error.strerror}",
            hint="let XDG_CACHE_HOME name a folder that can be written to",
        ) from error
    return folder


def _require(provider: str) -> None:
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise _no_provider(provider, "this ONNX Runtime was built without it")


def _no_provider(provider: str, why: str) -> MissingDependency:
    return MissingDependency(
        f"ONNX Runtime's {PROVIDERS[provider]} cannot be used: {why}",
        hint="on a PC: pip install onnxruntime-gpu; on a Jetson: NVIDIA's onnxruntime-gpu "
        "wheel for its JetPack; or run with --engine onnxruntime",
    )


def _spec(node: Any, path: Path) -> TensorSpec:
    static = all(isinstance(size, int) for size in node.shape)
    if node.type not in _DTYPES or not static:
        raise BundleError(
            f"{path}: {node.name!r} is {node.type} {node.shape}; expected a dense tensor whose "
            "shape is fixed",
            hint="export the graph with static shapes",
        )
    return TensorSpec(node.name, _DTYPES[node.type], tuple(node.shape))


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
