"""sim://digits: options, schedule, and the truth of pictures and sound."""

import numpy as np
import pytest

from mla_edge.errors import ConfigError
from mla_edge.signals import NOTHING
from mla_edge.simulator.digits import DigitsOptions, DigitsWorld
from mla_edge.simulator.schedule import MIN_GAP_S, Schedule
from mla_edge.simulator.speech import RATE_HZ, SpeechBank


def world(query=""):
    return DigitsWorld(DigitsOptions.parse("sim://digits" + query))


def events(schedule, count=60):
    found = [schedule.at(0.0)]
    while len(found) < count:
        found.append(schedule.at(found[-1].end_s))
    return found


def test_options_have_defaults_and_are_read():
    assert DigitsOptions.parse("sim://digits") == DigitsOptions()
    options = DigitsOptions.parse(
        "sim://digits?noise_db=-5&occlude=0.5&seed=1&only=camera&size=640x480&fps=15"
        "&blur=1.5&gap_s=2&decoys=1&split=train&level=1&duration=10"
    )
    assert options == DigitsOptions(
        seed=1,
        size=(640, 480),
        fps=15,
        noise_db=-5,
        blur=1.5,
        occlude=0.5,
        only="camera",
        gap_s=2,
        decoys=1,
        split="train",
        level=1,
        duration=10,
    )


@pytest.mark.parametrize(
    ("query", "message", "hint"),
    [
        ("?noise=3", "no option 'noise'", "noise_db"),
        ("?oclude=0.5", "no option 'oclude'", "occlude"),
        ("?zzz=1", "no option 'zzz'", "blur, decoys, duration"),
        ("?seed=1&seed=2", "sets seed twice", "once"),
        ("?seed=-1", "seed=-1", "seed=1"),
        ("?seed=1.5", "whole number", "seed=1"),
        ("?seed=", "seed=:", "seed=1"),
        ("?only=cam", "nearest: camera", "only=camera"),
        ("?noise_db=loud", "number from -40 to 80", "noise_db=10"),
        ("?noise_db=nan", "number from -40 to 80", "noise_db=10"),
        ("?occlude=2", "number from 0 to 1", "occlude=0.5"),
        ("?gap_s=0.5", "number from 1.3", "gap_s=2"),
        ("?decoys=1.5", "number from 0 to 1", "decoys=0"),
        ("?size=320", "WIDTHxHEIGHT", "320x240"),
        ("?size=8x8", "sides from 64", "320x240"),
        ("?fps=0", "number from 0.1", "fps=30"),
        ("?duration=0", "number from 0.001", "duration=10"),
        ("?split=dev", "one of train, calibrate, test", "split=test"),
        ("/more", "no simulator sim://digits/more", "sim://digits"),
    ],
)
def test_options_are_strict(query, message, hint):
    with pytest.raises(ConfigError) as caught:
        DigitsOptions.parse("sim://digits" + query)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_another_simulator_does_not_exist():
    with pytest.raises(ConfigError, match="sim://letters"):
        DigitsOptions.parse("sim://letters?seed=1")


def test_events_follow_each_other_with_gaps_and_hold_their_word():
    bank = SpeechBank.load()
    test_clips = {int(i) for digit in range(10) for i in bank.indices(digit, "test")}
    found = events(Schedule(3, "test"), 200)
    for before, event in zip(found, found[1:]):
        assert event.gap_s == before.end_s
        assert MIN_GAP_S <= event.start_s - event.gap_s <= MIN_GAP_S + 1
        assert 1.5 <= event.end_s - event.start_s <= 3
        length_s = len(bank.clip(event.digit, event.clip)) / RATE_HZ
        assert event.start_s < event.word_s and event.word_s + length_s < event.end_s
        assert event.clip in test_clips
    assert {event.digit for event in found} == set(range(10))
    assert all(event.shown or event.said for event in found)
    assert 10 < sum(not event.shown for event in found) < 60
    assert 10 < sum(not event.said for event in found) < 60


def test_a_schedule_is_the_same_whatever_is_asked_first():
    late, early = Schedule(3, "test"), Schedule(3, "test")
    times_s = (-1, 0, 3, 50, 100, 500)
    backwards = [late.at(time_s) for time_s in reversed(times_s)]
    assert backwards[::-1] == [early.at(time_s) for time_s in times_s]
    assert late.at(10.0) != Schedule(4, "test").at(10.0)


def test_only_takes_a_sense_away_and_leaves_the_times():
    both, camera, mic = (
        world("?seed=5"),
        world("?seed=5&only=camera"),
        world("?seed=5&only=mic"),
    )
    for event in events(both.schedule, 20):
        assert event == camera.schedule.at(event.start_s) == mic.schedule.at(event.start_s)
        assert camera.is_shown(event) and not camera.is_said(event)
        assert mic.is_said(event) and not mic.is_shown(event)
        assert (both.is_shown(event), both.is_said(event)) == (event.shown, event.said)


def test_the_truth_of_a_frame_is_the_digit_in_view():
    ours = world("?seed=2&size=64x64&fps=100")
    for event in events(ours.schedule, 12):
        truth = str(event.digit) if event.shown else NOTHING
        assert ours.frame((event.gap_s + event.start_s) / 2)[1] == NOTHING
        assert ours.frame(event.start_s - 0.02)[1] == NOTHING
        assert ours.frame(event.start_s + 0.02)[1] == truth
        assert ours.frame(event.end_s - 0.02)[1] == truth
        assert ours.frame(event.end_s + 0.02)[1] == NOTHING


def test_without_decoys_a_pause_shows_nothing_that_moves():
    empty, held_up = (world(f"?seed=2&size=64x64&fps=100&decoys={share}") for share in (0, 1))
    for event in events(empty.schedule, 6):
        early, late = event.gap_s + 0.2, event.gap_s + 0.9
        still, moved = (
            np.abs(w.frame(late)[0].astype(float).mean(2) - w.frame(early)[0].mean(2)).mean()
            for w in (empty, held_up)
        )
        assert still < moved


def test_the_picture_changes_when_a_digit_comes_and_while_it_moves():
    ours = world("?seed=2&only=camera")
    event = ours.schedule.at(0)
    before, _ = ours.frame(event.start_s - 0.05)
    shown, _ = ours.frame(event.start_s + 0.05)
    moved, _ = ours.frame(event.start_s + 1.05)
    assert before.shape == (240, 320, 3) and before.dtype == np.uint8
    assert np.abs(before.astype(int) - shown).mean() > 5
    assert np.abs(moved.astype(int) - shown).mean() > 3


def test_the_truth_of_a_window_is_a_word_that_lies_inside_whole():
    ours = world("?seed=2&only=mic")
    for event in events(ours.schedule, 12):
        length_s = len(SpeechBank.load().clip(event.digit, event.clip)) / RATE_HZ
        end_s = event.word_s + length_s
        digit, step_s = str(event.digit), 0.002

        def truth(time_s):
            return ours.sound(time_s, RATE_HZ, RATE_HZ)[1]

        assert truth(event.word_s - step_s) == NOTHING
        assert truth(event.word_s + step_s) is None
        assert truth(end_s - step_s) is None
        assert truth(end_s + step_s) == digit
        assert truth(event.word_s + 1 - step_s) == digit
        assert truth(event.word_s + 1 + step_s) is None
        assert truth(end_s + 1 + step_s) == NOTHING


def test_a_window_with_two_words_is_unknown():
    ours = world("?seed=2&only=mic")
    second = events(ours.schedule, 2)[1]
    samples, truth = ours.sound(second.end_s, 20 * RATE_HZ, RATE_HZ)
    assert truth is None and samples.shape == (20 * RATE_HZ,)


def test_sound_is_one_stream_in_whatever_pieces_it_is_heard():
    ours = world("?seed=2&noise_db=10")
    whole, _ = ours.sound(20.0, 20 * RATE_HZ, RATE_HZ)
    for end_s in (19.5, 3.25, 12.0, 1.0):
        piece, _ = world("?seed=2&noise_db=10").sound(end_s, RATE_HZ, RATE_HZ)
        end = round(end_s * RATE_HZ)
        assert np.array_equal(piece, whole[end - RATE_HZ : end])
    assert whole.dtype == np.float32 and np.abs(whole).max() <= 1


def test_before_zero_there_is_a_quiet_room():
    samples, truth = world("?seed=2").sound(0.5, RATE_HZ, RATE_HZ)
    assert truth == NOTHING and samples.shape == (RATE_HZ,)
    assert 0 < np.sqrt(np.mean(samples**2)) < 0.005


@pytest.mark.parametrize("noise_db", [20, 0, -10])
def test_noise_has_the_level_asked_for(noise_db):
    quiet, noisy = world("?seed=2&only=mic"), world(f"?seed=2&only=mic&noise_db={noise_db}")
    for event in events(quiet.schedule, 6):
        clip = SpeechBank.load().clip(event.digit, event.clip)
        end_s = event.word_s + len(clip) / RATE_HZ
        word, _ = quiet.sound(end_s, len(clip), RATE_HZ)
        with_noise, _ = noisy.sound(event.start_s, RATE_HZ, RATE_HZ)
        measured_db = 10 * np.log10(np.mean(word**2) / np.mean(with_noise**2))
        assert measured_db == pytest.approx(noise_db, abs=2.5)  # one second of a crowd varies


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_sound_comes_at_any_rate(rate_hz):
    ours = world("?seed=2&only=mic")
    event = ours.schedule.at(0)
    samples, truth = ours.sound(event.word_s + 0.9, rate_hz, rate_hz)
    wanted, _ = ours.sound(event.word_s + 0.9, RATE_HZ, RATE_HZ)
    assert samples.shape == (rate_hz,) and truth == str(event.digit)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(np.sqrt(np.mean(wanted**2)), rel=0.05)


def test_the_same_seed_gives_the_same_bytes_in_any_order():
    query = "?seed=7&noise_db=5&blur=1&occlude=0.3"
    times_s = [0.1, 5.2, 9.7, 2.0, 30.0]
    forward, backward = world(query), world(query)
    first = {time_s: forward.frame(time_s) for time_s in times_s}
    for time_s in reversed(times_s):
        image, truth = backward.frame(time_s)
        assert truth == first[time_s][1]
        assert np.array_equal(image, first[time_s][0])
    assert not np.array_equal(world("?seed=8").frame(5.2)[0], world("?seed=9").frame(5.2)[0])


def test_a_frame_lasts_until_the_next_is_due():
    ours = world("?seed=7&fps=10")
    assert np.array_equal(ours.frame(1.0)[0], ours.frame(1.09)[0])
    assert not np.array_equal(ours.frame(1.0)[0], ours.frame(1.1)[0])


def test_size_occlusion_and_blur_are_as_asked():
    event = world("?seed=3").schedule.at(0)
    time_s = event.start_s + 0.5
    clear, _ = world("?seed=3&only=camera&size=160x120").frame(time_s)
    hidden, _ = world("?seed=3&only=camera&size=160x120&occlude=0.5").frame(time_s)
    blurred, _ = world("?seed=3&only=camera&size=160x120&blur=3").frame(time_s)
    assert clear.shape == hidden.shape == (120, 160, 3)
    far = (np.abs(clear.astype(int) - hidden) > 12).any(axis=2)
    half = max(far[:60].mean(), far[60:].mean(), far[:, :80].mean(), far[:, 80:].mean())
    assert half > 0.7 and far.mean() < 0.6
    edges = [
        np.abs(np.diff(image[..., 1].astype(int), axis=1)).max() for image in (clear, blurred)
    ]
    assert edges[1] < edges[0]
