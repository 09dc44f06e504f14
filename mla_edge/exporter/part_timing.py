"""Measure latency tables on the machine that will run a bundle, through its own engines.

Needs what a board has: TensorRT and pycuda for a board's bundle, ONNX Runtime for that of
``host``; neither PyTorch nor ``onnx``. A group is measured at a time, so that no more engines
than it has widths are in memory, and what is finished is kept: a run that was interrupted goes
on where it stopped.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Protocol

import numpy as np

from mla_edge.bundle import Bundle, sha256_of, write_atomically
from mla_edge.errors import BundleError, ConfigError
from mla_edge.exporter.latency_table import Idle, LatencyTable, Rung
from mla_edge.exporter.part_archive import (
    PartArchive,
    archive_name,
    make_feed,
    read_archive,
    unpack,
)
from mla_edge.exporter.runs import judge_widths, machine, open_engines, time_in_turns
from mla_edge.exporter.steps import OnStep, StepEvent, Steps, hash_of
from mla_edge.exporter.table_file import TableFile, write_tables
from mla_edge.profiles import load_profile_of

if TYPE_CHECKING:
    from mla_edge.engines import Engine


@dataclass(frozen=True)
class TableRequest:
    """Which bundle's parts to time, and where the tables go."""

    bundle: Path
    table: Path
    workspace_mb: int | None = None
    optimisation_level: int | None = None
    again: bool = False  # also what an interrupted run has measured
    root: Path = Path("/")


@dataclass(frozen=True)
class TableResult:
    """The tables that were written."""

    path: Path
    file: TableFile
    seconds: float


class Place(Protocol):
    """What runs graphs here."""

    title: str
    measured_on: str
    threads: int

    def time(
        self, archive: PartArchive, graphs: list[Path], described: Mapping[str, Any]
    ) -> list[np.ndarray]:
        """Milliseconds of each graph, [sessions], in turns; files beside them may be left."""
        ...


def _silent(event: StepEvent) -> None:
    """Nobody listens."""


def measure(request: TableRequest, on_step: OnStep = _silent) -> TableResult:
    """Time every part in the bundle on this machine, and write the tables.

    BundleError: the bundle has no parts, or is for another machine. ExportError: TensorRT
    refuses a part. MissingDependency, InferenceError: there is no GPU. ConfigError: the table
    cannot be written there.
    """
    began = time.monotonic()
    steps = Steps(on_step)
    with _recognise(request, steps) as (bundle, archives, place):
        finished = _Finished(request, bundle, archives, place)
        tables = {
            tier: _measure_tier(bundle, archive, place, finished, steps)
            for tier, archive in archives.items()
        }
        inputs = {tier: archive.inputs for tier, archive in archives.items()}
        file = TableFile(bundle.network, bundle.profile, tables, inputs)
        with _writable(request.table):
            write_tables(request.table, file)
        finished.forget()
    return TableResult(request.table, file, time.monotonic() - began)


def describe(request: TableRequest, on_step: OnStep = _silent) -> dict[str, Any]:
    """What ``measure`` would do; everything is read and checked, nothing is written."""
    with _recognise(request, Steps(on_step)) as (bundle, archives, place):
        rows = archives.items()
        return {
            "dry_run": True,
            "bundle": str(bundle.folder),
            "table": str(request.table),
            "with": place.title,
            "measured_on": place.measured_on,
            "steps": [f"{tier}: time {archive.count} graphs" for tier, archive in rows],
        }


@contextmanager
def _recognise(
    request: TableRequest, steps: Steps
) -> Iterator[tuple[Bundle, dict[str, PartArchive], Place]]:
    """The bundle, its parts by tier, and what runs them here, until the end of the block."""
    _check_place(request)
    bundle = Bundle.read(request.bundle)
    profile = load_profile_of(bundle)
    archives = _archives(bundle)
    if profile.tensorrt is None:
        bundle.check_hashes()
        yield bundle, archives, _OnnxRuntime()
        return
    from mla_edge.exporter.part_engines import open_tensorrt

    with open_tensorrt(request, steps) as place:
        yield bundle, archives, place


def _archives(bundle: Bundle) -> dict[str, PartArchive]:
    names = {tier.name: archive_name(tier.name) for tier in bundle.tiers}
    archives = {
        tier: read_archive(bundle.folder / name)
        for tier, name in names.items()
        if name in bundle.files
    }
    if not archives:
        raise BundleError(
            f"{bundle.folder}: has no parts to time",
            hint=f"mla-edge export --profile {bundle.profile} --latency-parts",
        )
    return archives


def _check_place(request: TableRequest) -> None:
    table, bundle = request.table.resolve(), request.bundle.resolve()
    if table.is_dir() or not table.parent.is_dir():
        what = "is a folder" if table.is_dir() else "there is no such folder"
        raise ConfigError(f"--latency-table {request.table}: {what}", hint="name a new file")
    if bundle in table.parents:
        raise ConfigError(
            f"--latency-table {request.table}: is inside of the bundle, whose files are listed",
            hint="name a file somewhere else",
        )


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--latency-table: {path} cannot be written: {error.strerror}",
            hint="name a file in a folder with room that this user may write to",
        ) from error


def _measure_tier(
    bundle: Bundle, archive: PartArchive, place: Place, finished: _Finished, steps: Steps
) -> LatencyTable:
    """Whole graphs first, then group by group."""
    path = bundle.folder / archive_name(archive.tier)
    wholes = {str(number): whole.file for number, whole in enumerate(archive.wholes)}
    files = {"": wholes}
    files.update({
        group: {str(width): name for width, name in row.items()}
        for group, row in archive.parts.items()
    })  # fmt: skip
    rows: dict[str, dict[int, float]] = {}
    idle: list[Idle] = []
    with steps.step("latency_table", archive.tier):
        for number, (group, named) in enumerate(files.items()):
            steps.progress(f"{number} of {len(files)}, {group or 'whole graphs'}")
            found = finished.find(archive.tier, group)
            if found is None:
                with tempfile.TemporaryDirectory() as folder:
                    graphs = unpack(path, named.values(), Path(folder))
                    taken = place.time(archive, graphs, archive.feeds[group])
                found = {name: list(ms) for name, ms in zip(named, taken)}
                finished.keep(archive.tier, group, found)
            if group:
                times = {int(width): np.array(ms) for width, ms in found.items()}
                rows[group], slow = judge_widths(group, times)
                idle += slow
            else:
                whole_ms = [float(np.median(found[name])) for name in wholes]
        steps.note(f"{whole_ms[0]:.2f} ms, {len(rows)} groups, {place.measured_on}")
    return LatencyTable(
        tier=archive.tier,
        precision=archive.precision,
        measured_on=place.measured_on,
        threads=place.threads,
        whole_ms=whole_ms[0],
        rows=rows,
        left_out=archive.left_out,
        idle=tuple(idle),
        ladder=tuple(
            Rung(whole.widths, ms) for whole, ms in zip(archive.wholes[1:], whole_ms[1:])
        ),
    )


class _Finished:
    """What was measured so far, in a file beside the table until that is whole."""

    def __init__(
        self,
        request: TableRequest,
        bundle: Bundle,
        archives: Mapping[str, PartArchive],
        place: Place,
    ) -> None:
        self._path = request.table.with_name(f"{request.table.name}.partial")
        self._key = hash_of(
            [sha256_of(bundle.folder / archive_name(tier)) for tier in archives],
            place.measured_on,
            request.workspace_mb,
            request.optimisation_level,
        )
        self._rows = {} if request.again else self._read()
        self._write()  # where that cannot be, say so before an hour of measuring

    def find(self, tier: str, group: str) -> dict[str, list[float]] | None:
        """What was measured of ``group``."""
        return self._rows.get(f"{tier} {group}")

    def keep(self, tier: str, group: str, row: dict[str, list[float]]) -> None:
        """Write it down."""
        self._rows[f"{tier} {group}"] = row
        self._write()

    def forget(self) -> None:
        """The table is whole."""
        self._path.unlink()

    def _read(self) -> dict[str, dict[str, list[float]]]:
        """Nothing where it is of something else: then everything is measured."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return dict(found["rows"]) if found["key"] == self._key else {}
        except (OSError, ValueError, LookupError, TypeError):
            return {}

    def _write(self) -> None:
        with _writable(self._path):
            text = json.dumps({"key": self._key, "rows": self._rows})
            write_atomically(self._path, text.encode())


class _OnnxRuntime:
    """One thread of this machine's processor, as an export measures its own tables."""

    title = "ONNX Runtime"
    threads = 1

    def __init__(self) -> None:
        self.measured_on = machine()

    def time(
        self, archive: PartArchive, graphs: list[Path], described: Mapping[str, Any]
    ) -> list[np.ndarray]:
        named = {path.name: path for path in graphs}

        def feed_all(engines: Mapping[str, Engine]) -> dict[str, Any]:
            return {name: make_feed(described, e.inputs) for name, e in engines.items()}

        taken = time_in_turns(
            lambda: open_engines(named, threads=1), feed_all, time.thread_time
        )
        return [taken[path.name] for path in graphs]
