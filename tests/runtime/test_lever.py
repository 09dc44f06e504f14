import pytest

from mla_edge.runtime.lever import Lever, Trend


@pytest.fixture
def lever():
    return Lever(gain=0.1, gain_per_s=0.01, band=1.0, most=5.0)


def test_within_the_band_it_rests(lever):
    lever.move(3.0, 10.0)
    at = lever.move(0.9, 10.0)
    assert 0 < at < 1
    assert [lever.move(error, 10.0) for error in (-0.9, 0.5, 1.0)] == [at] * 3


def test_it_is_pulled_at_once_and_let_go_slowly(lever):
    assert lever.move(3.0, 0.0) == pytest.approx(0.2)  # the proportional part
    assert lever.pull() == 1.0
    down = [lever.move(-30.0, 1.0) for _ in range(25)]
    assert down[0] == pytest.approx(0.95)  # no more than `most` counts
    assert down == sorted(down, reverse=True)
    assert down[-1] == 0.0


def test_it_does_not_wind_up_at_either_end(lever):
    for _ in range(1000):
        assert lever.move(50.0, 1.0) <= 1.0
    assert lever.move(-50.0, 1.0) < 1.0  # at once, however long it was at the end
    for _ in range(1000):
        assert lever.move(-50.0, 1.0) >= 0.0
    assert lever.move(2.0, 1.0) > 0.0


def test_a_machine_that_slept_is_not_taken_for_one_that_was_hot(lever):
    assert lever.move(2.0, 3600.0) == pytest.approx(0.1 + 0.01 * 5)


def test_a_trend_goes_on_as_it_did():
    trend = Trend(16, 5)
    with pytest.raises(ValueError, match="no reading"):
        trend.at(0.0)
    for second in range(4):
        trend.add(50 + 0.5 * second, second)
    assert trend.at(13.0) == 51.5  # too few: it is as it is
    for second in range(4, 40):
        trend.add(50 + 0.5 * second, second)
    assert trend.at(49.0) == pytest.approx(50 + 0.5 * 49)
