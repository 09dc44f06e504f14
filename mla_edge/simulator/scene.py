"""Pictures of a digit on a card, or of none, as a careless camera sees them.

Positions are pixels of the picture; on a card, lengths are in digit heights from its middle.
A float32 picture [height, width, 3] lies plane by plane in memory (see ``textures.planes``):
with three values innermost, numpy needs half as long again for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Tuple

import numpy as np

from mla_edge.errors import ConfigError
from mla_edge.simulator.glyphs import MARKS, mark
from mla_edge.simulator.textures import (
    background,
    colour,
    empty_picture,
    grain,
    planes,
    texture,
)


class Pose(NamedTuple):
    """Where a card is and how it is turned."""

    x: float
    y: float
    height: float  # of the digit
    angle: float  # radians, clockwise
    tilt_x: float = 0.0  # how much farther the right side is than the middle, per digit height
    tilt_y: float = 0.0


@dataclass(frozen=True)
class Card:
    """A sheet of paper with ink on it."""

    ink: np.ndarray | None  # float32 [rows, columns] in [0, 1], cropped to the ink, 1 px border
    ink_colour: np.ndarray  # RGB, float32 [3]
    paper_colour: np.ndarray
    half_width: float  # of the paper; infinite for a sheet that fills the picture
    half_height: float
    edge_colour: np.ndarray | None = None  # of a printed frame

    @property
    def ink_half_width(self) -> float:
        """Half of the digit's width."""
        if self.ink is None:
            return 0.4
        rows, columns = self.ink.shape
        return float((columns - 2) / (rows - 2) / 2)


def compose(
    rng: np.random.Generator,
    ink: np.ndarray | None,
    height: int,
    width: int,
    *,
    level: float = 1.0,
) -> np.ndarray:
    """Draw a scene with ``ink`` in it, uint8 RGB [height, width, 3].

    ``ink`` is any bitmap of a digit, float32 in [0, 1], 1 where the pen was; None draws a scene
    without a digit: nothing, a blank card or a mark that is no digit. The digit is 22 to 95 %
    of the shorter side high and lies in the middle square, which a centre crop keeps. ``level``
    0…1 makes it harder: turned, tilted, small, noisy, blurred, cluttered.
    """
    full_sheet = rng.random() < 0.25
    if ink is None and rng.random() < 0.4:
        ink = _mark_bank()[rng.integers(len(_mark_bank()))]
    elif ink is None and not full_sheet and rng.random() < 0.6:
        image = background(rng, height, width, level)
        return _photograph(image, rng, level)
    card = make_card(rng, ink, level, full_sheet=full_sheet)
    if full_sheet:
        image = empty_picture(height, width)
    else:
        image = background(rng, height, width, level)
    bar_y, bar_x = _bars(rng, height, width) if full_sheet else (0, 0)
    side = min(height - 2 * bar_y, width - 2 * bar_x)
    pose = _random_pose(rng, card, (height, width, side), level)
    draw_card(image, card, pose)
    if full_sheet:
        image[:bar_y] = image[height - bar_y :] = 0
        image[:, :bar_x] = image[:, width - bar_x :] = 0
    return _photograph(image, rng, level)


def make_card(
    rng: np.random.Generator,
    ink: np.ndarray | None,
    level: float = 1.0,
    *,
    full_sheet: bool = False,
) -> Card:
    """A card with ``ink`` in random colours: mostly dark on light, sometimes the reverse."""
    dark_paper = rng.random() < 0.3
    if full_sheet and rng.random() < 0.25:
        pen, paper = np.full(3, 255, np.float32), np.zeros(3, np.float32)
    else:
        light = colour(rng, 205 - 45 * level, 255)
        dark = colour(rng, 0, light.mean() - 170 + 80 * level)
        pen, paper = (light, dark) if dark_paper else (dark, light)
    edge = colour(rng) if rng.random() < 0.15 else None
    cropped = None if ink is None else _crop(ink)
    card = Card(cropped, pen, paper, np.inf, np.inf, None)
    if full_sheet:
        return card
    half_width = max(card.ink_half_width + rng.uniform(0.12, 0.5), rng.uniform(0.4, 0.8))
    return Card(cropped, pen, paper, half_width, 0.5 + rng.uniform(0.1, 0.4), edge)


def draw_card(
    image: np.ndarray, card: Card, pose: Pose, light: np.ndarray | None = None
) -> None:
    """Draw ``card`` into a float32 picture [height, width, 3], touching only where it lies.

    ``light`` (from ``light_map``) falls on the card alone, for a picture already lit.
    """
    forward = _homography(pose)
    top, bottom, left, right = _extent(card, forward, image.shape)
    if top >= bottom or left >= right:
        return
    region = planes(image[top:bottom, left:right])
    back = np.linalg.inv(forward).astype(np.float32)
    x = np.arange(left, right, dtype=np.float32)
    y = np.arange(top, bottom, dtype=np.float32)
    depth = np.add.outer(back[2, 1] * y + back[2, 2], back[2, 0] * x)
    depth[depth == 0] = 1e-9  # on the horizon of a sheet without edges
    scale = np.float32(1) / depth
    u = np.add.outer(back[0, 1] * y + back[0, 2], back[0, 0] * x) * scale
    v = np.add.outer(back[1, 1] * y + back[1, 2], back[1, 0] * x) * scale

    painted = card.paper_colour[:, None, None]
    if card.ink is not None:
        inked = _sample_ink(card.ink, u, v, pose.height)
        painted = painted + (card.ink_colour - card.paper_colour)[:, None, None] * inked
    if np.isinf(card.half_width):
        region[:] = painted
        return
    inside = np.minimum(card.half_width - np.abs(u), card.half_height - np.abs(v))
    inside *= np.float32(pose.height)
    if card.edge_colour is not None:
        rim = np.clip(pose.height * 0.05 - np.abs(inside - pose.height * 0.05), 0, 1)
        painted = painted + (card.edge_colour[:, None, None] - painted) * rim
    if light is not None:
        painted = painted * planes(light[top:bottom, left:right])
    cover = np.clip(inside + np.float32(0.5), 0, 1)
    region += (painted - region) * cover


def digit_extent(card: Card, pose: Pose) -> tuple[float, float]:
    """How far the digit reaches from the card's middle, in pixels across and down."""
    cos, sin = abs(np.cos(pose.angle)), abs(np.sin(pose.angle))
    wide = card.ink_half_width
    near = 1 + abs(pose.tilt_x) * wide + abs(pose.tilt_y) * 0.5
    across = pose.height * (cos * wide + sin * 0.5) * near
    return across, pose.height * (sin * wide + cos * 0.5) * near


def degrade(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    blur_px: float = 0.0,
    occlude: float = 0.0,
    noise: float = 0.0,
) -> np.ndarray:
    """Spoil a picture, uint8 to uint8: a new array of the same shape.

    ``blur_px`` is the deviation of a Gaussian; ``occlude`` is the share of the picture's width
    or height that an opaque textured block hides from a random side; ``noise`` is the deviation
    of sensor noise in grey levels, 0…255.
    """
    spoiled: np.ndarray = blur(image.astype(np.float32), blur_px)
    if occlude > 0:
        hide(spoiled, occluder(rng, image.shape[0], image.shape[1], occlude))
    if noise > 0:
        spoiled += grain(rng, spoiled.shape) * np.float32(noise)
    return to_bytes(spoiled)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """A float32 picture in 0…255 as uint8."""
    picture: np.ndarray = np.clip(image, 0, 255).astype(np.uint8, order="C")
    return picture


Occluder = Tuple[Tuple[slice, slice], np.ndarray]
"""Rows and columns of the picture, and the block that hides them, float32."""


def occluder(rng: np.random.Generator, height: int, width: int, share: float) -> Occluder:
    """A textured block over ``share`` of the picture from a random side."""
    side = rng.integers(4)
    rows, columns = round(height * share), round(width * share)
    window = (
        (slice(0, rows), slice(0, width)),
        (slice(height - rows, height), slice(0, width)),
        (slice(0, height), slice(0, columns)),
        (slice(0, height), slice(width - columns, width)),
    )[side]
    first, second = colour(rng), colour(rng)
    shape = tuple(part.stop - part.start for part in window)
    shade = texture(rng, *shape)[..., None].astype(np.float32) / 255
    return window, first + (second - first) * shade


def hide(image: np.ndarray, block: Occluder) -> None:
    """Put an occluder in front of a picture, in place."""
    window, pixels = block
    image[window] = pixels


def blur(image: np.ndarray, deviation_px: float) -> np.ndarray:
    """Blur a float32 picture [height, width, 3] with a Gaussian, borders held."""
    if deviation_px <= 0:
        return image
    reach = int(np.ceil(2 * deviation_px))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation_px) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    padded = np.pad(planes(image), ((0, 0), (reach, reach), (0, 0)), mode="edge")
    blurred = _weighted(padded, weights, 1, image.shape[0])
    padded = np.pad(blurred, ((0, 0), (0, 0), (reach, reach)), mode="edge")
    return _weighted(padded, weights, 2, image.shape[1]).transpose(1, 2, 0)


def _weighted(padded: np.ndarray, weights: np.ndarray, axis: int, size: int) -> np.ndarray:
    parts = (
        padded[:, start : start + size] if axis == 1 else padded[..., start : start + size]
        for start in range(len(weights))
    )
    total: np.ndarray = next(parts) * weights[0]
    for part, weight in zip(parts, weights[1:]):
        total += part * weight
    return total


def light_map(rng: np.random.Generator, height: int, width: int, level: float) -> np.ndarray:
    """How much light falls where, float32 [height, width, 1] about 1."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.45 * level)
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)
    cos, sin = np.float32(np.cos(angle) * strength), np.float32(np.sin(angle) * strength)
    light: np.ndarray = np.add.outer(sin * y + np.float32(rng.uniform(0.85, 1.1)), cos * x)
    if rng.random() < 0.3 * level:
        angle, sharp = rng.uniform(0, 2 * np.pi), rng.uniform(2, 20)
        cos, sin = np.float32(np.cos(angle) * sharp), np.float32(np.sin(angle) * sharp)
        shadow = np.clip(np.add.outer(sin * (y - rng.uniform(-0.6, 0.6)), cos * x), 0, 1)
        light *= 1 - shadow.astype(np.float32) * np.float32(rng.uniform(0.2, 0.5))
    return light[..., None]


def _photograph(image: np.ndarray, rng: np.random.Generator, level: float) -> np.ndarray:
    """Light, blur and sensor noise; to uint8."""
    height, width = image.shape[:2]
    image = image * light_map(rng, height, width, level)
    kind = rng.random()
    if kind < 0.25 * level:
        image = blur(image, rng.uniform(0.3, 1.3) * min(height, width) / 128)
    elif kind < 0.4 * level:
        image = _shake(image, rng)
    deviation = np.float32(abs(rng.normal(0, 7 * level)) + 0.5)
    image += grain(rng, image.shape) * deviation
    return to_bytes(image)


def _shake(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Motion blur: the mean of a few shifted copies."""
    angle, length = rng.uniform(0, np.pi), rng.uniform(1, 5) * min(image.shape[:2]) / 128
    steps = max(2, int(length) + 1)
    total: np.ndarray = np.zeros_like(image)
    for step in np.linspace(-0.5, 0.5, steps) * length:
        shift = (round(step * np.sin(angle)), round(step * np.cos(angle)))
        total += np.roll(image, shift, (0, 1))
    total /= np.float32(steps)
    return total


def _bars(rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
    """Height and width of black bars at top and bottom or at both sides; mostly none."""
    kind = rng.random()
    if kind < 0.7:
        return 0, 0
    share = rng.uniform(0.03, 0.15)
    return (0, round(width * share)) if kind < 0.9 else (round(height * share), 0)


def _random_pose(
    rng: np.random.Generator, card: Card, room: tuple[int, int, int], level: float
) -> Pose:
    """Any pose that keeps the digit in the middle square; ``room``: height, width, square."""
    height, width, side = room
    angle = np.radians(25) * level * rng.uniform(-1, 1) * (0.3 if rng.random() < 0.4 else 1)
    tilt_x, tilt_y = rng.uniform(-0.3, 0.3, 2) * level
    low, high = 0.55 - 0.33 * level, 0.75 + 0.2 * level
    pose = Pose(0, 0, side * rng.uniform(low, high), float(angle), float(tilt_x), float(tilt_y))
    across, down = digit_extent(card, pose)
    slack_x, slack_y = max(0.0, side / 2 - across), max(0.0, side / 2 - down)
    if across > side / 2:
        pose = pose._replace(height=pose.height * side / 2 / across)
    x = width / 2 + rng.uniform(-1, 1) * slack_x
    y = height / 2 + rng.uniform(-1, 1) * slack_y
    return pose._replace(x=x, y=y)


def _homography(pose: Pose) -> np.ndarray:
    """From card to picture, float64 [3, 3]."""
    cos, sin = pose.height * np.cos(pose.angle), pose.height * np.sin(pose.angle)
    tilt = np.array([pose.tilt_x, pose.tilt_y, 1.0])
    return np.stack(
        [
            pose.x * tilt + (cos, -sin, 0.0),
            pose.y * tilt + (sin, cos, 0.0),
            tilt,
        ]
    )


def _extent(
    card: Card, forward: np.ndarray, shape: tuple[int, ...]
) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the part of the picture that the card covers."""
    if np.isinf(card.half_width):
        return 0, shape[0], 0, shape[1]
    signs = np.array([[-1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]], np.float64)
    signs[0] *= card.half_width
    signs[1] *= card.half_height
    x, y, w = forward @ signs
    x, y = x / w, y / w
    top, left = max(0, int(y.min()) - 1), max(0, int(x.min()) - 1)
    return top, min(shape[0], int(y.max()) + 3), left, min(shape[1], int(x.max()) + 3)


def _crop(ink: np.ndarray) -> np.ndarray:
    """The part of a bitmap that holds ink, with one pixel of border."""
    held = ink > 0.2
    rows, columns = np.flatnonzero(held.any(axis=1)), np.flatnonzero(held.any(axis=0))
    if not len(rows):
        raise ConfigError(
            "the bitmap holds no ink: nothing in it is above 0.2",
            hint="give ink as 0…1, 1 where the pen was, or None for no digit",
        )
    part = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.pad(part.astype(np.float32), 1)


def _sample_ink(ink: np.ndarray, u: np.ndarray, v: np.ndarray, height_px: float) -> np.ndarray:
    """Ink at card positions, by bilinear interpolation; sharpened when much enlarged."""
    rows, columns = ink.shape
    unit = np.float32(rows - 2)
    column = np.clip(u * unit + np.float32((columns - 1) / 2), 0, np.float32(columns - 1.001))
    row = np.clip(v * unit + np.float32((rows - 1) / 2), 0, np.float32(rows - 1.001))
    left, top = column.astype(np.int32), row.astype(np.int32)
    column -= left
    row -= top
    corner = top * np.int32(columns) + left
    flat = ink.ravel()
    upper: np.ndarray = flat[corner]
    upper += (flat[corner + 1] - upper) * column
    corner += columns
    lower = flat[corner]
    lower += (flat[corner + 1] - lower) * column
    upper += (lower - upper) * row
    enlarged = height_px / float(unit)
    if enlarged > 1.5:
        gain = np.float32(min(enlarged, 3.0) / 1.5)
        upper = np.clip((upper - np.float32(0.5)) * gain + np.float32(0.5), 0, 1)
    return upper


@lru_cache(maxsize=1)
def _mark_bank() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(len(MARKS))
    return tuple(mark(kind, rng) for kind in range(4 * len(MARKS)))
