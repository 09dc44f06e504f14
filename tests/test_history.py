"""The history of a camera: which frames a clip is made of, and when it is whole."""

import numpy as np
import pytest

from mla_edge.errors import CaptureError, InferenceError
from mla_edge.history import History
from mla_edge.preprocess import Preprocessor
from mla_edge.signals import Clip, Frame, InputSpec, Sample, Sound

SPEC = InputSpec("mouth", "clip", (1, 16, 6, 8), 25)


def frame(number, time_s, truth=None):
    """A picture of grey ``number`` of another size than the clip's."""
    return Frame(np.full((24, 32, 3), number % 256, np.uint8), time_s, truth)


def fed(times_s):
    history = History(SPEC)
    for number, time_s in enumerate(times_s):
        history.add(frame(number, time_s))
    return history


def numbers(clip):
    assert (clip.frames == clip.frames[:, :1, :1]).all()
    return clip.frames[:, 0, 0].tolist()


def nearest(times_s, length=16, rate_hz=25):
    """By looking at every frame for every moment."""
    wanted_s = times_s[-1] - np.arange(length)[::-1] / rate_hz
    return np.abs(np.subtract.outer(wanted_s, times_s)).argmin(1).tolist()


def test_at_its_own_rate_a_clip_is_the_last_frames():
    clip = fed(5.0 + np.arange(20) / 25).clip()
    assert numbers(clip) == [*range(4, 20)]
    assert clip.time_s == 5.0 + 19 / 25
    assert clip.rate_hz == 25
    assert clip.frames.shape == (16, 6, 8)
    assert clip.frames.dtype == np.uint8


def test_30_frames_a_second_become_25():
    clip = fed(np.arange(40) / 30).clip()
    assert numbers(clip) == [39 - back for back in (18, 17, 16, 14, 13, 12, 11, 10, 8)] + [
        39 - back for back in (7, 6, 5, 4, 2, 1, 0)
    ]


@pytest.mark.parametrize("fps", [12, 15, 24, 29.97, 30, 50, 59.94, 60, 100])
def test_the_frames_nearest_in_time_are_taken_whatever_the_camera_s_rate(fps):
    random = np.random.default_rng(int(fps))
    times_s = 100 + (np.arange(250) + random.uniform(-0.2, 0.2, 250)) / fps
    if fps <= 60:  # of a faster one not every frame is kept
        assert numbers(fed(times_s).clip()) == nearest(times_s)
    shown_s = times_s[numbers(fed(times_s).clip())]
    wanted_s = times_s[-1] - np.arange(16)[::-1] / 25
    assert np.abs(shown_s - wanted_s).max() <= max(0.7 / fps, 0.5 / 25)


def test_a_fast_camera_does_not_shorten_the_history():
    times_s = np.arange(1000) / 240
    clip = fed(times_s).clip()
    assert len(clip.frames) == 16
    shown_s = times_s[np.array(numbers(clip)) + 768]  # of the last 256 frames
    assert np.abs(shown_s - (times_s[-1] - np.arange(16)[::-1] / 25)).max() <= 0.02
    assert clip.time_s == times_s[-1]


@pytest.mark.parametrize(("fps", "whole"), [(25, 15), (30, 18), (12.5, 8)])
def test_a_clip_is_whole_when_its_time_has_passed_and_shorter_before(fps, whole):
    """16 moments at 25 Hz lie within 600 ms; 12.5 fps has a picture 640 ms ago for it."""
    history, lengths = History(SPEC), []
    for number in range(whole + 1):
        history.add(frame(number, number / fps))
        lengths.append(len(history.clip().frames))
    assert lengths[0] == 1
    assert lengths == sorted(lengths)
    assert lengths[-2] < 16 == lengths[-1]


def test_a_gap_of_more_than_three_periods_empties_it():
    history = fed(np.arange(20) / 25)
    history.add(frame(20, 19 / 25 + 0.119))
    assert len(history.clip().frames) == 16
    history.add(frame(21, 20 / 25 + 0.3))
    assert numbers(history.clip()) == [21]
    history.add(frame(22, 21 / 25 + 0.3))
    assert numbers(history.clip()) == [21, 22]


def test_a_frame_that_is_not_newer_changes_nothing():
    """The loop adds what the camera's own thread has added already."""
    history = fed(np.arange(20) / 25)
    history.add(frame(99, 19 / 25))
    history.add(frame(99, 3 / 25))
    assert numbers(history.clip()) == [*range(4, 20)]


def test_a_clip_is_not_overwritten_by_later_frames():
    history = fed(np.arange(20) / 25)
    clip = history.clip()
    for number in range(20, 120):
        history.add(frame(number, number / 25))
    assert numbers(clip) == [*range(4, 20)]


def test_a_camera_that_is_too_slow_is_told_and_forgiven_when_it_is_faster():
    history = fed(np.arange(4) / 5)
    with pytest.raises(CaptureError, match=r"come 200 ms apart, .* 25 frames .* take 120 ms"):
        history.clip()
    for number in range(4, 19):
        with pytest.raises(CaptureError):
            history.clip()
        history.add(frame(number, 0.6 + (number - 3) / 25))
    assert numbers(history.clip()) == [*range(3, 19)]


def test_a_camera_that_stalls_again_and_again_before_a_clip_is_whole_is_too_slow():
    history = History(SPEC)
    for number in range(31):
        history.add(frame(number, number / 25 + number // 10 * 0.2))
    with pytest.raises(CaptureError, match="come 240 ms apart"):
        history.clip()


def test_it_gives_what_the_whole_frames_give_in_an_export():
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (40, 48, 64, 3), np.uint8)
    history = History(SPEC)
    for number, picture in enumerate(frames):
        history.add(Frame(picture, number / 30))
    live = Preprocessor([SPEC])(Sample({"mouth": history.clip()}))["mouth"].copy()
    recorded = Preprocessor([SPEC])(Sample({"mouth": Clip(frames, 30, 0.0)}))["mouth"]
    assert live.any()
    assert (live == recorded).all()


def test_the_truth_is_the_newest_frame_s():
    history = History(SPEC)
    history.add(frame(0, 0.0, "yes"))
    history.add(frame(1, 0.04, "no"))
    assert history.clip().truth == "no"


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (
            Frame(np.zeros((6, 8), np.uint8), 0.0),
            r"mouth: expected uint8 .* found uint8 \[6, 8\]",
        ),
        (Frame(np.zeros((6, 8, 3), np.float32), 0.0), "found float32"),
        (Sound(np.zeros(9, np.float32), 8000, 0.0), "mouth: expected a Frame, found Sound"),
    ],
)
def test_what_is_no_picture_is_refused(signal, message):
    with pytest.raises(InferenceError, match=message):
        History(SPEC).add(signal)
