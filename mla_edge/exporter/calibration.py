"""The samples an export works with: what sets the ranges, chooses the routing, and measures."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Mapping, Sequence

import numpy as np

from mla_edge._content import find
from mla_edge._toml import Table
from mla_edge.errors import ConfigError, InferenceError
from mla_edge.exporter.sampling import draw_samples
from mla_edge.preprocess import Preprocessor
from mla_edge.recordings import find_parts, is_session, read_samples
from mla_edge.signals import PRESENT, InputSpec, Reading, Sample, Signal, Tensors

if TYPE_CHECKING:
    from mla_edge.networks.network import Network

FILES = (".npz", ".mcap")
"""Endings of what holds recorded samples."""

SPLITS = ("calibrate", "tune", "test")
FEWEST = 32
"""With fewer calibration samples the ranges are those of the samples, not of the data."""

_ALL_MODES_UP_TO = 4  # inputs; with more, 2^n modes would each be left with few samples


@dataclass(frozen=True)
class CalibrationSpec:
    """Where samples come from, and how many of each split."""

    name: str
    source: str = "network"
    path: Path | None = None
    seed: int = 0
    calibrate: int = 256
    tune: int = 1000
    test: int = 600


@dataclass(frozen=True)
class Example:
    """One sample as the engines see it, and what each signal that is there shows."""

    tensors: Tensors
    truths: Mapping[str, str | None]


@dataclass(frozen=True)
class CalibrationSet:
    """The three splits, preprocessed as the runtime does it, and the sha256 over all of it."""

    spec: CalibrationSpec
    calibrate: tuple[Example, ...]
    tune: tuple[Example, ...]
    test: tuple[Example, ...]
    sha256: str


def load_calibration_spec(name: str) -> CalibrationSpec:
    """The set called ``name``, the one at a ``.toml`` path, or the samples of a file.

    That is an ``.npz``, or an ``.mcap`` of ``mla-edge record``.
    """
    if name.endswith(FILES):
        return CalibrationSpec(Path(name).stem, source="file", path=_existing(Path(name)))
    path = find("calibration", name)
    table = Table.read(path)
    source = table.take("source", str)
    if source == "random":
        raise ConfigError(
            f"{path}: source 'random' is refused: ranges of noise are not ranges of your data",
            hint='use source = "network", or "file" with recorded samples',
        )
    if source not in ("network", "file"):
        raise ConfigError(
            f"{path}: source {source!r} is not known", hint="use 'network' or 'file'"
        )
    file = table.take("path", str) if source == "file" else None
    counts = {
        split: table.take(split, int, getattr(CalibrationSpec, split)) for split in SPLITS
    }
    spec = CalibrationSpec(
        name=path.stem,
        source=source,
        path=_existing(path.parent / file) if file is not None else None,
        seed=table.take("seed", int, 0),
        **counts,
    )
    table.close()
    for split in SPLITS:
        if counts[split] < FEWEST:
            raise ConfigError(
                f"{path}: {split} = {counts[split]}, at least {FEWEST} samples are needed",
                hint=f"raise {split}",
            )
    if spec.seed < 0:
        raise ConfigError(f"{path}: seed = {spec.seed}", hint="a seed is 0 or more")
    return spec


def load_calibration(spec: CalibrationSpec, network: Network) -> CalibrationSet:
    """Draw and preprocess the samples of ``spec`` for ``network``.

    ConfigError names the split that is too small, carries no truth, or holds no other samples
    than another split: a gate on those would prove nothing.
    """
    digest = hashlib.sha256(repr(network.inputs).encode())
    splits: dict[str, tuple[Example, ...]] = {}
    hashes: dict[str, set[bytes]] = {}
    for split in SPLITS:
        if split == "calibrate" and spec.path is not None:
            samples = _read_file(spec.path, network.inputs, spec.calibrate)
        else:
            samples = draw_samples(network, split, getattr(spec, split), spec.seed)
        examples = to_examples(samples, network.inputs)
        if split != "calibrate" and not any(set(e.truths.values()) - {None} for e in examples):
            raise ConfigError(
                f"the network's {split!r} samples carry no truth",
                hint="set truth=label on the signals that samples(split, count, seed) gives",
            )
        for example in examples:
            _update(digest, example)
        splits[split] = tuple(examples)
        hashes[split] = {_hash(example) for example in examples}
    _check_labelled(splits["test"], network)
    _check_apart(hashes)
    return CalibrationSet(spec=spec, sha256=digest.hexdigest(), **splits)


def to_examples(samples: Iterable[Sample], inputs: Sequence[InputSpec]) -> list[Example]:
    """Each sample through the runtime's preprocessing, copied out of its buffers."""
    preprocess = Preprocessor(inputs)
    examples = []
    for number, sample in enumerate(samples):
        try:
            tensors = {name: np.array(value) for name, value in preprocess(sample).items()}
        except InferenceError as error:
            raise ConfigError(
                f"sample {number}: {error}", hint="leave that sample out"
            ) from error
        truths = {name: signal.truth for name, signal in sample.signals.items()}
        examples.append(Example(tensors, truths))
    return examples


def modes(inputs: Sequence[InputSpec]) -> list[tuple[str, ...]]:
    """The sets of modalities a network is measured in, all of them first, each in input order.

    Every non-empty set for up to four inputs; for more, all, all but one, and each alone.
    """
    names = [spec.name for spec in inputs]
    sizes = range(len(names), 0, -1)
    if len(names) > _ALL_MODES_UP_TO:
        sizes = [len(names), len(names) - 1, 1]  # type: ignore[assignment]
    return [mode for size in sizes for mode in itertools.combinations(names, size)]


def in_mode(
    examples: Sequence[Example], inputs: Sequence[InputSpec], mode: Sequence[str]
) -> list[Example]:
    """The examples that have every modality of ``mode``, as if they had no other."""
    present = np.array([[float(spec.name in mode) for spec in inputs]], np.float32)
    missing = {
        spec.name: np.zeros(spec.shape, np.float32) for spec in inputs if spec.name not in mode
    }
    chosen = []
    for example in examples:
        if set(mode) <= set(example.truths):
            tensors = {**example.tensors, **missing}
            if PRESENT in tensors:
                tensors[PRESENT] = present
            chosen.append(Example(tensors, {name: example.truths[name] for name in mode}))
    return chosen


def over_modes(examples: Sequence[Example], inputs: Sequence[InputSpec]) -> list[Example]:
    """The examples spread evenly over the modes, one mode after the other."""
    turns = modes(inputs)
    spread = []
    for index, example in enumerate(examples):
        spread += in_mode([example], inputs, turns[index % len(turns)]) or [example]
    return spread


def label_of(example: Example, labels: Sequence[str]) -> int | None:
    """The index of the class that the example shows; None where that is not known."""
    nothing = np.zeros(0)
    signals: dict[str, Signal] = {
        name: Reading(nothing, 0.0, truth) for name, truth in example.truths.items()
    }
    truth = Sample(signals).truth
    if truth is None:
        return None
    if truth not in labels:
        raise ConfigError(
            f"a sample's truth is {truth!r}, which is no label of the network",
            hint=f"labels: {', '.join(labels)}",
        )
    return list(labels).index(truth)


def labelled(
    examples: Sequence[Example], labels: Sequence[str]
) -> tuple[list[Tensors], np.ndarray]:
    """Tensors and class indices of the examples whose class is known."""
    pairs = [(example.tensors, label_of(example, labels)) for example in examples]
    known = [(tensors, index) for tensors, index in pairs if index is not None]
    return [tensors for tensors, _ in known], np.array([index for _, index in known], np.int64)


def _check_labelled(test: Sequence[Example], network: Network) -> None:
    """ConfigError unless the gate has enough samples, and not one of them over and over."""
    spread = over_modes(test, network.inputs)
    known = {_hash(e) for e in spread if label_of(e, network.labels) is not None}
    if len(known) < FEWEST:
        raise ConfigError(
            f"the network's 'test' samples have {len(known)} different ones with a label; the "
            f"gate needs at least {FEWEST}",
            hint="set truth=label on more of them, and let no two be the same",
        )


def _check_apart(hashes: Mapping[str, set[bytes]]) -> None:
    """ConfigError if all samples of one split are samples of another."""
    for one, other in itertools.combinations(hashes, 2):
        if hashes[one] <= hashes[other] or hashes[other] <= hashes[one]:
            raise ConfigError(
                f"the {one!r} and {other!r} samples are the same",
                hint="samples(split, count, seed) must give others for each split: seed with "
                "[seed, *split.encode()], or read another folder for each",
            )


def _existing(path: Path) -> Path:
    if not path.is_file() and not (is_session(path) and find_parts(path)):
        raise ConfigError(
            f"{path}: no such file", hint="give an .npz or .mcap with recorded samples"
        )
    return path


def _read_file(path: Path, inputs: Sequence[InputSpec], most: int) -> list[Sample]:
    samples = read_samples(path, inputs, most)
    if is_session(path) and len(samples) < FEWEST:
        raise ConfigError(
            f"{path}: holds {len(samples)} moments in which all inputs were there; at least "
            f"{FEWEST} are needed",
            hint="record for longer",
        )
    return samples


def _hash(example: Example) -> bytes:
    digest = hashlib.blake2b()
    _update(digest, example)
    return digest.digest()


def _update(digest: Any, example: Example) -> None:
    for name, value in sorted(example.tensors.items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    digest.update(repr(sorted(example.truths.items())).encode())
