"""Labelled samples, each of its own scene, voice and noise; for calibration and tests."""

from __future__ import annotations

import numpy as np

from mla_edge.errors import ConfigError
from mla_edge.signals import NOTHING, Frame, Sample, Signal, Sound
from mla_edge.simulator import noise
from mla_edge.simulator.glyphs import glyph, pick_style
from mla_edge.simulator.scene import compose, degrade
from mla_edge.simulator.speech import RATE_HZ, SPLITS, SpeechBank

HEIGHT, WIDTH = 240, 320
WINDOW_S = 1.0
SPEECH_RMS = 0.08
ROOM_RMS = 0.001


def labelled_samples(split: str, count: int, seed: int) -> list[Sample]:
    """``count`` samples with known truth; sample i depends on split, seed and i alone.

    The classes 0…9 and "none" come equally often. Three of five samples hold both "image" (RGB
    uint8 [240, 320, 3]) and "audio" (float32 [8000] at 8 kHz), one only the picture, one only
    the sound. ``split`` is train, calibrate or test: no voice or hand is in two of them.
    """
    if split not in SPLITS:
        raise ConfigError(
            f"there is no split {split!r}", hint=f"use one of: {', '.join(SPLITS)}"
        )
    return [_sample(split, seed, index) for index in range(count)]


def _sample(split: str, seed: int, index: int) -> Sample:
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    label = int(rng.integers(11))
    digit = None if label == 10 else label
    kind = rng.random()
    signals: dict[str, Signal] = {}
    truth = NOTHING if digit is None else str(digit)
    if kind < 0.8:
        signals["image"] = Frame(_picture(digit, split, rng), 0.0, truth)
    if kind < 0.6 or kind >= 0.8:
        signals["audio"] = Sound(spoken(digit, split, rng), RATE_HZ, 0.0, truth)
    return Sample(signals)


def _picture(digit: int | None, split: str, rng: np.random.Generator) -> np.ndarray:
    ink = None if digit is None else glyph(digit, pick_style(split, rng), rng)
    image = compose(rng, ink, HEIGHT, WIDTH, level=rng.uniform(0.2, 0.9))
    if rng.random() < 0.75:
        return image
    blur_px, share = rng.uniform(0, 2.5), rng.uniform(0, 0.25)
    return degrade(image, rng, blur_px=blur_px, occlude=share, noise=rng.uniform(0, 10))


def spoken(digit: int | None, split: str, rng: np.random.Generator) -> np.ndarray:
    """One second of sound with the whole word somewhere in it, or none: float32 [8000]."""
    samples = int(WINDOW_S * RATE_HZ)
    window = np.zeros(samples, np.float32)
    level = SPEECH_RMS * 10 ** (rng.uniform(-8, 6) / 20)
    if digit is not None:
        bank = SpeechBank.load()
        clip = bank.clip(digit, int(rng.choice(bank.indices(digit, split))))
        start = int(rng.integers(samples - len(clip) + 1))
        window[start : start + len(clip)] = clip * (level / np.sqrt(np.mean(clip**2)))
    start = int(rng.integers(noise.LOOP_S * RATE_HZ))
    window += noise.cut("room", start, samples) * np.float32(ROOM_RMS * rng.uniform(0.2, 3))
    if rng.random() < 0.5:
        loud = level * 10 ** (-rng.uniform(0, 30) / 20)
        kind = noise.KINDS[rng.integers(len(noise.KINDS))]
        window += noise.cut(kind, start, samples) * np.float32(loud)
    heard: np.ndarray = np.clip(window, -1, 1)
    return heard
