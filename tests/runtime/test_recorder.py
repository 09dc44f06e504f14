"""Recording: what is in the file, how much room it takes, and that a run never waits for it."""

import dataclasses
import json
import threading
import time
from importlib import import_module

import numpy as np
import pytest
from colours import frame, sound
from recorded import events, record, session_of

from mla_edge.errors import ConfigError
from mla_edge.preprocess import refit
from mla_edge.recording_format import AUDIO, IMAGE, LOG
from mla_edge.recording_reader import ToldFault
from mla_edge.runtime import recorder as recording
from mla_edge.runtime.capture import Watched, open_camera, open_microphone
from mla_edge.runtime.recorder import Recorder
from mla_edge.runtime.recording_parts import Room
from mla_edge.runtime.sense import Fault
from mla_edge.signals import Frame, Prediction, Sound
from mla_edge.testing import FakeCamera, FakeMicrophone


def messages(path):
    """By topic: schema and messages, by MCAP's own reader and the schemas inside."""
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    found = {}
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        for schema, channel, message in reader.iter_messages():
            decode = (
                DecoderFactory().decoder_for(channel.message_encoding, schema) or json.loads
            )
            row = (message.log_time, decode(message.data))
            found.setdefault(channel.topic, (schema.name, []))[1].append(row)
        metadata = {record.name: record.metadata for record in reader.iter_metadata()}
    return found, metadata


def test_another_reader_finds_foxglove_s_schemas_and_what_was_seen(small_bundle, tmp_path):
    path = tmp_path / "out.mcap"
    began_ns = time.time_ns()
    predictions, _ = record(path, small_bundle, seconds=2)
    found, metadata = messages(path)
    assert {topic: (name, len(rows)) for topic, (name, rows) in found.items()} == {
        "/camera": ("foxglove.CompressedImage", 61),
        "/microphone": ("foxglove.RawAudio", 61),
        "/signals": ("mla_edge.Signal", 122),
        "/decisions": ("mla_edge.Decision", 60),
    }
    _, image = found["/camera"][1][0]
    assert (image.format, image.data[:2]) == ("jpeg", b"\xff\xd8")
    sounds = [block for _, block in found["/microphone"][1]]
    assert {(b.format, b.sample_rate, b.number_of_channels) for b in sounds} == {
        ("pcm-s16", 800, 1)
    }
    assert sum(len(b.data) for b in sounds) == 2 * (800 + 2 * 800)  # a window, and two seconds
    decision = found["/decisions"][1][-1][1]
    assert decision["label"] == predictions[-1].label
    assert decision["capture_time_s"] == predictions[-1].capture_time_s
    log_times = [log_time for _, rows in found.values() for log_time, _ in rows]
    assert began_ns - 1.1e9 < min(log_times) < max(log_times) < began_ns + 60e9
    assert json.loads(metadata["mla_edge.session"]["bundle_sha256"]) == small_bundle.sha256()


def test_our_schemas_are_foxglove_s_own():
    pytest.importorskip("foxglove_schemas_protobuf.RawAudio_pb2")  # not for Python 3.8
    for ours in (IMAGE, AUDIO, LOG):
        name = ours.name.partition(".")[2]
        theirs = getattr(
            import_module(f"foxglove_schemas_protobuf.{name}_pb2"), name
        ).DESCRIPTOR
        described = {f.name: (f.number, f.type) for f in theirs.fields}
        message = ours.unpack(ours.pack(10**18))
        assert {f.name: (f.number, f.type) for f in message.DESCRIPTOR.fields} == described
        assert message.timestamp.seconds == 10**9
        assert message.DESCRIPTOR.full_name == theirs.full_name
    levels = LOG.unpack(b"").DESCRIPTOR.enum_types_by_name["Level"].values_by_name
    assert {name: level.number for name, level in levels.items()}["WARNING"] == 3


def test_without_loss_frames_and_windows_are_bit_for_bit_those_of_the_run(
    small_bundle, tmp_path
):
    random = np.random.default_rng(0)
    frames = [
        Frame(random.integers(0, 256, (20, 30, 3), np.uint8), 5 + n / 7, "9") for n in range(9)
    ]
    speech = random.uniform(-1.2, 1.2, 5000).astype(np.float32)
    sounds = [Sound(speech[n * 70 : n * 70 + 800], 800, 5 + n / 11, None) for n in range(9)]
    with Recorder(tmp_path / "a.mcap", session_of(small_bundle, lossless=True)) as recorder:
        for signal in [s for pair in zip(frames, sounds) for s in pair]:
            recorder.see(signal)
    found, problems = events(tmp_path / "a.mcap")
    assert problems == []
    seen = [event.to_frame() for event in found if not isinstance(event, Sound)]
    assert [(f.time_s, f.truth) for f in seen] == [(f.time_s, f.truth) for f in frames]
    assert all((one.image == other.image).all() for one, other in zip(seen, frames))
    heard = [event for event in found if isinstance(event, Sound)]
    assert [s.time_s for s in heard] == [s.time_s for s in sounds]
    assert all((one.samples == other.samples).all() for one, other in zip(heard, sounds))


def test_sound_that_was_resampled_is_kept_as_it_was_heard(small_bundle, tmp_path):
    """Windows at 44.1 kHz overlap; those made of them at 800 Hz do not."""
    wav = tmp_path / "voice.wav"
    random = np.random.default_rng(1)
    pcm = random.integers(-9000, 9000, 44100).astype("<i2").tobytes()
    form = b"fmt " + np.array([16], "<u4").tobytes() + np.array([1, 1], "<u2").tobytes()
    form += np.array([44100, 88200], "<u4").tobytes() + np.array([2, 16], "<u2").tobytes()
    data = b"data" + np.array([len(pcm)], "<u4").tobytes() + pcm
    chunks = b"WAVE" + form + data
    wav.write_bytes(b"RIFF" + np.array([len(chunks)], "<u4").tobytes() + chunks)
    session = session_of(small_bundle)
    with open_microphone(
        str(wav), rate_hz=800, window_s=1.0, as_fast_as_possible=True
    ) as opened, Recorder(tmp_path / "a.mcap", session, waits=True) as recorder:
        ears = recorder.watch(opened)
        given = [ears.read(0) for _ in range(20)]
    heard, _ = events(tmp_path / "a.mcap", Sound)
    assert len(heard) == 20
    for one, other in zip(heard, given):
        assert (one.rate_hz, one.time_s) == (800, other.time_s)
        np.testing.assert_array_equal(one.samples, other.samples)
    assert (tmp_path / "a.mcap").stat().st_size < 2 * 2 * 44100 + 20_000  # and zeros before
    longer, _ = events(tmp_path / "a.mcap", Sound, window_s=1.5)
    assert len(longer[-1].samples) == round(1.5 * 44100)  # for a network that wants more
    assert refit(longer[-1], 800, 800).samples[-1] == pytest.approx(given[-1].samples[-1])


def test_a_signal_that_is_no_news_or_that_a_run_refuses_is_not_kept(small_bundle, tmp_path):
    broken = dataclasses.replace(sound("red"), samples=np.full(800, np.nan, np.float32))
    grey = Frame(np.zeros((8, 8), np.uint8), 1.05)
    with Recorder(tmp_path / "a.mcap", session_of(small_bundle)) as recorder:
        eyes, ears = FakeCamera([]), FakeMicrophone([])
        for time_s in (1.0, 1.0, 0.5):
            recorder.see(frame("red", time_s), eyes)
        recorder.see(grey, eyes)
        recorder.see(frame("red", 1.1), eyes)
        recorder.see(dataclasses.replace(broken, time_s=1.0), ears)
        recorder.see(sound("red", 1.1), ears)
    found, _ = events(tmp_path / "a.mcap")
    assert [event.time_s for event in found] == [1.0, 1.1, 1.1]


def test_faults_and_health_are_there(small_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "FLUSH_S", 0.05)
    with Recorder(tmp_path / "a.mcap", session_of(small_bundle)) as recorder:
        eyes = recorder.watch(FakeCamera([frame("red")] * 9))
        eyes.read(1.0)
        eyes._source.drops = 4
        recorder.add_fault(Fault("image", "lost", 1.0, "the cable: out"))
        recorder.add_fault(Fault("image", "black", 1.5, "its lens", masked=False))
        recorder.add_fault(Fault("image", "back", 2.0))
        deadline_s = time.monotonic() + 10
        while (tmp_path / "a.mcap").stat().st_size < 6000 and time.monotonic() < deadline_s:
            time.sleep(0.01)
        time.sleep(0.1)
    found, _ = messages(tmp_path / "a.mcap")
    name, told = found["/faults"]
    assert name == "foxglove.Log"
    assert [(log.name, log.message, log.level) for _, log in told] == [
        ("image", "lost: the cable: out", 3),
        ("image", "black, but used: its lens", 3),
        ("image", "back: ", 2),
    ]
    again, _ = events(tmp_path / "a.mcap", ToldFault)
    assert [(f.what, f.why, f.masked) for f in again] == [
        ("lost", "the cable: out", True),
        ("black", "its lens", False),
        ("back", "", True),
    ]
    name, healths = found["/health"]
    assert healths[-1][1]["drops"] == {"camera": 4}
    assert healths[-1][1]["memory_mb"] > 10


def test_a_source_is_to_the_run_what_it_was(small_bundle, tmp_path):
    """A picture that is repeated is not frozen, and a camera that shows every frame does so."""
    cv2 = pytest.importorskip("cv2")
    cv2.imwrite(str(tmp_path / "card.png"), np.full((48, 64, 3), 90, np.uint8))
    with Recorder(tmp_path / "a.mcap", session_of(small_bundle)) as recorder:
        with open_camera(str(tmp_path / "card.png")) as card:
            tapped = recorder.watch(card)
            assert tapped.still
            assert isinstance(tapped, Watched)
            assert tapped.drops == card.drops
        plain = recorder.watch(FakeCamera([]))
        assert not plain.still
        assert not isinstance(plain, Watched)


def predicted(time_s):
    return Prediction("red", 1.0, "lite", "r", "image", {"image": time_s}, time_s, 1.0, 1.0)


def test_a_run_does_not_wait_for_a_disk_that_is_slow(small_bundle, tmp_path, monkeypatch):
    """What does not fit into the queue is left out, and counted; not so decisions."""
    big = Frame(np.zeros((400, 500, 3), np.uint8), 0.0)
    monkeypatch.setattr(recording, "QUEUE_BYTES", 3 * big.image.nbytes)
    gate = threading.Event()
    work = recording.pack

    def pack(image, form):
        gate.wait(20)
        return work(image, form)

    monkeypatch.setattr(recording, "pack", pack)
    longest_s = 0.0
    with Recorder(tmp_path / "a.mcap", session_of(small_bundle)) as recorder:
        for number in range(50):
            began_s = time.monotonic()
            recorder.see(dataclasses.replace(big, time_s=float(number)))
            recorder.add(predicted(float(number)))
            longest_s = max(longest_s, time.monotonic() - began_s)
        gate.set()
    assert longest_s < 1.0
    told = recorder.to_dict()
    assert 45 <= told["left_out"]["frames"] <= 48  # one is being packed, the others wait
    assert told["recorded"] == {"frames": 50 - told["left_out"]["frames"], "decisions": 50}
    found, _ = events(tmp_path / "a.mcap", Prediction)
    assert len(found) == 50


def test_a_run_as_fast_as_possible_does_wait(small_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "QUEUE_BYTES", 50_000)
    predictions, recorder = record(tmp_path / "a.mcap", small_bundle, seconds=2)
    assert recorder.to_dict()["left_out"] == {}
    assert recorder.counts["frames"] == 61
    assert len(predictions) == 60


def test_a_bug_of_the_recorder_is_not_swallowed(small_bundle, tmp_path, monkeypatch):
    def fail(image, form):
        raise ZeroDivisionError("bug")

    monkeypatch.setattr(recording, "pack", fail)
    recorder = Recorder(tmp_path / "a.mcap", session_of(small_bundle), waits=True)
    for number in range(200):  # nothing waits for a thread that has ended
        recorder.see(frame("red", float(number)))
    with pytest.raises(ZeroDivisionError):
        recorder.close()


def names(folder):
    return sorted(path.name for path in folder.glob("*.mcap"))


def test_a_new_file_begins_after_so_many_megabytes(small_bundle, tmp_path):
    room = Room(rotate_mb=1)
    made, recorder = record(
        tmp_path / "a.mcap", small_bundle, seconds=9, lossless=True, room=room
    )
    parts = names(tmp_path)
    assert parts == [f"a-part{n:04d}.mcap" for n in range(1, len(parts) + 1)]
    assert len(parts) >= 3
    assert all(0.9e6 < (tmp_path / name).stat().st_size <= 1e6 for name in parts[:-1])
    assert recorder.to_dict()["files"] == [str(tmp_path / name) for name in parts]
    found, problems = events(tmp_path / "a.mcap", Prediction)  # all files, by one name
    assert problems == []
    assert [p.decision_time_s for p in found] == [p.decision_time_s for p in made]


@pytest.mark.parametrize("room", [Room(max_mb=2.5, rotate_mb=1), Room(None, 1, keep_parts=2)])
def test_the_oldest_files_make_room(small_bundle, tmp_path, room):
    made, recorder = record(
        tmp_path / "a.mcap", small_bundle, seconds=9, lossless=True, room=room
    )
    sizes = [(tmp_path / name).stat().st_size for name in names(tmp_path)]
    assert len(sizes) == 2
    assert sum(sizes) <= 2.5e6
    assert "a-part0001.mcap" not in names(tmp_path)
    told = recorder.to_dict()
    assert told["removed"] >= 1
    assert told["stopped"] is None
    assert told["mb"] == pytest.approx(sum(sizes) / 1e6, abs=0.001)
    found, _ = events(tmp_path / "a.mcap", Prediction)
    assert found[-1].decision_time_s == made[-1].decision_time_s


def test_one_file_ends_when_its_room_is_used_up(small_bundle, tmp_path):
    made, recorder = record(
        tmp_path / "a.mcap", small_bundle, seconds=6, lossless=True, room=Room(max_mb=1)
    )
    assert 0.9e6 < (tmp_path / "a.mcap").stat().st_size <= 1e6
    assert "has reached its --max-mb" in recorder.stopped
    assert recorder.failure is None
    assert len(made) == 180  # deciding went on
    found, problems = events(tmp_path / "a.mcap", Prediction)
    assert problems == []
    assert len(found) == recorder.counts["decisions"] < 180


@pytest.mark.parametrize(
    ("room", "message"),
    [
        (Room(max_mb=0), "--max-mb is 0"),
        (Room(rotate_mb=float("nan")), "--rotate-mb is nan"),
        (Room(keep_parts=3), "--keep-parts is of files that follow"),
        (Room(max_mb=10, rotate_mb=6), "has no room for two files"),
    ],
)
def test_room_that_makes_no_sense_is_refused(small_bundle, tmp_path, room, message):
    with pytest.raises(ConfigError, match=message):
        Recorder(tmp_path / "a.mcap", session_of(small_bundle), room=room)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a.mcap", "a-part0003.mcap"])
def test_what_is_recorded_there_is_not_overwritten_unless_told(small_bundle, tmp_path, name):
    (tmp_path / name).write_text("precious")
    (tmp_path / "a-2026.mcap").write_text("another")
    with pytest.raises(ConfigError, match=f"{name} is there already"):
        Recorder(tmp_path / "a.mcap", session_of(small_bundle))
    assert (tmp_path / name).read_text() == "precious"
    Recorder(tmp_path / "a.mcap", session_of(small_bundle), overwrite=True).close()
    assert names(tmp_path) == ["a-2026.mcap", "a.mcap"]
    assert (tmp_path / "a.mcap").read_bytes()[:5] == b"\x89MCAP"


def test_where_no_file_can_be_is_said(small_bundle, tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        Recorder(tmp_path / "no/a.mcap", session_of(small_bundle))
    with pytest.raises(ConfigError, match="is a folder"):
        Recorder(tmp_path, session_of(small_bundle))


def test_a_disk_that_is_full_ends_the_recording_and_not_the_run(small_bundle):
    """/dev/full takes nothing: the first write fails."""
    from pathlib import Path

    made, recorder = record(Path("/dev/full"), small_bundle, seconds=2, overwrite=True)
    assert len(made) == 60
    assert recorder.stopped == "/dev/full: No space left on device"
    assert recorder.failure.exit_code == 3
    assert "--max-mb" in recorder.failure.hint
