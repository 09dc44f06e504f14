"""The steps of an export: their announcements, and the cache of those that are finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from mla_edge._cache import cache_folder
from mla_edge.bundle import sha256_of

_DONE = "done.json"
_ENTRIES_KEPT = 200
_STALE_S = 24 * 3600


@dataclass(frozen=True)
class StepEvent:
    """A step begins, goes on (both: ``seconds`` is None) or has ended."""

    step: str
    tier: str = ""
    seconds: float | None = None
    reused: bool = False
    note: str = ""


OnStep = Callable[[StepEvent], None]


class Steps:
    """Announces each step when it begins and when it ends, and remembers how long it took."""

    def __init__(self, on_step: OnStep) -> None:
        """``on_step`` is called on this thread; what it raises ends the export."""
        self._on_step = on_step
        self.seconds: dict[str, float] = {}
        self._note = ""
        self._running = ("", "")

    @contextmanager
    def step(self, name: str, tier: str = "") -> Iterator[None]:
        """Around the work of one step."""
        self._on_step(StepEvent(name, tier))
        self._running = (name, tier)
        self._note = ""
        began = time.monotonic()
        yield
        took = time.monotonic() - began
        key = f"{name} {tier}".strip()
        self.seconds[key] = self.seconds.get(key, 0.0) + took
        self._on_step(StepEvent(name, tier, took, note=self._note))

    def progress(self, text: str) -> None:
        """Say how far the step that is running is."""
        self._on_step(StepEvent(*self._running, note=text))

    def note(self, text: str) -> None:
        """Say ``text`` with the end of the step that is running."""
        self._note = text

    def reused(self, name: str, tier: str = "") -> None:
        """A step whose result an earlier export has left."""
        self._on_step(StepEvent(name, tier))
        self._on_step(StepEvent(name, tier, 0.0, reused=True))


class StepCache:
    """Finished steps by the hash of everything that went into them.

    An entry is a folder; it appears whole or not at all, and one that was changed since does
    not count. The oldest entries go when there are more than 200.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """In ``folder``, or in the user's cache folder (``XDG_CACHE_HOME``)."""
        self._folder = folder or cache_folder("export")

    def find(self, key: str) -> Path | None:
        """The finished entry of ``key``, if there is one."""
        entry = self._folder / key
        try:
            hashes = json.loads((entry / _DONE).read_text(encoding="utf-8"))
            if any(sha256_of(entry / name) != found for name, found in hashes.items()):
                return None
            os.utime(entry)
        except (OSError, ValueError, AttributeError):
            return None
        return entry

    def store(self, key: str, make: Callable[[Path], None]) -> Path:
        """Let ``make`` fill a new folder and keep it under ``key``."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with partial_folder(self._folder, key[:12]) as partial:
            make(partial)
            hashes = {path.name: sha256_of(path) for path in partial.iterdir()}
            (partial / _DONE).write_text(json.dumps(hashes), encoding="utf-8")
            entry = self._folder / key
            if self.find(key) is None:
                shutil.rmtree(entry, ignore_errors=True)
                try:
                    os.replace(partial, entry)
                except OSError:
                    if self.find(key) is None:  # not put there by an export beside this one
                        raise
        self._forget_oldest()
        return entry

    def _forget_oldest(self) -> None:
        entries = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # an export beside this one removed it
                if not path.name.startswith("."):
                    entries.append((path.stat().st_mtime, path))
        for _, entry in sorted(entries, reverse=True)[_ENTRIES_KEPT:]:
            shutil.rmtree(entry, ignore_errors=True)


@contextmanager
def partial_folder(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder in ``parent`` to build something in; gone afterwards unless renamed.

    Also removes what a process that was killed a day ago or earlier left there.
    """
    for left in parent.glob(f".{name}.*.partial"):
        with suppress(FileNotFoundError):  # an export beside this one removed it
            if time.time() - left.stat().st_mtime > _STALE_S:
                shutil.rmtree(left, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=parent, prefix=f".{name}.", suffix=".partial"))
    try:
        os.chmod(partial, 0o755)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def hash_of(*parts: Any) -> str:
    """The sha256 of ``parts``, which are text, numbers, tuples, mappings or None."""
    return hashlib.sha256(repr(tuple(_ordered(part) for part in parts)).encode()).hexdigest()


def hash_folder(folder: Path) -> str:
    """The sha256 over the names and contents of every file under ``folder``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hash_of(*((str(path.relative_to(folder)), sha256_of(path)) for path in files))


def versions() -> dict[str, str]:
    """The installed packages that decide what an export gives."""
    found = {}
    for name in ("mla-edge", "torch", "torch-pruning", "onnx", "onnxruntime", "onnxslim"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _ordered(part: Any) -> Any:
    if isinstance(part, Mapping):
        return tuple((key, _ordered(value)) for key, value in sorted(part.items()))
    return part
