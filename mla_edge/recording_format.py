"""What a recording is made of: an MCAP file with Foxglove's schemas and three of our own.

| topic | schema | |
|---|---|---|
| /camera | foxglove.CompressedImage | each frame that the run saw |
| /microphone | foxglove.RawAudio, pcm-s16 | the sound, once, in blocks as they were heard |
| /microphone/exact | foxglove.RawAudio, pcm-f32 | the same with nothing lost, if wanted |
| /signals | mla_edge.Signal | of each frame and window of sound: its exact time |
| /decisions | mla_edge.Decision | each decision; what it used is found by capture time |
| /faults | foxglove.Log | of the modality ``name``: ``what: why`` or ``what, but used: why`` |
| /health | mla_edge.Health | each second: heat, power, memory, drops |

A metadata record, before all messages, says who made it and with what. Messages are logged at
the wall time of what they tell; the times inside are those of the run's clock.

A window of sound is not stored: it is the last ``window`` samples of the stream, whose length
at that moment is ``end``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Mapping

from mla_edge.bundle import read_input
from mla_edge.errors import MissingDependency
from mla_edge.signals import InputSpec, Prediction

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
except ImportError as error:
    raise MissingDependency(
        "protobuf is not installed, and recordings are made with it",
        hint="pip install 'mla-edge[record]'",
    ) from error

FORMAT = 1
SESSION = "mla_edge.session"
CAMERA, MICROPHONE, EXACT = "/camera", "/microphone", "/microphone/exact"
SIGNALS, DECISIONS, FAULTS, HEALTH = "/signals", "/decisions", "/faults", "/health"
BUT_USED = ", but used"
"""What a fault's message has after its kind, where the modality is not left out."""

PCM16, PCM_FLOAT = "pcm-s16", "pcm-f32"
PCM16_SCALE = 32768


@dataclass(frozen=True)
class Session:
    """Who made a recording, and with what."""

    bundle: str
    bundle_sha256: str  # of bundle.json
    inputs: tuple[InputSpec, ...]
    labels: tuple[str, ...]
    runs_on: str
    threads: int | None
    lossless: bool
    made_with: str  # version of mla-edge
    settings: Mapping[str, Any]  # of the run: its sources and options

    def to_metadata(self) -> dict[str, str]:
        """As an MCAP metadata record holds it: JSON by name."""
        values = {"format": FORMAT, **asdict(self)}
        return {name: json.dumps(value) for name, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Session:
        """The inverse; KeyError, TypeError or ValueError where it is none of this version."""
        found = {name: json.loads(value) for name, value in metadata.items()}
        if found.pop("format") != FORMAT:
            raise ValueError(f"this version reads format {FORMAT}")
        found["inputs"] = tuple(read_input(spec) for spec in found["inputs"])
        found["labels"] = tuple(found["labels"])
        return cls(**{field.name: found[field.name] for field in fields(cls)})


_DECISION = [f.name for f in fields(Prediction) if f.name not in ("probabilities", "shown")]


def decision_to_json(prediction: Prediction) -> dict[str, Any]:
    """A decision for ``/decisions``; its numbers are as exact as they were."""
    return {name: getattr(prediction, name) for name in _DECISION}


def decision_from_json(found: Mapping[str, Any]) -> Prediction:
    """The inverse; KeyError or TypeError where it is none."""
    known = {name: found[name] for name in _DECISION if name in found}
    for name in ("degraded", "repeated"):
        if name in known:
            known[name] = tuple(known[name])
    return Prediction(**known)


def _json_schema(title: str, **properties: str) -> bytes:
    described = {name: {"type": kind} for name, kind in properties.items()}
    return json.dumps({"title": title, "type": "object", "properties": described}).encode()


JSON_SCHEMAS = {
    SIGNALS: _json_schema("mla_edge.Signal", source="string", time_s="number"),
    DECISIONS: _json_schema(
        "mla_edge.Decision",
        label="string",
        confidence="number",
        tier="string",
        reason="string",
        mode="string",
        capture_time_s="object",
        decision_time_s="number",
        latency_ms="number",
        age_ms="number",
    ),
    HEALTH: _json_schema(
        "mla_edge.Health", temperatures_c="object", memory_mb="number", drops="object"
    ),
}

_KINDS = {
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
    "bytes": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
    "fixed32": descriptor_pb2.FieldDescriptorProto.TYPE_FIXED32,
}
_LEVELS = ("UNKNOWN", "DEBUG", "INFO", "WARNING", "ERROR", "FATAL")
INFO, WARNING = _LEVELS.index("INFO"), _LEVELS.index("WARNING")
_TIMESTAMP_FILE = "google/protobuf/timestamp.proto"


class Schema:
    """One of Foxglove's protobuf schemas; no package of them that has sound is for Python 3.8.

    Names and numbers of the fields are those of github.com/foxglove/foxglove-sdk.
    """

    def __init__(self, title: str, **numbers: tuple[int, str]) -> None:
        """Describe ``foxglove.<title>``: a timestamp, and fields by number and kind."""
        self.name = f"foxglove.{title}"
        file = descriptor_pb2.FileDescriptorProto(
            name=f"foxglove/{title}.proto",
            package="foxglove",
            syntax="proto3",
            dependency=[_TIMESTAMP_FILE],
        )
        message = file.message_type.add(name=title)
        message.field.add(
            name="timestamp",
            number=1,
            type=descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE,
            type_name=".google.protobuf.Timestamp",
            label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        )
        for field_name, (number, kind) in numbers.items():
            added = message.field.add(name=field_name, number=number)
            added.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
            if kind == "Level":
                added.type = descriptor_pb2.FieldDescriptorProto.TYPE_ENUM
                added.type_name = f".foxglove.{title}.Level"
                levels = message.enum_type.add(name="Level")
                for value, level in enumerate(_LEVELS):
                    levels.value.add(name=level, number=value)
            else:
                added.type = _KINDS[kind]
        timestamps = descriptor_pb2.FileDescriptorProto()
        timestamp_pb2.DESCRIPTOR.CopyToProto(timestamps)
        self.descriptors: bytes = descriptor_pb2.FileDescriptorSet(
            file=[timestamps, file]
        ).SerializeToString()
        pool = descriptor_pool.DescriptorPool()  # ours alone: nobody else's names are in it
        pool.AddSerializedFile(timestamps.SerializeToString())
        pool.AddSerializedFile(file.SerializeToString())
        self._message: Any = message_factory.GetMessageClass(
            pool.FindMessageTypeByName(self.name)
        )

    def pack(self, time_ns: int, **values: Any) -> bytes:
        """A message of ``time_ns``, since 1970, as bytes."""
        seconds, nanos = divmod(time_ns, 10**9)
        message = self._message(timestamp={"seconds": seconds, "nanos": nanos}, **values)
        packed: bytes = message.SerializeToString()
        return packed

    def unpack(self, data: bytes) -> Any:
        """The message in ``data``; protobuf's DecodeError where there is none."""
        return self._message.FromString(data)


IMAGE = Schema(
    "CompressedImage", data=(2, "bytes"), format=(3, "string"), frame_id=(4, "string")
)
AUDIO = Schema(
    "RawAudio",
    data=(2, "bytes"),
    format=(3, "string"),
    sample_rate=(4, "fixed32"),
    number_of_channels=(5, "fixed32"),
)
LOG = Schema(
    "Log",
    level=(2, "Level"),
    message=(3, "string"),
    name=(4, "string"),
    file=(5, "string"),
    line=(6, "fixed32"),
)
PROTOBUF_SCHEMAS = {CAMERA: IMAGE, MICROPHONE: AUDIO, EXACT: AUDIO, FAULTS: LOG}
