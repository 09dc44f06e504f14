"""A window of sound as a small picture."""

from __future__ import annotations

import numpy as np

BANDS, COLUMNS = 64, 128
FRAME_S = 0.032
LOWEST_HZ = 60.0
FLOOR_DB = -80.0
"""What is so far below a sine at full scale, or further, is black."""


def spectrogram(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Loudness by pitch and time, uint8 [BANDS, columns]: the highest band first, newest last.

    0 is FLOOR_DB or less, 255 a sine at full scale; bands are as wide as mel's. No matrix is
    multiplied: BLAS would take every core for it.
    """
    frame = 2 ** max(round(np.log2(rate_hz * FRAME_S)), 4)
    if len(samples) < frame:
        samples = np.concatenate((np.zeros(frame - len(samples), np.float32), samples))
    hop = max((len(samples) - frame) // (COLUMNS - 1), 1)
    windows = np.lib.stride_tricks.sliding_window_view(samples, frame)[::-hop][::-1]
    shape = np.hanning(frame + 1)[:-1].astype(np.float32)
    power = np.abs(np.fft.rfft(windows * shape)) ** 2 / (shape.sum() / 2) ** 2
    edges = _edges(frame, rate_hz)
    loudest = np.maximum.reduceat(power, edges[:-1], axis=1)  # [columns, BANDS]
    level_db = 10 * np.log10(np.maximum(loudest, 1e-12))
    scaled = np.clip(1 - level_db / FLOOR_DB, 0, 1) * 255
    return np.ascontiguousarray(scaled.astype(np.uint8).T[::-1])


def _edges(frame: int, rate_hz: int) -> np.ndarray:
    """The first bin of each band, and the end of the last."""
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (LOWEST_HZ, rate_hz / 2))
    hz = 700 * (10 ** (np.linspace(low, high, BANDS + 1) / 2595) - 1)
    return np.minimum(np.round(hz * frame / rate_hz), frame // 2).astype(int)
