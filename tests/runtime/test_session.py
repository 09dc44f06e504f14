import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
from colours import FULL, frame, make_bundle, sound

import mla_edge
from mla_edge.errors import CaptureEnded, CaptureError, ConfigError
from mla_edge.runtime.session import STEP_S
from mla_edge.runtime.tap import tap
from mla_edge.signals import Frame, Sound
from mla_edge.testing import FakeCamera, FakeClock, FakeMicrophone

LOST = CaptureError("the cable is out")
CLOCK = FakeClock(100.0)
ON_CLOCK = {"clock": CLOCK, "sleep": CLOCK.sleep}


@pytest.fixture
def model(small_bundle):
    with mla_edge.load(small_bundle.folder, threads=1) as loaded:
        yield loaded


def camera(count=10**6, *, colour="red", period_s=0.01, **faults):
    return FakeCamera([frame(colour)] * count, period_s=period_s, **ON_CLOCK, **faults)


def microphone(count=10**6, *, says="green", period_s=0.02, **faults):
    return FakeMicrophone([sound(says)] * count, period_s=period_s, **ON_CLOCK, **faults)


def collect(model, eyes, ears, **options):
    """The predictions, and (modality, what) of each fault."""
    faults = []
    run = mla_edge.run(model, eyes, ears, on_fault=faults.append, **ON_CLOCK, **options)
    predictions = list(run)
    return predictions, [(fault.modality, fault.what) for fault in faults]


def test_there_is_a_decision_for_each_frame(model):
    predictions, _ = collect(model, camera(20), microphone(), duration_s=0.6)
    assert len({p.capture_time_s["image"] for p in predictions if "image" in p.mode}) == 20
    assert predictions[10].mode == "image+audio"


def test_a_frame_is_used_once(model):
    predictions, faults = collect(model, camera(5, period_s=0.1), None)
    assert len(predictions) == 5
    assert faults == [("image", "ended")]
    assert [p.label for p in predictions] == ["red"] * 5


def test_without_a_camera_new_sound_sets_the_pace(model):
    predictions, _ = collect(model, None, microphone(period_s=0.01), duration_s=0.6)
    times = [p.capture_time_s["audio"] for p in predictions]
    assert {p.mode for p in predictions} == {"audio"}
    assert 6 <= len(times) <= 13
    assert np.diff(times).min() > STEP_S - 0.005


def test_the_newest_sound_goes_with_each_frame(model):
    predictions, _ = collect(model, camera(30), microphone(period_s=0.005), duration_s=0.3)
    both = [p.capture_time_s for p in predictions[5:]]
    assert max(abs(times["image"] - times["audio"]) for times in both) < 0.05


def test_ages_and_decision_times_are_on_the_clock(model):
    start_s = CLOCK()
    predictions, _ = collect(model, camera(5), None)
    for p in predictions:
        assert start_s <= p.capture_time_s["image"] <= p.decision_time_s <= CLOCK()
        assert p.age_ms == pytest.approx((p.decision_time_s - p.capture_time_s["image"]) * 1e3)


def test_a_lost_camera_is_masked_and_used_again(model):
    eyes = camera(60, faults=dict.fromkeys(range(10, 16), LOST))
    predictions, faults = collect(model, eyes, microphone(), duration_s=1.8)
    # after the last frame the microphone goes on alone, to the end of the duration
    modes = [mode for mode, _ in itertools.groupby(p.mode for p in predictions)]
    assert modes[-4:] == ["image+audio", "audio", "image+audio", "audio"]
    assert faults == [("image", "lost"), ("image", "back"), ("image", "ended")]


def test_the_reason_of_a_fault_is_told(model):
    faults = []
    eyes = camera(5, faults={2: LOST})
    list(mla_edge.run(model, eyes, None, on_fault=faults.append, **ON_CLOCK))
    assert (faults[0].what, faults[0].why) == ("lost", "the cable is out")
    assert faults[0].time_s <= faults[1].time_s <= CLOCK()


def test_sound_that_is_not_finite_is_masked_and_used_again(model):
    broken = replace(sound("green"), samples=np.full(800, np.nan, np.float32))
    heard = [sound("green")] * 10 + [broken] * 10 + [sound("green")] * 10**4
    ears = FakeMicrophone(heard, period_s=0.02, **ON_CLOCK)
    faults = []
    run = mla_edge.run(
        model, camera(), ears, on_fault=faults.append, duration_s=1.0, **ON_CLOCK
    )
    modes = [mode for mode, _ in itertools.groupby(p.mode for p in run)]
    assert modes[-3:] == ["image+audio", "image", "image+audio"]
    assert [(f.modality, f.what) for f in faults] == [("audio", "lost"), ("audio", "back")]
    assert faults[0].why == "its values are not finite (NaN or infinite)"


def test_sound_alone_that_is_not_finite_gives_no_decision_until_it_is_well(model):
    broken = replace(sound("red"), samples=np.full(800, np.inf, np.float32))
    ears = FakeMicrophone([broken] * 5 + [sound("red")] * 5, **ON_CLOCK)
    predictions, faults = collect(model, None, ears)
    assert {p.label for p in predictions} == {"red"}
    assert faults == [("audio", "lost"), ("audio", "back"), ("audio", "ended")]


def test_a_stalled_microphone_is_masked_when_stale_and_used_again(model):
    ears = microphone(stalls={10: 0.4})
    predictions, faults = collect(model, camera(), ears, max_age_ms=150, duration_s=1.2)
    middle = [mode for mode, _ in itertools.groupby(p.mode for p in predictions)]
    assert middle[-3:] == ["image+audio", "image", "image+audio"]
    assert faults[:2] == [("audio", "stale"), ("audio", "back")]
    assert all(p.age_ms < 160 for p in predictions)


def test_a_stalled_camera_does_not_stop_the_microphone(model):
    eyes = camera(stalls={20: 0.6})
    predictions, faults = collect(model, eyes, microphone(), max_age_ms=100, duration_s=1.2)
    assert ("image", "stale") in faults
    assert ("image", "back") in faults
    assert np.diff([p.decision_time_s for p in predictions]).max() < 0.3
    assert sum(p.mode == "audio" for p in predictions) >= 4


def test_a_camera_that_never_gives_is_stale_after_a_while(model):
    eyes = camera(stalls={0: 60.0})
    predictions, faults = collect(model, eyes, microphone(), max_age_ms=100, duration_s=0.5)
    assert faults == [("image", "stale")]
    assert {p.mode for p in predictions} == {"audio"}


def test_a_file_that_ends_leaves_the_other(model):
    predictions, faults = collect(model, camera(40), microphone(5))
    assert faults == [("audio", "ended"), ("image", "ended")]
    assert predictions[-1].mode == "image"
    assert len({p.capture_time_s["image"] for p in predictions}) == 40


def test_nothing_at_all_gives_faults_and_no_decision(model):
    eyes = camera(faults=dict.fromkeys(range(1000), LOST))
    ears = microphone(faults=dict.fromkeys(range(1000), LOST))
    start_s = CLOCK()
    predictions, faults = collect(model, eyes, ears, duration_s=0.4)
    assert predictions == []
    assert sorted(faults) == [("audio", "lost"), ("image", "lost")]
    assert 0.35 < CLOCK() - start_s < 1.0
    assert eyes.reads < 20  # a lost source is asked now and then, not in a busy loop


class Suspended:
    """A camera in a machine that sleeps for an hour; what was buffered comes first then."""

    drops = 0

    def __init__(self, source, at_read):
        self._source, self._left, self._buffered = source, at_read, []

    def read(self, timeout_s):
        self._left -= 1
        if self._left == 0:
            kept = [self._source.read(0.1) for _ in range(3)]
            self._buffered = [replace(old, time_s=CLOCK()) for old in kept]
            CLOCK.sleep(3600)
        return self._buffered.pop(0) if self._buffered else self._source.read(timeout_s)


@pytest.mark.parametrize("rate_hz", [None, 50])
def test_a_clock_that_jumps_by_an_hour_leaves_nothing_old_in_a_decision(model, rate_hz):
    noise = np.random.default_rng(0).integers(0, 255, (90, 24, 32, 3), np.uint8)
    eyes = FakeCamera([Frame(each, 0.0) for each in noise], period_s=0.01, **ON_CLOCK)
    ears = microphone(10**4)
    start_s = CLOCK()
    predictions, faults = collect(
        model,
        Suspended(eyes, 40),
        ears,
        duration_s=3602.0,
        max_age_ms=150,
        rate_hz=rate_hz,
    )
    times = np.array([p.decision_time_s for p in predictions]) - start_s
    slept = int(np.diff(times).argmax())
    assert times[slept + 1] - times[slept] == pytest.approx(3600, abs=0.2)
    assert 10 < len(times) - slept < 200  # none for the moments that were slept through
    assert max(p.age_ms for p in predictions) < 160
    assert {p.mode for p in predictions[slept:]} >= {"audio", "image+audio"}
    assert [what for name, what in faults if name == "image"][:2] == ["stale", "back"]


def test_both_files_ended_ends_the_run(model):
    predictions, faults = collect(model, camera(3), microphone(3))
    assert predictions
    assert sorted(faults) == [("audio", "ended"), ("image", "ended")]


def test_a_rate_is_a_schedule_that_does_not_drift(model):
    predictions, _ = collect(model, camera(), microphone(), rate_hz=20, duration_s=1.0)
    times = np.array([p.decision_time_s for p in predictions])
    numbers = np.round((times - times[0]) * 20)
    assert 17 <= len(predictions) <= 20
    assert np.abs((times - times[0]) * 20 - numbers).max() < 0.5


def test_a_rate_above_the_cameras_uses_a_frame_again(model):
    predictions, _ = collect(model, camera(period_s=0.2), None, rate_hz=50, duration_s=0.5)
    times = [p.capture_time_s["image"] for p in predictions]
    assert len(times) > 2 * len(set(times))
    again = [time_s in times[:n] for n, time_s in enumerate(times)]
    assert [p.repeated for p in predictions] == [("image",) if each else () for each in again]


def test_only_what_is_not_new_is_named_as_repeated(model):
    predictions, _ = collect(
        model, camera(period_s=0.2), microphone(period_s=0.01), rate_hz=20, duration_s=0.5
    )
    assert {p.repeated for p in predictions if p.mode == "image+audio"} == {(), ("image",)}


def test_on_news_no_frame_is_used_again(model):
    predictions, _ = collect(model, camera(), None, duration_s=0.5)
    assert {p.repeated for p in predictions} == {()}


def test_missed_ticks_are_left_out(model):
    run = mla_edge.run(model, camera(), None, rate_hz=50, **ON_CLOCK)
    first = next(run)
    CLOCK.sleep(0.3)  # a slow embedder
    late = [next(run) for _ in range(4)]
    run.close()
    assert late[0].decision_time_s - first.decision_time_s > 0.299
    assert late[3].decision_time_s - late[1].decision_time_s > 0.025


def test_the_duration_ends_a_run_in_which_nothing_comes(model):
    start_s = CLOCK()
    assert collect(model, camera(stalls={0: 60.0}), None, duration_s=0.2)[0] == []
    assert CLOCK() - start_s < 0.5


def test_closing_leaves_nothing_and_closes_nothing_of_the_callers(model):
    eyes = camera()
    before = threading.active_count()
    run = mla_edge.run(model, eyes, microphone(), **ON_CLOCK)
    next(run)
    run.close()
    assert threading.active_count() == before
    assert not eyes.closed
    assert next(mla_edge.run(model, eyes, None, **ON_CLOCK)).label == "red"


class FileCamera:
    """Frames of a file, all there at once, 40 ms apart on their own clock."""

    drops = 0

    def __init__(self, count, start_s=1000.0):
        self._frames = iter(
            Frame(np.full((8, 8, 3), (n, 0, 0), np.uint8), start_s + n * 0.04)
            for n in range(count)
        )

    def read(self, timeout_s):
        for each in self._frames:
            return each
        raise CaptureEnded("no more frames")

    def close(self):
        pass


class FileMicrophone(FileCamera):
    """Sound of a file, 20 ms further with each read, with the noise of a microphone."""

    def __init__(self, count, start_s=1000.0):
        noise = np.random.default_rng(0)
        self._frames = iter(
            Sound(noise.normal(0.9, 0.01, 800).astype(np.float32), 800, start_s + n * 0.02)
            for n in range(count)
        )


def test_files_as_fast_as_possible_stay_together(model):
    start_s = CLOCK()
    predictions, faults = collect(
        model, FileCamera(100), FileMicrophone(10**6), as_fast_as_possible=True, duration_s=3.0
    )
    assert CLOCK() - start_s < 2.0
    assert faults == []
    assert len(predictions) == 75
    for p in predictions:
        times = p.capture_time_s
        assert 0 <= times["audio"] - times["image"] < 0.0201
        assert 0 <= p.age_ms < 21
        assert p.decision_time_s == max(times.values())


def test_a_short_file_as_fast_as_possible_leaves_the_other(model):
    predictions, faults = collect(
        model, FileCamera(50), FileMicrophone(50), as_fast_as_possible=True
    )
    assert len(predictions) == 50
    assert faults == [("audio", "ended"), ("image", "ended")]
    assert predictions[-1].mode == "image"


def test_sound_alone_as_fast_as_possible(model):
    predictions, _ = collect(model, None, FileMicrophone(100), as_fast_as_possible=True)
    assert len(predictions) == 34  # each third of 20 ms, the first included
    assert {p.label for p in predictions} == {"red"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate_hz": 0}, "rate_hz is 0"),
        ({"max_age_ms": -1}, "max_age_ms is -1"),
        ({"duration_s": float("nan")}, "duration_s is nan"),
        ({"rate_hz": 5, "as_fast_as_possible": True}, "rate_hz sets the pace"),
    ],
)
def test_wrong_options_are_refused_at_once(model, options, message):
    with pytest.raises(ConfigError, match=message):
        mla_edge.run(model, camera(), None, **options)


@pytest.mark.parametrize("is_tapped", [False, True])
def test_a_device_and_a_file_as_fast_as_possible_are_refused(model, is_tapped):
    class Device(FileCamera):
        live = True

    class Ear(FileMicrophone):
        live = True

    def source(kind):
        return tap(kind(3), lambda *_: None) if is_tapped else kind(3)

    for eyes, ears, message in [
        (Device, FileMicrophone, "the camera is live and the microphone is not"),
        (FileCamera, Ear, "the microphone is live and the camera is not"),
    ]:
        with pytest.raises(ConfigError, match=message) as caught:
            mla_edge.run(model, source(eyes), source(ears), as_fast_as_possible=True)
        assert "--as-fast-as-possible" in caught.value.hint
    for eyes, ears in [(Device, Ear), (FileCamera, FileMicrophone)]:
        run = mla_edge.run(model, source(eyes), source(ears), as_fast_as_possible=True)
        assert len(list(run)) == 3


def test_no_source_is_refused(model):
    with pytest.raises(ConfigError, match="no camera and no microphone"):
        mla_edge.run(model, None, None)


def test_a_source_without_an_input_is_refused(tmp_path):
    from colours import INPUTS

    from mla_edge.preprocess import Preprocessor
    from mla_edge.runtime.model import FusedModel
    from mla_edge.runtime.routing import CascadeRouter
    from mla_edge.signals import TensorSpec
    from mla_edge.testing import FakeEngine

    bundle = make_bundle(tmp_path / "b", tiers=[FULL], inputs=INPUTS[1:])
    engine = FakeEngine(
        [TensorSpec("audio", "float32", (1, 800))], {"logits": np.zeros((1, 3), np.float32)}
    )
    deaf = FusedModel(
        bundle, {"full": engine}, CascadeRouter(bundle.policy), Preprocessor(INPUTS[1:])
    )
    with pytest.raises(ConfigError, match="colours-host has no image or clip input"):
        mla_edge.run(deaf, camera(), microphone())
    assert next(mla_edge.run(deaf, None, microphone(), **ON_CLOCK)).mode == "audio"
