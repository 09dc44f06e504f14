"""The simulator as camera and microphone: pace, drops, shared time, ends."""

import numpy as np
import pytest

from mla_edge.errors import CaptureEnded, CaptureError, CaptureTimeout
from mla_edge.simulator import sources
from mla_edge.simulator.digits import DigitsOptions, DigitsWorld
from mla_edge.simulator.sources import SimCamera, SimMicrophone

SMALL = "sim://digits?size=64x64&fps=10"


class HandClock:
    """A clock that stands still but for sleeps and pushes."""

    def __init__(self, now_s=1000.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s

    def sleep(self, seconds):
        assert seconds > 0
        self.now_s += seconds


@pytest.fixture
def clock():
    yield HandClock()
    assert not sources._timelines, "a timeline was left behind"


@pytest.fixture
def opened(clock):
    """Open sources on the hand clock; they are closed in the end."""
    made = []

    def open_source(kind, query="", **settings):
        options = DigitsOptions.parse(SMALL + query)
        made.append(kind(options, clock=clock, sleep=clock.sleep, **settings))
        return made[-1]

    yield open_source
    for source in made:
        source.close()


def test_a_live_camera_waits_for_each_frame(clock, opened):
    camera = opened(SimCamera)
    stamps = [camera.read(1.0).time_s for _ in range(4)]
    assert stamps == pytest.approx([1000.0, 1000.1, 1000.2, 1000.3])
    assert clock() == pytest.approx(1000.3)
    assert camera.drops == 0


def test_a_slow_reader_gets_the_newest_frame_and_the_drops_are_counted(clock, opened):
    camera = opened(SimCamera)
    camera.read(1.0)
    clock.sleep(0.55)
    frame = camera.read(1.0)
    assert frame.time_s == pytest.approx(1000.5) and camera.drops == 4
    assert np.array_equal(frame.image, DigitsWorld(camera.world.options).frame(0.5)[0])
    assert camera.read(1.0).time_s == pytest.approx(1000.6) and camera.drops == 4


def test_a_camera_that_gives_nothing_in_time_says_so(clock, opened):
    camera = opened(SimCamera)
    camera.read(0.0)
    with pytest.raises(CaptureTimeout, match="0.03 s") as caught:
        camera.read(0.03)
    assert "0.070 s" in caught.value.hint
    assert clock() == pytest.approx(1000.03)
    assert camera.read(0.1).time_s == pytest.approx(1000.1)


def test_a_live_microphone_hears_up_to_now(clock, opened):
    microphone = opened(SimMicrophone, rate_hz=16000, window_s=0.5)
    clock.sleep(2.004)
    sound = microphone.read(0.0)
    assert sound.time_s == pytest.approx(1002.0)
    assert sound.samples.shape == (8000,) and sound.rate_hz == 16000
    with pytest.raises(CaptureTimeout):
        microphone.read(0.0)
    assert microphone.read(0.05).time_s == pytest.approx(1002.01)
    assert microphone.drops == 0


def test_live_sources_share_the_zero_of_the_first_one(clock, opened):
    camera = opened(SimCamera)
    clock.sleep(5.03)
    microphone = opened(SimMicrophone, "&noise_db=0")  # another rendering of the same schedule
    late = opened(SimCamera)
    sound = microphone.read(0.0)
    assert sound.time_s == pytest.approx(1005.03)
    wanted, truth = microphone.world.sound(5.03, 8000, 8000)
    assert np.array_equal(sound.samples, wanted) and sound.truth == truth
    assert late.read(1.0).time_s == pytest.approx(1005.1)
    assert camera.read(1.0).time_s == pytest.approx(1005.1)


def test_another_seed_has_a_time_of_its_own(clock, opened):
    opened(SimCamera)
    clock.sleep(5.0)
    assert opened(SimCamera, "&seed=1").read(0.0).time_s == pytest.approx(1005.0)
    assert opened(SimCamera, "&seed=1").read(1.0).time_s == pytest.approx(1005.0)


def test_the_schedule_can_be_given_its_zero(clock, opened):
    camera = opened(SimCamera, start_s=990.0)
    frame = camera.read(0.0)
    assert frame.time_s == pytest.approx(1000.0)
    assert np.array_equal(frame.image, camera.world.frame(10.0)[0])


def test_a_new_world_begins_when_the_last_source_has_closed(clock, opened):
    first, second = opened(SimCamera), opened(SimMicrophone)
    first.close()
    first.close()
    clock.sleep(3.0)
    assert opened(SimMicrophone).read(0.0).time_s == pytest.approx(1003.0)
    assert len(sources._timelines) == 1
    second.close()
    opened(SimCamera).close()
    assert len(sources._timelines) == 1


def test_a_closed_source_cannot_be_read(opened):
    for kind in (SimCamera, SimMicrophone):
        for fast in (False, True):
            source = opened(kind, as_fast_as_possible=fast)
            source.close()
            with pytest.raises(CaptureError, match="closed"):
                source.read(1.0)


def test_as_fast_as_possible_gives_every_frame_without_waiting(clock, opened):
    camera = opened(SimCamera, as_fast_as_possible=True)
    clock.sleep(7.0)
    stamps = [camera.read(0.0).time_s for _ in range(5)]
    assert stamps == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert clock() == pytest.approx(1007.0) and camera.drops == 0


def test_a_fast_microphone_follows_the_camera(opened):
    microphone = opened(SimMicrophone, as_fast_as_possible=True)
    camera = opened(SimCamera, as_fast_as_possible=True)
    known = 0
    for _ in range(100):
        frame, sound = camera.read(0.0), microphone.read(0.0)
        assert sound.time_s == frame.time_s
        assert np.array_equal(sound.samples, camera.world.sound(frame.time_s, 8000, 8000)[0])
        known += sound.truth not in (None, "none") or frame.truth != "none"
    assert known > 10
    assert microphone.read(0.0).time_s == microphone.read(0.0).time_s


def test_a_fast_microphone_alone_goes_on_by_itself(opened):
    microphone = opened(SimMicrophone, as_fast_as_possible=True)
    assert [microphone.read(0.0).time_s for _ in range(3)] == pytest.approx([0, 0.05, 0.1])
    camera = opened(SimCamera, as_fast_as_possible=True)
    assert camera.read(0.0).time_s == pytest.approx(0.2)
    assert microphone.read(0.0).time_s == pytest.approx(0.2)
    camera.close()
    assert [microphone.read(0.0).time_s for _ in range(2)] == pytest.approx([0.2, 0.25])


@pytest.mark.parametrize("fast", [False, True])
def test_a_duration_ends_both(opened, fast):
    camera = opened(SimCamera, "&duration=1", as_fast_as_possible=fast)
    microphone = opened(SimMicrophone, "&duration=1", as_fast_as_possible=fast)
    frames = []
    with pytest.raises(CaptureEnded, match="duration is 1 s"):
        while True:
            frames.append(camera.read(1.0))
            microphone.read(1.0)
    assert len(frames) == 10
    with pytest.raises(CaptureEnded):
        for _ in range(30):
            microphone.read(1.0)
    with pytest.raises(CaptureEnded):
        camera.read(1.0)


def test_a_world_can_be_handed_in(opened, clock):
    world = DigitsWorld(DigitsOptions(size=(64, 64)))
    camera = SimCamera(world, clock=clock, sleep=clock.sleep)
    assert camera.world is world and camera.read(0.0).image.shape == (64, 64, 3)
    camera.close()


def test_real_time_is_kept_by_the_real_clock():
    camera = SimCamera(DigitsOptions.parse("sim://digits?size=64x64&fps=50&seed=77"))
    stamps = [camera.read(1.0).time_s]
    before = camera.drops  # a busy machine may come too late for the very first
    stamps += [camera.read(1.0).time_s for _ in range(9)]
    camera.close()
    steps = np.diff(stamps) * 50
    assert np.allclose(steps, np.round(steps), atol=1e-3) and steps.min() > 0.9
    assert len(stamps) + camera.drops - before == round((stamps[-1] - stamps[0]) * 50) + 1
