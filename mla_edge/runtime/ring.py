"""The last stretch of sound, and when it was captured."""

from __future__ import annotations

import math

import numpy as np

SLACK_S = 1.0  # how much may be written while a reader copies the window
DRIFT = 2e-4  # how much faster or slower than named a device's clock may run


class SoundRing:
    """A ring of float32 samples for one writer thread and any readers, without a lock.

    Sample ``i`` was captured at ``offset + i / rate_hz``. A block arrives late, by as much as
    the machine is busy, and never early: so ``offset`` is the least that was seen, and creeps
    up by DRIFT so as to follow a device whose clock is slow.
    """

    def __init__(self, rate_hz: int, window: int) -> None:
        """Keep the last ``window`` samples, zeros at first."""
        self.rate_hz = rate_hz
        self.total = 0  # samples written so far, those filled in included
        self._window = window
        self._data = np.zeros(window + math.ceil(SLACK_S * rate_hz), np.float32)
        self._offset_s = math.inf

    def write(self, block: np.ndarray, last_s: float, *, after_gap: bool = False) -> None:
        """Append ``block``, whose last sample was captured at ``last_s``.

        ``after_gap`` says that samples before it were lost: zeros take their place, as many as
        the time says, so that what follows is not shifted.
        """
        count = len(block)
        seen_s = last_s - (self.total + count - 1) / self.rate_hz
        if after_gap and seen_s > self._offset_s:
            lost = round((seen_s - self._offset_s) * self.rate_hz)
            self._append(np.zeros(min(lost, len(self._data)), np.float32), lost)
            seen_s = last_s - (self.total + count - 1) / self.rate_hz
        self._offset_s = min(seen_s, self._offset_s + DRIFT * count / self.rate_hz)
        self._append(block[-len(self._data) :], count)

    def latest(self) -> tuple[np.ndarray, float]:
        """A copy of the last window, and when its last sample was captured."""
        size = len(self._data)
        while True:
            end = self.total
            start = (end - self._window) % size
            last_s = self._offset_s + (end - 1) / self.rate_hz
            first = self._data[start : start + self._window]
            window = np.concatenate((first, self._data[: self._window - len(first)]))
            if self.total - end <= size - self._window:  # else the writer overtook the copy
                return window, last_s

    def _append(self, block: np.ndarray, count: int) -> None:
        """Write ``block``, the last of ``count`` samples of which no earlier one matters."""
        size = len(self._data)
        start = (self.total + count - len(block)) % size
        head = block[: size - start]
        self._data[start : start + len(head)] = head
        self._data[: len(block) - len(head)] = block[len(head) :]
        self.total += count
