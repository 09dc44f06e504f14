"""Labelled samples for calibration and tests."""

from collections import Counter

import numpy as np
import pytest

from mla_edge.errors import ConfigError
from mla_edge.signals import NOTHING, Frame, Sound
from mla_edge.simulator import noise
from mla_edge.simulator.samples import labelled_samples, spoken

SAMPLES = labelled_samples("test", 300, 1)


def test_classes_and_modalities_come_in_their_shares():
    truths = Counter(sample.truth for sample in SAMPLES)
    assert set(truths) == {*"0123456789", NOTHING}
    assert min(truths.values()) >= 12
    kinds = Counter("+".join(sample.signals) for sample in SAMPLES)
    assert set(kinds) == {"image+audio", "image", "audio"}
    assert 150 <= kinds["image+audio"] <= 210 and min(kinds.values()) >= 40
    silent = Counter("+".join(s.signals) for s in SAMPLES if s.truth == NOTHING)
    assert len(silent) >= 2


def test_signals_have_the_shape_that_sources_give():
    for sample in SAMPLES:
        for name, signal in sample.signals.items():
            if name == "image":
                assert isinstance(signal, Frame)
                assert signal.image.shape == (240, 320, 3) and signal.image.dtype == np.uint8
            else:
                assert isinstance(signal, Sound) and signal.rate_hz == 8000
                assert signal.samples.shape == (8000,) and signal.samples.dtype == np.float32
                assert np.abs(signal.samples).max() <= 1
            assert signal.truth == sample.truth


def test_samples_depend_on_split_seed_and_place_alone():
    def prints(samples):
        return [
            (s.truth, *(getattr(x, "image", getattr(x, "samples", 0)).tobytes() for x in v))
            for s in samples
            for v in [s.signals.values()]
        ]

    assert prints(labelled_samples("test", 5, 1)) == prints(SAMPLES[:5])
    assert prints(labelled_samples("test", 5, 2)) != prints(SAMPLES[:5])
    assert prints(labelled_samples("train", 5, 1)) != prints(SAMPLES[:5])


def test_a_word_is_louder_than_none():
    said = [
        np.sqrt(np.mean(spoken(3, "train", np.random.default_rng(i)) ** 2)) for i in range(30)
    ]
    none = [
        np.sqrt(np.mean(spoken(None, "train", np.random.default_rng(i)) ** 2))
        for i in range(30)
    ]
    assert np.median(said) > 2 * np.median(none)


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="'validation'"):
        labelled_samples("validation", 1, 0)


@pytest.mark.parametrize("kind", noise.KINDS)
@pytest.mark.parametrize("rate_hz", [8000, 16000])
def test_noise_is_an_endless_loop_of_level_one(kind, rate_hz):
    whole = noise.loop(kind, rate_hz)
    assert whole.shape == (16 * rate_hz,)
    assert np.sqrt(np.mean(whole**2)) == pytest.approx(1, abs=1e-3)
    around = noise.cut(kind, -5, 10, rate_hz)
    assert np.array_equal(around, np.concatenate([whole[-5:], whole[:5]]))
    assert np.array_equal(noise.cut(kind, 3 * 16 * rate_hz + 7, 4, rate_hz), whole[7:11])
