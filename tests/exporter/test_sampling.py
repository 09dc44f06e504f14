"""A network's own samples: what the user's function does wrong is told with its name."""

import dataclasses

import numpy as np
import pytest

from mla_edge.errors import ConfigError
from mla_edge.exporter.sampling import draw_samples
from mla_edge.networks import digits_data
from mla_edge.signals import Clip, Frame, Reading, Sample, Sound


class SensorError(Exception):
    """Of the user's own."""


def broken(split, count, seed):
    raise SensorError(f"no {split} there")


def unkeyed(split, count, seed):
    return [{}[split]] * count


@pytest.mark.parametrize(
    ("samples", "kind", "message"),
    [
        (broken, SensorError, "broken('tune', 4, 7) raises SensorError: no tune there"),
        (unkeyed, KeyError, "unkeyed('tune', 4, 7) raises KeyError: 'tune'"),
    ],
)
def test_what_the_function_raises_is_told_with_its_name_and_place(
    network, samples, kind, message
):
    with pytest.raises(ConfigError) as caught:
        draw_samples(dataclasses.replace(network, samples=samples), "tune", 4, 7)
    assert f"small: {message} (test_sampling.py, line " in str(caught.value)
    assert isinstance(caught.value.__cause__, kind)


def test_a_bug_in_our_own_samples_shows_as_one(network, monkeypatch):
    monkeypatch.setattr(digits_data, "labelled_samples", lambda *_: {}["bug"])
    ours = dataclasses.replace(network, samples=digits_data.sample_source(None))
    with pytest.raises(KeyError, match="bug"):
        draw_samples(ours, "tune", 4, 0)


@pytest.mark.parametrize(
    ("sample", "fault"),
    [
        (None, "is a NoneType, not a Sample"),
        (Sample([]), "is a Sample, not a Sample with its signals by name"),
        (Sample({"image": np.zeros(3)}), "has a ndarray as 'image'"),
        (Sample({"imu": Reading([1.0], 0.0)}), "has list in 'imu', not an array of numbers"),
        (Sample({"imu": Reading(np.array(["a"]), 0.0)}), "has <U1 in 'imu'"),
        (Sample({"audio": Sound(np.zeros(9), 0, 0.0)}), "has 'audio' at a rate of 0"),
        (Sample({"mouth": Clip(np.zeros((4, 8, 8)), 0, 0.0)}), "has 'mouth' at a rate of 0"),
        (Sample({"mouth": Clip([], 25, 0.0)}), "has list in 'mouth', not an array of numbers"),
        (Sample({"image": Frame(np.zeros(3), 0.0, 7)}), "has the truth 7 in 'image'"),
    ],
)
def test_what_is_no_sample_is_refused_by_number(network, sample, fault):
    made = dataclasses.replace(network, samples=lambda *_: [sample] * 4)
    with pytest.raises(ConfigError) as caught:
        draw_samples(made, "test", 4, 0)
    assert f"sample 0 {fault}" in str(caught.value)
    assert "lambda" in str(caught.value)


def test_samples_may_come_one_at_a_time(network):
    def drip(split, count, seed):
        yield from network.samples(split, count, seed)

    assert len(draw_samples(dataclasses.replace(network, samples=drip), "test", 3, 0)) == 3
