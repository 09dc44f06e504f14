"""The loop with a network whose eyes want several frames: masked until they are there."""

import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
from colours import FULL, make_bundle, sound

import mla_edge
from mla_edge.bundle import ModePolicy, RouterPolicy
from mla_edge.errors import CaptureEnded, CaptureError
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.capture import open_camera
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import CascadeRouter
from mla_edge.signals import Frame, InputSpec, TensorSpec, Tier
from mla_edge.testing import FakeCamera, FakeClock, FakeEngine, FakeMicrophone

cv2 = pytest.importorskip("cv2")

INPUTS = (
    InputSpec("mouth", "clip", (1, 16, 6, 8), 25),
    InputSpec("audio", "audio", (1, 800), 800),
)
TIER = Tier("full", ("mouth", "audio", "present"), ("logits",))
CLOCK = FakeClock(100.0)
ON_CLOCK = {"clock": CLOCK, "sleep": CLOCK.sleep}
LOST = CaptureError("the cable is out")


@pytest.fixture
def make_model(tmp_path):
    """A model of two inputs whose engine keeps what it is given, and takes so long."""

    def make(latency_s=0.0):
        policy = RouterPolicy({"mouth+audio": ModePolicy(1.0, 0.8)}, {}, "")
        bundle = make_bundle(tmp_path / "b", tiers=[FULL], inputs=INPUTS, policy=policy)
        specs = [TensorSpec(spec.name, "float32", spec.shape) for spec in INPUTS]
        specs.append(TensorSpec("present", "float32", (1, 2)))
        logits = {"logits": np.zeros((1, 3), np.float32)}
        engine = FakeEngine(specs, logits, latency_s=latency_s)
        bundle = replace(bundle, tiers=(TIER,))
        router = CascadeRouter(policy)
        return FusedModel(bundle, {"full": engine}, router, Preprocessor(INPUTS)), engine

    return make


def pictures(count):
    return [Frame(np.full((12, 16, 3), n % 256, np.uint8), 0.0) for n in range(count)]


def eyes(count=10**4, *, fps=30, **faults):
    return FakeCamera(pictures(count), period_s=1 / fps, **ON_CLOCK, **faults)


def ears(count=10**6):
    return FakeMicrophone([sound("green")] * count, period_s=0.02, **ON_CLOCK)


def collect(model, camera, microphone, **options):
    """The predictions, and (modality, what, why) of each fault."""
    told = []
    run = mla_edge.run(model, camera, microphone, on_fault=told.append, **ON_CLOCK, **options)
    predictions = list(run)
    return predictions, [(fault.modality, fault.what, fault.why) for fault in told]


def grouped(predictions):
    return [
        (mode, len([*same])) for mode, same in itertools.groupby(p.mode for p in predictions)
    ]


def test_the_clip_is_masked_until_it_is_whole_and_no_fault_is_told(make_model):
    model, engine = make_model()
    predictions, faults = collect(model, eyes(), ears(), duration_s=1.5)
    assert faults == []
    # 600 ms of history is the 19th frame of 30 a second, and there is a decision for each
    assert grouped(predictions) == [("audio", 18), ("mouth+audio", len(predictions) - 18)]
    assert len(predictions) >= 44
    assert not any(call["mouth"].any() for call in engine.calls[:18])
    assert engine.calls[17]["present"].tolist() == [[0, 1]]
    first = engine.calls[18]["mouth"][0, :, 0, 0].tolist()
    assert first == [0, 1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18]
    assert set(predictions[0].capture_time_s) == {"audio"}
    assert predictions[18].capture_time_s["mouth"] == pytest.approx(
        predictions[18].decision_time_s, abs=0.03
    )


def test_eyes_alone_decide_nothing_before_their_clip_is_whole(make_model):
    model, engine = make_model()
    predictions, faults = collect(model, eyes(30), None)
    assert len(predictions) == len(engine.calls) == 12
    assert [(name, what) for name, what, _ in faults] == [("mouth", "ended")]


def test_a_gap_masks_it_until_it_is_whole_again(make_model):
    model, engine = make_model()
    predictions, faults = collect(model, eyes(stalls={40: 0.2}), ears(), duration_s=3.0)
    (_, waited), (_, saw), (_, masked), (_, _) = grouped(predictions)
    assert (waited, saw, masked) == (18, 22, 18)
    assert [(name, what) for name, what, _ in faults] == [("mouth", "stale"), ("mouth", "back")]
    assert faults[0][2] == "after a gap, only 1 of a clip's 16 frames are there"
    after = engine.calls[waited + saw + masked]["mouth"][0, :, 0, 0]
    assert after[0] == 40  # nothing of before the gap


def test_a_stall_is_told_once_and_so_is_the_return(make_model):
    model, _ = make_model()
    predictions, faults = collect(
        model, eyes(stalls={40: 0.8}), ears(), duration_s=4.0, max_age_ms=300
    )
    assert [(name, what) for name, what, _ in faults] == [("mouth", "stale"), ("mouth", "back")]
    assert [mode for mode, _ in grouped(predictions)] == ["audio", "mouth+audio"] * 2


def test_a_camera_that_is_lost_is_used_again_when_the_clip_is_whole(make_model):
    model, _ = make_model()
    camera = eyes(faults=dict.fromkeys(range(40, 44), LOST))
    predictions, faults = collect(model, camera, ears(), duration_s=3.0)
    assert [(name, what) for name, what, _ in faults] == [("mouth", "lost"), ("mouth", "back")]
    assert [mode for mode, _ in grouped(predictions)] == ["audio", "mouth+audio"] * 2


def test_a_camera_that_is_too_slow_is_masked_and_told_once(make_model):
    model, _ = make_model()
    predictions, faults = collect(model, eyes(fps=5), ears(), duration_s=3.0)
    assert {p.mode for p in predictions} == {"audio"}
    assert len(predictions) > 40  # sound sets the pace
    assert [(name, what) for name, what, _ in faults] == [("mouth", "lost")]
    assert "its frames come 200 ms apart" in faults[0][2]


def test_files_that_end_too_early_say_what_is_missing(make_model):
    model, _ = make_model()
    predictions, faults = collect(model, eyes(10), None)
    assert predictions == []
    assert faults == [
        ("mouth", "ended", "there is no more; only 8 of a clip's 16 frames are there")
    ]


class WatchedCamera(FakeCamera):
    """Gives every third frame to who reads it, and every frame to who watches it."""

    see = None
    watches = 0

    def watch(self, see):
        self.see = see
        self.watches += 1

    def read(self, timeout_s):
        for _ in range(3):
            frame = super().read(timeout_s)
            if self.see is not None:
                self.see(frame)
        return frame


def test_frames_that_were_not_read_are_in_the_clip_of_a_camera_that_shows_them(make_model):
    model, engine = make_model()
    camera = WatchedCamera(pictures(10**3), period_s=1 / 30, **ON_CLOCK)
    predictions, _ = collect(model, camera, None, duration_s=1.5)
    assert 7 <= len(predictions) <= 10
    for call in engine.calls:
        steps = np.diff(call["mouth"][0, :, 0, 0])
        assert set(steps) == {1, 2}
        assert steps.sum() == 18
    assert camera.see is None
    assert camera.watches == 2


def test_a_run_that_is_closed_watches_no_longer(make_model):
    model, _ = make_model()
    camera = WatchedCamera(pictures(10**3), period_s=1 / 30, **ON_CLOCK)
    run = mla_edge.run(model, camera, None, **ON_CLOCK)
    next(run)
    assert camera.see is not None
    run.close()
    assert camera.see is None


def write_video(path, count, fps):
    """Frame ``i`` is of grey ``4 * i``."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), 4 * number, np.uint8))
    writer.release()
    return path


def seen(engine):
    """The numbers of the frames of each clip."""
    return [np.round(call["mouth"][0, :, 0, 0] / 4).astype(int) for call in engine.calls]


def test_slow_decisions_leave_no_hole_in_the_clips_of_a_real_camera(make_model, tmp_path):
    model, engine = make_model(latency_s=0.12)
    path = write_video(tmp_path / "video.avi", 45, fps=30)
    with open_camera(str(path)) as camera:
        predictions = list(mla_edge.run(model, camera, None))
        assert camera.drops >= 15  # not decided on
    assert 1 <= len(predictions) <= 10
    for clip in seen(engine):
        assert clip[-1] - clip[0] == 18
        assert set(np.diff(clip)) == {1, 2}


def test_every_frame_of_a_file_has_its_turn_as_fast_as_possible(make_model, tmp_path):
    model, engine = make_model()
    path = write_video(tmp_path / "video.avi", 50, fps=25)
    started_s = time.monotonic()
    with open_camera(str(path), as_fast_as_possible=True) as camera:
        run = mla_edge.run(model, camera, None, as_fast_as_possible=True)
        predictions = list(run)
        with pytest.raises(CaptureEnded):
            camera.read(0)
    assert time.monotonic() - started_s < 2
    assert [p.capture_time_s["mouth"] for p in predictions] == pytest.approx(
        np.arange(15, 50) / 25
    )
    for last, clip in zip(range(15, 50), seen(engine)):
        assert clip.tolist() == [*range(last - 15, last + 1)]
