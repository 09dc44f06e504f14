"""What ``pycuda.driver`` gives, on the fake GPU. Names and behaviour are those of 2026.1."""

from __future__ import annotations

import builtins
import contextlib
import itertools
import sys
from typing import Any

import numpy as np
from fake_machine import Allocation, FakeViolation, machine
from fake_machine import Stream as _Work
from fake_names import Binding, Guarded, make_values, read_names

_NAMES = read_names("pycuda-2026.1")
_handles = itertools.count(0x5000)


def _of_pycuda(kind: Any) -> Any:
    """Give a class the names that pycuda's has, and no others."""
    kind._called, kind._names = kind.__name__, frozenset(_NAMES[kind.__name__])
    return kind


class Error(Exception):
    """CUDA refused something."""


class MemoryError(Error):  # noqa: A001 - so it is called
    """No memory is left."""


class LogicError(Error):
    """A call that makes no sense now."""


class LaunchError(Error):
    """Work on the GPU failed."""


class RuntimeError(Error):  # noqa: A001
    """The device or the driver is not there."""


device_attribute = make_values("device_attribute", _NAMES["device_attribute"], {})
_ATTRIBUTES = {"INTEGRATED": "integrated", "MULTIPROCESSOR_COUNT": "sm_count"}


class host_alloc_flags:  # noqa: N801 - so it is called
    PORTABLE = 1
    DEVICEMAP = 2
    WRITECOMBINED = 4


def init(flags: int = 0) -> None:
    if not machine.present:
        raise RuntimeError("cuInit failed: no CUDA-capable device is detected")
    machine.initialised = True


@_of_pycuda
class Device(Guarded):
    def __init__(self, number: int) -> None:
        if not machine.initialised:
            raise LogicError("cuDeviceGet failed: initialization error")
        if number != 0:
            raise LogicError("cuDeviceGet failed: invalid device ordinal")

    def name(self) -> str:
        return machine.name

    def compute_capability(self) -> tuple[int, int]:
        return divmod(machine.sm, 10)

    def total_memory(self) -> int:
        return machine.memory_mb << 20

    def get_attribute(self, attribute: Any) -> int:
        return int(getattr(machine, _ATTRIBUTES[attribute.name]))

    def retain_primary_context(self) -> Context:
        return Context()


@_of_pycuda
class Context(Guarded):
    """The primary context; ``pop`` is static, as in pycuda."""

    def __init__(self) -> None:
        self._valid = True

    def push(self) -> None:
        machine.stack.append(self)

    @staticmethod
    def pop() -> None:
        if not machine.stack:
            raise LogicError("context::pop failed: cannot pop non-current context")
        machine.stack.pop()

    def detach(self) -> None:
        if not self._valid:
            raise machine.violate("the context is detached twice")
        if self in machine.stack:
            raise machine.violate("the context is detached before it is popped")
        left = [text for text in machine.left_over() if "CUDA context" not in text]
        self._valid = False
        if left:
            raise machine.violate(f"the context is detached before {', '.join(left)} is gone")


@_of_pycuda
class Stream(Guarded):
    def __init__(self, flags: int = 0) -> None:
        context = machine.require_context("Stream")
        self._work = _Work(next(_handles), context)
        machine.streams[self._work.handle] = self._work

    @property
    def handle(self) -> int:
        return self._work.handle

    def synchronize(self) -> None:
        machine.stream(self.handle, "Stream.synchronize")
        machine.calls.append("synchronize")
        try:
            self._work.run()
        except builtins.RuntimeError as error:  # of ONNX Runtime
            raise LaunchError(f"cuStreamSynchronize failed: {error}") from error

    def __del__(self) -> None:
        if machine.streams.pop(self._work.handle, None) is None:
            return  # the machine was reset since
        if self._work.waiting:
            what = ", ".join(what for what, _, _ in self._work.waiting)
            machine.violate(f"the stream ends and nobody waited for {what}")


@_of_pycuda
class DeviceAllocation(Guarded):
    def __init__(self, memory: Allocation) -> None:
        self._memory = memory

    def __int__(self) -> int:
        return self._memory.address

    def __index__(self) -> int:
        return self._memory.address

    def free(self) -> None:
        machine.free(self._memory)

    def __del__(self) -> None:
        _free_forgotten(self._memory)


@_of_pycuda
class PagelockedHostAllocation(Guarded):
    """Host memory; an array on it has this as its base."""

    def __init__(self, memory: Allocation, shape: Any, dtype: np.dtype) -> None:
        self._memory = memory
        self.__array_interface__ = {
            "shape": shape,
            "typestr": dtype.str,
            "data": (memory.data.ctypes.data, False),
            "version": 3,
        }

    def get_device_pointer(self) -> int:
        if self._memory.kind != "mapped":
            raise machine.violate("get_device_pointer of memory that is not mapped")
        return self._memory.address

    def free(self) -> None:
        machine.free(self._memory)

    def __del__(self) -> None:
        _free_forgotten(self._memory)


def pagelocked_empty(
    shape: Any, dtype: Any, order: str = "C", mem_flags: int = 0
) -> np.ndarray:
    machine.require_context("pagelocked_empty")
    kind = "mapped" if mem_flags & host_alloc_flags.DEVICEMAP else "pinned"
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    owner = PagelockedHostAllocation(machine.allocate(kind, size), shape, np.dtype(dtype))
    return np.asarray(owner)


def mem_alloc(size: int) -> DeviceAllocation:
    machine.require_context("mem_alloc")
    used = sum(len(each.data) for each in machine.allocations.values())
    if used + size > machine.memory_mb << 20:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(machine.allocate("device", int(size)))


def _free_forgotten(memory: Allocation) -> None:
    """As the destructors do; what is wrong stays in ``violations``, for here it is lost."""
    if machine.allocations.get(memory.address) is memory:
        with contextlib.suppress(FakeViolation):
            machine.free(memory)


def memcpy_htod_async(dest: Any, src: np.ndarray, stream: Stream | None = None) -> None:
    _copy("memcpy_htod_async", dest, src, stream, upload=True)


def memcpy_dtoh_async(dest: np.ndarray, src: Any, stream: Stream | None = None) -> None:
    _copy("memcpy_dtoh_async", src, dest, stream, upload=False)


def _copy(
    what: str, device: Any, host: np.ndarray, stream: Stream | None, *, upload: bool
) -> None:
    if stream is None:
        raise machine.violate(f"{what} without a stream")
    work = machine.stream(stream.handle, what)
    if not host.flags.c_contiguous:
        raise machine.violate(f"{what}: the host's array is not contiguous")
    pinned = host.base
    if not isinstance(pinned, PagelockedHostAllocation):
        raise machine.violate(f"{what}: the host's array is not pinned, so it would block")
    machine.check_alive(pinned._memory, what)
    memory = machine.find(device, host.nbytes, what)
    if host.nbytes != len(memory.data):
        raise machine.violate(f"{what}: {host.nbytes} bytes of {memory}")
    machine.calls.append(what)

    def copy() -> None:
        flat = host.reshape(-1).view(np.uint8)
        if upload:
            memory.data[:] = flat
        else:
            flat[:] = memory.data

    work.add(what, (memory, pinned._memory), copy)


sys.modules[__name__].__class__ = Binding
vars(sys.modules[__name__]).update(_listed=frozenset(_NAMES["driver"]), _called="driver")
