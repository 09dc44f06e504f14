"""The last stretch of sound, and when it was captured."""

from __future__ import annotations

import math

import numpy as np

SLACK_S = 1.0  # how much may be written while a reader copies the window
DRIFT = 5e-4  # how much faster or slower than named a device's clock may run
TRUST_S = 0.005  # a stamp that is earlier than the fit by more needs a second one
GAP_S = 0.05  # sound that is always so late was not late, but some before it was lost
STRETCH_S = 1.0  # that long in two stretches
ALIKE_S = 0.01  # in both by the same; a busy machine is late by more and by less


class SoundRing:
    """A ring of float32 samples for one writer thread and any readers, without a lock.

    Sample ``i`` was captured at ``offset + i / rate_hz``. A block arrives late, by as much as
    the machine is busy, and never early: so ``offset`` is the least that was seen, and creeps
    up by DRIFT so as to follow a device whose clock is slow. A single stamp may be wrong: one
    that is far earlier counts once the next one agrees. Where sound was lost and nobody told,
    every block is late by the same: then the fit begins anew.
    """

    def __init__(self, rate_hz: int, window: int) -> None:
        """Keep the last ``window`` samples, zeros at first."""
        self.rate_hz = rate_hz
        self.total = 0  # samples written so far, those filled in included
        self._window = window
        self._data = np.zeros(window + math.ceil(SLACK_S * rate_hz), np.float32)
        self._offset_s = math.inf
        self._before_s = -math.inf  # what the block before said of the offset
        self._least_s = math.inf  # of the present stretch
        self._last_least_s = math.inf  # of the one before
        self._stretch_end_s = -math.inf

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
        agreed_s = max(seen_s, self._before_s)
        self._before_s = seen_s
        least_s = seen_s if seen_s > self._offset_s - TRUST_S else agreed_s
        self._offset_s = min(least_s, self._offset_s + DRIFT * count / self.rate_hz)
        self._notice_gap(agreed_s, last_s)
        self._append(block[-len(self._data) :], count)

    def _notice_gap(self, seen_s: float, last_s: float) -> None:
        """Begin the fit anew where even the least lateness says that sound was lost.

        Stretches are of the machine's time: what waited comes within one, its last in time.
        """
        self._least_s = min(self._least_s, seen_s)
        if last_s < self._stretch_end_s:
            return
        least_s = min(self._least_s, self._last_least_s)
        is_alike = max(self._least_s, self._last_least_s) < least_s + ALIKE_S
        if is_alike and least_s > self._offset_s + GAP_S:
            self._offset_s = least_s
        self._last_least_s, self._least_s = self._least_s, math.inf
        self._stretch_end_s = last_s + STRETCH_S

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
