"""What a calibration found for a graph: ranges, corrected biases, and what was tried."""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Mapping, Sequence

import numpy as np

from mla_edge.errors import ConfigError, ExportError
from mla_edge.exporter.calibrators import Range
from mla_edge.signals import PRESENT, Tensors, TensorSpec

MIN_SAMPLES = 32
BY_TENSOR = "by tensor"  # in place of a calibrator: each tensor has its own


@dataclass(frozen=True)
class Ranges:
    """Ranges by place (``node:in``, ``node:out``, …) in every graph of this structure.

    ``corrections`` holds by style and layer what is added to its bias in INT8, ``roundings``
    its weights in whole steps where they are not the nearest ones, ``tried`` by style the
    attempts that were compared on tune samples, the one that was kept among them.
    """

    structure: str  # sha256 over the weighted nodes: the same at every opset
    method: str  # one of CALIBRATORS, or BY_TENSOR
    samples: int
    places: Mapping[str, Range]
    corrections: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tried: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    roundings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def correction(self, style: str, layer: str) -> np.ndarray | None:
        """What is added to the bias of a layer, [channels]; None if nothing is."""
        text = self.corrections.get(style, {}).get(layer)
        return None if text is None else np.frombuffer(base64.b64decode(text), "<f2")

    def rounding(self, style: str, layer: str) -> np.ndarray | None:
        """The weights of a layer in whole steps, int8 [weights]; None for the nearest ones."""
        text = self.roundings.get(style, {}).get(layer)
        return (
            None
            if text is None
            else np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int8)
        )

    def calibrators(self, style: str) -> dict[str, int]:
        """How many places got their range from which calibrator."""
        return dict(sorted(Counter(self.by(style, place) for place in self.places).items()))

    def by(self, style: str, place: str) -> str:
        """The calibrator that the range of a place is of, in one style."""
        found = self.places[place]
        return (found.ends_by if style == "cpu" else found.amplitude_by) or self.method

    def to_json(self) -> dict[str, Any]:
        """The ranges in JSON's own types, to keep beside a network."""
        values = asdict(self)
        for found in values["places"].values():
            for key in ("ends_by", "amplitude_by"):
                if not found[key]:
                    del found[key]
        return values

    @classmethod
    def from_json(cls, values: Any) -> Ranges:
        """What `to_json` gave; ConfigError if it is something else."""
        try:
            places = {
                place: Range(
                    float(v["low"]),
                    float(v["high"]),
                    float(v["amplitude"]),
                    str(v.get("ends_by", "")),
                    str(v.get("amplitude_by", "")),
                )
                for place, v in values["places"].items()
            }
            return cls(
                str(values["structure"]),
                str(values["method"]),
                int(values["samples"]),
                places,
                dict(values.get("corrections", {})),
                dict(values.get("tried", {})),
                dict(values.get("roundings", {})),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"not a calibration cache: {type(error).__name__}: {error}",
                hint="calibrate again",
            ) from error


def encode_correction(values: np.ndarray) -> str:
    """[channels] in half precision, as text: three digits of a small number are enough."""
    largest = float(np.finfo(np.float16).max)
    return base64.b64encode(np.clip(values, -largest, largest).astype("<f2").tobytes()).decode()


def encode_rounding(whole: np.ndarray) -> str:
    """Weights in whole steps, int8, as text."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(whole).tobytes())).decode()


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
