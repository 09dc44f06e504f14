"""Recorded samples: an ``.npz`` has an array an input and a row a sample; or an ``.mcap``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Mapping, Sequence

import numpy as np

from mla_edge._arrays import read_arrays
from mla_edge.errors import ConfigError
from mla_edge.signals import PRESENT, Clip, Frame, InputSpec, Reading, Sample, Signal, Sound

if TYPE_CHECKING:
    from pathlib import Path

_WRITE = "write it with numpy.savez"
_NUMBERS = "buif"  # kinds of dtype: bool, unsigned, int, float


@dataclass(frozen=True)
class Recording:
    """Samples with their classes, and which of them are independent of one another."""

    samples: tuple[Sample, ...]
    labels: tuple[str, ...]
    units: np.ndarray  # [n]; samples of one unit are not independent
    told_units: bool  # False: every sample was taken for a unit
    sha256: str  # of all arrays
    origins: tuple[str, ...] = ()  # sha256 of what each was drawn of; none: of its own signals


def read_samples(path: Path, inputs: Sequence[InputSpec], most: int = 256) -> list[Sample]:
    """Recorded samples without labels, as in the README of calibration sets.

    All rows of an ``.npz``; at ``most`` so many of the moments that ``mla-edge record`` saw.
    ConfigError names the array that is missing or has the wrong shape, or says why no moment
    can be used; RecordingError that the recording cannot be read.
    """
    if is_session(path):
        from mla_edge.recorded_moments import read_moments  # needs packages that .npz does not

        return read_moments(path, inputs, most)
    return _samples(read_arrays(path, ConfigError, _WRITE), inputs, path)


def is_session(path: Path) -> bool:
    """Whether ``path`` is what ``mla-edge record`` writes."""
    return path.suffix == ".mcap"


def part_path(path: Path, number: int) -> Path:
    """The ``number``-th file of a recording that is called ``path`` and has several."""
    return path.with_name(f"{path.stem}-part{number:04d}{path.suffix}")


def find_parts(path: Path) -> list[Path]:
    """The files of the recording called ``path`` that there are: itself, its parts in order."""
    pattern = re.compile(rf"{re.escape(path.stem)}-part\d{{4,}}{re.escape(path.suffix)}")
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    parts = sorted(
        (each for each in there if pattern.fullmatch(each.name)),
        key=lambda each: (len(each.name), each.name),
    )
    return [path, *parts] if path.exists() else parts


def read_recording(path: Path, inputs: Sequence[InputSpec], labels: Sequence[str]) -> Recording:
    """Recorded samples whose class is known: as ``read_samples``, with more arrays.

    ``labels`` [n] names each sample's class. ``units`` [n], where it is there, is the same for
    samples that belong together (a clip, a session); ``present`` [n, inputs] is 0 where a
    sample lacks a modality. ConfigError names the array that is wrong.
    """
    arrays = read_arrays(path, ConfigError, _WRITE)
    samples = _samples(arrays, inputs, path)
    count = len(samples)
    if "labels" not in arrays:
        raise ConfigError(
            f"{path}: no array 'labels'", hint="give the class of every sample, as text"
        )
    named = [str(label) for label in _column(arrays, "labels", count, path)]
    unknown = sorted(set(named) - set(labels))
    if unknown:
        raise ConfigError(
            f"{path}: {unknown[0]!r} in 'labels' is no class of the bundle",
            hint=f"its classes: {', '.join(labels)}",
        )
    units = _column(arrays, "units", count, path) if "units" in arrays else np.arange(count)
    present = arrays.get(PRESENT, np.ones((count, len(inputs))))
    if present.shape != (count, len(inputs)) or not np.isin(present, (0, 1)).all():
        raise ConfigError(
            f"{path}: {PRESENT!r} is {present.dtype} {list(present.shape)}",
            hint=f"expected [{count}, {len(inputs)}] of 0 and 1, in the order of the inputs",
        )
    names = [spec.name for spec in inputs]
    there = [
        Sample({name: s.signals[name] for name, is_there in zip(names, row) if is_there})
        for s, row in zip(samples, present)
    ]
    return Recording(tuple(there), tuple(named), units, "units" in arrays, _hash(arrays))


def _column(arrays: Mapping[str, np.ndarray], name: str, count: int, path: Path) -> np.ndarray:
    values = arrays[name]
    if values.shape != (count,):
        raise ConfigError(
            f"{path}: {name!r} is {values.dtype} {list(values.shape)}",
            hint=f"there are {count} samples: give one value for each",
        )
    return values


def _hash(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _samples(
    arrays: Mapping[str, np.ndarray], inputs: Sequence[InputSpec], path: Path
) -> list[Sample]:
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing:
        raise ConfigError(
            f"{path}: no array {missing[0]!r}",
            hint=f"it has {', '.join(sorted(arrays)) or 'none'}; one per input is needed",
        )
    rows = {spec.name: _signals(arrays, spec, path) for spec in inputs}
    lengths = {name: len(signals) for name, signals in rows.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            f"{path}: arrays of different length: {lengths}",
            hint="give every input a row for each sample",
        )
    count = min(lengths.values())
    return [Sample({name: signals[i] for name, signals in rows.items()}) for i in range(count)]


def _signals(arrays: Mapping[str, np.ndarray], spec: InputSpec, path: Path) -> list[Signal]:
    rows = arrays[spec.name]
    if spec.kind == "image":
        expected = "uint8 [n, height, width, 3]"
        fits = rows.ndim == 4 and rows.shape[3] == 3 and rows.dtype == np.uint8
    elif spec.kind == "clip":
        expected = "uint8 [n, frames, height, width] or [n, frames, height, width, 3]"
        is_rgb = rows.ndim == 5 and rows.shape[4] == 3
        fits = (is_rgb or rows.ndim == 4) and rows.dtype == np.uint8
    elif spec.kind == "audio":
        expected = "float32 [n, samples]"
        fits = rows.ndim == 2
    else:
        expected = f"float32 [n, {', '.join(map(str, spec.shape[1:]))}]"
        fits = rows.ndim > 0 and rows.shape[1:] == spec.shape[1:]
    if not fits or 0 in rows.shape or rows.dtype.kind not in _NUMBERS:
        raise ConfigError(
            f"{path}: {spec.name!r} is {rows.dtype} {list(rows.shape)}",
            hint=f"expected {expected}, none of them 0",
        )
    if spec.kind == "image":
        return [Frame(row, 0.0) for row in rows]
    if spec.kind == "clip":
        rate_hz = _rate(arrays, spec, path)
        return [Clip(row, rate_hz, 0.0) for row in rows]
    with np.errstate(over="ignore"):  # becomes infinite, which is refused by its sample
        rows = rows.astype(np.float32)
    if spec.kind == "audio":
        rate_hz = _rate(arrays, spec, path)
        return [Sound(row, rate_hz, 0.0) for row in rows]
    return [Reading(row[None], 0.0) for row in rows]


def _rate(arrays: Mapping[str, np.ndarray], spec: InputSpec, path: Path) -> int:
    name = f"{spec.name}_rate_hz"
    rate = arrays.get(name, np.array(spec.rate_hz))
    whole = rate.shape == () and rate.dtype.kind in _NUMBERS and rate == np.floor(rate)
    if not whole or not 0 < rate < np.iinfo(np.int32).max:
        shown = rate if rate.shape == () else f"{rate.dtype} {list(rate.shape)}"
        raise ConfigError(
            f"{path}: {name!r} is {shown}",
            hint="give one whole number above 0, the samples (of a clip, the frames) a second",
        )
    return int(rate)
