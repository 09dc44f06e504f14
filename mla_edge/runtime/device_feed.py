"""Pictures of a device or network camera: when each was captured, and whether it is new."""

from __future__ import annotations

import math
import time
from typing import Any

import cv2
import numpy as np

from mla_edge.errors import CaptureError

PROBED_FRAMES = 5  # so many decide whether a driver's stamps are of our clock
DAMAGED_S = 0.5  # without a picture that can be decoded: then the device is opened anew


class DeviceFeed:
    """Pictures of a device or network camera, stamped when they arrive."""

    def __init__(self, name: str, capture: Any, *, kernel_clock: bool = False) -> None:
        """Read the cv2.VideoCapture; ``kernel_clock`` where the driver stamps its frames."""
        self._name = name
        self._capture = capture
        # None while it is not known: the first frames tell whether the stamps are of our clock.
        self._trusts_stamps: bool | None = None if kernel_clock else False
        self._untrusted = 0
        self._stamp_s = -math.inf
        self._damaged_s = math.inf  # since when no picture could be decoded

    def grab(self) -> float:
        """Wait for the next picture."""
        if not self._capture.grab():
            raise CaptureError(
                f"{self._name} stopped giving frames",
                hint="check its cable or network",
            )
        now_s = time.monotonic()
        if self._trusts_stamps is not False:
            stamp_s = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
            if self._trusts_stamps is None:
                self._weigh(stamp_s, now_s)
            # One that is ahead of time, or missing, says nothing: then arrival is the truth.
            # An old one is true: after a stall the driver still gives what it had buffered.
            if self._trusts_stamps and 0 < stamp_s <= now_s:
                if stamp_s <= self._stamp_s:
                    raise CaptureError(
                        f"{self._name} repeats its last frame", hint="plug it in again"
                    )
                self._stamp_s = stamp_s
                return stamp_s
        return now_s

    def _weigh(self, stamp_s: float, now_s: float) -> None:
        """Trust the driver's stamps if one of the first is of the last second of our clock."""
        if now_s - 1 < stamp_s <= now_s:
            self._trusts_stamps = True
            return
        self._untrusted += 1
        if self._untrusted == PROBED_FRAMES:
            self._trusts_stamps = False

    def retrieve(self, spare: np.ndarray | None) -> np.ndarray | None:
        """The picture, BGR; None if it is damaged, CaptureError if all are for DAMAGED_S."""
        good, picture = self._capture.retrieve(spare)
        if good:
            self._damaged_s = math.inf
            return np.asarray(picture)
        now_s = time.monotonic()
        self._damaged_s = min(self._damaged_s, now_s)
        if now_s - self._damaged_s < DAMAGED_S:
            return None
        # A decoder may stay so for long, as FFmpeg's does behind a picture that was cut.
        raise CaptureError(
            f"{self._name} gives pictures that cannot be decoded",
            hint="check its cable or network, and its format",
        )

    def release(self) -> None:
        """Let go of the device."""
        self._capture.release()
