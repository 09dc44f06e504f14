"""Replay: the same decisions as those that were recorded, from the same signals and clock."""

import itertools
import random
import wave
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from colours import DULL_RED, FULL, INPUTS, frame, make_bundle, sound
from recorded import CAMERA, record, session_of

import mla_edge
from mla_edge.bundle import ModePolicy, RouterPolicy
from mla_edge.errors import CaptureError, RecordingError
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.capture import open_camera, open_microphone
from mla_edge.runtime.deadline import Deadline
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.recorder import Recorder
from mla_edge.runtime.recording_parts import Room
from mla_edge.runtime.replay import Replay
from mla_edge.runtime.routing import DEADLINE, CascadeRouter
from mla_edge.signals import InputSpec, Prediction, TensorSpec, Tier
from mla_edge.testing import FakeCamera, FakeClock, FakeEngine, FakeMicrophone

cv2 = pytest.importorskip("cv2")


def replay(path, bundle):
    """The decisions of a replay, and the replay."""
    with mla_edge.load(bundle.folder, threads=1) as model:
        played = Replay(model, path)
        return list(played.run()), played


def exact(predictions):
    """All that a decision is, but its probabilities, which are not recorded."""
    return [replace(prediction, probabilities=None) for prediction in predictions]


@pytest.mark.parametrize(("camera", "mic"), [(CAMERA, "sim://digits"), (None, "sim://digits")])
def test_without_loss_it_decides_bit_for_bit_as_the_run_did(
    small_bundle, tmp_path, camera, mic
):
    path = tmp_path / "a.mcap"
    made, _ = record(path, small_bundle, camera=camera, mic=mic, lossless=True)
    again, played = replay(path, small_bundle)
    assert exact(again) == exact(made)
    assert "none" in {p.truth for p in again}
    assert played.is_same_bundle
    comparison = played.comparison
    assert (comparison.decisions, comparison.different) == (len(made), 0)
    assert comparison.impossible == 0
    assert played.duration_s == pytest.approx(
        made[-1].decision_time_s - made[0].decision_time_s
    )


def test_with_loss_two_replays_agree_and_the_differences_are_counted(small_bundle, tmp_path):
    path = tmp_path / "a.mcap"
    made, _ = record(path, small_bundle)
    (once, played), (twice, _) = replay(path, small_bundle), replay(path, small_bundle)
    assert exact(once) == exact(twice)
    assert [p.decision_time_s for p in once] == [p.decision_time_s for p in made]
    assert [p.latency_ms for p in once] == [p.latency_ms for p in made]
    labels = sum(a.label != b.label for a, b in zip(once, made))
    comparison = played.comparison
    assert comparison.label == labels
    assert comparison.confidence > 0
    assert comparison.different == comparison.label + comparison.routing + comparison.confidence
    assert comparison.first_s is not None


def live(path, bundle, eyes, ears, clock, *, rate_hz=None, deadline_ms=None, **options):
    """Record a run on a clock of its own; its decisions and faults."""
    faults = []
    with mla_edge.load(bundle.folder, threads=1, deadline_ms=deadline_ms) as model, Recorder(
        path, session_of(bundle, lossless=True), waits=True, **options
    ) as recorder:

        def on_fault(fault):
            faults.append(fault)
            recorder.add_fault(fault)

        made = []
        for prediction in mla_edge.run(
            model,
            recorder.watch(eyes),
            recorder.watch(ears),
            clock=clock,
            sleep=clock.sleep,
            on_fault=on_fault,
            duration_s=2.0,
            max_age_ms=150,
            rate_hz=rate_hz,
        ):
            made.append(prediction)
            recorder.add(prediction)
    return made, faults


def test_what_a_deadline_held_back_is_held_back_again(small_bundle, tmp_path, monkeypatch):
    """Also in a dwell, where lite answers as if nothing had been held back."""
    clock, path, chance, held = FakeClock(100.0), tmp_path / "a.mcap", random.Random(0), []

    def allows(*_):
        held.append(chance.random() < 0.5)
        return not held[-1]

    monkeypatch.setattr(Deadline, "allows", allows)
    colours = itertools.cycle([DULL_RED, DULL_RED, *["red"] * 4, *[DULL_RED] * 9])
    on_clock = {"clock": clock, "sleep": clock.sleep}
    eyes = FakeCamera((frame(colour) for colour in colours), period_s=0.01, **on_clock)
    ears = FakeMicrophone([], **on_clock)
    made, _ = live(path, small_bundle, eyes, ears, clock, deadline_ms=50)
    reasons = Counter(prediction.reason for prediction in made)
    assert {"lite-confident", "escalated", "dwell", "lite-skipped"} < set(reasons)
    assert sum(held) > reasons[DEADLINE] > 3
    again, played = replay(path, small_bundle)
    assert exact(again) == exact(made)
    assert played.comparison.different == 0


def test_what_was_decided_on_again_is_named_as_in_the_run(small_bundle, tmp_path):
    clock = FakeClock(100.0)
    on_clock = {"clock": clock, "sleep": clock.sleep}
    eyes = FakeCamera([frame("red")] * 100, period_s=0.1, **on_clock)
    ears = FakeMicrophone([sound("green")] * 1000, period_s=0.01, **on_clock)
    path = tmp_path / "a.mcap"
    made, _ = live(path, small_bundle, eyes, ears, clock, rate_hz=20)
    assert {p.repeated for p in made} >= {(), ("image",)}
    again, _ = replay(path, small_bundle)
    assert exact(again) == exact(made)


def test_masks_and_faults_are_as_they_were(small_bundle, tmp_path):
    clock = FakeClock(100.0)
    on_clock = {"clock": clock, "sleep": clock.sleep}
    lost = CaptureError("the cable is out")
    colours = itertools.cycle(["red", "green", (100, 80, 80)])
    eyes = FakeCamera(
        (frame(colour) for colour in colours),
        period_s=0.03,
        faults=dict.fromkeys(range(20, 24), lost),
        **on_clock,
    )
    ears = FakeMicrophone(
        (sound(says) for says in itertools.cycle(["red", "green"])),
        period_s=0.02,
        stalls={35: 0.4},
        **on_clock,
    )
    made, faults = live(tmp_path / "a.mcap", small_bundle, eyes, ears, clock)
    assert {p.mode for p in made} == {"image+audio", "image", "audio"}
    assert {p.tier for p in made} == {"lite", "full"}
    told = []
    with mla_edge.load(small_bundle.folder, threads=1) as model:
        again = list(Replay(model, tmp_path / "a.mcap").run(told.append))
    assert exact(again) == exact(made)
    assert [(f.modality, f.what, f.why) for f in told] == [
        (f.modality, f.what, f.why) for f in faults
    ]
    assert len(faults) >= 4


def answers(predictions):
    """Without the reasons: after a gap the router has not the memory that it had then."""
    return [replace(p, reason="") for p in exact(predictions)]


def test_each_file_of_several_can_be_replayed_alone(small_bundle, tmp_path):
    made, _ = record(
        tmp_path / "a.mcap", small_bundle, seconds=6, lossless=True, room=Room(rotate_mb=1)
    )
    parts = sorted(tmp_path.glob("a-*.mcap"))
    assert len(parts) >= 2
    alone = []
    for part in parts:
        again, played = replay(part, small_bundle)
        assert played.comparison.impossible == 0
        alone += again
    assert answers(alone) == answers(made)
    together, _ = replay(tmp_path / "a.mcap", small_bundle)
    assert exact(together) == exact(made)


@pytest.mark.parametrize("share", [0.2, 0.57, 0.9, 0.999])
def test_a_file_that_is_cut_can_be_replayed_up_to_there(small_bundle, tmp_path, share):
    path = tmp_path / "a.mcap"
    made, _ = record(path, small_bundle, seconds=4, lossless=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    again, played = replay(path, small_bundle)
    assert exact(again) == exact(made[: len(again)])
    assert len(again) > (share - 0.2) * len(made)
    assert len(played.reader.problems) == 1
    assert "is cut off" in played.reader.problems[0]


def test_a_part_that_is_damaged_is_left_out(small_bundle, tmp_path):
    path = tmp_path / "a.mcap"
    made, _ = record(path, small_bundle, seconds=6, lossless=True)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 0xFF
    path.write_bytes(bytes(data))
    again, played = replay(path, small_bundle)
    assert 0 < len(again) < len(made)
    by_time = {p.decision_time_s: p for p in answers(made)}
    assert all(by_time[p.decision_time_s] == p for p in answers(again))
    assert again[-1].decision_time_s == made[-1].decision_time_s
    assert played.comparison.impossible > 0  # their window of sound is not whole
    assert ["a part of it is damaged" in p for p in played.reader.problems] == [True]


def test_another_bundle_decides_at_the_same_moments(small_bundle, tmp_path):
    path = tmp_path / "a.mcap"
    made, _ = record(path, small_bundle, lossless=True)
    assert {p.tier for p in made} == {"full"}
    always = {m: ModePolicy(1.0, 0.0) for m in ("image+audio", "image", "audio")}
    other = make_bundle(tmp_path / "other", policy=RouterPolicy(always, {}, ""))
    again, played = replay(path, other)
    assert not played.is_same_bundle
    assert [p.decision_time_s for p in again] == [p.decision_time_s for p in made]
    assert {p.tier for p in again} == {"lite"}
    assert played.comparison.routing == len(made)  # the labels are the same


def write_video(path, count=36, fps=30):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    random = np.random.default_rng(0)
    for _ in range(count):
        writer.write(random.integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    return str(path)


def write_wav(path, seconds=1.2, rate_hz=11025):
    random = np.random.default_rng(0)
    samples = random.integers(-9000, 9000, round(seconds * rate_hz)).astype("<i2").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples)
    return str(path)


EYES = InputSpec("mouth", "clip", (1, 16, 6, 8), 25)
SLOW_S = 0.05  # too slow for a camera of 30 frames a second


def recalling(folder, inputs, latency_s=0.0):
    """A model that keeps what its one engine is given."""
    names = tuple(spec.name for spec in inputs)
    bundle = make_bundle(folder, tiers=[FULL], inputs=inputs)
    bundle = replace(bundle, tiers=(Tier("full", (*names, "present"), ("logits",)),))
    specs = [TensorSpec(spec.name, "float32", spec.shape) for spec in inputs]
    specs.append(TensorSpec("present", "float32", (1, len(inputs))))
    logits = {"logits": np.zeros((1, 3), np.float32)}
    engine = FakeEngine(specs, logits, latency_s=latency_s)
    router = CascadeRouter(bundle.policy)
    return FusedModel(bundle, {"full": engine}, router, Preprocessor(inputs)), engine


@pytest.mark.parametrize("eyes", [INPUTS[0], EYES])
def test_a_video_and_a_wav_file_give_every_tensor_again(tmp_path, eyes):
    """Live, at their own pace: a clip has frames that no decision ended with."""
    inputs = (eyes, INPUTS[1])
    model, engine = recalling(tmp_path / "b", inputs, SLOW_S)
    video, wav = write_video(tmp_path / "video.avi"), write_wav(tmp_path / "voice.wav")
    session = session_of(model.bundle, lossless=True)
    path = tmp_path / "a.mcap"
    with open_camera(video) as camera, open_microphone(
        wav, rate_hz=800, window_s=1.0
    ) as microphone, Recorder(path, session) as recorder:
        made = []
        for prediction in mla_edge.run(
            model, recorder.watch(camera), recorder.watch(microphone), max_age_ms=300
        ):
            recorder.add(prediction)
            made.append(prediction)
    assert recorder.to_dict()["left_out"] == {}
    assert len(made) >= 10
    if eyes is EYES:
        assert recorder.counts["frames"] == 36 > len(made)
        assert {p.mode for p in made} >= {"audio", "mouth+audio"}
    lived, engine.calls[:] = list(engine.calls), []
    engine._latency_s = 0.0
    played = Replay(model, path)
    assert exact(played.run()) == exact(made)
    assert played.comparison.impossible == 0
    for one, other in zip(lived, engine.calls):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_a_bundle_with_other_inputs_takes_what_it_can(small_bundle, tmp_path):
    """A clip of the frames, more sound than was heard at once, and no eyes at all."""
    path = tmp_path / "a.mcap"
    made, _ = record(path, small_bundle, lossless=True)
    ears = InputSpec("ears", "audio", (1, 4800), 2400)
    model, engine = recalling(tmp_path / "b", (EYES, ears))
    again = list(Replay(model, path).run())
    assert [p.mode for p in again] == ["ears"] * 18 + ["mouth+ears"] * (len(made) - 18)
    assert not engine.calls[0]["ears"][0, :2400].any()  # nobody heard that
    assert engine.calls[-1]["ears"][0, :2400].any()
    deaf, _ = recalling(tmp_path / "c", (INPUTS[0], InputSpec("imu", "tensor", (1, 6))))
    assert {p.mode for p in Replay(deaf, path).run()} == {"image"}


def test_a_decision_whose_frame_was_left_out_is_counted(small_bundle, tmp_path):
    with Recorder(tmp_path / "a.mcap", session_of(small_bundle)) as recorder:
        eyes = FakeCamera([])
        for time_s in (1.0, 2.0, 3.0):
            if time_s != 2.0:
                recorder.see(frame("red", time_s), eyes)
            recorder.add(
                Prediction("red", 1.0, "lite", "x", "image", {"image": time_s}, time_s, 1, 1)
            )
    again, played = replay(tmp_path / "a.mcap", small_bundle)
    assert [p.decision_time_s for p in again] == [1.0, 3.0]
    assert played.comparison.impossible == 1


def foreign(path, topic="/camera", session=None):
    from mcap.writer import Writer

    with path.open("wb") as file:
        writer = Writer(file)
        writer.start()
        if session is not None:
            writer.add_metadata("mla_edge.session", session)
        channel = writer.register_channel(topic, "json", 0)
        writer.add_message(channel, 1, b"{}", 1)
        writer.finish()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, _: None, "no such recording"),
        (lambda path, _: path.mkdir(), "no such recording"),
        (lambda path, _: path.write_bytes(b""), "is no MCAP file"),
        (lambda path, _: path.write_text("a text that is long enough"), "is no MCAP file"),
        (lambda path, _: foreign(path), "is an MCAP file, but no recording of mla-edge"),
        (lambda path, _: foreign(path, session={"format": "9"}), "this version reads format 1"),
        (lambda path, _: foreign(path, session={"format": "1"}), "is no recording of this"),
        (
            lambda path, s: foreign(path, "/decisions", s),
            "a message of /decisions is not of this version",
        ),
        (lambda path, s: foreign(path, "/else", s), "holds no decision that can be made again"),
    ],
)
def test_what_is_no_recording_is_refused(small_bundle, tmp_path, make, message):
    path = tmp_path / "a.mcap"
    make(path, session_of(small_bundle).to_metadata())
    with pytest.raises(RecordingError, match=message) as caught:
        replay(path, small_bundle)
    assert caught.value.exit_code == 5
    assert "a.mcap" in str(caught.value)
    assert caught.value.hint


def test_the_files_of_a_clip_s_recording_can_be_replayed_alone_too(tmp_path):
    """Each begins with the frames that its first clips are made of."""
    model, engine = recalling(tmp_path / "b", (EYES, INPUTS[1]))
    session = session_of(model.bundle, lossless=True)
    room = Room(rotate_mb=1)
    with open_camera(CAMERA, as_fast_as_possible=True) as camera, open_microphone(
        "sim://digits", rate_hz=800, window_s=1.0, as_fast_as_possible=True
    ) as microphone, Recorder(tmp_path / "a.mcap", session, room=room, waits=True) as recorder:
        made = []
        for prediction in mla_edge.run(
            model,
            recorder.watch(camera),
            recorder.watch(microphone),
            as_fast_as_possible=True,
            duration_s=6.0,
        ):
            recorder.add(prediction)
            made.append(prediction)
    lived, engine.calls[:] = list(engine.calls), []
    parts = sorted(tmp_path.glob("a-*.mcap"))
    assert len(parts) >= 2
    assert exact(p for part in parts for p in Replay(model, part).run()) == exact(made)
    for one, other in zip(lived, engine.calls):
        np.testing.assert_array_equal(one["mouth"], other["mouth"])
