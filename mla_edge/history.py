"""The last frames of a camera, small and grey, from which clips are made."""

from __future__ import annotations

import math
import threading

import numpy as np

from mla_edge.errors import CaptureError
from mla_edge.preprocess import GreyShrinker, picture_of
from mla_edge.signals import Clip, InputSpec, Signal

GAP = 3.0
"""After so many frames of a clip without a picture, what was before is of another scene."""

FINEST = 4
"""So many pictures are kept for each frame of a clip at most, however fast the camera is."""

SLOW = 3
"""So many gaps before a clip was whole are no stall: the camera is too slow."""


class History:
    """Turns frames of a camera of any rate into clips at the rate of an input.

    The camera's thread may add frames while the loop takes clips.
    """

    def __init__(self, spec: InputSpec) -> None:
        """Allocate what the input ``spec``, of kind ``clip``, needs."""
        _, self.length, height, width = spec.shape
        self._spec = spec
        self._rate_hz = spec.rate_hz or 0
        self._period_s = 1 / self._rate_hz
        self._size = FINEST * self.length + 2
        self._pictures = np.zeros((self._size, height, width), np.uint8)
        self._times_s = [-math.inf] * self._size
        self._truth: str | None = None
        self._newest = 0  # its place in the ring
        self._count = 0  # pictures since the last gap
        self._gaps = 0  # since a clip was whole
        self._gap_s = 0.0  # the last one
        self._shrink = GreyShrinker(height, width)
        self._lock = threading.Lock()

    def add(self, frame: Signal) -> None:
        """Keep ``frame``, unless one as new is there; InferenceError if it is no picture."""
        picture = picture_of(self._spec, frame)
        with self._lock:
            if self._count:
                apart_s = frame.time_s - self._times_s[self._newest]
                if apart_s <= 0:
                    return
                if apart_s > GAP * self._period_s:
                    self._gaps = 1 if self._covered() >= self.length else self._gaps + 1
                    self._gap_s = apart_s
                    self._count = 0
            if not self._is_spare():
                self._newest = (self._newest + 1) % self._size
                self._count = min(self._count + 1, self._size)
            self._shrink(picture, self._pictures[self._newest])
            self._times_s[self._newest] = frame.time_s
            self._truth = frame.truth

    def clip(self) -> Clip:
        """The frames nearest to now, to a period before, and so on, since the last gap.

        "Now" is when the newest was captured. They are ``length``, or fewer until there is so
        much history. CaptureError: the camera is too slow for this.
        """
        with self._lock:
            length = min(self._covered(), self.length)
            if length < self.length and self._gaps >= SLOW:
                raise CaptureError(
                    f"its frames come {self._gap_s * 1e3:.0f} ms apart, and clips of "
                    f"{self._rate_hz} frames a second take {GAP * self._period_s * 1e3:.0f} ms "
                    "at most; set a higher frame rate, or give it more light"
                )
            return Clip(
                self._pictures[self._places(length)],  # a copy
                self._rate_hz,
                self._times_s[self._newest],
                self._truth,
            )

    def _is_spare(self) -> bool:
        """Whether the newest picture is so close to the one before that it can be replaced."""
        if self._count < 2:
            return False
        apart_s = self._times_s[self._newest] - self._times_s[self._newest - 1]
        return apart_s < self._period_s / FINEST

    def _oldest(self) -> int:
        return (self._newest - self._count + 1) % self._size

    def _covered(self) -> int:
        """Of how many frames a clip could be: a moment may be half a period before all."""
        history_s = self._times_s[self._newest] - self._times_s[self._oldest()]
        return math.floor(history_s / self._period_s + 0.5) + 1

    def _places(self, length: int) -> list[int]:
        """Where the pictures of a clip are, the oldest first."""
        now_s, place, oldest = self._times_s[self._newest], self._newest, self._oldest()
        places: list[int] = []
        for back in range(length):
            wanted_s = now_s - back * self._period_s
            while place != oldest and (
                wanted_s - self._times_s[place - 1] <= self._times_s[place] - wanted_s
            ):
                place = (place - 1) % self._size
            places.append(place)
        return places[::-1]
