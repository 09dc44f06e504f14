import dataclasses

import numpy as np
import pytest

from mla_edge.errors import ConfigError
from mla_edge.runtime.change import Memory, look_at
from mla_edge.signals import Clip, Frame, Prediction, Reading, Sample, Sound

RATE_HZ = 16000


def scene(rng, noise=6.0):
    """A picture with a bright square on a slope, and a sensor's noise."""
    picture = np.tile(np.linspace(60, 160, 640, dtype=np.float32), (480, 1))
    picture[200:280, 300:380] = 220
    return picture + rng.normal(0, noise, picture.shape)


def frame(picture, time_s=0.0):
    grey = np.clip(picture, 0, 255).astype(np.uint8)
    return Frame(np.repeat(grey[..., None], 3, 2), time_s)


def noise(rng, level=0.05):
    return Sound((level * rng.standard_normal(RATE_HZ)).astype(np.float32), RATE_HZ, 0.0)


def word(sound, at_s):
    samples = sound.samples.copy()
    start = int(at_s * RATE_HZ)
    time = np.arange(RATE_HZ // 5) / RATE_HZ
    samples[start : start + len(time)] += 0.3 * np.sin(2 * np.pi * 300 * time)
    return dataclasses.replace(sound, samples=samples)


def test_the_noise_of_a_sensor_is_no_change():
    rng = np.random.default_rng(0)
    first = look_at(frame(scene(rng)))
    assert all(first.same(look_at(frame(scene(rng)))) for _ in range(30))


def test_an_exposure_that_adapts_is_no_change_and_a_light_that_goes_out_is():
    rng = np.random.default_rng(1)
    first = look_at(frame(scene(rng)))
    assert first.same(look_at(frame(scene(rng) * 1.1)))
    assert not first.same(look_at(frame(scene(rng) * 0.3)))


def test_a_small_thing_that_moves_is_a_change():
    rng = np.random.default_rng(2)
    first, moved = scene(rng), scene(rng)
    moved[100:150, 100:140] += 60
    assert not look_at(frame(first)).same(look_at(frame(moved)))


def test_slow_drift_adds_up():
    rng = np.random.default_rng(3)
    looks = []
    for step in range(60):
        picture = scene(rng)
        picture[100:200, 100:240] += step
        looks.append(look_at(frame(picture)))
    assert all(a.same(b) for a, b in zip(looks, looks[1:]))
    assert not looks[0].same(looks[-1])


@pytest.mark.parametrize("size", [(9, 16), (18, 32), (64, 96), (1080, 1920)])
def test_pictures_of_any_size(size):
    picture = np.full((*size, 3), 100, np.uint8)
    assert look_at(Frame(picture, 0.0)).same(look_at(Frame(picture + 2, 0.0)))
    assert not look_at(Frame(picture, 0.0)).same(look_at(Frame(picture // 4, 0.0)))


def test_a_picture_of_another_size_is_a_change():
    small, large = (Frame(np.zeros((n, n, 3), np.uint8), 0.0) for n in (64, 128))
    assert look_at(small).same(look_at(small))
    assert not look_at(small).same(look_at(Frame(np.zeros((9, 9, 3), np.uint8), 0.0)))
    assert look_at(small).same(look_at(large))  # what is seen is the same


def test_lips_that_move_in_a_clip_are_a_change():
    frames = np.full((16, 48, 64), 90, np.uint8)
    moved = frames.copy()
    moved[12, 20:40, 20:40] = 160
    assert look_at(Clip(frames, 25.0, 0.0)).same(look_at(Clip(frames + 1, 25.0, 0.0)))
    assert not look_at(Clip(frames, 25.0, 0.0)).same(look_at(Clip(moved, 25.0, 0.0)))


@pytest.mark.parametrize("level", [0.0, 0.001, 0.05, 0.3])
def test_steady_noise_is_no_change(level):
    rng = np.random.default_rng(4)
    first = look_at(noise(rng, level))
    assert all(first.same(look_at(noise(rng, level))) for _ in range(30))


def test_a_word_is_a_change_and_so_is_its_way_through_the_window():
    rng = np.random.default_rng(5)
    quiet, early, later = noise(rng), word(noise(rng), 0.7), word(noise(rng), 0.6)
    assert not look_at(quiet).same(look_at(early))
    assert not look_at(early).same(look_at(later))
    assert not look_at(early).same(look_at(quiet))


def test_readings_are_compared_exactly():
    first = look_at(Reading(np.array([1.0, 2.0], np.float32), 0.0))
    assert first.same(look_at(Reading(np.array([1.0, 2.0], np.float32), 1.0)))
    assert not first.same(look_at(Reading(np.array([1.0, 2.01], np.float32), 1.0)))


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.uint32, np.int64, bool])
def test_readings_of_any_kind_are_compared(dtype):
    first = look_at(Reading(np.array([[1, 0]], dtype), 0.0))
    assert first.same(look_at(Reading(np.array([[1, 0]], np.float32), 1.0)))
    assert not first.same(look_at(Reading(np.array([[1, 1]], dtype), 1.0)))
    large = look_at(Reading(np.array([[2**32]], np.int64), 0.0))
    assert not large.same(look_at(Reading(np.array([[0]], np.int64), 0.0)))


@pytest.mark.parametrize(
    "broken",
    [
        Reading(np.full(5, np.nan, np.float32), 0.0),
        Sound(np.full(RATE_HZ, np.nan, np.float32), RATE_HZ, 0.0),
        Frame(np.full((48, 64, 3), np.nan, np.float32), 0.0),
    ],
    ids=["reading", "sound", "frame"],
)
def test_what_is_not_a_number_is_always_a_change(broken):
    assert not look_at(broken).same(look_at(broken))


@pytest.mark.parametrize("dtype", [bool, np.int32, np.int64, np.float16, np.float32])
def test_a_picture_that_no_input_takes_is_left_to_preprocessing(dtype):
    good = Frame(np.ones((48, 64, 3), np.uint8), 0.0)
    assert not look_at(good).same(look_at(Frame(np.ones((48, 64, 3), dtype), 0.0)))
    look_at(Clip(np.zeros((4, 0, 0), np.uint8), 25.0, 0.0))
    look_at(Clip(np.zeros((0, 48, 64), np.uint8), 25.0, 0.0))


def decided(sample, confidence=0.95, mode="image"):
    times = {name: signal.time_s for name, signal in sample.signals.items()}
    return Prediction(
        label="7",
        confidence=confidence,
        tier="full",
        reason="escalated",
        mode=mode,
        capture_time_s=times,
        decision_time_s=0.0,
        latency_ms=1.0,
        age_ms=1.0,
    )


def still(time_s):
    return Sample({"image": Frame(np.full((48, 64, 3), 80, np.uint8), time_s)})


def test_a_decision_is_reused_until_it_is_too_old():
    memory = Memory(reuse_ms=200)
    assert memory.recall("image", still(1.0)) is None
    memory.keep(decided(still(1.0)))
    kept, age_ms = memory.recall("image", still(1.15))
    assert (kept.label, round(age_ms)) == ("7", 150)
    assert memory.recall("image", still(1.25)) is None
    assert memory.recall("image", still(0.9)) is None  # time went back


def test_what_is_unsure_or_of_another_mode_or_forgotten_is_not_reused():
    memory = Memory(reuse_ms=200)
    memory.recall("image", still(1.0))
    memory.keep(decided(still(1.0), confidence=0.5))
    assert memory.recall("image", still(1.1)) is None
    memory.keep(decided(still(1.0)))
    assert memory.recall("image+audio", still(1.1)) is None
    memory.recall("image", still(1.1))
    memory.keep(None)
    assert memory.recall("image", still(1.1)) is None
    memory.keep(decided(still(1.1)))
    memory.forget()
    assert memory.recall("image", still(1.1)) is None


@pytest.mark.parametrize("reuse_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_to_reuse_is_a_time(reuse_ms):
    with pytest.raises(ConfigError, match="reuse_ms is"):
        Memory(reuse_ms)


@pytest.mark.parametrize("shape", [(3, 40, 64), (40, 64, 5), (40, 64, 1), (40, 64), (2, 2, 7)])
def test_what_no_input_takes_is_looked_at_all_the_same(shape):
    """Preparing it says what is wrong, and is asked after this."""
    pixels = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    first = look_at(Frame(pixels, 0.0))
    assert first.same(look_at(Frame(pixels.copy(), 0.0)))
    assert not first.same(look_at(Frame(255 - pixels, 0.0)))
