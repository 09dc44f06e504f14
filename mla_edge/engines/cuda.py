"""Memory and order on the GPU that engines run on. The only module that imports pycuda.

A Jetson's GPU shares the processor's memory, so there its buffers are mapped: the GPU reads
and writes what the processor sees, and nothing is copied. Other GPUs have memory of their own,
and each buffer is a pinned pair.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from mla_edge.errors import InferenceError, MissingDependency

try:
    import pycuda.driver as driver
except (ImportError, OSError) as error:  # OSError: the driver's own library is not there
    raise MissingDependency(
        f"pycuda cannot be loaded, and it gives engines their memory: {error}",
        hint="pip install 'mla-edge[jetson]' (needs CUDA's headers: JetPack has them, "
        "with /usr/local/cuda/bin in PATH)",
    ) from error

_HERE = threading.local()  # the GPU of each thread


@dataclass(frozen=True)
class GpuFacts:
    """What engines depend on."""

    name: str
    sm: int  # compute capability, 87 for 8.7
    sm_count: int
    integrated: bool  # shares the processor's memory
    memory_mb: int


class Buffer:
    """One tensor that both sides can reach: ``host`` here, ``address`` on the GPU."""

    def __init__(self, shape: tuple[int, ...], dtype: str, *, mapped: bool) -> None:
        """Pinned memory; mapped, or with a twin on the GPU."""
        flags = driver.host_alloc_flags.DEVICEMAP if mapped else 0
        self.host: np.ndarray = driver.pagelocked_empty(shape, np.dtype(dtype), mem_flags=flags)
        self._pinned: Any = self.host.base
        self._twin: Any = None
        try:
            if not mapped:
                self._twin = driver.mem_alloc(self.host.nbytes)
            seen: Any = self._pinned.get_device_pointer() if mapped else self._twin
        except driver.Error:
            self._pinned.free()
            raise
        self.address = int(seen)

    def upload(self, stream: Any) -> None:
        """Let the GPU see what the host wrote, in the stream's order."""
        if self._twin is not None:
            driver.memcpy_htod_async(self._twin, self.host, stream)

    def download(self, stream: Any) -> None:
        """Let the host see what the GPU wrote, once the stream is synchronized."""
        if self._twin is not None:
            driver.memcpy_dtoh_async(self.host, self._twin, stream)

    def free(self) -> None:
        """Give the memory back; the engine must not run again."""
        if self._twin is not None:
            self._twin.free()
        self._pinned.free()


class Gpu:
    """The first GPU: its context on the thread that made it, and one stream for all engines.

    Every engine that uses it holds it; the last one to let go frees it.
    """

    def __init__(self) -> None:
        """InferenceError where there is no GPU, or the driver does not answer."""
        self._context: Any = None
        self.stream: Any = None
        try:
            driver.init()
            device = driver.Device(0)
            self.facts = _facts(device)
            # The primary context is the one that TensorRT and other libraries use as well.
            context = device.retain_primary_context()
            context.push()
            self._context = context
            self.stream = driver.Stream()
        except driver.Error as error:
            self.close()
            raise InferenceError(
                f"the GPU cannot be used: {error}", hint="mla-edge doctor, then nvidia-smi"
            ) from error
        self.thread = threading.get_ident()
        self._holders = 0

    @property
    def closed(self) -> bool:
        """Whether it was freed."""
        return self._context is None

    def hold(self) -> Gpu:
        """One more engine uses it."""
        self._holders += 1
        return self

    def release(self) -> None:
        """An engine is done with it."""
        self._holders -= 1
        if self._holders <= 0:
            self.close()

    def buffer(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Memory for one tensor; InferenceError when there is none left."""
        try:
            return Buffer(shape, dtype, mapped=self.facts.integrated)
        except driver.Error as error:
            raise InferenceError(
                f"no GPU memory for a tensor of {list(shape)} {dtype}: {error}",
                hint="stop what else uses the GPU",
            ) from error

    def synchronize(self) -> None:
        """Wait until everything in the stream is done; InferenceError if that failed."""
        try:
            self.stream.synchronize()
        except driver.Error as error:
            raise InferenceError(
                f"the GPU failed: {error}", hint="start again; sudo dmesg says more"
            ) from error

    def close(self) -> None:
        """Free the stream and the context; safe to call twice."""
        if self._context is None:
            return
        self.stream = None  # before its context
        self._context.pop()
        self._context.detach()
        self._context = None


def hold_gpu() -> Gpu:
    """The GPU as this thread has it already, or else anew; held once more.

    Models that are opened and closed in any order on a thread share one: contexts would have to
    be closed in the reverse order.
    """
    gpu: Gpu | None = getattr(_HERE, "gpu", None)
    if gpu is None or gpu.closed:
        gpu = _HERE.gpu = Gpu()
    return gpu.hold()


def read_gpu() -> GpuFacts:
    """What the first GPU is; InferenceError without one."""
    try:
        driver.init()
        return _facts(driver.Device(0))
    except driver.Error as error:
        raise InferenceError(
            f"there is no GPU that can be used: {error}", hint="mla-edge doctor"
        ) from error


def _facts(device: Any) -> GpuFacts:
    major, minor = device.compute_capability()
    attribute = driver.device_attribute
    return GpuFacts(
        name=device.name(),
        sm=10 * major + minor,
        sm_count=device.get_attribute(attribute.MULTIPROCESSOR_COUNT),
        integrated=bool(device.get_attribute(attribute.INTEGRATED)),
        memory_mb=device.total_memory() >> 20,
    )
