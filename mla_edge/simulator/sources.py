"""The simulator as a camera and a microphone that live in the same world.

Each is opened on its own. Those with the same schedule share a ``Timeline``: the first one
opened starts it, the others join it, and the last one closed ends it.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field
from typing import Callable, Hashable

from mla_edge.errors import CaptureEnded, CaptureError, CaptureTimeout
from mla_edge.signals import Frame, Sound
from mla_edge.simulator.digits import DigitsOptions, DigitsWorld
from mla_edge.simulator.speech import RATE_HZ

Clock = Callable[[], float]

_BLOCK_S = 0.01  # a sound card hands over sound in blocks
_STEP_S = 0.05  # between reads of a microphone that nothing else leads
_ROUNDING_S = 1e-6


@dataclass
class Timeline:
    """The time that a camera and a microphone share; zero is the schedule's."""

    start_s: float  # zero, as stamps tell it
    now_s: float = 0.0  # how far a source that runs as fast as possible has come
    leaders: int = 0  # cameras that carry ``now_s`` on
    users: int = field(default=0, repr=False)


_timelines: dict[Hashable, Timeline] = {}
_lock = threading.Lock()


def _join(key: Hashable, start_s: float) -> Timeline:
    with _lock:
        timeline = _timelines.setdefault(key, Timeline(start_s))
        timeline.users += 1
        return timeline


def _leave(key: Hashable) -> None:
    with _lock:
        _timelines[key].users -= 1
        if not _timelines[key].users:
            del _timelines[key]


class _Source:
    """What camera and microphone have in common: a world, a timeline, a way to wait."""

    def __init__(
        self,
        world: DigitsWorld | DigitsOptions,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        as_fast_as_possible: bool = False,
        start_s: float | None = None,
    ) -> None:
        """Join the world's timeline, or start it at ``start_s``.

        Without ``start_s`` it starts now, and at 0 if as fast as possible.
        """
        self.world = world if isinstance(world, DigitsWorld) else DigitsWorld(world)
        self.drops = 0
        self._clock, self._sleep, self._fast = clock, sleep, as_fast_as_possible
        options = self.world.options
        self._key = (options.seed, options.split, options.gap_s, clock, self._fast, start_s)
        if start_s is None:
            start_s = 0.0 if as_fast_as_possible else clock()
        self._timeline = _join(self._key, start_s)
        self._closed = False

    def close(self) -> None:
        """Leave the timeline; safe to call twice."""
        if not self._closed:
            self._closed = True
            _leave(self._key)

    def _check(self, time_s: float) -> None:
        """Raise CaptureError once closed, and CaptureEnded from the set duration on."""
        if self._closed:
            raise CaptureError("the simulator is closed")
        duration_s = self.world.options.duration
        if duration_s is not None and time_s >= duration_s - _ROUNDING_S:
            raise CaptureEnded(f"sim://digits has ended: its duration is {duration_s:g} s")

    def _wait_until(self, due_s: float, timeout_s: float) -> None:
        """Wait for a moment of the schedule, or raise CaptureTimeout after ``timeout_s``."""
        begun_s = self._clock()
        while True:
            now_s = self._clock()
            missing_s = self._timeline.start_s + due_s - now_s
            if missing_s <= _ROUNDING_S:
                return
            left_s = begun_s + timeout_s - now_s
            if left_s <= 0:
                raise CaptureTimeout(
                    f"nothing new from sim://digits in {timeout_s:g} s",
                    hint=f"the next is due in {missing_s:.3f} s",
                )
            self._sleep(min(missing_s, left_s))


class SimCamera(_Source):
    """The world's camera.

    In real time it gives the newest frame not read before. As fast as possible it gives every
    frame; time begins at 0, goes on by 1/fps each read, and the microphone follows.
    """

    def __init__(
        self,
        world: DigitsWorld | DigitsOptions,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        as_fast_as_possible: bool = False,
        start_s: float | None = None,
    ) -> None:
        """Open it; ``start_s`` is when the schedule begins, the first opening if not given."""
        super().__init__(
            world,
            clock=clock,
            sleep=sleep,
            as_fast_as_possible=as_fast_as_possible,
            start_s=start_s,
        )
        begin_s = self._timeline.now_s if self._fast else clock() - self._timeline.start_s
        self._next = max(0, math.ceil(begin_s * self.world.options.fps - _ROUNDING_S))
        self._leads = self._fast
        self._timeline.leaders += self._leads

    def read(self, timeout_s: float) -> Frame:
        """The newest frame not read before.

        Raises CaptureTimeout if none is due within ``timeout_s``, CaptureEnded after the set
        duration, CaptureError once closed.
        """
        fps = self.world.options.fps
        self._check_or_stop(self._next / fps)
        if not self._fast:
            self._wait_until(self._next / fps, timeout_s)
            elapsed_s = self._clock() - self._timeline.start_s
            newest = max(self._next, math.floor(elapsed_s * fps + _ROUNDING_S))
            self._check_or_stop(newest / fps)
            self.drops += newest - self._next
            self._next = newest
        due_s = self._next / fps
        self._next += 1
        if self._fast:
            self._timeline.now_s = max(self._timeline.now_s, due_s)
        image, truth = self.world.frame(due_s)
        return Frame(image, self._timeline.start_s + due_s, truth)

    def close(self) -> None:
        """Leave the world; a microphone goes on alone. Safe to call twice."""
        self._stop_leading()
        super().close()

    def _check_or_stop(self, time_s: float) -> None:
        try:
            self._check(time_s)
        except CaptureEnded:
            self._stop_leading()
            raise

    def _stop_leading(self) -> None:
        self._timeline.leaders -= self._leads
        self._leads = False


class SimMicrophone(_Source):
    """The world's microphone.

    In real time it gives the newest window, a block of 10 ms later than the one before at
    least. As fast as possible its window ends where the camera has come to; without a camera
    it goes on by 50 ms each time. Either way it drops nothing.
    """

    def __init__(  # noqa: PLR0913 - the same settings as the camera, and two for sound
        self,
        world: DigitsWorld | DigitsOptions,
        *,
        rate_hz: int = RATE_HZ,
        window_s: float = 1.0,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        as_fast_as_possible: bool = False,
        start_s: float | None = None,
    ) -> None:
        """Open it with windows of ``window_s`` at ``rate_hz``; the rest as for SimCamera."""
        super().__init__(
            world,
            clock=clock,
            sleep=sleep,
            as_fast_as_possible=as_fast_as_possible,
            start_s=start_s,
        )
        self._rate_hz, self._samples = rate_hz, round(window_s * rate_hz)
        begin_s = clock() - self._timeline.start_s
        self._next = max(0, math.floor(begin_s / _BLOCK_S))

    def read(self, timeout_s: float) -> Sound:
        """The newest window of sound; errors as ``SimCamera.read``."""
        if self._fast:
            due_s = self._timeline.now_s
            self._check(due_s)
            if not self._timeline.leaders:
                self._timeline.now_s += _STEP_S
            return self._window(due_s)
        self._check(self._next * _BLOCK_S)
        self._wait_until(self._next * _BLOCK_S, timeout_s)
        elapsed_s = self._clock() - self._timeline.start_s
        newest = max(self._next, math.floor(elapsed_s / _BLOCK_S + _ROUNDING_S))
        due_s = newest * _BLOCK_S
        self._check(due_s)
        self._next = newest + 1
        return self._window(due_s)

    def _window(self, due_s: float) -> Sound:
        samples, truth = self.world.sound(due_s, self._samples, self._rate_hz)
        return Sound(samples, self._rate_hz, self._timeline.start_s + due_s, truth)
