"""The fakes are what they stand for: the protocols say what that is."""

import inspect
import time

import numpy as np
import pytest

from mla_edge.engines import Engine
from mla_edge.errors import CaptureEnded, CaptureError, CaptureTimeout, InferenceError
from mla_edge.runtime.capture import Camera, Microphone
from mla_edge.signals import Frame, Sound, TensorSpec
from mla_edge.testing import FakeCamera, FakeClock, FakeEngine, FakeMicrophone

FRAMES = [Frame(np.full((2, 2, 3), n, np.uint8), 0.0, truth=str(n)) for n in range(3)]
SOUND = Sound(np.zeros(10, np.float32), 10, 0.0)
CLOCK = FakeClock()
ON_CLOCK = {"clock": CLOCK, "sleep": CLOCK.sleep}
FLOATS = TensorSpec("x", "float32", (1, 2))


@pytest.mark.parametrize(
    ("fake", "protocol"),
    [
        (FakeCamera(FRAMES, **ON_CLOCK), Camera),
        (FakeMicrophone([SOUND]), Microphone),
        (FakeEngine([FLOATS], {"y": np.zeros(1, np.float32)}), Engine),
    ],
)
def test_a_fake_has_the_methods_and_attributes_of_its_protocol(fake, protocol):
    for name, method in inspect.getmembers(protocol, inspect.isfunction):
        if name.startswith("_"):
            continue
        expected = list(inspect.signature(method).parameters.values())[1:]
        found = list(inspect.signature(getattr(fake, name)).parameters.values())
        assert [(p.name, p.kind) for p in found] == [(p.name, p.kind) for p in expected]
    properties = [n for n, _ in inspect.getmembers(protocol, lambda m: isinstance(m, property))]
    attributes = [*vars(protocol).get("__annotations__", ()), *properties]
    assert attributes
    for name in attributes:
        assert hasattr(fake, name), name


def test_signals_come_in_order_and_are_stamped_when_read():
    camera = FakeCamera(FRAMES, **ON_CLOCK)
    before_s = CLOCK()
    read = [camera.read(1.0) for _ in range(3)]
    assert [frame.truth for frame in read] == ["0", "1", "2"]
    assert before_s <= read[0].time_s <= read[2].time_s <= CLOCK()
    with pytest.raises(CaptureEnded):
        camera.read(1.0)
    assert camera.reads == 4


def test_a_period_is_kept():
    microphone = FakeMicrophone([SOUND] * 3, period_s=0.05, **ON_CLOCK)
    microphone.read(0.0)
    with pytest.raises(CaptureTimeout):
        microphone.read(0.0)
    start_s = CLOCK()
    microphone.read(1.0)
    assert CLOCK() - start_s == pytest.approx(0.05)


def test_faults_come_at_their_read_and_pass():
    lost = CaptureError("the cable is out")
    camera = FakeCamera(FRAMES, **ON_CLOCK, faults={1: lost})
    assert camera.read(1.0).truth == "0"
    with pytest.raises(CaptureError, match="cable"):
        camera.read(1.0)
    assert camera.read(1.0).truth == "1"


def test_a_stall_lasts_as_long_as_asked():
    camera = FakeCamera(FRAMES, **ON_CLOCK, stalls={0: 0.1})
    for _ in range(2):
        with pytest.raises(CaptureTimeout):
            camera.read(0.02)
    assert camera.read(1.0).truth == "0"


def test_closing_is_noted():
    camera = FakeCamera(FRAMES, **ON_CLOCK)
    camera.close()
    assert camera.closed


def test_an_engine_keeps_what_it_was_given_and_fails_on_order():
    engine = FakeEngine(
        [FLOATS],
        {"logits": np.array([[1, 2]], np.float32)},
        faults={1: InferenceError("out of memory")},
        latency_s=0.01,
    )
    given = np.zeros((1, 2), np.float32)
    start_s = time.monotonic()
    assert engine.run({"x": given})["logits"].tolist() == [[1, 2]]
    assert time.monotonic() - start_s >= 0.01
    given[:] = 9  # the runtime uses its buffers again
    assert engine.calls[0]["x"].tolist() == [[0, 0]]
    assert engine.outputs == (TensorSpec("logits", "float32", (1, 2)),)
    with pytest.raises(InferenceError, match="out of memory"):
        engine.run({"x": given})
    engine.close()
    assert engine.closed
