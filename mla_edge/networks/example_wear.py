"""What happens to a user's few examples before a network learns from them: no two are equal."""

from __future__ import annotations

from typing import Mapping, Sequence

import cv2
import numpy as np

from mla_edge.networks.sound_wear import add_noise, speed
from mla_edge.signals import Frame, InputSpec, Sample, Signal, Sound

_ALL = 0.5  # of the examples with several modalities keep them; the others have one left


def worn(sample: Sample, inputs: Sequence[InputSpec], rng: np.random.Generator) -> Sample:
    """``sample`` as it might have been another time, sometimes with one modality only."""
    signals: Mapping[str, Signal] = sample.signals
    if len(signals) > 1 and rng.random() >= _ALL:
        only = list(signals)[rng.integers(len(signals))]
        signals = {only: signals[only]}
    shapes = {spec.name: spec.shape for spec in inputs}
    return Sample({name: _worn(signal, shapes[name], rng) for name, signal in signals.items()})


def _worn(signal: Signal, shape: tuple[int, ...], rng: np.random.Generator) -> Signal:
    if isinstance(signal, Frame):
        return Frame(_picture(signal.image, rng), signal.time_s, signal.truth)
    if isinstance(signal, Sound):
        samples = _sound(signal.samples, shape[-1], rng)
        return Sound(samples, signal.rate_hz, signal.time_s, signal.truth)
    return signal


def _picture(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moved, turned, nearer or farther, in another light, with noise."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(
        (width / 2, height / 2), rng.uniform(-8, 8), rng.uniform(0.88, 1.12)
    )
    matrix[0, 2] += rng.uniform(-0.06, 0.06) * width
    matrix[1, 2] += rng.uniform(-0.06, 0.06) * height
    moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
    lit = (moved.astype(np.float32) - 128) * rng.uniform(0.8, 1.2) + 128 + rng.uniform(-20, 20)
    lit += rng.standard_normal(lit.shape, np.float32) * rng.uniform(0, 5)
    return lit.clip(0, 255).astype(np.uint8)


def _sound(word: np.ndarray, window: int, rng: np.random.Generator) -> np.ndarray:
    """Said faster or slower, somewhere in the window, through another microphone, in noise."""
    word = speed(word, float(rng.uniform(0.87, 1.15)))
    sound = np.zeros(window, np.float32)
    room = window - len(word)
    start = int(rng.integers(min(room, 0), max(room, 0) + 1))  # below 0: its edge is cut off
    part = word[max(-start, 0) :][: window - max(start, 0)]
    sound[max(start, 0) : max(start, 0) + len(part)] = part
    spectrum = np.fft.rfft(sound)
    place = np.linspace(0, 1, len(spectrum))
    gains_db = np.interp(place, np.linspace(0, 1, 6), rng.uniform(-5, 5, 6))
    sound = np.fft.irfft(spectrum * 10 ** (gains_db / 20), window).astype(np.float32)
    sound *= np.float32(10 ** (rng.uniform(-10, 6) / 20))
    if rng.random() < 0.7:
        noise = rng.standard_normal(window, np.float32)
        if rng.random() < 0.5:  # a room hums more than it hisses
            noise = np.cumsum(noise - noise.mean(), dtype=np.float32)
            noise -= np.linspace(noise[0], noise[-1], window, dtype=np.float32)
        sound = add_noise(sound, noise, float(rng.uniform(5, 40)))
    return sound.clip(-1, 1).astype(np.float32)
