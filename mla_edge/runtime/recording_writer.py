"""Writes one file of a recording, in chunks: one cut anywhere can be read up to there."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mla_edge.errors import MissingDependency
from mla_edge.recording_format import (
    AUDIO,
    CAMERA,
    DECISIONS,
    EXACT,
    FAULTS,
    HEALTH,
    IMAGE,
    INFO,
    JSON_SCHEMAS,
    LOG,
    MICROPHONE,
    PCM16,
    PCM16_SCALE,
    PCM_FLOAT,
    PROTOBUF_SCHEMAS,
    SESSION,
    SIGNALS,
    WARNING,
    Session,
)

try:
    from mcap.writer import CompressionType, Writer
except ImportError as error:
    raise MissingDependency(
        f"mcap cannot be loaded, and recordings are written with it: {error}",
        hint="pip install 'mla-edge[record]'",
    ) from error

_RECORD_BYTES = 60  # what a message takes beside its data, its place in the index included
_CLOSING_BYTES = 8192  # schemas and channels once more, and statistics
_INDEX_BYTES = 300  # of each chunk
CHUNK_BYTES = 256 * 1024  # a cut takes that much at most


class RecordingWriter:
    """One file; every call may raise the OSError of a disk that takes no more."""

    def __init__(self, path: Path, session: Session, *, part: int, overwrite: bool) -> None:
        """Make ``path``, the ``part``-th file; FileExistsError if it is there."""
        self.path = path
        self._written = 0  # bytes in the file, or in its buffer
        self._pending = 0  # of the chunk that is not there yet
        self._chunks = 0
        self._file = path.open("wb" if overwrite else "xb")
        try:
            # Pictures and sound do not get smaller; a cut chunk could not be unpacked.
            self._writer = Writer(
                self._file, chunk_size=CHUNK_BYTES, compression=CompressionType.NONE
            )
            self._writer.start(library=f"mla-edge {session.made_with}")
            metadata = {**session.to_metadata(), "part": json.dumps(part)}
            self._writer.add_metadata(SESSION, metadata)
            self._channels = {
                topic: self._register(topic)
                for topic in (*PROTOBUF_SCHEMAS, *JSON_SCHEMAS)
                if topic != EXACT or session.lossless
            }
        except BaseException:
            self.abandon()
            raise

    @property
    def size(self) -> int:
        """How many bytes the file has, or would have at most if it were closed now."""
        if self._file.closed:
            return self._written
        index = (self._chunks + 1) * _INDEX_BYTES + _CLOSING_BYTES
        return self._written + self._pending + index

    def write_picture(self, time_ns: int, data: bytes, form: str) -> None:
        """A frame that is packed as ``form``, ``jpeg`` or ``png``."""
        packed = IMAGE.pack(time_ns, data=data, format=form, frame_id="camera")
        self._add(CAMERA, time_ns, packed)

    def write_sound(self, time_ns: int, samples: np.ndarray, rate_hz: int) -> None:
        """New samples of the stream, float32 in [-1, 1]; the first is of ``time_ns``.

        In a session without loss also as they are, not only in 16 bits.
        """
        whole = np.rint(np.clip(samples, -1, 1) * PCM16_SCALE).clip(max=PCM16_SCALE - 1)
        described = {"sample_rate": rate_hz, "number_of_channels": 1}
        data = whole.astype("<i2").tobytes()
        packed = AUDIO.pack(time_ns, data=data, format=PCM16, **described)
        self._add(MICROPHONE, time_ns, packed)
        if EXACT in self._channels:
            data = samples.astype("<f4").tobytes()
            packed = AUDIO.pack(time_ns, data=data, format=PCM_FLOAT, **described)
            self._add(EXACT, time_ns, packed)

    def write_signal(self, time_ns: int, values: dict[str, Any]) -> None:
        """What is known of a frame or a window of sound."""
        self._add(SIGNALS, time_ns, json.dumps(values).encode())

    def write_decision(self, time_ns: int, values: dict[str, Any]) -> None:
        """A decision."""
        self._add(DECISIONS, time_ns, json.dumps(values).encode())

    def write_fault(self, time_ns: int, modality: str, text: str, *, is_bad: bool) -> None:
        """A change in what a modality gives."""
        level = WARNING if is_bad else INFO
        self._add(FAULTS, time_ns, LOG.pack(time_ns, level=level, name=modality, message=text))

    def write_health(self, time_ns: int, values: dict[str, Any]) -> None:
        """How the machine and the recording are."""
        self._add(HEALTH, time_ns, json.dumps(values).encode())

    def flush(self) -> None:
        """End the chunk, and wait until the disk has it."""
        self._writer.flush()
        self._count()
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Write the index and close the file."""
        self._writer.finish()
        self._file.flush()
        self._count()
        os.fdatasync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, without an index, after an error."""
        with suppress(OSError):  # it tries to write what is left, and closes the file anyway
            self._file.close()
        with suppress(OSError):
            self._written = self.path.stat().st_size

    def _register(self, topic: str) -> int:
        if topic in PROTOBUF_SCHEMAS:
            schema = PROTOBUF_SCHEMAS[topic]
            name, encoding, data = schema.name, "protobuf", schema.descriptors
        else:
            data = JSON_SCHEMAS[topic]
            name, encoding = json.loads(data)["title"], "jsonschema"
        schema_id = self._writer.register_schema(name, encoding, data)
        message_encoding = "json" if encoding == "jsonschema" else encoding
        return self._writer.register_channel(topic, message_encoding, schema_id)

    def _add(self, topic: str, time_ns: int, data: bytes) -> None:
        self._writer.add_message(self._channels[topic], time_ns, data, time_ns)
        self._pending += len(data) + _RECORD_BYTES
        self._count()

    def _count(self) -> None:
        written = self._file.tell()
        if written != self._written:  # the chunk has ended
            self._written, self._pending = written, 0
            self._chunks += 1
