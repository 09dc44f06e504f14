"""Put a finished bundle in its place, and say clearly when the disk does not let us."""

from __future__ import annotations

import ctypes
import errno
import math
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from mla_edge.bundle import MANIFEST, Bundle
from mla_edge.errors import BundleError, ConfigError, ExportError

if TYPE_CHECKING:
    from mla_edge.networks import Network

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2)
UNREADABLE = "unreadable"
"""In place of the date of a bundle that is damaged."""


@contextmanager
def disk_errors(out: Path, data: Path | None = None) -> Iterator[None]:
    """Around everything that writes: a full or closed disk becomes an error of ours.

    So does a file under ``data`` that cannot be read.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, (ConfigError, ExportError)):
            raise
        where = error.filename or out
        if data is not None and _is_under(data, where):
            raise ConfigError(
                f"{where}: cannot be read: {error.strerror}",
                hint="change its permissions, or leave it out of --data",
            ) from error
        if error.errno in _FULL:
            raise ExportError(
                f"{where}: {error.strerror}; nothing was published",
                hint="free some space, or choose another --out (and XDG_CACHE_HOME)",
            ) from error
        if error.errno in _FORBIDDEN:
            raise ConfigError(
                f"{where}: cannot be written: {error.strerror}",
                hint="choose another folder with --out (and XDG_CACHE_HOME for finished steps)",
            ) from error
        raise


@contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Make ``out``, and remove it again if nothing came to be in it."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for folder in missing:
            with suppress(OSError):  # not empty: something was published
                folder.rmdir()


def room_mb(network: Network) -> float:
    """About what the graphs, the cache of the steps and the golden samples take, in MB."""
    values = sum(
        tensor.numel()
        for part in network.learners
        for tensor in part.module.state_dict().values()
    )
    return 16.0 + float(values) * 4 * 3 / 1e6


def check_room(folder: Path, needed_mb: float) -> None:
    """ExportError unless the disk of ``folder`` has ``needed_mb`` left."""
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb < needed_mb:
        raise ExportError(
            f"{folder}: {free_mb:.0f} MB are free, the export needs about {needed_mb:.0f} MB",
            hint="free some space, or choose another folder",
        )


def check_target(target: Path) -> None:
    """ConfigError if something that is no bundle is where the bundle is to be."""
    if not target.exists():
        return
    foreign = not target.is_dir() or (
        not (target / MANIFEST).is_file() and any(target.iterdir())
    )
    if foreign:
        raise ConfigError(
            f"{target} exists and is not a bundle; it is left alone",
            hint="move it away, or choose another --out",
        )


def check_max_drop(max_drop: float) -> None:
    """ConfigError unless ``max_drop`` is a number of points that a gate can hold."""
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise ConfigError(
            f"--max-drop {max_drop:g} is no number of points",
            hint="give a number of 0 or more; 100 lets every graph pass",
        )


def find_equal(target: Path, inputs_sha256: str) -> Bundle | None:
    """The bundle at ``target`` if it is whole and was made from equal inputs."""
    try:
        bundle = Bundle.read(target)
        bundle.check_hashes()
    except BundleError:
        return None
    return bundle if bundle.provenance.get("inputs_sha256") == inputs_sha256 else None


def publish(finished: Path, target: Path, *, keep: bool) -> Path | None:
    """Rename ``finished`` to ``target``; returns where the old bundle went, if it was kept.

    A bundle that was there is exchanged in one rename, so that a reader finds the old one or
    the new one, whole, at every moment. With ``keep`` it stays beside it under a dated name.
    """
    try:
        os.rename(finished, target)  # succeeds where nothing, or an empty folder, is
        return None
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not keep:
        _exchange(finished, target)
        return None
    kept = _dated(target)
    new = finished.stat().st_ino
    try:
        # Under its lasting name before the exchange: the folder of ``finished`` is removed at
        # the end, and an interrupt may come before the old bundle is out of it.
        os.rename(finished, kept)
        _exchange(kept, target)
    except BaseException:
        if kept.exists() and kept.stat().st_ino == new:  # it was not exchanged
            os.rename(kept, finished)
        raise
    return kept


def created_at(target: Path) -> str | None:
    """When the bundle at ``target`` was made; None where there is none."""
    if not (target / MANIFEST).is_file():
        return None
    try:
        return Bundle.read(target).created
    except BundleError:
        return UNREADABLE


def _is_under(folder: Path, where: object) -> bool:
    if not isinstance(where, (str, os.PathLike)):
        return False
    whole = Path(os.path.abspath(os.fspath(where)))
    parent = Path(os.path.abspath(folder))
    return whole == parent or parent in whole.parents


def _dated(target: Path) -> Path:
    created = created_at(target) or UNREADABLE
    name = f"{target.name}-{created.replace(':', '').replace('+0000', 'Z')}"
    free = target.with_name(name)
    copy = 2
    while free.exists():
        free = target.with_name(f"{name}-{copy}")
        copy += 1
    return free


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step where the system can, in two otherwise."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    if rename and rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return
    # A name that a later export removes, should this process be killed in between.
    aside = other.with_name(f".{other.name}.{os.getpid()}.partial")
    try:
        os.rename(other, aside)
        os.rename(one, other)
        os.rename(aside, one)
    except BaseException:
        if aside.exists():
            os.rename(aside, one if other.exists() else other)
        raise
