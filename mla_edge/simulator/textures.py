"""Backgrounds: noise at several scales, gradients, stripes, boxes, blobs and lines."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_TILE = 512
_KINDS = 12
_GRAIN = 1 << 19


@lru_cache(maxsize=None)
def _tile(kind: int) -> np.ndarray:
    """A texture, uint8 [512, 512], that uses the whole range."""
    rng = np.random.default_rng([kind, 512])
    coarse = 2 ** (1 + kind % 6)  # pixels between the points of the coarsest noise
    height = _smooth_noise(rng, coarse)
    octave = coarse // 2
    while kind % 2 and octave >= 1:
        height = height + _smooth_noise(rng, octave) * (octave / coarse)
        octave //= 2
    if kind >= 6:  # veins and contour lines
        height = np.sin(height * rng.uniform(8, 25))
    low, high = np.percentile(height, [1, 99])
    tile: np.ndarray = (np.clip((height - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return tile


def _smooth_noise(rng: np.random.Generator, step: int) -> np.ndarray:
    points = rng.random((_TILE // step + 2, _TILE // step + 2))
    at = np.arange(_TILE) / step
    index = at.astype(int)
    part = at - index
    part = part * part * (3 - 2 * part)
    rows = points[index] * (1 - part[:, None]) + points[index + 1] * part[:, None]
    mixed: np.ndarray = rows[:, index] * (1 - part) + rows[:, index + 1] * part
    return mixed


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A random piece of a random texture, uint8 [height, width]."""
    tile = _tile(int(rng.integers(_KINDS)))
    if rng.random() < 0.5:
        tile = tile.T
    while tile.shape[0] < height or tile.shape[1] < width:
        tile = np.tile(tile, (2, 2))
    top = rng.integers(tile.shape[0] - height + 1)
    left = rng.integers(tile.shape[1] - width + 1)
    return tile[top : top + height, left : left + width]


def grain(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Normal noise of deviation 1, float32, cut from a pool drawn once."""
    pool = _grain_pool()
    count = int(np.prod(shape))
    while count >= len(pool):
        pool = np.concatenate([pool, pool])
    start = rng.integers(len(pool) - count)
    return pool[start : start + count].reshape(shape)


@lru_cache(maxsize=1)
def _grain_pool() -> np.ndarray:
    return np.random.default_rng(_GRAIN).standard_normal(_GRAIN, dtype=np.float32)


def empty_picture(height: int, width: int) -> np.ndarray:
    """Room for a float32 picture [height, width, 3] whose planes lie one after the other."""
    return np.empty((3, height, width), np.float32).transpose(1, 2, 0)


def planes(image: np.ndarray) -> np.ndarray:
    """The colours of a picture [height, width, channels], a view [channels, height, width]."""
    return image.transpose(2, 0, 1)


def colour(rng: np.random.Generator, low: float = 0.0, high: float = 255.0) -> np.ndarray:
    """An RGB colour, float32 [3], mostly dull, of brightness ``low`` to ``high``."""
    tint = rng.normal(0, 12 if rng.random() < 0.7 else 50, 3)
    mixed: np.ndarray = np.clip(rng.uniform(low, high) + tint - tint.mean(), 0, 255)
    return mixed.astype(np.float32)


def background(rng: np.random.Generator, height: int, width: int, level: float) -> np.ndarray:
    """What lies behind the card, float32 [height, width, 3]; clutter grows with ``level``."""
    first, second = colour(rng), colour(rng)
    kind = rng.random()
    image = empty_picture(height, width)
    if kind < 0.55:
        second = first + (second - first) * (0.2 + 0.8 * level * rng.random())
        ramp = np.linspace(0, 1, 256, dtype=np.float32)
        colours = first[:, None] + (second - first)[:, None] * ramp
        planes(image)[:] = colours.astype(np.float32)[:, texture(rng, height, width)]
    else:
        angle = rng.uniform(0, 2 * np.pi)
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(np.cos(angle))
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(np.sin(angle))
        slope = np.add.outer(y, x)
        if kind < 0.72:  # stripes
            slope = np.sin(slope * np.float32(rng.uniform(15, 120)))
            if rng.random() < 0.5:
                slope = np.sign(slope)
            slope *= np.float32(0.5)
        span = (second - first)[:, None, None]
        planes(image)[:] = first[:, None, None] + span * (slope + np.float32(0.5))
    for _ in range(rng.poisson(2.5 * level)):
        _add_clutter(image, rng)
    return image


def _add_clutter(image: np.ndarray, rng: np.random.Generator) -> None:
    """One box, disc, blob or long line; never a shape that could pass for a digit."""
    height, width = image.shape[:2]
    kind = rng.random()
    paint = colour(rng)
    if kind < 0.45:
        high, wide = (
            rng.integers(height // 12, height // 2),
            rng.integers(width // 12, width // 2),
        )
        top, left = rng.integers(1 - high, height), rng.integers(1 - wide, width)
        box = planes(image)[:, max(top, 0) : top + high, max(left, 0) : left + wide]
        if rng.random() < 0.4 and box.size:
            shade = texture(rng, *box.shape[1:]).astype(np.float32) / 255
            box += (paint[:, None, None] - box) * shade
        else:
            box[:] = paint[:, None, None]
        return
    x0, y0 = rng.uniform(0, width), rng.uniform(0, height)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    if kind < 0.75:  # a filled disc or a soft blob
        radius = rng.uniform(0.04, 0.3) * height
        away = np.sqrt(np.add.outer((y - np.float32(y0)) ** 2, (x - np.float32(x0)) ** 2))
        soft = np.float32(1.0 if rng.random() < 0.5 else radius)
        cover = np.clip((np.float32(radius) - away) / soft, 0, 1)
    else:  # a line from border to border
        angle = rng.uniform(0, np.pi)
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        away = np.abs(np.add.outer((y - np.float32(y0)) * cos, (x - np.float32(x0)) * -sin))
        cover = np.clip(np.float32(rng.uniform(0.005, 0.04) * height) - away, 0, 1)
    colours = planes(image)
    colours += (paint[:, None, None] - colours) * cover
