"""The factories: what they load, and the simulator behind them."""

import subprocess
import sys
import threading
import time

import pytest

from mla_edge.errors import CaptureError, CaptureTimeout
from mla_edge.runtime.capture import open_camera, open_microphone
from mla_edge.runtime.keeper import Keeper


def python(code):
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_factories_loads_no_library():
    python(
        "import sys\n"
        "for name in ('cv2', 'sounddevice', 'soxr', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "import mla_edge.runtime.capture, mla_edge.runtime.keeper, mla_edge.runtime.ring\n"
    )


def test_the_simulator_needs_no_library():
    python(
        "import sys\n"
        "for name in ('cv2', 'sounddevice', 'soxr', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "from mla_edge.runtime.capture import open_camera, open_microphone\n"
        "with open_camera('sim://digits?seed=1', as_fast_as_possible=True) as camera:\n"
        "    assert camera.read(1).image.shape[2] == 3\n"
        "with open_microphone('sim://digits?seed=1', rate_hz=8000, window_s=1.0,\n"
        "                     as_fast_as_possible=True) as microphone:\n"
        "    assert microphone.read(1).samples.shape == (8000,)\n"
    )


@pytest.mark.parametrize("missing", ["cv2", "sounddevice"])
def test_a_missing_library_is_named_with_its_fix(missing):
    source = {
        "cv2": "open_camera('0')",
        "sounddevice": "open_microphone('default', rate_hz=8000, window_s=1.0)",
    }
    python(
        "import sys\n"
        f"sys.modules['{missing}'] = None\n"
        "from mla_edge.errors import MissingDependency\n"
        "from mla_edge.runtime.capture import open_camera, open_microphone\n"
        "try:\n"
        f"    {source[missing]}\n"
        "except MissingDependency as error:\n"
        "    assert error.exit_code == 3 and 'pip install' in error.hint, error.hint\n"
        "else:\n"
        "    raise AssertionError\n"
    )


def test_the_simulators_camera_and_microphone_share_a_clock():
    with open_camera(
        "sim://digits?seed=3", as_fast_as_possible=True
    ) as camera, open_microphone(
        "sim://digits?seed=3", rate_hz=8000, window_s=0.5, as_fast_as_possible=True
    ) as microphone:
        for _ in range(5):
            frame = camera.read(1)
            sound = microphone.read(1)
            assert abs(frame.time_s - sound.time_s) < 0.06
        assert sound.samples.shape == (4000,)


class Flaky:
    """A device that is lost after three items, and opens again at the ``good``-th try."""

    def __init__(self, good):
        self.good = good
        self.opened, self.closed, self.items = [], 0, 0

    def open(self):
        self.opened.append(time.monotonic())
        if len(self.opened) > 1 and len(self.opened) < self.good:
            raise CaptureError(f"try {len(self.opened)} failed", hint="wait")
        return self

    def pump(self, device, closing):
        for _ in range(3):
            if closing.wait(0.01):
                return
            device.items += 1
            self.keeper.recovered()
        if len(self.opened) == 1:
            raise CaptureError("it is gone")
        closing.wait()

    def close(self, device):
        device.closed += 1


def keep(flaky):
    flaky.keeper = Keeper("it", flaky.open, flaky.pump, flaky.close, delays_s=(0.5, 5.0))
    flaky.keeper.start()
    return flaky.keeper


def test_reopening_backs_off_and_says_what_failed():
    flaky = Flaky(good=4)
    keeper = keep(flaky)
    time.sleep(0.3)
    assert str(keeper.failure(0.1)) == "it is gone; trying to reopen it"
    time.sleep(0.6)
    assert str(keeper.failure(0.1)) == "try 2 failed; trying to reopen it"
    assert keeper.failure(0.1).hint == "wait"
    time.sleep(3.2)
    assert isinstance(keeper.failure(0.1), CaptureTimeout)
    keeper.close()
    waits = [later - earlier for earlier, later in zip(flaky.opened, flaky.opened[1:])]
    assert waits == pytest.approx([0.53, 1.0, 2.0], abs=0.15)
    assert (flaky.items, flaky.closed) == (6, 2)


def test_closing_while_it_waits_to_reopen_is_quick_and_twice_is_once():
    flaky = Flaky(good=100)
    before = threading.active_count()
    keeper = keep(flaky)
    time.sleep(0.8)
    started_s = time.monotonic()
    keeper.close()
    keeper.close()
    assert time.monotonic() - started_s < 0.2
    assert threading.active_count() == before
    assert flaky.closed == 1
    assert str(keeper.failure(0.1)) == "it is closed"


def test_a_stalled_device_does_not_hold_up_close():
    stall = threading.Event()
    keeper = Keeper(
        "it",
        lambda: None,
        lambda _, closing: stall.wait(10),
        lambda _: None,
        delays_s=(0.5, 5.0),
    )
    keeper.start()
    started_s = time.monotonic()
    keeper.close()
    assert time.monotonic() - started_s < 2
    stall.set()
