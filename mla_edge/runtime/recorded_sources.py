"""A recording as a camera and a microphone, that play what was seen and heard."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Iterator, TypeVar

import numpy as np

from mla_edge.errors import CaptureEnded, CaptureError, CaptureTimeout, RecordingError
from mla_edge.pictures import unpack_bgr
from mla_edge.preprocess import refit
from mla_edge.recording_reader import RecordingReader, SeenFrame
from mla_edge.signals import Sound

Seen = TypeVar("Seen", SeenFrame, Sound)


class RecordedFeed:
    """Pictures of a recording, at their times from its beginning on."""

    def __init__(self, path: Path, start_s: float | None = None) -> None:
        """Open ``path``; it begins at ``start_s``, by default now."""
        self._path = path
        self._frames, zero_s = _open(path, SeenFrame)
        self._shift_s = (time.monotonic() if start_s is None else start_s) - zero_s
        self._data = b""

    def grab(self) -> float:
        """Take the next picture."""
        for frame in self._frames:
            self._data = frame.data
            return frame.time_s + self._shift_s
        raise CaptureEnded(f"{self._path} has no more frames")

    def retrieve(self, spare: np.ndarray | None) -> np.ndarray | None:
        """The picture, BGR."""
        try:
            return unpack_bgr(self._data)
        except ValueError:
            return None

    def release(self) -> None:
        """Let go of the file."""
        self._frames = iter(())


class RecordedMicrophone:
    """The windows of sound of a recording, in real time or one a read."""

    drops = 0

    def __init__(
        self, path: Path, *, rate_hz: int, window_s: float, start_s: float | None = None
    ) -> None:
        """Play ``path`` from now on; or, from the time ``start_s`` on, a window a read."""
        self._path = path
        self._rate_hz = rate_hz
        self._window = round(window_s * rate_hz)
        self._paced = start_s is None
        self._sounds, zero_s = _open(path, Sound, window_s)
        self._shift_s = (time.monotonic() if start_s is None else start_s) - zero_s
        self._newest: Sound | None = None
        self._next: Sound | None = next(self._sounds)
        self._closed = False

    def read(self, timeout_s: float) -> Sound:
        """The window that was newest then; it waits only when there is none."""
        if self._closed:
            raise CaptureError(f"{self._path} is closed")
        given = self._newest
        now_s = time.monotonic() - self._shift_s
        if given is None and self._next is not None and self._paced:
            wait_s = self._next.time_s - now_s
            time.sleep(min(max(wait_s, 0.0), max(timeout_s, 0.0)))
            if wait_s > timeout_s:
                raise CaptureTimeout(f"{self._path} gives nothing in {timeout_s:g} s")
            now_s += max(wait_s, 0.0)
        while self._next is not None and (not self._paced or self._next.time_s <= now_s):
            self._newest, self._next = self._next, next(self._sounds, None)
            if not self._paced:
                break
        if self._newest is None or (self._newest is given and self._next is None):
            raise CaptureEnded(f"{self._path} has no more sound")
        newest = self._newest
        heard = Sound(newest.samples, newest.rate_hz, newest.time_s + self._shift_s)
        return refit(heard, self._rate_hz, self._window)

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        self._closed = True
        self._sounds, self._next = iter(()), None


def _open(path: Path, kind: type[Seen], window_s: float = 0.0) -> tuple[Iterator[Seen], float]:
    """The events of one kind, and when the first of any was; CaptureError without one."""
    try:
        reader = RecordingReader(path, window_s=window_s)
        first = next((e for e in reader if isinstance(e, (SeenFrame, Sound))), None)
        events = (event for event in reader if isinstance(event, kind))
        one = next(events, None)
    except RecordingError as error:
        raise CaptureError(str(error), hint=error.hint) from error
    if one is None or first is None:
        what = "frame" if kind is SeenFrame else "sound"
        raise CaptureError(f"{path} holds no {what}", hint="record again, with the other one")
    return itertools.chain([one], events), first.time_s
