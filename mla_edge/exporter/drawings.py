"""Inputs of a network as small pictures for people to look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mla_edge.signals import InputSpec

_FRAME_S = 0.032  # of sound that one column of a spectrogram is of
_COLUMNS, _BANDS = 96, 48
_LOWEST_HZ = 60.0
_RANGE_DB = 55.0  # from the darkest to the brightest
_QUIET_DB = -40.0  # nothing that is quieter is bright
_LEVELS = 32  # of brightness: more make the file larger, and show no more
_CLIP_FRAMES = 4
# Dark to bright at an even pace, readable without telling colours apart.
_COLOURS = (
    (13, 8, 66),
    (82, 20, 120),
    (160, 42, 108),
    (222, 84, 66),
    (250, 158, 40),
    (250, 240, 150),
)


def draw(spec: InputSpec, tensor: np.ndarray) -> np.ndarray | None:
    """The input ``tensor`` of ``spec`` as a picture, uint8 RGB [height, width, 3].

    A picture is itself, a clip some of its frames side by side, sound a spectrogram. None of
    what has no picture.
    """
    if spec.kind == "image":
        return np.asarray(np.clip(tensor[0].transpose(1, 2, 0), 0, 255), np.uint8)
    if spec.kind == "clip":
        chosen = np.linspace(0, spec.shape[1] - 1, _CLIP_FRAMES).round().astype(int)
        row = np.concatenate(list(tensor[0, chosen]), axis=1)
        return np.repeat(np.clip(row, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if spec.kind == "audio" and spec.rate_hz:
        return spectrogram(tensor.ravel(), spec.rate_hz)
    return None


def spectrogram(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Energy by time and pitch (mel scale, low below) as uint8 RGB [48, 96, 3]."""
    frame = min(len(samples), 2 ** round(math.log2(_FRAME_S * rate_hz)))
    starts = np.linspace(0, len(samples) - frame, _COLUMNS).astype(int)
    frames = samples[starts[:, None] + np.arange(frame)] * np.hanning(frame)
    energy = np.square(np.abs(np.fft.rfft(frames)))  # [columns, bins]
    bands_db = 10 * np.log10(energy @ _mel_filters(rate_hz, frame).T + 1e-10).T
    above = (bands_db - max(bands_db.max(), _QUIET_DB)) / _RANGE_DB + 1
    levels = np.round(np.clip(above, 0, 1) * (_LEVELS - 1)).astype(int)
    palette = np.array(_COLOURS, np.float64)
    steps = np.linspace(0, len(palette) - 1, _LEVELS)
    channels = [np.interp(steps, np.arange(len(palette)), channel) for channel in palette.T]
    return np.asarray(np.stack(channels, axis=1).astype(np.uint8)[levels[::-1]])


def _mel_filters(rate_hz: int, frame: int) -> np.ndarray:
    """Triangular filters, [bands, bins]; every one takes at least the bin nearest to it."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (_LOWEST_HZ, rate_hz / 2))
    edges_hz = 700 * (10 ** (np.linspace(low, high, _BANDS + 2) / 2595) - 1)
    bins_hz = np.arange(frame // 2 + 1) * rate_hz / frame
    before, middle, after = (edges_hz[i : i + _BANDS, None] for i in range(3))
    rising, falling = (
        (bins_hz - before) / (middle - before),
        (after - bins_hz) / (after - middle),
    )
    filters = np.clip(np.minimum(rising, falling), 0, None)
    nearest = np.abs(bins_hz - middle).argmin(1)
    filters[np.arange(_BANDS), nearest] = np.maximum(filters[np.arange(_BANDS), nearest], 0.1)
    return np.asarray(filters)
