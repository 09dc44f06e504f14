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
"""So many gaps one after the other are no stall: the camera is too slow."""


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
        self._gaps = 0  # one after the other
        self._apart_s = 0.0  # of the last two frames
        self._shrink = GreyShrinker(height, width)
        self._lock = threading.Lock()

    def add(self, frame: Signal) -> None:
        """Keep ``frame``, unless one as new is there; InferenceError if it is no picture."""
        picture = picture_of(self._spec, frame)
        with self._lock:
            if self._count:
                self._apart_s = frame.time_s - self._times_s[self._newest]
                if self._apart_s <= 0:
                    return
                if self._apart_s > GAP * self._period_s:
                    self._count = 0
                    self._gaps += 1
                else:
                    self._gaps = 0
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
            if self._gaps >= SLOW:
                raise CaptureError(
                    f"its frames come {self._apart_s * 1e3:.0f} ms apart, and clips of "
                    f"{self._rate_hz} frames a second take {GAP * self._period_s * 1e3:.0f} ms "
                    "at most; set a higher frame rate, or give it more light"
                )
            places = self._places()
            return Clip(
                self._pictures[places],  # a copy
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

    def _places(self) -> list[int]:
        """Where the pictures of the clip are, the oldest first."""
        now_s, place = self._times_s[self._newest], self._newest
        oldest = (self._newest - self._count + 1) % self._size
        history_s = now_s - self._times_s[oldest]
        covered = math.floor(history_s / self._period_s + 0.5) + 1
        places: list[int] = []
        for back in range(min(self.length, covered)):
            wanted_s = now_s - back * self._period_s
            while place != oldest and (
                wanted_s - self._times_s[place - 1] <= self._times_s[place] - wanted_s
            ):
                place = (place - 1) % self._size
            places.append(place)
        return places[::-1]
