"""Shrink pictures by averaging areas, faster than OpenCV where the ratio is a simple one."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Sequence, Tuple

import cv2
import numpy as np

CHANNELS = 3
LONGEST = 15
"""Pixels of a block, across or down: up to it float32 is exact enough, see ``AreaAverage``."""

Size = Tuple[int, int]  # height, width


class AreaAverage:
    """Shrinks pictures of one size to another, to the bit as ``cv2.resize`` by INTER_AREA.

    480 x 480 to 128 x 128 is 15 pixels to 4, over and over. Each of the 4 rows is a sum of
    whole rows and of shares of one or two, which OpenCV adds up fast; columns are added up by a
    multiplication with a small matrix. That takes a third of the time of OpenCV's loop over
    areas. It is the same to the bit where the block is of an odd number of pixels p: an average
    is a whole number of 1 / p², which is no nearer than that half to where rounding turns, and
    for p of at most 15 float32 is off by less.
    """

    def __init__(self, size: Size, small: Size) -> None:
        """From ``size`` to ``small``, which ``has_simple_ratio``; it owns what it works in."""
        down, across = (Fraction(a, b) for a, b in zip(size, small))
        self._pixels = down.numerator  # of a block
        self._sums = [_Sum(row) for row in _overlaps(down)]
        # Colours stay apart: a row is red, green, blue, red, …
        weights = np.kron(_overlaps(across).T, np.eye(CHANNELS)) / float(down * across)
        self._across = weights.astype(np.float32)
        self._low = np.zeros(
            (small[0] // down.denominator, down.denominator, size[1], CHANNELS), np.float32
        )
        # A product for each row: of all at once BLAS would make two threads of it, which is a
        # little sooner and twice the processor's time.
        self._blocks = self._low.reshape(small[0], -1, len(weights))
        self._both = np.empty((*self._blocks.shape[:2], weights.shape[1]), np.float32)

    def __call__(self, picture: np.ndarray, small: np.ndarray) -> None:
        """Fill ``small``, uint8 [height, width, 3], from ``picture``, of the same kind."""
        rows = [picture[first :: self._pixels] for first in range(self._pixels)]
        for place, summed in enumerate(self._sums):
            summed(rows, self._low[:, place])
        np.matmul(self._blocks, self._across, out=self._both)
        np.rint(self._both, out=self._both)
        np.copyto(small, self._both.reshape(small.shape), casting="unsafe")


class _Sum:
    """Adds up some pictures whole, and shares of one or two more."""

    def __init__(self, shares: np.ndarray) -> None:
        """By ``shares``, [pictures] in 0…1."""
        self._whole = [int(place) for place in np.flatnonzero(shares == 1.0)]
        parts = [int(place) for place in np.flatnonzero((shares > 0.0) & (shares < 1.0))]
        # What was there before is multiplied by one less the share that is added.
        left = [
            math.prod(1.0 - shares[later] for later in parts[i + 1 :])
            for i in range(len(parts))
        ]
        self._parts = [(place, float(shares[place] / rest)) for place, rest in zip(parts, left)]

    def __call__(self, pictures: Sequence[np.ndarray], total: np.ndarray) -> None:
        """Fill ``total``, float32, from ``pictures``, uint8 of the same shape."""
        total.fill(0.0)
        for place, share in self._parts:
            cv2.accumulateWeighted(pictures[place], total, share)
        for place in self._whole:
            cv2.accumulate(pictures[place], total)


def has_simple_ratio(size: Size, small: Size) -> bool:
    """Whether ``AreaAverage`` can go from ``size`` to ``small``, and it is worth it.

    A ratio that is a whole number is not: OpenCV is fast at those.
    """
    ratios = [Fraction(a, b) for a, b in zip(size, small)]
    return all(
        ratio > 1
        and ratio.denominator > 1
        and ratio.numerator <= LONGEST
        and ratio.numerator % 2 == 1
        for ratio in ratios
    )


def _overlaps(ratio: Fraction) -> np.ndarray:
    """How much of each pixel of a block is in each average; [averages, pixels] in 0…1."""
    pixels, averages = ratio.numerator, ratio.denominator
    # In whole numbers: an average is as wide as ``pixels``, a pixel as ``averages``.
    begins = pixels * np.arange(averages)[:, None]
    left = averages * np.arange(pixels)
    shared = np.minimum(begins + pixels, left + averages) - np.maximum(begins, left)
    return np.asarray(np.maximum(shared, 0) / averages)
