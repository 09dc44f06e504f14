"""The GPU that the fakes of TensorRT and pycuda share: its memory, its streams, its threads.

Memory is the host's, under addresses of its own, so that a host pointer is never taken for a
device pointer. What a stream is given runs when it is synchronized, not before. Whatever a real
GPU would answer with wrong results or a crash is a FakeViolation here, and stays in
``machine.violations`` even where it was raised in a destructor and lost.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Callable

import numpy as np

_POISON = 0xFF  # four of them are a NaN
_FIRST_ADDRESS = 0x7_0000_0000
_GAP = 4096  # between allocations: what runs over hits nothing


class FakeViolation(AssertionError):
    """The code under test did what a real GPU does not forgive."""


class Allocation:
    """Bytes that the GPU can reach at ``address``."""

    def __init__(self, kind: str, address: int, data: np.ndarray) -> None:
        self.kind = kind  # device, pinned or mapped
        self.address = address
        self.data = data  # uint8
        self.freed = False

    def __repr__(self) -> str:
        return f"{self.kind} memory of {len(self.data)} bytes at {self.address:#x}"


class Stream:
    """Work that waits for its turn, in order."""

    def __init__(self, handle: int, context: Any) -> None:
        self.handle, self.context = handle, context
        self.waiting: list[tuple[str, tuple[Allocation, ...], Callable[[], None]]] = []

    def add(self, what: str, memory: tuple[Allocation, ...], work: Callable[[], None]) -> None:
        """Put ``work`` on ``memory`` at the end."""
        self.waiting.append((what, memory, work))

    def run(self) -> None:
        """Do everything that waits."""
        waiting, self.waiting = self.waiting, []
        for _, memory, work in waiting:
            for each in memory:
                machine.check_alive(each, "the stream")
            work()


class Machine:
    """One GPU and everything that lives on it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """An unused GPU, as the environment describes it."""
        said = os.environ.get
        self.present = said("FAKE_GPU", "1") == "1"
        self.name = said("FAKE_GPU_NAME", "Orin (fake)")
        self.sm = int(said("FAKE_GPU_SM", "87"))
        self.sm_count = int(said("FAKE_GPU_SM_COUNT", "16"))
        self.integrated = said("FAKE_GPU_INTEGRATED", "1") == "1"
        self.dla_cores = int(said("FAKE_GPU_DLA_CORES", "0"))
        self.memory_mb = int(said("FAKE_GPU_MEMORY_MB", "30000"))
        # How a build ends: well, or killed, crashed, exited, hanging or without memory.
        self.build_ends = said("FAKE_BUILD_ENDS", "")
        self.initialised = False
        self.violations: list[str] = []
        self.calls: list[str] = []
        self.touched: set[tuple[str, str]] = set()  # (class, member) that is there
        self.missed: set[tuple[str, str]] = set()  # asked for, and not in this version
        self.allocations: dict[int, Allocation] = {}
        self.streams: dict[int, Stream] = {}
        self.users: weakref.WeakSet[Any] = weakref.WeakSet()  # engines and their contexts
        self._local = threading.local()
        self._next = _FIRST_ADDRESS
        self._graveyard: list[np.ndarray] = []  # freed memory that a view may still read

    @property
    def stack(self) -> list[Any]:
        """The CUDA contexts of the calling thread, the current one last."""
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[Any] = self._local.stack
        return stack

    def violate(self, what: str) -> FakeViolation:
        """Keep ``what``, and give the error to raise."""
        self.violations.append(what)
        return FakeViolation(what)

    def require_context(self, what: str) -> Any:
        """The current context of the calling thread."""
        if not self.stack:
            raise self.violate(f"{what}: no CUDA context is current on this thread")
        return self.stack[-1]

    def allocate(self, kind: str, size: int) -> Allocation:
        """New memory; what is in it is nobody's."""
        data = np.full(size, _POISON, np.uint8)
        made = Allocation(kind, self._next, data)
        self._next += -(-size // _GAP) * _GAP + _GAP
        self.allocations[made.address] = made
        self.calls.append(f"allocate {kind}")
        return made

    def free(self, memory: Allocation) -> None:
        """Give ``memory`` back; nothing may use it any more."""
        if memory.freed:
            raise self.violate(f"double free of {memory}")
        for stream in self.streams.values():
            for what, used, _ in stream.waiting:
                if memory in used:
                    raise self.violate(f"{memory} is freed and {what} still waits for it")
        for user in list(self.users):
            if memory.address in getattr(user, "_addresses", {}).values():
                raise self.violate(f"{memory} is freed before the context that uses it")
        memory.freed = True
        memory.data[:] = _POISON
        self._graveyard.append(memory.data)
        del self.allocations[memory.address]

    def find(self, address: int, size: int, what: str) -> Allocation:
        """The memory of ``size`` bytes at ``address``."""
        found = self.allocations.get(int(address))
        if found is None:
            raise self.violate(f"{what}: {int(address):#x} is no memory of the GPU")
        if size > len(found.data):
            raise self.violate(f"{what}: {size} bytes are more than {found} has")
        return found

    def check_alive(self, memory: Allocation, what: str) -> None:
        """Refuse memory that was freed."""
        if memory.freed:
            raise self.violate(f"{what} uses {memory} after it was freed")

    def stream(self, handle: int, what: str) -> Stream:
        """The stream of ``handle``, whose context must be the current one."""
        if handle not in self.streams:
            raise self.violate(f"{what}: {handle} is no stream")
        found = self.streams[handle]
        if self.require_context(what) is not found.context:
            raise self.violate(f"{what}: the stream is of another context")
        return found

    def left_over(self) -> list[str]:
        """What is still allocated, and contexts that were never taken off their thread."""
        left = [repr(memory) for memory in self.allocations.values()]
        left += [f"stream {handle}" for handle in self.streams]
        left += [f"a CUDA context on this thread: {context}" for context in self.stack]
        return left + [f"{type(user).__name__} in use" for user in self.users]


machine = Machine()
