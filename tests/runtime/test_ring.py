"""The ring of sound, without a device."""

import threading

import numpy as np
import pytest

from mla_edge.runtime.ring import DRIFT, SoundRing

RATE = 1000
LATE_S = np.random.default_rng(1).exponential(0.004, 9973)


def ramp(start, count):
    return np.arange(start, start + count, dtype=np.float32)


def last_s(total):
    """When the last of ``total`` samples was captured by a device that began at 100 s."""
    return 100 + (total - 1) / RATE


def test_window_is_zeros_before_the_first_sound():
    ring = SoundRing(RATE, window=5)
    ring.write(ramp(1, 2), last_s(2))
    samples, time_s = ring.latest()
    assert samples.tolist() == [0, 0, 0, 1, 2]
    assert samples.dtype == np.float32
    assert time_s == pytest.approx(last_s(2))


@pytest.mark.parametrize("block", [1, 7, 20, 333, 1009, 5000])
def test_gives_the_last_window_over_many_wraps(block):
    ring = SoundRing(RATE, window=100)
    for start in range(0, 6000, block):
        ring.write(ramp(start, block), last_s(start + block))
    samples, time_s = ring.latest()
    assert samples.tolist() == ramp(ring.total - 100, 100).tolist()
    assert time_s == pytest.approx(last_s(ring.total), abs=2e-3)


def test_a_late_block_does_not_shift_the_clock():
    ring = SoundRing(RATE, window=10)
    rng = np.random.default_rng(0)
    for total in range(20, 10_000, 20):
        ring.write(ramp(0, 20), last_s(total) + rng.exponential(0.01))
    _, time_s = ring.latest()
    assert time_s == pytest.approx(last_s(ring.total), abs=3e-3)


def test_the_clock_follows_a_device_that_runs_slowly():
    ring = SoundRing(RATE, window=10)
    slow = 1 + DRIFT / 2
    for total in range(20, 100_000, 20):
        ring.write(ramp(0, 20), 100 + total / RATE * slow)
    _, time_s = ring.latest()
    assert time_s == pytest.approx(100 + ring.total / RATE * slow, abs=1e-3)


@pytest.mark.parametrize("drift", [50e-6, -50e-6])
def test_a_flash_and_a_click_stay_together_over_an_hour_of_drift(drift):
    """A device 50 ppm off is 180 ms away after an hour: five frames, were it not followed.

    Blocks of 20 ms arrive late by as much as a busy machine makes them, once 0.3 s at once.
    Every minute something claps: the click lies where it lies in the samples, the flash is on
    the frame of a camera at 30 fps whose stamps are of the true clock.
    """
    rng = np.random.default_rng(0)
    ring = SoundRing(RATE, window=RATE)
    frame_s, began_s = 1 / 30, 500.0
    late_s = rng.exponential(0.004, 180_000)
    late_s[90_000:90_015] += np.linspace(0.3, 0.0, 15)  # held up, and caught up with
    worst_s = 0.0
    for number in range(180_000):
        first = number * 20
        block = np.zeros(20, np.float32)
        clap_s = began_s + 30.0 + 60.0 * round((first / RATE - 30.0) / 60.0)
        clapped = round((clap_s - began_s) * (1 + drift) * RATE)  # by the device's clock
        if first <= clapped < first + 20:
            block[clapped - first] = 1.0
        last_true_s = began_s + (first + 19) / (RATE * (1 + drift))
        ring.write(block, last_true_s + late_s[number])
        if block.any():
            samples, time_s = ring.latest()
            click_s = time_s - (len(samples) - 1 - int(samples.argmax())) / RATE
            flash_s = np.ceil(clap_s / frame_s) * frame_s  # the frame that shows it
            worst_s = max(worst_s, abs(click_s - flash_s))
    assert worst_s < frame_s + 0.005
    assert ring.total == 3_600_000


def test_lost_samples_become_zeros_so_that_later_ones_are_not_shifted():
    ring = SoundRing(RATE, window=60)
    ring.write(ramp(1, 20), last_s(20))
    ring.write(ramp(31, 20), last_s(50), after_gap=True)
    samples, time_s = ring.latest()
    assert samples.tolist() == [*[0] * 10, *range(1, 21), *[0] * 10, *range(31, 51)]
    assert ring.total == 50
    assert time_s == pytest.approx(last_s(50))


def test_a_gap_longer_than_the_ring_leaves_only_zeros_before_it():
    ring = SoundRing(RATE, window=30)
    ring.write(ramp(1, 20), last_s(20))
    ring.write(ramp(1, 20), last_s(60_020), after_gap=True)
    samples, time_s = ring.latest()
    assert samples.tolist() == [*[0] * 10, *range(1, 21)]
    assert time_s == pytest.approx(last_s(60_020))


def test_an_overflow_that_lost_nothing_adds_nothing():
    ring = SoundRing(RATE, window=40)
    ring.write(ramp(1, 20), last_s(20))
    ring.write(ramp(21, 20), last_s(40), after_gap=True)
    assert ring.latest()[0].tolist() == ramp(1, 40).tolist()


def test_readers_see_whole_windows_while_the_writer_writes():
    ring = SoundRing(RATE, window=500)
    stop = threading.Event()

    def write():
        total = 0
        while not stop.is_set():
            ring.write(ramp(total, 50), last_s(total + 50))
            total = (total + 50) % 2**23  # float32 counts no further

    writer = threading.Thread(target=write)
    writer.start()
    try:
        torn = 0
        for _ in range(3000):
            steps = np.diff(ring.latest()[0])
            torn += int(np.count_nonzero((steps != 1) & (steps != 0)) > 1)
    finally:
        stop.set()
        writer.join()
    assert torn == 0


def told_after(seconds, late_s, *, pace=1.0, lost_s=None):
    """How much later than the truth the last sample is told to be, after each block of 20 ms.

    ``late_s(number)`` is how late a block comes, ``lost_s(number)`` how much was lost before
    it and told by nobody; the device runs at ``pace`` of its rate.
    """
    ring = SoundRing(RATE, window=10)
    lost, wrong_s = 0.0, []
    for number in range(round(seconds / 0.02)):
        lost += lost_s(number) if lost_s else 0.0
        true_s = 100 + lost + (20 * number + 19) / RATE / pace
        ring.write(ramp(0, 20), true_s + late_s(number))
        wrong_s.append(ring.latest()[1] - true_s)
    return np.array(wrong_s)


def busy(number):
    """How late a machine with something else to do is, s."""
    return LATE_S[number % len(LATE_S)]


@pytest.mark.parametrize("early_s", [0.02, 0.09])
def test_a_single_stamp_that_is_too_early_is_not_believed(early_s):
    wrong_s = told_after(10, lambda number: -early_s if number == 100 else busy(number))
    assert np.abs(wrong_s[50:]).max() < 0.01


def test_a_first_stamp_that_is_too_early_is_forgotten():
    wrong_s = told_after(10, lambda number: -0.09 if number == 0 else busy(number))
    assert np.abs(wrong_s[150:]).max() < 0.01
    assert wrong_s[1:].max() < 0.01


@pytest.mark.parametrize("lost_s", [0.06, 0.6, 5.0])
def test_lost_sound_that_nobody_told_of_makes_what_follows_no_older(lost_s):
    wrong_s = told_after(60, busy, lost_s=lambda number: lost_s * (number == 500))
    assert np.abs(wrong_s[50:500]).max() < 0.01
    assert wrong_s[500] == pytest.approx(-lost_s, abs=0.01)
    assert np.abs(wrong_s[500 + 150 :]).max() < 0.01  # 3 s later
    assert wrong_s.max() < 0.01  # never newer than it is


@pytest.mark.parametrize("pace", [1 - 3e-4, 1 + 3e-4, 1 - 2e-3])
def test_a_device_far_from_its_rate_is_followed(pace):
    wrong_s = told_after(1200, busy, pace=pace)[50:]  # the first block may be late
    assert np.abs(wrong_s).max() < (0.01 if abs(1 - pace) < DRIFT else 0.07)


@pytest.mark.parametrize(
    "late_s",
    [
        lambda number: max(0.0, 3 - 0.02 * (number - 500)) if number >= 500 else 0.0,
        lambda number: 0.05 * (number - 500) * 0.02 if 500 <= number < 900 else 0.0,
        lambda number: 0.4 * (number % 50 / 50) if number >= 500 else 0.0,
    ],
    ids=["held up for 3 s", "ever later for 8 s", "late by more and by less"],
)
def test_a_busy_machine_makes_no_sound_newer_than_it_is(late_s):
    assert told_after(30, late_s).max() < 0.01
