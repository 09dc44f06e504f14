"""The parts of a tier at each width, in one file of the bundle: what a board times.

The export writes it. Reading it needs no ``onnx``: a board has none.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterable, Mapping

import numpy as np

from mla_edge.errors import BundleError
from mla_edge.signals import Tensors, TensorSpec

FORMAT = 1
INDEX = "index.json"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # equal parts give equal bytes


@dataclass(frozen=True)
class Whole:
    """The file of a whole graph of the tier, and the widths that are smaller in it."""

    file: str
    widths: Mapping[str, int]


@dataclass(frozen=True)
class PartArchive:
    """What is in the file, and how an engine is built of it.

    Feeds say by input its shape, and either ``low`` and ``high``, between which its values lie,
    or the ``values`` themselves where they are no floating-point numbers (they may be indices).
    """

    network: str
    profile: str
    tier: str
    precision: str  # int8, fp16 or fp32
    carries_types: bool  # the graphs are in FP16 where they are to run in FP16
    float_layers: tuple[str, ...]  # nodes that stay FP32
    inputs: Mapping[str, tuple[int, ...]]  # shapes of the tier's inputs
    left_out: tuple[str, ...]  # groups that cannot be timed
    wholes: tuple[Whole, ...]  # the first one with nothing pruned
    parts: Mapping[str, Mapping[int, str]]  # file by group and width
    feeds: Mapping[str, Mapping[str, Any]]  # by group; those of whole graphs under ""

    @property
    def count(self) -> int:
        """How many graphs there are to time."""
        return len(self.wholes) + sum(len(row) for row in self.parts.values())


def archive_name(tier: str) -> str:
    """Where in a bundle the file of ``tier`` is."""
    return f"latency/{tier}.parts.zip"


def describe_feed(values: Tensors) -> dict[str, Any]:
    """What `make_feed` needs to give something like ``values``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found[name] = {"shape": list(value.shape)}
        if value.dtype.kind == "f":
            found[name].update(low=float(value.min()), high=float(value.max()))
        else:
            found[name]["values"] = value.ravel().tolist()
    return found


def make_feed(described: Mapping[str, Any], inputs: Iterable[TensorSpec]) -> Tensors:
    """Inputs for an engine that takes ``inputs``; the same every time."""
    random = np.random.default_rng(0)
    feed = {}
    for spec in inputs:
        known = described[spec.name]
        if "values" in known:
            value = np.array(known["values"])
        else:
            value = random.uniform(known["low"], known["high"], int(np.prod(known["shape"])))
        feed[spec.name] = value.reshape(known["shape"]).astype(spec.dtype)
    return feed


def write_archive(path: Path, archive: PartArchive, folder: Path) -> None:
    """Write ``archive`` to ``path``, with its files from ``folder``."""
    index = {"format": FORMAT, **asdict(archive)}
    names = [whole.file for whole in archive.wholes]
    names += [name for row in archive.parts.values() for name in row.values()]
    with zipfile.ZipFile(path, "w") as packed:
        for name in [INDEX, *names]:
            data = json.dumps(index).encode() if name == INDEX else (folder / name).read_bytes()
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(entry, data)


def read_archive(path: Path) -> PartArchive:
    """What is in the file at ``path``; BundleError if it is damaged or of another version."""
    try:
        with zipfile.ZipFile(path) as packed:
            found = json.loads(packed.read(INDEX))
        if found.pop("format") != FORMAT:
            raise ValueError("it was written by another version of mla-edge")
        found["wholes"] = tuple(Whole(**whole) for whole in found["wholes"])
        found["inputs"] = {name: tuple(shape) for name, shape in found["inputs"].items()}
        for name in ("float_layers", "left_out"):
            found[name] = tuple(found[name])
        found["parts"] = {
            group: {int(width): name for width, name in row.items()}
            for group, row in found["parts"].items()
        }
        return PartArchive(**found)
    except (OSError, zipfile.BadZipFile, zlib.error, LookupError, ValueError, TypeError,
            AttributeError) as error:  # fmt: skip
        raise _unreadable(path, error) from error


def unpack(path: Path, names: Iterable[str], folder: Path) -> list[Path]:
    """Files of the archive at ``path`` in ``folder``, numbered."""
    paths = []
    try:
        with zipfile.ZipFile(path) as packed:
            for number, name in enumerate(names):
                paths.append(folder / f"{number}.onnx")  # never a name out of the archive
                paths[-1].write_bytes(packed.read(name))
    except (zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise _unreadable(path, error) from error
    return paths


def _unreadable(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path}: cannot be read: {error}",
        hint="export the bundle again, with --latency-parts",
    )
