"""The ring of sound, without a device."""

import threading

import numpy as np
import pytest

from mla_edge.runtime.ring import DRIFT, SoundRing

RATE = 1000


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
