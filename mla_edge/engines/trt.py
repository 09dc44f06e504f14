"""Run an engine with TensorRT: everything is allocated once, a call only fills, runs, waits."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mla_edge.errors import EngineMismatch, InferenceError
from mla_edge.signals import Tensors, TensorSpec

if TYPE_CHECKING:
    from mla_edge.engines.bindings import Bindings
    from mla_edge.engines.cuda import Buffer, Gpu

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


class TensorRTEngine:
    """One engine on one GPU, for the thread that made it.

    ``run`` gives views of its own buffers: they are valid until the next call.
    """

    def __init__(self, plan: Path, bindings: Bindings, gpu: Gpu) -> None:
        """Load ``plan``. Compare its sidecar first: TensorRT only logs why it refuses one.

        EngineMismatch carries TensorRT's last error.
        """
        self._path, self._trt, self._log = plan, bindings.trt, bindings.log
        self._gpu: Gpu | None = gpu.hold()
        self._thread = threading.get_ident()
        self._buffers: dict[str, Buffer] = {}
        self._context: Any = None
        self._engine: Any = None
        self._runtime: Any = None
        try:
            self._log.clear()
            self._runtime = self._start(bindings)
            self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
            if self._engine is None:
                raise self._refused(f"{bindings.title} does not load it")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise self._refused("it has no room to run")
            self.inputs, self.outputs = self._allocate()
        except BaseException:
            self.close()
            raise
        self._feeds = [(spec.name, self._buffers[spec.name]) for spec in self.inputs]
        self._finite = {
            name: np.empty(buffer.host.shape, bool)
            for name, buffer in self._feeds
            if buffer.host.dtype.kind == "f"
        }
        self._reads = [self._buffers[spec.name] for spec in self.outputs]
        self._answers = {spec.name: self._buffers[spec.name].host for spec in self.outputs}

    def run(self, inputs: Tensors) -> Tensors:
        """The engine's outputs; they are valid until the next call.

        InferenceError: another thread, an input that is missing, unknown, not finite or of
        another shape or dtype, or a failure of TensorRT or the GPU.
        """
        gpu = self._gpu
        if gpu is None:
            raise InferenceError(f"{self._path}: the engine is closed")
        self._check_thread()
        if len(inputs) != len(self._feeds):
            raise self._unexpected(inputs)
        for name, buffer in self._feeds:
            value = inputs.get(name)
            if value is None:
                raise self._unexpected(inputs)
            self._fill(name, buffer.host, value)
        for _, buffer in self._feeds:  # after the last one was found good
            buffer.upload(gpu.stream)
        self._log.clear()  # what it says is of this run, and does not pile up
        if not self._context.execute_async_v3(gpu.stream.handle):
            raise InferenceError(
                f"{self._path}: TensorRT did not run it: "
                f"{self._log.last_error or 'it gives no reason'}",
                hint="load it again; if it fails again, sudo dmesg says more, and "
                f"mla-edge build {self._path.parents[2]} --again builds it anew",
            )
        for buffer in self._reads:
            buffer.download(gpu.stream)
        gpu.synchronize()
        return self._answers

    def inspect(self) -> str:
        """What TensorRT says of the engine's layers, as JSON text."""
        trt = self._trt
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Free everything, in the order that TensorRT and CUDA ask for; safe to call twice.

        InferenceError on another thread than the one that loaded it.
        """
        if self._gpu is None:
            return
        self._check_thread()
        gpu, self._gpu = self._gpu, None
        self._context = None  # uses the engine and the buffers
        self._engine = None
        self._runtime = None
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers, self._answers = {}, {}
        self._feeds, self._reads = [], []
        gpu.release()

    def _start(self, bindings: Bindings) -> Any:
        try:
            return bindings.trt.Runtime(bindings.logger)
        except TypeError as error:  # all that pybind11 says when CUDA does not start
            raise InferenceError(
                f"{bindings.title} does not start: {self._log.last_error or error}",
                hint="free memory, and see whether there is a GPU: mla-edge doctor",
            ) from error

    def _allocate(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        # Nothing of TensorRT in a local: a traceback would keep it while close frees the rest.
        assert self._gpu is not None
        inputs: list[TensorSpec] = []
        outputs: list[TensorSpec] = []
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            shape = tuple(self._engine.get_tensor_shape(name))
            kind = self._engine.get_tensor_dtype(name).name
            if kind not in _DTYPES or any(size < 0 for size in shape):
                raise self._refused(f"its tensor {name!r} is {kind} {list(shape)}")
            spec = TensorSpec(name, _DTYPES[kind], shape)
            buffer = self._gpu.buffer(spec.shape, spec.dtype)
            self._buffers[name] = buffer
            if not self._context.set_tensor_address(name, buffer.address):
                raise self._refused(f"it does not take the memory of {name!r}")
            mode = self._engine.get_tensor_mode(name)
            (inputs if mode == self._trt.TensorIOMode.INPUT else outputs).append(spec)
        return tuple(inputs), tuple(outputs)

    def _fill(self, name: str, host: np.ndarray, value: np.ndarray) -> None:
        if value.dtype != host.dtype or value.shape != host.shape:
            raise InferenceError(
                f"{self._path}: input {name!r}: expected {host.dtype} {list(host.shape)}, "
                f"found {value.dtype} {list(value.shape)}"
            )
        mask = self._finite.get(name)
        if mask is not None and not np.isfinite(value, out=mask).all():
            raise InferenceError(
                f"{self._path}: input {name!r} has values that are not finite (NaN or infinite)"
            )
        np.copyto(host, value)

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise InferenceError(
                f"{self._path}: used on another thread than the one that loaded it",
                hint="load, run and close the model on one thread",
            )

    def _unexpected(self, inputs: Tensors) -> InferenceError:
        expected = ", ".join(name for name, _ in self._feeds)
        return InferenceError(
            f"{self._path}: expected inputs {expected}; found {', '.join(inputs) or 'none'}"
        )

    def _refused(self, what: str) -> EngineMismatch:
        said = f": {self._log.last_error}" if self._log.last_error else ""
        return EngineMismatch(
            f"{self._path}: {what}{said}",
            hint=f"build it again on this machine: mla-edge build {self._path.parents[2]}",
        )
