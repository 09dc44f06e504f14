"""Sound from a WAV file."""

from __future__ import annotations

import time
from pathlib import Path

from mla_edge.errors import CaptureEnded, CaptureError
from mla_edge.preprocess import refit
from mla_edge.signals import Sound
from mla_edge.wav import WavFile

STEP_S = 0.05  # how much sound a read moves on, as fast as possible


class WavMicrophone:
    """The last window of a WAV file that plays, in real time or by 50 ms a read."""

    drops = 0

    def __init__(
        self, path: Path, *, rate_hz: int, window_s: float, start_s: float | None = None
    ) -> None:
        """Play ``path`` from now on; or, from the time ``start_s`` on, by 50 ms a read."""
        self._file = WavFile(path)
        self._rate_hz = rate_hz
        self._window = round(window_s * rate_hz)
        self._paced = start_s is None
        self._start_s = time.monotonic() if start_s is None else start_s
        self._played = 0
        self._closed = False

    def read(self, timeout_s: float) -> Sound:
        """The window that ends where the file has got to; it is there at once."""
        if self._closed:
            raise CaptureError(f"{self._file.path} is closed")
        form = self._file.format
        if self._played >= form.frames:
            raise CaptureEnded(f"{self._file.path} has no more sound")
        played = self._played + round(STEP_S * form.rate_hz)
        if self._paced:
            played = max(1, int((time.monotonic() - self._start_s) * form.rate_hz))
        self._played = min(played, form.frames)
        first = self._played - round(self._window / self._rate_hz * form.rate_hz)
        time_s = self._start_s + (self._played - 1) / form.rate_hz
        heard = Sound(self._file.samples(first, self._played), form.rate_hz, time_s)
        return refit(heard, self._rate_hz, self._window)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._closed = True
        self._file.close()
