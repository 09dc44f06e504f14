"""Windows of sound that overlap, as one stream: each sample is kept once."""

from __future__ import annotations

import numpy as np

_NEAR = 4  # samples that the times of two windows may be off, beside what they say
_SURE = 16  # so many equal samples are no chance
_MOST = 50  # places that are looked at, of sound that repeats itself, such as silence


class SoundStream:
    """Tells what is new in each window, so that the end of the stream is always the window."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.length = 0  # samples so far
        self._window = np.zeros(0, np.float32)
        self._rate_hz = 0
        self._time_s = 0.0

    def add(self, window: np.ndarray, rate_hz: int, time_s: float) -> np.ndarray:
        """The last part of ``window`` that the stream has not; all of it where it is apart.

        ``time_s`` is of its last sample. It says where the window lies, and the samples whether
        that is so: clocks of devices are corrected, and machines are late.
        """
        fresh = len(window)
        if rate_hz == self._rate_hz and len(window) == len(self._window):
            fresh = self._count_fresh(window, round((time_s - self._time_s) * rate_hz))
        self._window, self._rate_hz, self._time_s = window, rate_hz, time_s
        self.length += fresh
        return window[len(window) - fresh :]

    def _count_fresh(self, window: np.ndarray, told: int) -> int:
        size = len(window)
        near = (told + sign * off for off in range(_NEAR + 1) for sign in (1, -1))
        for fresh in near:
            if 0 <= fresh < size and self._follows(window, fresh):
                return fresh
        if size <= _SURE or told >= size:
            return size
        views = np.lib.stride_tricks.sliding_window_view(self._window, _SURE)
        places = np.flatnonzero((views == window[:_SURE]).all(axis=1))[:_MOST]
        return next((int(fresh) for fresh in places if self._follows(window, fresh)), size)

    def _follows(self, window: np.ndarray, fresh: int) -> bool:
        return np.array_equal(self._window[fresh:], window[: len(window) - fresh])
