"""Where to clip a tensor in INT8: one histogram of what was seen in it, several opinions.

``max`` clips nothing. ``percentile-P`` leaves P per cent of the values inside. ``entropy`` is
TensorRT's: the clipping whose rounded distribution tells least apart from the real one, by the
Kullback-Leibler divergence (Migacz, "8-bit inference with TensorRT", GTC 2017). ``mse`` has
the least squared error of the rounded tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Mapping, Sequence

import numpy as np

from mla_edge.errors import ExportError
from mla_edge.signals import Tensors

CALIBRATORS = (
    *("max", "percentile-99.999", "percentile-99.99", "percentile-99.9"),
    *("entropy", "mse"),
)
"""From what clips nothing on: the earlier one is taken where two are equally good."""

BINS = 8192
_LEVELS = 128  # of INT8 on one side of zero
_ENTROPY_BINS = 2048  # of the distribution that entropy looks at, as TensorRT has them
_ENTROPY_TRIES = 64


@dataclass(frozen=True)
class Range:
    """What one tensor holds: its ends for a zero point, its size for a symmetric scale.

    ``ends_by`` and ``amplitude_by`` name the calibrators that they are of, where these differ
    from tensor to tensor.
    """

    low: float
    high: float
    amplitude: float
    ends_by: str = ""
    amplitude_by: str = ""

    @classmethod
    def of(cls, low: float, high: float, amplitude: float) -> Range:
        """The range to seven digits, which is what a float32 scale holds."""
        low, high, amplitude = (float(f"{value:.7g}") for value in (low, high, amplitude))
        return cls(low, high, amplitude)


class Histogram:
    """Counts of what one tensor held, in bins that widen by doubling.

    Zeros are left out: every quantization has them exactly.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.low = self.high = self.reach = 0.0
        self.counts = np.zeros(BINS)

    def add(self, values: np.ndarray) -> None:
        """Count the values of one sample."""
        values = values[values != 0]
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if not self.reach:
            self.reach = 2.0 ** np.ceil(np.log2(largest))
        while largest > self.reach:
            inner = self.counts.reshape(-1, 2).sum(1)
            self.counts[:] = 0
            self.counts[BINS // 4 : -BINS // 4] = inner
            self.reach *= 2
        where = ((values + self.reach) * (BINS / 2 / self.reach)).astype(np.int32)
        self.counts += np.bincount(np.minimum(where, BINS - 1).ravel(), minlength=BINS)

    def range(self, calibrator: str) -> Range:
        """The ends to clip at by one of ``CALIBRATORS``."""
        if calibrator == "max" or not self.reach:
            return Range.of(self.low, self.high, max(-self.low, self.high))
        if calibrator == "entropy":
            # With a zero point a tensor of one sign has twice the levels on that side.
            one_sided = 0.0 in (self.low, self.high)
            end = self._least_divergence(2 * _LEVELS if one_sided else _LEVELS)
            symmetric = self._least_divergence(_LEVELS)
            return Range.of(max(self.low, -end), min(self.high, end), symmetric)
        if calibrator == "mse":
            return self._least_square()
        return self._percentile(float(calibrator.rpartition("-")[2]))

    def _percentile(self, inside: float) -> Range:
        centers = self._centers()
        share = np.cumsum(self.counts) / self.counts.sum()
        tail = (100 - inside) / 100
        low = min(0.0, float(centers[int(np.searchsorted(share, tail))]))
        last = min(int(np.searchsorted(share, 1 - tail)), BINS - 1)
        high = max(0.0, float(centers[last]))
        low, high = max(low, self.low), min(high, self.high)
        return Range.of(low, high, max(-low, high))

    def _least_square(self) -> Range:
        centers = self._centers()
        shares = np.linspace(0.1, 1.0, 91)
        below = self._clipping(-centers[::-1], self.counts[::-1], -self.low * shares)
        above = self._clipping(centers, self.counts, self.high * shares)
        count = self.counts.sum()
        # rounding noise of a step is step²/12 (uniform within the step)
        width = -self.low * shares[:, None] + self.high * shares
        error = count * (width / 255) ** 2 / 12 + below[:, None] + above
        i, j = divmod(int(error.argmin()), len(shares))
        ends = max(-self.low, self.high) * shares
        symmetric = count * (ends / 127) ** 2 / 12
        symmetric += self._clipping(-centers[::-1], self.counts[::-1], ends)
        symmetric += self._clipping(centers, self.counts, ends)
        amplitude = float(ends[symmetric.argmin()])
        return Range.of(self.low * float(shares[i]), self.high * float(shares[j]), amplitude)

    def _least_divergence(self, levels: int) -> float:
        """The size to clip at by entropy, with ``levels`` steps between it and zero."""
        half = BINS // 2
        sizes = self.counts[half:] + self.counts[:half][::-1]
        counts = sizes.reshape(_ENTROPY_BINS, -1).sum(1)
        top = int(np.flatnonzero(counts)[-1]) + 1
        best, end = np.inf, top
        for kept in range(top, levels - 1, -max(1, (top - levels) // _ENTROPY_TRIES)):
            real = counts[:kept].copy()
            real[-1] += counts[kept:].sum()
            step = np.arange(kept) * levels // kept
            there = counts[:kept] > 0
            filled = np.bincount(step, there, levels)
            inside = np.bincount(step, counts[:kept], levels) / np.maximum(filled, 1)
            rounded = np.where(there, inside[step], 0.0)
            real, rounded = real / real.sum(), rounded / max(rounded.sum(), 1e-30)
            seen = real > 0
            ratio = real[seen] / np.maximum(rounded[seen], 1e-9)
            divergence = float((real[seen] * np.log(ratio)).sum())
            if divergence < best:
                best, end = divergence, kept
        return min(end * self.reach / _ENTROPY_BINS, max(-self.low, self.high))

    def _centers(self) -> np.ndarray:
        return (np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach

    @staticmethod
    def _clipping(centers: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The squared error of cutting off what lies above each of ``ends``."""
        moments = [np.cumsum((counts * centers**k)[::-1])[::-1] for k in range(3)]
        first = np.searchsorted(centers, ends)
        zero, one, two = (np.append(moment, 0.0)[first] for moment in moments)
        return np.asarray(np.maximum(two - 2 * ends * one + ends**2 * zero, 0.0))


def collect_histograms(
    runs: Iterable[Tensors], tensors: Sequence[str], graph: str
) -> Mapping[str, Histogram]:
    """A histogram of each of ``tensors``, whose values are in each of ``runs``.

    The tensors themselves are not kept. ExportError for one of ``graph`` that is NaN or
    infinite.
    """
    histograms = {tensor: Histogram() for tensor in tensors}
    for values in runs:
        for tensor, histogram in histograms.items():
            if not np.isfinite(values[tensor]).all():
                raise ExportError(
                    f"calibrate: {tensor!r} in {graph} is NaN or infinite",
                    hint="the float network overflows on these samples: mend it first",
                )
            histogram.add(values[tensor])
    return histograms


def quantized(values: np.ndarray, found: Range, style: str) -> np.ndarray:
    """``values`` as INT8 leaves them: ``cpu`` with a zero point, ``tensorrt`` symmetric."""
    scale, zero, least, most = steps(found, style)
    whole = np.clip(np.rint(values / np.float32(scale)) + zero, least, most)
    return np.asarray((whole - zero) * np.float32(scale), np.float32)


def steps(found: Range, style: str) -> tuple[float, int, int, int]:
    """Scale, zero point, and the least and the greatest whole number of a range."""
    if style == "cpu":
        scale = (found.high - found.low) / 255 or 1.0
        return scale, int(np.clip(round(-found.low / scale), 0, 255)), 0, 255
    return found.amplitude / 127 or 1.0, 0, -128, 127


def weight_scales(values: np.ndarray, axis: int) -> np.ndarray:
    """The step of each output channel's weights, [channels]."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others)
    return np.asarray(np.where(largest > 0, largest / 127, 1.0))


def whole_weights(values: np.ndarray, scales: np.ndarray, axis: int) -> np.ndarray:
    """The weights in whole steps of each channel's scale, int8."""
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    whole = np.clip(np.rint(values / scales.reshape(shape)), -127, 127)
    return np.asarray(whole, np.int8)
