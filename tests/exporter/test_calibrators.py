"""Where each calibrator clips, on distributions whose answer is known."""

import numpy as np
import pytest

from mla_edge.errors import ExportError
from mla_edge.exporter.calibrators import (
    CALIBRATORS,
    Histogram,
    Range,
    collect_histograms,
    quantized,
    weight_scales,
    whole_weights,
)


def test_the_histogram_finds_ends_and_grows():
    random = np.random.default_rng(0)
    histogram = Histogram()
    for scale in (0.1, 1.0, 1.0, 1.0):
        histogram.add(random.normal(0, scale, 20000).astype(np.float32))
    histogram.add(np.float32([40.0]))  # one outlier

    assert histogram.counts.sum() == 80001
    found = {method: histogram.range(method) for method in CALIBRATORS}
    assert found["max"].high == pytest.approx(40)
    assert 3 < found["percentile-99.99"].high < 6
    assert found["mse"].high < found["max"].high
    assert found["mse"].amplitude < found["max"].amplitude
    assert all(r.low < 0 < r.high and r.amplitude > 0 for r in found.values())


def test_mse_is_least_of_all_ends_tried():
    values = np.random.default_rng(1).standard_t(4, 50000).astype(np.float32)
    histogram = Histogram()
    histogram.add(values)

    def error(amplitude):
        step = amplitude / 127
        rounded = np.clip(np.rint(values / step), -127, 127) * step
        return float(np.square(rounded - values).mean())

    best = error(histogram.range("mse").amplitude)
    largest = float(np.abs(values).max())
    assert best <= min(error(largest * share) for share in np.linspace(0.1, 1, 46)) * 1.05


def test_a_tensor_of_zeros_has_a_range():
    histogram = Histogram()
    histogram.add(np.zeros(10, np.float32))
    assert histogram.range("mse").amplitude == 0


@pytest.fixture
def heavy():
    """Values with rare large ones, as behind a GELU: what clipping is for."""
    values = np.random.default_rng(2).laplace(0, 1, 100_000).astype(np.float32)
    values[:20] *= 30
    histogram = Histogram()
    histogram.add(values)
    return histogram


def test_a_percentile_leaves_that_share_inside(heavy):
    values = np.linspace(-1, 3, 40_001).astype(np.float32)
    even = Histogram()
    even.add(values)
    found = even.range("percentile-99.9")
    assert found.low == pytest.approx(-0.996, abs=0.002)
    assert found.high == pytest.approx(2.996, abs=0.002)
    ends = [heavy.range(name).high for name in CALIBRATORS if name.startswith("percentile")]
    assert ends == sorted(ends, reverse=True)
    assert ends[0] > 2 * ends[-1]


def test_entropy_clips_outliers_and_nothing_where_there_are_none(heavy):
    assert heavy.range("entropy").amplitude < 0.5 * heavy.range("max").amplitude
    even = Histogram()
    even.add(np.random.default_rng(3).uniform(-2, 2, 100_000).astype(np.float32))
    assert even.range("entropy").amplitude == pytest.approx(2.0, rel=0.05)


def test_entropy_of_one_sign_keeps_its_end_at_zero():
    histogram = Histogram()
    histogram.add(np.abs(np.random.default_rng(4).normal(0, 1, 50_000)).astype(np.float32))
    found = histogram.range("entropy")
    assert found.low == 0
    assert 0 < found.amplitude <= histogram.high * (1 + 1e-6)
    assert found.high <= histogram.high * (1 + 1e-6)


def test_rounding_is_what_the_operators_do():
    values = np.float32([-3.0, -1.0, 0.0, 0.4, 2.0, 9.0])
    signed = quantized(values, Range(-1.0, 2.0, 2.0), "tensorrt")
    assert signed[2] == 0
    np.testing.assert_allclose(signed[[1, 4]], [-1.0, 2.0], atol=1 / 127)
    np.testing.assert_allclose(signed[[0, 5]], [-2.0 * 128 / 127, 2.0], atol=1e-6)
    ends = quantized(values, Range(-1.0, 2.0, 2.0), "cpu")
    np.testing.assert_allclose(ends, [-1, -1, 0, 0.4, 2, 2], atol=3 / 255 / 2 + 1e-6)
    assert not quantized(np.zeros(3, np.float32), Range(0.0, 0.0, 0.0), "cpu").any()


def test_weights_fill_the_levels_of_their_channel():
    weights = np.float32([[1.0, -2.0], [0.0, 0.0], [100.0, 50.0]])
    scales = weight_scales(weights, 0)
    whole = whole_weights(weights, scales, 0)
    assert whole.tolist() == [[64, -127], [0, 0], [127, 64]]
    assert scales[1] == 1.0


def test_what_is_not_finite_is_named():
    with pytest.raises(ExportError, match="'x' in net.onnx is NaN or infinite"):
        collect_histograms([{"x": np.float32([1.0, np.nan])}], ["x"], "net.onnx")
