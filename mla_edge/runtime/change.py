"""Whether what the sensors give has changed since the network last looked at it.

A picture is reduced to the mean colours of 32 x 18 blocks, sound to the level of each 0.1 s
in two bands. Both are compared with what was there at the last *executed* inference, not with
the frame before: slow drift adds up and is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Mapping

import cv2
import numpy as np

from mla_edge.errors import ConfigError
from mla_edge.signals import Clip, Frame, Prediction, Sample, Signal, Sound, values_of

_BLOCKS = (18, 32)  # down and across
_BLOCK_S = 0.1  # of sound
_FLOOR = 1e-7  # -70 dB of full scale: what is quieter is silence

BRIGHTER = 10.0
"""Of 255: a block that differs by more has changed; a sensor's noise makes 2 to 8."""
LOUDER_DB = 3.0
"""A level that differs by more has changed; 0.1 s of a quiet room or hum differs by 1 to 3."""
_GAIN = (0.8, 1.25)  # of a camera that adapts its exposure; more is a change of the scene
_SURE = 0.9  # an answer that is less sure is not reused


@dataclass(frozen=True)
class Look:
    """What is left of a signal to compare it by, and how far two may be apart."""

    values: np.ndarray
    far: float
    total: float | None = None  # of all values, where a factor on them is the sensor's gain

    def same(self, other: Look) -> bool:
        """Whether ``other`` shows what this does; what is not a number is like nothing."""
        if self.values.shape != other.values.shape:
            return False
        if self.total is not None and other.total is not None:
            gain = self.total / other.total if other.total > 0 else 1.0
            gain = min(max(gain, _GAIN[0]), _GAIN[1])
            apart = cv2.addWeighted(
                self.values, 1.0, other.values, -gain, 0.0, dtype=cv2.CV_32F
            )
            return cv2.norm(apart, cv2.NORM_INF) <= self.far
        if not self.far:
            return np.array_equal(self.values, other.values)
        return float(np.abs(self.values - other.values).max(initial=0.0)) <= self.far


def look_at(signal: Signal) -> Look:
    """What to compare ``signal`` by; a reading of another sensor is compared as it is.

    So is a picture that no input takes: preparing it will say what is wrong with it.
    """
    if isinstance(signal, Frame) and _is_picture(signal.image):
        means = _blocks(signal.image)
        return Look(means, BRIGHTER, cv2.sumElems(means.ravel())[0])
    if isinstance(signal, Clip) and len(signal.frames) and _is_picture(signal.frames[0]):
        means = np.stack([_blocks(frame) for frame in signal.frames])
        return Look(means, BRIGHTER, float(means.sum()))
    if isinstance(signal, Sound):
        return Look(_levels(signal.samples, signal.rate_hz), LOUDER_DB / 10)
    return Look(values_of(signal), 0.0)


class Memory:
    """The last decision of the network, for as long as nothing changes."""

    def __init__(self, reuse_ms: float) -> None:
        """A decision is reused for ``reuse_ms`` after its capture; ConfigError: no time."""
        check_reuse(reuse_ms)
        self.reuse_ms = reuse_ms
        self._looks: Mapping[str, Look] = {}
        self._newest: Mapping[str, Look] = {}
        self._kept: Prediction | None = None

    def recall(self, mode: str, sample: Sample) -> tuple[Prediction, float] | None:
        """The decision that still holds for ``sample``, and its age in ms; None: infer anew."""
        self._newest = {name: look_at(signal) for name, signal in sample.signals.items()}
        kept = self._kept
        if kept is None or kept.mode != mode:
            return None
        now_s = max(signal.time_s for signal in sample.signals.values())
        age_ms = (now_s - min(kept.capture_time_s.values())) * 1e3
        if not 0 <= age_ms <= self.reuse_ms:
            return None
        looks = self._looks
        if all(looks[name].same(look) for name, look in self._newest.items()):
            return kept, age_ms
        return None

    def keep(self, prediction: Prediction | None) -> None:
        """Remember what was decided on the sample that ``recall`` saw last, if it is sure.

        None: what was decided is not to be used again.
        """
        self._looks = self._newest
        is_sure = prediction is not None and prediction.confidence >= _SURE
        self._kept = prediction if is_sure else None

    def forget(self) -> None:
        """Infer anew, whatever comes."""
        self._kept = None


def check_reuse(reuse_ms: float) -> None:
    """ConfigError for a time that is none."""
    if not 0 < reuse_ms < math.inf:
        raise ConfigError(f"reuse_ms is {reuse_ms:g}", hint="give a number above 0")


def _is_picture(values: np.ndarray) -> bool:
    """Whether it is a grey or RGB picture, as preprocessing takes one."""
    return values.dtype == np.uint8 and values.ndim in (2, 3) and values.size > 0


def _blocks(picture: np.ndarray) -> np.ndarray:
    """Mean of each colour in the blocks of a grey or RGB picture, uint8 [18, 32, colours].

    Of 16 pixels of each, which takes 0.01 to 0.05 ms; all of them would take one. A picture
    that is smaller than the blocks is taken as it is.
    """
    down, across = _BLOCKS
    if picture.shape[0] < down or picture.shape[1] < across:
        return picture.copy()
    means = cv2.resize(picture, (4 * across, 4 * down), interpolation=cv2.INTER_NEAREST)
    for pixels in (2, 1):  # OpenCV is fastest at halves
        size = pixels * across, pixels * down
        means = cv2.resize(means, size, interpolation=cv2.INTER_AREA)
    return means


def _levels(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Level of each 0.1 s in bel, 10 dB, of all of it and then of its high notes."""
    length = max(2, int(rate_hz * _BLOCK_S))
    samples = samples[len(samples) % length :]
    both = np.zeros((2, len(samples)), samples.dtype)  # as it is, and its steps
    both[0] = samples
    np.subtract(samples[1:], samples[:-1], out=both[1, 1:])
    blocks = both.reshape(-1, length)
    # A product of matrices takes less time than einsum.
    energies = np.matmul(blocks[:, None, :], blocks[:, :, None])
    return np.asarray(np.log10(energies.ravel() + _FLOOR * length))
