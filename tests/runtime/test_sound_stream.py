"""Windows that overlap become one stream, and can be cut out of it again."""

import numpy as np
import pytest

from mla_edge.runtime.sound_stream import SoundStream

RATE_HZ = 1000
WINDOW = 500
NOISE = np.random.default_rng(0).normal(size=5000).astype(np.float32)


def windows_of(sound, ends):
    return [sound[end - WINDOW : end] for end in ends]


def rebuilt(windows, times_s):
    """What is new of each window, and the windows as they end in what came until then."""
    stream = SoundStream()
    fresh, heard, again = [], np.zeros(0, np.float32), []
    for window, time_s in zip(windows, times_s):
        fresh.append(stream.add(window, RATE_HZ, time_s))
        heard = np.concatenate((heard, fresh[-1]))
        assert stream.length == len(heard)
        again.append(heard[-len(window) :])
    return [len(part) for part in fresh], again


def check(windows, times_s, counts):
    found, again = rebuilt(windows, times_s)
    assert found == counts
    for one, other in zip(windows, again):
        np.testing.assert_array_equal(one, other)


def test_each_sample_is_kept_once():
    ends = [500, 533, 566, 600, 600, 1000]
    check(windows_of(NOISE, ends), np.array(ends) / RATE_HZ, [500, 33, 33, 34, 0, 400])


def test_times_that_are_off_do_not_matter():
    """A device's clock is corrected: the stamp jumps, the sound does not."""
    ends = np.array([500, 550, 600, 650])
    off_s = np.array([0, 0.002, -0.12, 0.3])
    check(windows_of(NOISE, ends), ends / RATE_HZ + off_s, [500, 50, 50, 50])


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_silence_grows_by_as_much_as_time_passes(level):
    quiet = np.full(5000, level, np.float32)
    ends = [500, 533, 900, 3000]
    check(windows_of(quiet, ends), np.array(ends) / RATE_HZ, [500, 33, 367, 500])


def test_what_does_not_follow_is_kept_whole():
    ends = [500, 1001, 1010]
    check(windows_of(NOISE, ends), np.array(ends) / RATE_HZ, [500, 500, 9])
    other = -NOISE  # another device
    check([NOISE[:500], other[:500]], [0.5, 0.52], [500, 500])


def test_another_length_or_rate_begins_anew():
    stream = SoundStream()
    assert len(stream.add(NOISE[:500], RATE_HZ, 0.5)) == 500
    assert len(stream.add(NOISE[:400], RATE_HZ, 0.5)) == 400
    assert len(stream.add(NOISE[100:500], 2 * RATE_HZ, 0.6)) == 400
    assert stream.length == 1300


def test_windows_too_short_to_be_sure_are_kept():
    check([NOISE[:8], NOISE[50:58]], [0.008, 0.058], [8, 8])
