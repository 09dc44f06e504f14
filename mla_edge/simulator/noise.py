"""Noise behind the speech: a room, a crowd, a fan, mains hum; loops of 16 s, RMS 1."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mla_edge.simulator.speech import RATE_HZ, SpeechBank, resample

KINDS = ("white", "room", "babble", "hum")
LOOP_S = 16


@lru_cache(maxsize=None)
def loop(kind: str, rate_hz: int = RATE_HZ) -> np.ndarray:
    """One of ``KINDS`` as a seamless loop, float32 [LOOP_S · rate_hz], RMS 1."""
    if rate_hz != RATE_HZ:
        return _levelled(resample(loop(kind), RATE_HZ, rate_hz))
    rng = np.random.default_rng([KINDS.index(kind), LOOP_S])
    length = LOOP_S * RATE_HZ
    if kind == "babble":
        return _levelled(_babble(rng, length))
    white = rng.standard_normal(length)
    if kind == "white":
        return _levelled(white)
    spectrum = np.fft.rfft(white)
    frequency = np.fft.rfftfreq(length, 1 / RATE_HZ)
    spectrum /= np.maximum(frequency, 60) ** (1.0 if kind == "hum" else 0.6)
    noise = np.fft.irfft(spectrum, length)
    noise /= noise.std()
    if kind == "hum":
        time = np.arange(length) / RATE_HZ
        for harmonic, strength in ((1, 1.0), (2, 0.7), (3, 0.5), (5, 0.3)):
            noise += 1.5 * strength * np.sin(2 * np.pi * 50 * harmonic * time)
    return _levelled(noise)


def _babble(rng: np.random.Generator, length: int) -> np.ndarray:
    """Many voices at once, played backwards, so that none of them says a word."""
    bank = SpeechBank.load()
    voices = np.zeros(length)
    for _ in range(length // 500):  # sixteen words a second
        index = int(rng.integers(len(bank)))
        clip = bank.clip(int(bank.digits[index]), index)[::-1] * rng.uniform(0.3, 1)
        start = int(rng.integers(length))
        voices[(start + np.arange(len(clip))) % length] += clip
    return voices


def _levelled(noise: np.ndarray) -> np.ndarray:
    level: np.ndarray = (noise / np.sqrt(np.mean(noise**2))).astype(np.float32)
    return level


def cut(kind: str, start: int, samples: int, rate_hz: int = RATE_HZ) -> np.ndarray:
    """``samples`` of a loop from position ``start``, which may be anything."""
    whole = loop(kind, rate_hz)
    part: np.ndarray = whole.take(range(start, start + samples), mode="wrap")
    return part
