"""A folder of a user's own examples: ``labels.csv``, and a folder of files for each input.

``labels.csv`` has the columns ``id``, ``label`` and, if wanted, ``group``. The files of a row
are ``<input>/<id>.wav`` for sound and ``<input>/<id>.png``, ``.jpg`` or ``.jpeg`` for a
picture; for ``digits`` the inputs are called ``image`` and ``audio``. A file that is not there
is a modality that was not there.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Mapping, NoReturn, Sequence

import numpy as np

from mla_edge.bundle import sha256_of
from mla_edge.errors import CaptureError, ConfigError, InferenceError
from mla_edge.pictures import unpack
from mla_edge.preprocess import Preprocessor, resample
from mla_edge.recordings import Recording
from mla_edge.signals import Frame, InputSpec, Sample, Signal, Sound
from mla_edge.wav import WavFile

TABLE = "labels.csv"
SUFFIXES = {"image": (".png", ".jpg", ".jpeg"), "audio": (".wav",)}
_COLUMNS = ("id", "label", "group")


@dataclass(frozen=True)
class Row:
    """One example: what was there, as the network sees it, and what it shows."""

    line: int  # of the table
    name: str
    label: str
    group: str  # who, or when; empty where the table has no such column
    sample: Sample


@dataclass(frozen=True)
class LabelledFolder:
    """The rows of a folder, the files that no row names, and the sha256 over all of it."""

    rows: tuple[Row, ...]
    unnamed: tuple[str, ...]
    sha256: str


def read_folder(
    folder: Path, inputs: Sequence[InputSpec], labels: Sequence[str], *, fewest: int = 1
) -> LabelledFolder:
    """Read and check every row of ``folder`` for a network of ``inputs`` and ``labels``.

    Pictures are cropped and resized, and sounds resampled, as the runtime does it; of a sound
    that is longer than the input the loudest stretch is taken. ConfigError names the row that
    is wrong, or the class that has less than ``fewest``.
    """
    specs = [spec for spec in inputs if spec.kind in SUFFIXES]
    if not specs:
        raise ConfigError(
            f"none of the network's inputs is a picture or a sound: "
            f"{', '.join(f'{s.name} ({s.kind})' for s in inputs)}",
            hint="train it by its own training, and certify it on a recording (.npz)",
        )
    table = folder / TABLE
    digest = hashlib.sha256(_hash(table))
    rows: list[Row] = []
    lines: dict[str, int] = {}
    used: set[Path] = set()
    for line, name, label, group in _read_table(table):
        here = f"{table}, row {line}"
        if name in lines:
            _refuse(
                f"{here}: the id {name!r} is that of row {lines[name]} too",
                "give each row an id, and its files that name",
            )
        lines[name] = line
        if label not in labels:
            near = difflib.get_close_matches(label, labels, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            _refuse(
                f"{here}: {label!r} is no label of the network",
                f"{meant}its labels: {', '.join(labels)}",
            )
        files = _files_of(folder, specs, name, here)
        for path in files.values():
            used.add(path)
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}".encode())
        signals = {spec.name: _read(spec, files[spec.name], label, here)
                   for spec in specs if spec.name in files}  # fmt: skip
        rows.append(Row(line, name, label, group, Sample(signals)))
    _check_counts(table, rows, fewest)
    unnamed = tuple(
        path.relative_to(folder).as_posix()
        for spec in specs
        for path in sorted((folder / spec.name).glob("*"))
        if path.is_file() and path not in used
    )
    return LabelledFolder(tuple(rows), unnamed, digest.hexdigest())


def to_recording(folder: LabelledFolder) -> Recording:
    """The rows as moments whose class is known; those of a group are one unit."""
    groups = [row.group for row in folder.rows]
    told = any(groups)
    units = np.unique(groups, return_inverse=True)[1] if told else np.arange(len(groups))
    return Recording(
        tuple(row.sample for row in folder.rows),
        tuple(row.label for row in folder.rows),
        units,
        told,
        folder.sha256,
    )


def split_rows(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """What to learn from, and about ``share`` of the rows to measure with.

    With more than one group whole groups are held out, otherwise the same share of each class,
    at least one example. ConfigError where a class would be left with nothing to learn from.
    """
    rng = np.random.default_rng(seed)
    groups = sorted({row.group for row in rows})
    held: set[int] = set()
    if len(groups) > 1:
        order = [groups[i] for i in rng.permutation(len(groups))]
        for group in order[:-1]:
            more = held | {row.line for row in rows if row.group == group}
            if held and len(held) + len(more) >= 2 * share * len(rows):  # farther than without
                break
            held = more
    else:
        for label in sorted({row.label for row in rows}):
            lines = [row.line for row in rows if row.label == label]
            count = min(max(1, round(share * len(lines))), len(lines) - 1)
            held |= set(rng.permutation(lines)[:count].tolist())
    learned = [row for row in rows if row.line not in held]
    kept = [row for row in rows if row.line in held]
    lost = sorted({row.label for row in kept} - {row.label for row in learned})
    if lost:
        raise ConfigError(
            f"the class {lost[0]!r} is only in the groups that are held out: "
            f"{', '.join(sorted({row.group for row in kept}))}",
            hint="give examples of it in another group as well, hold out less "
            "(--held-out-share), or draw other groups (--seed)",
        )
    return learned, kept


def _read_table(table: Path) -> Iterator[tuple[int, str, str, str]]:
    """The line, id, label and group of each row; the first line of the file is line 1."""
    if not table.is_file():
        raise ConfigError(
            f"{table}: no such file",
            hint="a folder of examples holds labels.csv, with the columns id and label, and "
            "the files in image/ and audio/ (see docs/how-to/adapt.md)",
        )
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.DictReader(file, strict=True)
            columns = list(lines.fieldnames or [])
            wrong = [column for column in columns if column not in _COLUMNS]
            missing = [column for column in _COLUMNS[:2] if column not in columns]
            if missing or wrong or len(set(columns)) != len(columns):
                what = f"has no column {missing[0]!r}" if missing else f"has {columns}"
                _refuse(
                    f"{table}: {what}", "its first row is id,label or id,label,group, by comma"
                )
            for row in lines:
                yield _check_row(table, lines.line_num, row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"{table}: is no table of values and commas in UTF-8: {error}",
            hint="save it as CSV, UTF-8",
        ) from error


def _check_row(
    table: Path, line: int, row: Mapping[str | None, str | None]
) -> tuple[int, str, str, str]:
    here = f"{table}, row {line}"
    if None in row or None in row.values():
        _refuse(f"{here}: has another number of values than the first row", "mend that row")
    name, label, group = ((row.get(column) or "").strip() for column in _COLUMNS)
    for column, value in (("id", name), ("label", label)):
        if not value:
            _refuse(f"{here}: its {column} is empty", "fill it in, or remove the row")
    if name in (".", "..") or set(name) & set("/\\\0"):
        _refuse(f"{here}: the id {name!r} is no name of a file", "leave folders out of it")
    return line, name, label, group


def _files_of(
    folder: Path, specs: Sequence[InputSpec], name: str, here: str
) -> dict[str, Path]:
    """The file of each input that has one."""
    files = {}
    looked = []
    for spec in specs:
        paths = [folder / spec.name / f"{name}{suffix}" for suffix in SUFFIXES[spec.kind]]
        there = [path for path in paths if path.is_file()]
        if len(there) > 1:
            _refuse(
                f"{here}: {name!r} has two files: {', '.join(path.name for path in there)}",
                "keep one of them",
            )
        looked += [path.relative_to(folder).as_posix() for path in paths]
        if there:
            files[spec.name] = there[0]
    if not files:
        _refuse(
            f"{here}: {name!r} has no file: there is no {', '.join(looked)}",
            "put one of them there, or remove the row",
        )
    return files


def _read(spec: InputSpec, path: Path, label: str, here: str) -> Signal:
    """The signal of a file in the network's size or rate."""
    try:
        return (
            _picture(spec, path, label) if spec.kind == "image" else _sound(spec, path, label)
        )
    except (CaptureError, InferenceError, ValueError, OSError) as error:
        hint = getattr(error, "hint", "") or "put a whole file in its place, or remove the row"
        raise ConfigError(f"{here}: {path}: {error}", hint=hint) from error


def _picture(spec: InputSpec, path: Path, label: str) -> Frame:
    taken = Frame(unpack(path.read_bytes()), 0.0, label)
    tensor = Preprocessor([spec])(Sample({spec.name: taken}))[spec.name]
    return Frame(tensor[0].transpose(1, 2, 0).astype(np.uint8), 0.0, label)


def _sound(spec: InputSpec, path: Path, label: str) -> Sound:
    file = WavFile(path)
    try:
        heard = file.samples(0, file.format.frames)
    finally:
        file.close()
    rate_hz = int(spec.rate_hz or file.format.rate_hz)
    if not np.isfinite(heard).all():
        raise ValueError("has values that are not finite (NaN or infinite)")
    samples = _loudest(resample(heard, file.format.rate_hz, rate_hz), spec.shape[-1])
    return Sound(samples, rate_hz, 0.0, label)


def _loudest(samples: np.ndarray, window: int) -> np.ndarray:
    """The ``window`` samples with the most energy, or all where there are no more."""
    if len(samples) <= window:
        return samples
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    start = int((energy[window:] - energy[:-window]).argmax())
    return samples[start : start + window]


def _check_counts(table: Path, rows: Sequence[Row], fewest: int) -> None:
    if not rows:
        _refuse(f"{table}: has no rows", "one row an example")
    for label, count in sorted(Counter(row.label for row in rows).items()):
        if count < fewest:
            _refuse(
                f"{table}: the class {label!r} has {count} example, {fewest} are the least",
                "one to learn from and one to measure with: add some, or leave the class out",
            )


def _hash(table: Path) -> bytes:
    return table.read_bytes() if table.is_file() else b""


def _refuse(problem: str, fix: str) -> NoReturn:
    raise ConfigError(problem, hint=fix)
