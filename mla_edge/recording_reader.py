"""Reads a recording: what was seen, heard and decided, in the order in which it was noted."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping, Union

import numpy as np

from mla_edge.errors import MissingDependency, RecordingError
from mla_edge.pictures import unpack
from mla_edge.preprocess import refit
from mla_edge.recording_format import (
    AUDIO,
    BUT_USED,
    CAMERA,
    DECISIONS,
    EXACT,
    FAULTS,
    HEALTH,
    IMAGE,
    LOG,
    MICROPHONE,
    PCM16_SCALE,
    SESSION,
    SIGNALS,
    Session,
    decision_from_json,
)
from mla_edge.recordings import find_parts
from mla_edge.signals import Frame, Prediction, Sound

try:
    from mcap.exceptions import McapError
    from mcap.records import Channel, Chunk, Message, Metadata
    from mcap.stream_reader import StreamReader, breakup_chunk
except ImportError as error:
    raise MissingDependency(
        f"mcap cannot be loaded, and recordings are read with it: {error}",
        hint="pip install 'mla-edge[record]'",
    ) from error

_BROKEN = (
    McapError,
    ValueError,
    struct.error,
    MemoryError,
)  # ValueError: a wrong checksum, too


@dataclass(frozen=True)
class SeenFrame:
    """A frame that is unpacked when it is asked for."""

    data: bytes  # JPEG or PNG
    time_s: float
    truth: str | None

    def to_frame(self) -> Frame:
        """The frame; RecordingError where its picture is damaged."""
        try:
            return Frame(unpack(self.data), self.time_s, self.truth)
        except ValueError as error:
            raise RecordingError(
                f"the frame of {self.time_s:.3f} s is damaged", hint="record again"
            ) from error


@dataclass(frozen=True)
class ToldFault:
    """A change in what a modality gave."""

    modality: str
    what: str
    time_s: float
    why: str
    masked: bool


@dataclass(frozen=True)
class Health:
    """How the machine was, by name; see ``recording_format``."""

    values: Mapping[str, Any]


Event = Union[SeenFrame, Sound, Prediction, ToldFault, Health]


class RecordingReader:
    """The events of a recording; each ``for`` over it begins at the first."""

    def __init__(self, path: Path, *, window_s: float = 0.0) -> None:
        """Open the recording called ``path``: that file, or else its parts.

        Sounds have as many samples as the run had, or ``window_s`` of them if that is more and
        there were so many. RecordingError: there is none, or it is no recording of ours.
        """
        self.path = path
        self.paths = [path] if path.is_file() else find_parts(path)
        if not self.paths or path.is_dir():
            raise RecordingError(
                f"{path}: no such recording", hint="mla-edge record FILE makes one"
            )
        self.problems: list[str] = []  # what could not be read, after a run through all of it
        self._window_s = window_s
        with self.paths[0].open("rb") as file:
            self.session = _Part(self.paths[0], file, window_s).session

    def __iter__(self) -> Iterator[Event]:
        """Every event, in the order in which it was noted; what cannot be read is left out."""
        self.problems = []
        for path in self.paths:
            with path.open("rb") as file:
                part = _Part(path, file, self._window_s)
                yield from part.events()
                self.problems += part.problems


class _Part:
    """One file."""

    def __init__(self, path: Path, file: BinaryIO, window_s: float) -> None:
        self.path = path
        self.problems: list[str] = []
        # A length that is damaged must not be believed.
        reader = StreamReader(file, emit_chunks=True, record_size_limit=path.stat().st_size)
        self._records = reader.records
        self.session = self._read_session()
        self._heard = EXACT if self.session.lossless else MICROPHONE
        self._tail = np.zeros(0, np.float32)  # of the stream of sound
        self._rate_hz = 0
        self._length = 0  # of the stream at the last window, as it was told
        self._fresh = 0  # samples since then
        self._whole = 0  # samples up to the last window of which none is missing
        self._window_s = window_s
        self._picture: bytes | None = None

    def events(self) -> Iterator[Event]:
        topics: dict[int, str] = {}
        try:
            for record in self._records:
                if isinstance(record, Chunk):
                    yield from self._events_of(record, topics)
        except _BROKEN as error:
            self.problems.append(f"{self.path}: is cut off or damaged near its end: {error!r}")

    def _events_of(self, chunk: Chunk, topics: dict[int, str]) -> Iterator[Event]:
        try:
            records = breakup_chunk(chunk, validate_crc=True)
        except Exception as error:  # zstandard and lz4 have classes of their own
            self.problems.append(f"{self.path}: a part of it is damaged: {error!r}")
            return
        for record in records:
            if isinstance(record, Channel):
                topics[record.id] = record.topic
            elif isinstance(record, Message) and record.channel_id in topics:
                topic = topics[record.channel_id]
                try:
                    event = self._event(topic, record.data)
                except Exception as error:  # protobuf has classes of its own
                    raise RecordingError(
                        f"{self.path}: a message of {topic} is not of this version: {error!r}",
                        hint="read it with the mla-edge that made it: "
                        f"{self.session.made_with}",
                    ) from error
                if event is not None:
                    yield event

    def _read_session(self) -> Session:
        try:
            for record in self._records:
                if isinstance(record, Metadata) and record.name == SESSION:
                    return Session.from_metadata(record.metadata)
                if isinstance(record, Chunk):
                    break
        except _BROKEN as error:
            raise RecordingError(
                f"{self.path}: is no MCAP file, or damaged from the start: {error}",
                hint="give a file that mla-edge record wrote",
            ) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise RecordingError(
                f"{self.path}: is no recording of this version: {error!r}",
                hint="read it with the mla-edge that made it",
            ) from error
        raise RecordingError(
            f"{self.path}: is an MCAP file, but no recording of mla-edge",
            hint="give a file that mla-edge record wrote",
        )

    def _event(self, topic: str, data: bytes) -> Event | None:
        if topic == CAMERA:
            self._picture = IMAGE.unpack(data).data
        elif topic == self._heard:
            self._hear(AUDIO.unpack(data))
        elif topic == SIGNALS:
            return self._signal(json.loads(data))
        elif topic == DECISIONS:
            return decision_from_json(json.loads(data))
        elif topic == FAULTS:
            told = LOG.unpack(data)
            kind, _, why = told.message.partition(": ")
            what, but_used, _ = kind.partition(BUT_USED)
            time_s = told.timestamp.seconds + told.timestamp.nanos / 1e9
            return ToldFault(told.name, what, time_s, why, not but_used)
        elif topic == HEALTH:
            return Health(json.loads(data))
        return None

    def _signal(self, told: Mapping[str, Any]) -> Event | None:
        if told["source"] == "camera":
            data, self._picture = self._picture, None
            if data is None:
                return None
            return SeenFrame(data, told["time_s"], told["truth"])
        return self._sound(told)

    def _hear(self, block: Any) -> None:
        if self._heard == EXACT:
            fresh = np.frombuffer(block.data, "<f4")
        else:
            fresh = np.frombuffer(block.data, "<i2").astype(np.float32) / PCM16_SCALE
        if block.sample_rate != self._rate_hz:
            self._tail, self._whole = np.zeros(0, np.float32), 0
            self._rate_hz = block.sample_rate
        self._tail = np.concatenate((self._tail, fresh))
        self._fresh += len(fresh)

    def _sound(self, told: Mapping[str, Any]) -> Sound | None:
        """The window that ends here; None where a part of it is missing."""
        rate_hz, count = told["rate_hz"], told["window"]
        if self._length + self._fresh == told["end"]:
            self._whole += self._fresh
        else:
            self._whole = self._fresh
        self._length, self._fresh = told["end"], 0
        wanted = round(self._window_s * rate_hz)
        self._tail = self._tail[-max(count, wanted) :]
        if self._whole < count:
            return None
        more = min(wanted, self._whole)
        if more > count:
            return Sound(self._tail[-more:], rate_hz, told["time_s"], told["truth"])
        heard = Sound(self._tail[-count:], rate_hz, told["time_s"], told["truth"])
        if told["given_hz"] == rate_hz:
            return heard
        return refit(heard, told["given_hz"], told["given"])
