"""Shrink pictures by averaging areas, faster than OpenCV where the ratio is a simple one."""

from __future__ import annotations

from fractions import Fraction
from typing import Tuple

import numpy as np

CHANNELS = 3
LONGEST = 15
"""Pixels of a block, across or down: up to it float32 is exact enough, see ``AreaAverage``."""

Size = Tuple[int, int]  # height, width


class AreaAverage:
    """Shrinks pictures of one size to another, to the bit as ``cv2.resize`` by INTER_AREA.

    480 x 480 to 128 x 128 is 15 pixels to 4, over and over: two multiplications with small
    matrices, which take a third of the time of OpenCV's loop over areas. It is the same to the
    bit where the block is of an odd number of pixels p: an average is a whole number of
    1 / p², which is no nearer than that half to where rounding turns, and for p of at most 15
    float32 is off by less.
    """

    def __init__(self, size: Size, small: Size) -> None:
        """From ``size`` to ``small``, which ``has_simple_ratio``; it owns what it works in."""
        down, across = (Fraction(a, b) for a, b in zip(size, small))
        (height, width), (small_height, small_width) = size, small
        rows, columns = height // down.numerator, width // across.numerator
        self._down = _weights(down)
        # Colours stay apart: a row is red, green, blue, red, …
        colours = np.eye(CHANNELS, dtype=np.float32)
        self._across = np.kron(_weights(across).T, colours).astype(np.float32)
        self._picture = np.empty((height, width, CHANNELS), np.float32)
        self._bands = self._picture.reshape(rows, down.numerator, width * CHANNELS)
        self._low = np.empty((rows, down.denominator, width * CHANNELS), np.float32)
        self._blocks = self._low.reshape(small_height, columns, across.numerator * CHANNELS)
        self._both = np.empty(
            (small_height, columns, across.denominator * CHANNELS), np.float32
        )
        self._averages = self._both.reshape(small_height, small_width, CHANNELS)

    def __call__(self, picture: np.ndarray, small: np.ndarray) -> None:
        """Fill ``small``, uint8 [height, width, 3], from ``picture``, of the same kind."""
        np.copyto(self._picture, picture)
        np.matmul(self._down, self._bands, out=self._low)
        np.matmul(self._blocks, self._across, out=self._both)
        np.rint(self._both, out=self._both)
        np.copyto(small, self._averages, casting="unsafe")


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


def _weights(ratio: Fraction) -> np.ndarray:
    """How much of each pixel of a block is in each average; float32 [averages, pixels]."""
    pixels, averages = ratio.numerator, ratio.denominator
    edges = np.arange(averages + 1) * (pixels / averages)
    begins, ends = edges[:-1, None], edges[1:, None]
    left = np.arange(pixels)
    overlap = np.minimum(ends, left + 1) - np.maximum(begins, left)
    return np.asarray(np.maximum(overlap, 0) * averages / pixels, np.float32)
