"""A run of days must not need more memory than one of minutes."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest
from colours import sound

import mla_edge
from mla_edge.cli.decisions import as_row
from mla_edge.runtime.summary import Summary
from mla_edge.signals import Frame
from mla_edge.testing import FakeCamera, FakeClock, FakeMicrophone

WARM_UP, TICKS = 300, 3000
NOISE_BYTES = (
    16_384  # what Python's own tables come to; a tick that kept its picture had 900 kB
)
KEPT_BYTES = 3 * 8  # a tick, which the summary keeps on purpose: latency, age, skew


@pytest.fixture
def predictions(small_bundle):
    """Decisions of a real bundle on pictures of 640 x 480 and sound, without end."""
    clock = FakeClock(100.0)
    on_clock = {"clock": clock, "sleep": clock.sleep}
    rng = np.random.default_rng(0)
    pictures = [
        Frame(rng.integers(0, 256, (480, 640, 3), np.uint8), 0.0, "red") for _ in range(3)
    ]
    camera = FakeCamera(itertools.cycle(pictures), period_s=1 / 30, **on_clock)
    microphone = FakeMicrophone(itertools.repeat(sound("red")), period_s=0.02, **on_clock)
    with mla_edge.load(small_bundle.folder, threads=1) as model:
        yield mla_edge.run(model, camera, microphone, **on_clock)


@pytest.fixture
def traced():
    """Bytes that Python and numpy hold now."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


def test_ticks_leave_nothing_behind(predictions, traced):
    for _ in itertools.islice(predictions, WARM_UP):
        pass
    before = traced()
    for _ in itertools.islice(predictions, TICKS):
        pass
    assert traced() - before < NOISE_BYTES


def test_what_the_command_keeps_of_a_tick_are_its_three_figures(predictions, traced):
    summary = Summary()

    def decide(count):
        for prediction in itertools.islice(predictions, count):
            summary.add(prediction)
            json.dumps(as_row(prediction, ["image", "audio"]))

    decide(WARM_UP)
    before = traced()
    decide(TICKS)
    assert summary.decisions == WARM_UP + TICKS
    assert traced() - before < 1.2 * TICKS * KEPT_BYTES + NOISE_BYTES  # arrays grow in steps
