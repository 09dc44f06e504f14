import pytest

from mla_edge.signals import InputSpec


@pytest.mark.parametrize(
    ("spec", "window_s"),
    [
        (InputSpec("audio", "audio", (1, 10240), 16000), 0.64),
        (InputSpec("mouth", "clip", (1, 16, 60, 72), 25), 0.64),
        (InputSpec("image", "image", (1, 3, 60, 72)), 0.0),
        (InputSpec("imu", "tensor", (1, 6), 100), 0.0),
    ],
)
def test_an_input_says_how_much_time_it_holds(spec, window_s):
    assert spec.window_s == window_s
