"""What no working sensor gives is noticed, told, and left out where that is asked for."""

from itertools import count

import cv2
import numpy as np
import pytest
from colours import make_bundle

import mla_edge
from mla_edge.errors import CaptureEnded, CaptureError
from mla_edge.runtime.camera import open_source
from mla_edge.runtime.vitals import PATIENCE_S, Vitals
from mla_edge.signals import Clip, Frame, Reading, Sound

RNG = np.random.default_rng(0)


def noisy(level=120):
    return np.clip(RNG.normal(level, 3, (48, 64, 3)), 0, 255).astype(np.uint8)


def talk():
    return RNG.normal(0, 0.1, 800).astype(np.float32)


def findings(signals):
    vitals = Vitals()
    found = []
    for signal in signals:
        vitals.look(signal)
        found.append(vitals.finding)
    return found


def frames(pictures, period_s=0.1):
    return [Frame(picture, 10 + i * period_s) for i, picture in enumerate(pictures)]


def sounds(windows, period_s=0.1):
    return [Sound(window, 800, 10 + i * period_s) for i, window in enumerate(windows)]


def test_a_picture_that_repeats_is_frozen_after_a_while_and_well_at_once():
    same = noisy()
    found = findings(frames([noisy() for _ in range(30)] + [same] * 40 + [noisy()]))
    assert set(found[:31]) == {""}
    first = found.index("frozen")
    assert first == 31 + round(PATIENCE_S / 0.1)
    assert set(found[first:70]) == {"frozen"}
    assert found[-1] == ""


def test_a_still_scene_is_not_frozen_for_a_sensor_has_noise():
    scene = noisy()
    shaken = [scene ^ (RNG.random(scene.shape) < 0.05).astype(np.uint8) for _ in range(60)]
    assert set(findings(frames(shaken))) == {""}


@pytest.mark.parametrize("dark", [0, 1])
def test_a_covered_camera_is_black_with_and_without_noise(dark):
    pictures = [RNG.integers(0, 1 + 3 * dark, (48, 64, 3), np.uint8) for _ in range(30)]
    assert findings(frames(pictures))[-1] == "black"


def test_a_dim_room_is_not_black():
    assert set(findings(frames([noisy(15) for _ in range(40)]))) == {""}


def test_sound_of_zeros_is_silent_and_quiet_sound_is_not():
    zeros = np.zeros(800, np.float32)
    assert findings(sounds([zeros] * 30))[-1] == "silent"
    assert set(findings(sounds([talk() * 1e-3 for _ in range(30)]))) == {""}


def test_sound_at_its_limit_clips_and_a_loud_word_does_not():
    loud = np.clip(talk() * 30, -1, 1)
    assert findings(sounds([loud] * 30))[-1] == "clipping"
    word = talk()
    word[:8] = 1.0
    assert set(findings(sounds([word] * 30))) == {""}


@pytest.mark.parametrize("buffers", [2, 4])
def test_a_driver_that_gives_its_buffers_in_turn_is_repeating(buffers):
    kept = [noisy() for _ in range(buffers)]
    found = findings(frames([noisy() for _ in range(10)] + kept * (40 // buffers) + [noisy()]))
    assert set(found[:30]) == {""}
    assert set(found[10 + buffers + 20 : -1]) == {"repeating"}
    assert found[-1] == ""


@pytest.mark.parametrize("turn", ["AABB", "AAB", "ABB", "AABBCCDDEEFFGG"])
def test_a_driver_that_gives_its_buffers_more_than_once_is_repeating_as_soon(turn):
    kept = {name: noisy() for name in turn}
    pictures = [noisy() for _ in range(30)] + [kept[name] for name in turn] * (300 // len(turn))
    found = findings(frames([*pictures, noisy()], 1 / 30))
    first = found.index("repeating")
    assert first <= 30 + len(turn) + round(PATIENCE_S * 30) + 1
    assert set(found[:first]) == {""}
    assert set(found[first:-1]) == {"repeating"}
    assert found[-1] == ""


def test_buffers_in_turn_of_which_one_stays_become_frozen_in_the_end():
    kept = [noisy(), noisy()]
    found = findings(frames(kept * 20 + kept[:1] * 40))
    assert (found[39], found[-1]) == ("repeating", "frozen")


def test_a_driver_that_stays_at_one_of_its_last_buffers_is_frozen():
    pictures = [noisy() for _ in range(10)]
    assert set(findings(frames([*pictures, *pictures[7:8] * 40]))) == {"", "frozen"}


@pytest.mark.parametrize("period", [1, 7, 160, 266])  # of 800 samples; 1 is one value for ever
def test_sound_of_a_stuck_buffer_is_repeating(period):
    stream = np.concatenate([talk(), np.tile(talk()[:period], 4000 // period + 1)])
    windows = [stream[start : start + 800] for start in range(0, 4000, 80)]
    found = findings(sounds(windows))
    assert set(found[:30]) == {""}
    assert found[-1] == "repeating"
    assert findings(sounds([*windows, talk()]))[-1] == ""


def test_what_came_before_resampling_is_looked_at_for_repeats():
    stuck = np.tile(talk()[:133], 10)
    heard = [Sound(stuck[i : i + 1000], 1000, 10 + i / 10) for i in range(30)]
    given = [Sound(talk(), 800, one.time_s, heard=one) for one in heard]
    assert findings(given)[-1] == "repeating"


def test_a_word_between_zeros_and_a_hum_in_noise_do_not_repeat():
    quiet = np.zeros(800, np.float32)
    quiet[300:420] = talk()[:120]
    assert set(findings(sounds([quiet] * 30))) == {""}
    hum = np.sin(2 * np.pi * 50 * np.arange(800) / 800).astype(np.float32)
    coarse = [np.round(hum * 100 + RNG.normal(0, 1, 800)) / 2**15 for _ in range(30)]
    assert set(findings(sounds([each.astype(np.float32) for each in coarse]))) == {""}


def test_clips_are_looked_at_and_readings_are_not():
    same = np.stack([noisy()[..., 0]] * 4)
    clips = [Clip(same, 25, 10 + i / 10) for i in range(30)]
    assert findings(clips)[-1] == "frozen"
    assert set(findings([Reading(np.zeros((1, 3)), i / 10) for i in range(30)])) == {""}


class Eyes:
    """Frames of noise, 0.1 s apart, some of them stuck."""

    drops = 0

    def __init__(self, total, stuck):
        self._numbers, self._total, self._stuck = count(), total, stuck
        self._picture = noisy()

    def read(self, timeout_s):
        number = next(self._numbers)
        if number == self._total:
            raise CaptureEnded("no more frames")
        if number not in self._stuck:
            self._picture = noisy()
        return Frame(self._picture, number * 0.1)

    def close(self):
        pass


@pytest.mark.parametrize("masks", [False, True])
def test_a_frozen_camera_is_told_and_left_out_if_asked_for(tmp_path, masks):
    faults = []
    with mla_edge.load(make_bundle(tmp_path).folder, threads=1) as model:
        run = mla_edge.run(
            model,
            Eyes(100, range(20, 70)),
            None,
            as_fast_as_possible=True,
            mask_suspect=masks,
            on_fault=faults.append,
        )
        predictions = list(run)
    told = [(fault.what, fault.masked) for fault in faults]
    assert told == [("frozen", masks), ("back", masks), ("ended", True)]
    assert faults[0].time_s == pytest.approx(2.0 + PATIENCE_S)
    assert faults[1].time_s == pytest.approx(7.0)
    assert len(predictions) == (70 if masks else 100)


@pytest.mark.parametrize("is_stuck_after", [False, True])
def test_a_camera_that_is_lost_while_frozen_is_told_frozen_again_if_it_is(
    tmp_path, is_stuck_after
):
    class Cable(Eyes):
        def read(self, timeout_s):
            if 50 <= (number := next(self._lost)) < 60:
                next(self._numbers)
                raise CaptureError(f"the cable is out at {number}")
            return super().read(timeout_s)

    eyes = Cable(100, range(20, 80 if is_stuck_after else 60))
    eyes._lost = count()
    faults = []
    with mla_edge.load(make_bundle(tmp_path).folder, threads=1) as model:
        run = mla_edge.run(model, eyes, None, as_fast_as_possible=True, on_fault=faults.append)
        assert len(list(run)) == 90
    told = [(fault.what, fault.masked) for fault in faults]
    again = [("frozen", False), ("back", False)] * is_stuck_after
    assert told == [("frozen", False), ("lost", True), ("back", True), *again, ("ended", True)]


def test_a_picture_as_a_camera_is_not_frozen(tmp_path):
    path = tmp_path / "still.png"
    cv2.imwrite(str(path), noisy())
    faults = []
    with mla_edge.load(make_bundle(tmp_path / "bundle").folder, threads=1) as model:
        camera = open_source(str(path), as_fast_as_possible=True)
        run = mla_edge.run(
            model, camera, None, as_fast_as_possible=True, duration_s=5, on_fault=faults.append
        )
        assert len(list(run)) == 150
    assert faults == []
