"""Spoken digits: the bank that ships, its coding, its splits."""

import re
from pathlib import Path

import numpy as np
import pytest

from mla_edge.errors import ConfigError
from mla_edge.simulator import speech
from mla_edge.simulator.speech import RATE_HZ, SPLITS, SpeechBank

BANK = SpeechBank.load()


def test_it_is_small_and_says_where_it_comes_from():
    assert Path(speech.__file__).with_name("speech_bank.npz").stat().st_size <= 2_000_000
    assert "eSpeak NG" in BANK.about["synthesiser"]
    assert BANK.about["rate_hz"] == RATE_HZ
    assert SpeechBank.load() is BANK


@pytest.mark.parametrize("split", SPLITS)
def test_every_voice_of_a_split_says_every_digit_once(split):
    voices = [sorted(BANK.voices[BANK.indices(digit, split)]) for digit in range(10)]
    assert len(voices[0]) >= 5
    assert all(voices[digit] == voices[0] for digit in range(10))


def test_splits_share_no_voice():
    heard = []
    for split in SPLITS:
        names = (BANK.voice_names[voice] for voice in BANK.voices[BANK.indices(0, split)])
        variants = (name.split("+")[1] for name in names)
        heard.append({re.sub(r"(?<=[a-z]{2})\d$", "", name) for name in variants})  # ed, ed2
    train, calibrate, test = heard
    assert not train & calibrate and not train & test and not calibrate & test
    assert sum(len(BANK.indices(0, split)) for split in SPLITS) * 10 == len(BANK)


def test_clips_are_short_loud_words_that_begin_and_end_quietly():
    for index, digit in enumerate(BANK.digits):
        clip = BANK.clip(int(digit), index)
        assert clip.dtype == np.float32 and clip.ndim == 1
        assert 0.15 < len(clip) / RATE_HZ < 0.8
        assert 0.9 < np.abs(clip).max() <= 1
        assert np.sqrt(np.mean(clip**2)) > 0.05
        assert np.abs(clip[[0, -1]]).max() < 0.01


def test_a_wrong_digit_or_split_is_refused():
    with pytest.raises(ConfigError, match="split 'dev'"):
        BANK.indices(0, "dev")
    with pytest.raises(ConfigError, match="not 3"):
        BANK.clip(3, int(BANK.indices(4, "train")[0]))


def test_mu_law_loses_little():
    samples = np.linspace(-1, 1, 2001).astype(np.float32)
    back = speech.decode_mu_law(speech.encode_mu_law(samples))
    assert np.abs(back - samples).max() < 0.025
    assert np.abs(back - samples)[np.abs(samples) < 0.01].max() < 5e-4


@pytest.mark.parametrize("rate_hz", [4000, 11025, 16000, 44100])
def test_resampling_keeps_a_tone(rate_hz):
    time_s = np.arange(RATE_HZ) / RATE_HZ
    tone = np.sin(2 * np.pi * 440 * time_s) * np.hanning(RATE_HZ)
    brought = speech.resample(tone, RATE_HZ, rate_hz)
    wanted = np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz) * np.interp(
        np.arange(rate_hz) / rate_hz, time_s, np.hanning(RATE_HZ)
    )
    assert brought.shape == (rate_hz,)
    assert np.abs(brought - wanted).max() < 2e-3
