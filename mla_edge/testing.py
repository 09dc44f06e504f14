"""Stand-ins for hardware, for our tests and for those of who embeds mla-edge."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Callable, Generic, Iterable, Iterator, Mapping, Sequence, TypeVar

import numpy as np

from mla_edge.errors import CaptureEnded, CaptureError, CaptureTimeout, InferenceError
from mla_edge.signals import Frame, Sound, Tensors, TensorSpec

Signal = TypeVar("Signal", Frame, Sound)


class FakeClock:
    """A clock that stands still until somebody sleeps on it."""

    def __init__(self, now_s: float = 0.0) -> None:
        """Begin at ``now_s``."""
        self.now_s = now_s

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let so much time pass, at once."""
        self.now_s += seconds


class _FakeSource(Generic[Signal]):
    """Gives signals one after the other, stamped when they are read, with faults on order."""

    def __init__(  # noqa: PLR0913 - each is a way to fail
        self,
        signals: Iterable[Signal],
        *,
        period_s: float = 0.0,
        faults: Mapping[int, CaptureError] | None = None,
        stalls: Mapping[int, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Give one of ``signals`` each ``period_s`` seconds, as soon as asked when that is 0.

        ``faults`` says what the nth read (from 0) raises, ``stalls`` for how many seconds
        nothing comes from the nth read on. A FakeClock's ``clock`` and ``sleep`` make a test
        that takes no time.
        """
        self.drops = 0
        self.reads = 0
        self.closed = False
        self._signals: Iterator[Signal] = iter(signals)
        self._period_s = period_s
        self._faults = faults or {}
        self._stalls = stalls or {}
        self._clock = clock
        self._sleep = sleep
        self._due_s = clock()

    def read(self, timeout_s: float) -> Signal:
        """The next signal, CaptureTimeout before it is due, CaptureEnded after the last."""
        number, self.reads = self.reads, self.reads + 1
        if number in self._faults:
            raise self._faults[number]
        if number in self._stalls:
            self._due_s = self._clock() + self._stalls[number]
        wait_s = self._due_s - self._clock()
        if wait_s > 0:
            self._sleep(min(wait_s, max(timeout_s, 0.0)))
        if wait_s > timeout_s:
            raise CaptureTimeout(f"nothing came within {timeout_s} s")
        for signal in self._signals:
            now_s = self._clock()
            self._due_s = max(self._due_s + self._period_s, now_s)
            stamped: Signal = replace(signal, time_s=now_s)
            return stamped
        raise CaptureEnded("there is no more")

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True


class FakeCamera(_FakeSource[Frame]):
    """A camera that gives the frames it was made with."""


class FakeMicrophone(_FakeSource[Sound]):
    """A microphone that gives the windows of sound it was made with."""


class FakeEngine:
    """Gives the same outputs each time, and keeps what it was given in ``calls``."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Tensors,
        *,
        faults: Mapping[int, InferenceError] | None = None,
        latency_s: float = 0.0,
    ) -> None:
        """Take ``inputs`` and give ``outputs``; ``faults`` says what the nth run raises."""
        self.inputs = tuple(inputs)
        self.outputs = tuple(
            TensorSpec(name, str(value.dtype), value.shape) for name, value in outputs.items()
        )
        self.calls: list[Tensors] = []
        self.closed = False
        self._answers = outputs
        self._faults = faults or {}
        self._latency_s = latency_s

    def run(self, inputs: Tensors) -> Tensors:
        """The outputs."""
        number = len(self.calls)
        self.calls.append({name: np.array(value) for name, value in inputs.items()})
        if self._latency_s:
            time.sleep(self._latency_s)
        if number in self._faults:
            raise self._faults[number]
        return dict(self._answers)

    def close(self) -> None:
        """Note that it was closed."""
        self.closed = True
