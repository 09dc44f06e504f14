"""The files of a recording: their names, when the next one begins, how much they may take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from mla_edge.errors import ConfigError
from mla_edge.recording_format import Session
from mla_edge.recordings import find_parts, part_path
from mla_edge.runtime.recording_writer import RecordingWriter

MB = 10**6


@dataclass(frozen=True)
class Room:
    """How much a recording may take; None is no limit."""

    max_mb: float | None = None  # all files together
    rotate_mb: float | None = None  # a new file after so much
    keep_parts: int | None = None  # so many files, the newest

    def check(self) -> None:
        """ConfigError where the limits do not fit together."""
        limits = {"--max-mb": self.max_mb, "--rotate-mb": self.rotate_mb}
        for name, value in {**limits, "--keep-parts": self.keep_parts}.items():
            if value is not None and not 1 <= value < math.inf:
                raise ConfigError(f"{name} is {value}", hint="give at least 1")
        if self.rotate_mb is None and self.keep_parts is not None:
            raise ConfigError(
                "--keep-parts is of files that follow one another, and there is one only",
                hint="say with --rotate-mb when the next one begins",
            )
        if self.max_mb and self.rotate_mb and 2 * self.rotate_mb > self.max_mb:
            raise ConfigError(
                f"--max-mb {self.max_mb:g} has no room for two files of --rotate-mb "
                f"{self.rotate_mb:g}",
                hint="give at least twice as much, or smaller files",
            )


class RecordingParts:
    """The file that is being written, and those before it."""

    def __init__(self, path: Path, session: Session, room: Room, *, overwrite: bool) -> None:
        """Begin the first file: ``path`` itself, or its part 1 where there will be several.

        ConfigError: a recording is there already, or there is no such folder.
        """
        room.check()
        self.path = path
        self._session = session
        self._room = room
        self._number = 0
        self._closed: list[tuple[Path, int]] = []  # with their sizes
        self.removed = 0
        if not path.parent.is_dir() or path.is_dir():
            what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
            raise ConfigError(f"{path}: {what}", hint="give the name of a file to write")
        there = find_parts(path)
        if there and not overwrite:
            raise ConfigError(
                f"{there[0]} is there already",
                hint="give another name, or --overwrite to lose what is recorded in it",
            )
        self.writer = self._begin(overwrite=path in there)
        for old in there:
            if old != self.writer.path:
                old.unlink()

    def make_room(self, count: int) -> bool | None:
        """See that ``count`` bytes fit: whether they begin a new file, or None: they do not."""
        room = self._room
        is_new = bool(room.rotate_mb and self.writer.size + count > room.rotate_mb * MB)
        if is_new:
            self.writer.close()
            self._closed.append((self.writer.path, self.writer.size))
            self.writer = self._begin(overwrite=True)
        keep = room.keep_parts or math.inf
        while self._closed and (len(self._closed) >= keep or not self._fits(count)):
            self._closed.pop(0)[0].unlink(missing_ok=True)  # somebody may have moved it
            self.removed += 1
        return is_new if self._fits(count) else None

    @property
    def paths(self) -> list[Path]:
        """The files that are there."""
        return [*(path for path, _ in self._closed), self.writer.path]

    @property
    def size(self) -> int:
        """Bytes of all of them; the one that is being written counts as if it were closed."""
        return sum(size for _, size in self._closed) + self.writer.size

    def _fits(self, count: int) -> bool:
        limit = self._room.max_mb
        return limit is None or self.size + count <= limit * MB

    def _begin(self, *, overwrite: bool) -> RecordingWriter:
        self._number += 1
        path = part_path(self.path, self._number) if self._room.rotate_mb else self.path
        return RecordingWriter(path, self._session, part=self._number, overwrite=overwrite)
