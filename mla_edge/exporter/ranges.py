"""What range of values a tensor is given in INT8, chosen from what was seen in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Iterable, Mapping, Sequence

import numpy as np

from mla_edge.errors import ConfigError, ExportError
from mla_edge.signals import PRESENT, Tensors, TensorSpec

MIN_SAMPLES = 32
METHODS = ("mse", "percentile", "minmax")
BINS = 8192
PERCENTILE = 99.99


@dataclass(frozen=True)
class Range:
    """What one tensor holds: its ends for a zero point, its size for a symmetric scale."""

    low: float
    high: float
    amplitude: float

    @classmethod
    def of(cls, low: float, high: float, amplitude: float) -> Range:
        """The range to seven digits, which is what a float32 scale holds."""
        return cls(*(float(f"{value:.7g}") for value in (low, high, amplitude)))


@dataclass(frozen=True)
class Ranges:
    """Ranges by place (``node:in``, ``node:out``, …) in every graph of this structure."""

    structure: str  # sha256 over the weighted nodes: the same at every opset
    method: str
    samples: int
    places: Mapping[str, Range]

    def to_json(self) -> dict[str, Any]:
        """The ranges in JSON's own types, to keep beside a network."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Ranges:
        """What `to_json` gave; ConfigError if it is something else."""
        try:
            places = {
                place: Range(float(v["low"]), float(v["high"]), float(v["amplitude"]))
                for place, v in values["places"].items()
            }
            return cls(
                str(values["structure"]), str(values["method"]), int(values["samples"]), places
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"not a calibration cache: {type(error).__name__}: {error}",
                hint="calibrate again",
            ) from error


def check_samples(samples: Sequence[Tensors], inputs: Sequence[TensorSpec]) -> None:
    """Refuse samples that no good ranges can come from, by the name of the input.

    ConfigError for fewer than 32, ExportError for a missing input, a wrong dtype or shape, NaN
    or infinity, and for an input that is the same in all of them.
    """
    if len(samples) < MIN_SAMPLES:
        raise ConfigError(
            f"calibrate: {len(samples)} samples are too few",
            hint=f"give at least {MIN_SAMPLES}; 128 to 512 are usual",
        )
    for spec in inputs:
        for number, sample in enumerate(samples):
            value = sample.get(spec.name)
            what = "is missing" if value is None else _fault(value, spec)
            if what:
                raise ExportError(
                    f"calibrate: input {spec.name!r} of sample {number} {what}",
                    hint="samples must come out of the same preprocessing as at run time",
                )
        first = samples[0][spec.name]
        # A mask of ones is no fault: all modalities were there.
        same = all(np.array_equal(sample[spec.name], first) for sample in samples)
        if same and spec.name != PRESENT:
            raise ExportError(
                f"calibrate: input {spec.name!r} is the same in all {len(samples)} samples",
                hint="calibrate on recorded or simulated samples, never on made-up ones",
            )


def _fault(value: np.ndarray, spec: TensorSpec) -> str:
    if value.dtype != np.dtype(spec.dtype) or value.shape != spec.shape:
        expected = f"expected {spec.dtype} {list(spec.shape)}"
        return f"is {value.dtype} {list(value.shape)}; {expected}"
    return "" if np.isfinite(value).all() else "has NaN or infinity"


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

    def range(self, method: str) -> Range:
        """The ends to clip at."""
        if method == "minmax" or not self.reach:
            return Range.of(self.low, self.high, max(-self.low, self.high))
        centers = (np.arange(BINS) + 0.5) * (2 * self.reach / BINS) - self.reach
        if method == "percentile":
            share = np.cumsum(self.counts) / self.counts.sum()
            tail = (100 - PERCENTILE) / 100
            low = min(0.0, float(centers[int(np.searchsorted(share, tail))]))
            last = min(int(np.searchsorted(share, 1 - tail)), BINS - 1)
            high = max(0.0, float(centers[last]))
            low, high = max(low, self.low), min(high, self.high)
            return Range.of(low, high, max(-low, high))
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

    @staticmethod
    def _clipping(centers: np.ndarray, counts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The squared error of cutting off what lies above each of ``ends``."""
        moments = [np.cumsum((counts * centers**k)[::-1])[::-1] for k in range(3)]
        first = np.searchsorted(centers, ends)
        zero, one, two = (np.append(moment, 0.0)[first] for moment in moments)
        return np.asarray(np.maximum(two - 2 * ends * one + ends**2 * zero, 0.0))


def measure_ranges(
    runs: Iterable[Tensors], tensors: Sequence[str], method: str, graph: str
) -> dict[str, Range]:
    """The range of each of ``tensors``, whose values are in each of ``runs``.

    One histogram a tensor is kept, and never the tensors themselves. ExportError for a tensor
    of ``graph`` that is NaN or infinite.
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
    return {tensor: histogram.range(method) for tensor, histogram in histograms.items()}
