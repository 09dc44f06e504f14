"""What happens to recorded sound on its way to a network: another pace, noise."""

from __future__ import annotations

import numpy as np


def speed(clip: np.ndarray, factor: float) -> np.ndarray:
    """``clip`` played ``factor`` times as fast, pitch and formants with it."""
    length = max(1, int(len(clip) / factor))
    at = np.arange(length, dtype=np.float32) * factor
    return np.interp(at, np.arange(len(clip)), clip).astype(np.float32)


def add_noise(sound: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """``sound`` plus ``noise`` at ``snr_db``, the level of speech taken where there is any."""
    loud = np.abs(sound) > 1e-4
    speech_power = float(np.mean(np.square(sound[loud]))) if loud.any() else 1e-3
    noise_power = float(np.mean(np.square(noise))) + 1e-12
    scale = np.sqrt(speech_power / noise_power * 10 ** (-snr_db / 10))
    return (sound + noise * scale).astype(np.float32)
