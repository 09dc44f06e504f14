"""Digits as pen strokes: several fonts and a thousand made-up handwritings.

A glyph is a float32 bitmap in [0, 1], how much ink lies where: 64 rows, as wide as it needs.
Styles below ``len(FONTS)`` are fonts; ``HAND + writer`` is a handwriting.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, List, NamedTuple

import numpy as np

Stroke = np.ndarray
"""Points of one stroke of the pen, float32 [points, 2]: x right and y down, in a unit box."""

HEIGHT = 64
MARGIN = 3.0
HAND = 100
WRITERS = 1000


class Font(NamedTuple):
    """How a font bends the skeletons."""

    name: str
    weight: float  # pen width over digit height
    aspect: float  # digit width over height
    slant: float = 0.0  # shift to the right at the top, over height
    contrast: float = 0.0  # how much thinner horizontal strokes are
    serif: float = 0.0  # length of the serifs
    skeleton: str = "plain"


FONTS = (
    Font("sans", 0.13, 0.58),
    Font("italic", 0.11, 0.56, slant=0.22),
    Font("bold", 0.21, 0.62),
    Font("condensed", 0.13, 0.36),
    Font("serif", 0.13, 0.58, contrast=0.6, serif=0.16),
    Font("seven-segment", 0.12, 0.55, slant=0.08, skeleton="segments"),
    Font("light", 0.055, 0.66),
    Font("dots", 0.125, 0.62, skeleton="dots"),
    Font("wide", 0.14, 0.86),
    Font("round", 0.17, 0.66, skeleton="round"),  # test only
    Font("slab", 0.12, 0.62, serif=0.2),  # test only
)
_FONTS = {
    "train": tuple(range(9)),
    "calibrate": tuple(range(9)),
    "test": tuple(range(len(FONTS))),
}
_WRITERS = {"train": (0, 700), "calibrate": (700, 800), "test": (800, WRITERS)}


def pick_style(split: str, rng: np.random.Generator) -> int:
    """A style of ``split``: half of the time a font, half a handwriting.

    No handwriting is in two splits; nine fonts are in all, and two in ``test`` alone.
    """
    if rng.random() < 0.5:
        return int(rng.choice(_FONTS[split]))
    return HAND + int(rng.integers(*_WRITERS[split]))


def glyph(digit: int, style: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``digit`` (0…9) in ``style``, a little different each time: float32 [64, width]."""
    if style >= HAND:
        return _write(digit, style - HAND, rng)
    font = FONTS[style]
    weight = font.weight * rng.uniform(0.85, 1.15)
    strokes = _skeleton(font.skeleton)[digit]
    if font.serif:
        strokes = strokes + _serifs(digit, font.serif)
    narrow = 1.0 if font.skeleton != "plain" or digit != 1 else 0.85
    return _print(strokes, font, weight, font.aspect * narrow * rng.uniform(0.92, 1.08))


def mark(kind: int, rng: np.random.Generator) -> np.ndarray:
    """Draw something that is no digit (``kind`` modulo ``len(MARKS)``), as by a pen."""
    strokes = [np.array(points, np.float32) for points in MARKS[kind % len(MARKS)]]
    strokes = [_dense(stroke) for stroke in strokes]
    strokes = _wobble(strokes, rng, 0.05)
    weight = rng.uniform(0.05, 0.16)
    return _print(strokes, Font("mark", weight, rng.uniform(0.7, 1.2)), weight, 1.0)


MARKS = (
    [[(0, 0), (1, 1)], [(1, 0), (0, 1)]],  # a cross
    [[(0.5, 0), (0.5, 1)], [(0, 0.5), (1, 0.5)]],
    [[(0, 1), (0.1, 0), (0.5, 0.7), (0.9, 0), (1, 1)]],
    [[(0, 0), (0.25, 1), (0.5, 0.3), (0.75, 1), (1, 0)]],
    [[(0, 1), (0.5, 0), (1, 1), (0, 1)]],  # a triangle
    [[(0, 0), (0, 1)], [(1, 0), (0, 0.55), (1, 1)]],
    [[(0, 1), (0.5, 0), (1, 1)], [(0.2, 0.6), (0.8, 0.6)]],
    [[(0, 0.5), (1, 0.5)], [(0.6, 0.15), (1, 0.5), (0.6, 0.85)]],  # an arrow
    [[(0, 0.6), (0.35, 1), (1, 0)]],  # a tick
    [
        [(0.3, 0), (0.2, 1)],
        [(0.8, 0), (0.7, 1)],
        [(0, 0.33), (1, 0.33)],
        [(0, 0.67), (1, 0.67)],
    ],
    [[(0, 0.5), (0.15, 0.1), (0.3, 0.9), (0.45, 0.1), (0.6, 0.9), (0.75, 0.1), (0.9, 0.9)]],
    [[(0, 1), (0.2, 0), (0.35, 1), (0.55, 0.1), (0.7, 1), (0.8, 0), (1, 0.9)]],
    [[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], [(0, 0), (1, 1)]],
    [[(0, 0), (0, 1)], [(0, 0.5), (1, 0.5)], [(1, 0), (1, 1)]],
    [[(0.5, 0), (0.2, 1), (1, 0.35), (0, 0.35), (0.8, 1), (0.5, 0)]],  # a star
    [[(0, 0.15), (1, 0.15)], [(0, 0.5), (1, 0.5)], [(0, 0.85), (1, 0.85)]],
)


def _arc(x: float, y: float, rx: float, ry: float, span: tuple[float, float]) -> Stroke:
    """Part of an ellipse; degrees run from the right over the bottom."""
    angle = np.radians(np.linspace(*span, max(5, int(abs(span[1] - span[0]) / 14))))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1).astype(np.float32)


def _path(*parts: object) -> Stroke:
    """Points and arcs joined into one stroke."""
    points = [np.atleast_2d(np.asarray(part, np.float32)) for part in parts]
    return np.concatenate(points)


def _curve(
    start: tuple[float, float], bend: tuple[float, float], end: tuple[float, float]
) -> Stroke:
    """A quadratic Bézier curve."""
    t = np.linspace(0, 1, 10, dtype=np.float32)[:, None]
    a, b, c = (np.asarray(corner, np.float32) for corner in (start, bend, end))
    points: Stroke = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
    return points


def _turned(strokes: list[Stroke]) -> list[Stroke]:
    return [1 - stroke for stroke in strokes]


Skeletons = Dict[int, List[Stroke]]


@lru_cache(maxsize=None)
def _skeleton(name: str) -> Skeletons:
    """Strokes of the ten digits, in a unit box."""
    if name == "segments":
        return _segments()
    if name == "dots":
        return _dots()
    six = [_arc(0.5, 0.68, 0.46, 0.32, (0, 360)), _curve((0.04, 0.68), (0.06, 0.1), (0.8, 0))]
    plain = {
        0: [_arc(0.5, 0.5, 0.5, 0.5, (0, 360))],
        1: [_path((0.14, 0.24), (0.58, 0), (0.58, 1))],
        2: [_path(_arc(0.5, 0.28, 0.46, 0.28, (190, 398)), (0.02, 1), (1, 1))],
        3: [
            _path(_arc(0.46, 0.25, 0.42, 0.25, (205, 450)), (0.32, 0.5)),
            _arc(0.48, 0.745, 0.48, 0.255, (-92, 155)),
        ],
        4: [_path((0.74, 1), (0.74, 0), (0, 0.68), (1, 0.68))],
        5: [_path((0.9, 0), (0.16, 0), (0.1, 0.46), _arc(0.48, 0.67, 0.48, 0.33, (216, 510)))],
        6: six,
        7: [_path((0, 0), (1, 0), (0.34, 1))],
        8: [_arc(0.5, 0.25, 0.4, 0.25, (0, 360)), _arc(0.5, 0.74, 0.48, 0.26, (0, 360))],
        9: _turned(six),
    }
    if name == "round":
        six = [
            _path(
                _curve((0.72, 0), (0.05, 0.2), (0.02, 0.66)),
                _arc(0.5, 0.67, 0.48, 0.33, (180, 540)),
            )
        ]
        plain[1] = [_path((0.3, 0.12), (0.58, 0), (0.58, 1))]
        plain[4] = [_path((0.42, 0), (0.02, 0.66), (1, 0.66)), _path((0.74, 0.36), (0.74, 1))]
        plain[6] = six
        plain[7] = [_path((0.02, 0), (0.95, 0), _curve((0.95, 0.02), (0.45, 0.45), (0.36, 1)))]
        plain[9] = _turned(six)
    return plain


def _segments() -> Skeletons:
    """Bars a to g of a display, by digit."""
    bars = {
        "a": ((0.1, 0), (0.9, 0)),
        "b": ((1, 0.06), (1, 0.44)),
        "c": ((1, 0.56), (1, 0.94)),
        "d": ((0.1, 1), (0.9, 1)),
        "e": ((0, 0.56), (0, 0.94)),
        "f": ((0, 0.06), (0, 0.44)),
        "g": ((0.1, 0.5), (0.9, 0.5)),
    }
    lit = "abcdef bc abged abgcd fgbc afgcd afgedc abc abcdefg abcdfg"
    return {
        digit: [_path(*bars[bar]) for bar in names]
        for digit, names in enumerate(lit.split(" "))
    }


def _dots() -> Skeletons:
    """A matrix of 5 × 7 dots: each row of a digit as a number whose bits are the dots."""
    rows = "EHHHHHE 4C4444E EH1248V V2421HE 26AIV22 VGU11HE 68GUHHE V124888 EHHEHHE EHHF12C"
    value = {sign: number for number, sign in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUV")}
    return {
        digit: [
            np.array([[column / 4, row / 6]], np.float32).repeat(2, 0)
            for row, sign in enumerate(signs)
            for column in range(5)
            if value[sign] >> (4 - column) & 1
        ]
        for digit, signs in enumerate(rows.split())
    }


def _serifs(digit: int, length: float) -> list[Stroke]:
    """Short bars at the open ends."""
    ends: dict[int, list[tuple[float, float, bool]]] = {  # x, y, is it upright
        1: [(0.58, 1, False)],
        2: [(1, 0.93, True)],
        3: [(0.06, 0.17, True), (0.05, 0.84, True)],
        4: [(0.74, 1, False)],
        5: [(0.9, 0.05, True), (0.06, 0.84, True)],
        6: [(0.8, 0.05, True)],
        7: [(0, 0.07, True), (0.34, 1, False)],
        9: [(0.2, 0.95, True)],
    }
    bars = []
    for x, y, upright in ends.get(digit, []):
        across, along = (0.0, length / 2) if upright else (length * 1.5, 0.0)
        bars.append(_path((x - across, y - along), (x + across, y + along)))
    return bars


@lru_cache(maxsize=1)
def _hand_shapes() -> dict[int, tuple[float, list[Stroke]]]:
    """By digit: how many of the writers give it another shape, and which."""
    turn = np.linspace(0, 2 * np.pi, 36)
    bulge = 0.42 - 0.07 * np.cos(turn)
    eight = np.stack([0.5 + bulge * np.sin(2 * turn), 0.5 - 0.5 * np.cos(turn)], 1)
    looped_two = _path(
        _arc(0.5, 0.28, 0.44, 0.28, (190, 400)),
        _curve((0.8, 0.5), (0.45, 0.85), (0.12, 0.98)),
        _curve((0.1, 0.84), (0.4, 0.72), (0.6, 0.95)),
        (1, 0.96),
    )
    five = _path((0.2, 0.02), (0.16, 0.44), _arc(0.46, 0.68, 0.48, 0.32, (230, 515)))
    bent = _curve((0.62, 0), (0.1, 0.25), (0.05, 0.7))
    leg = _path((0.92, 0.06), (0.9, 0.4), (0.8, 1))
    return {
        0: (0.4, [_arc(0.5, 0.5, 0.5, 0.5, (-110, 265))]),  # not quite closed
        1: (0.45, [_path((0.5, 0), (0.5, 1))]),
        2: (0.4, [looped_two]),
        4: (0.6, [_path((0.12, 0), (0.05, 0.56), (1, 0.56)), _path((0.74, 0.05), (0.68, 1))]),
        5: (0.4, [five, _path((0.2, 0.02), (0.95, 0))]),
        6: (0.4, [_path(bent, _arc(0.48, 0.72, 0.43, 0.27, (180, 540)))]),
        7: (0.4, [_path((0, 0.05), (0.95, 0), (0.4, 1)), _path((0.3, 0.5), (0.92, 0.48))]),
        8: (0.5, [eight.astype(np.float32)]),  # in one go
        9: (0.5, [_arc(0.48, 0.28, 0.44, 0.28, (-30, 330)), leg]),
    }


def _hand_skeleton(digit: int, habit: np.random.Generator) -> list[Stroke]:
    """The shape one writer gives a digit."""
    shape = habit.random()
    share, strokes = _hand_shapes().get(digit, (0.0, []))
    if shape < share:
        return strokes
    if digit == 1 and shape > 0.85:
        return [_path((0.2, 0.2), (0.55, 0), (0.55, 1)), _path((0.15, 1), (0.95, 1))]
    return _skeleton("plain")[digit]


def _write(digit: int, writer: int, rng: np.random.Generator) -> np.ndarray:
    habit = np.random.default_rng([writer, digit, 28])
    strokes = [_dense(stroke) for stroke in _hand_skeleton(digit, habit)]
    style = np.random.default_rng([writer, 10, 28])
    weight = style.uniform(0.05, 0.15) * rng.uniform(0.9, 1.1)
    slant = style.uniform(-0.12, 0.32) + rng.normal(0, 0.03)
    aspect = style.uniform(0.48, 0.78) * rng.uniform(0.9, 1.1)
    if digit == 1:
        aspect *= 0.6
    strokes = _wobble(strokes, rng, style.uniform(0.02, 0.06))
    font = Font("hand", weight, aspect, slant, contrast=style.uniform(-0.1, 0.3))
    taper = style.uniform(0.0, 0.5)
    return _print(strokes, font, weight, aspect, taper=taper)


def _dense(stroke: Stroke) -> Stroke:
    """The same stroke with points at most 0.12 apart, so that it can be bent."""
    steps = np.hypot(*np.diff(stroke, axis=0).T)
    along = np.concatenate([[0], np.cumsum(steps)])
    if along[-1] == 0:
        return stroke
    where = np.union1d(along, np.linspace(0, along[-1], int(along[-1] / 0.12) + 2))
    return np.stack([np.interp(where, along, stroke[:, axis]) for axis in (0, 1)], 1)


def _wobble(strokes: list[Stroke], rng: np.random.Generator, size: float) -> list[Stroke]:
    """Bend the plane smoothly and shift each stroke a little, as a hand does."""
    frequency = rng.uniform(2, 6, (2, 4))
    phase = rng.uniform(0, 2 * np.pi, (2, 2))
    bent = []
    for stroke in strokes:
        x, y = stroke[:, 0], stroke[:, 1]
        shift = rng.normal(0, size * 0.4, 2)
        moved = [
            stroke[:, axis]
            + shift[axis]
            + size * np.sin(frequency[axis, 0] * x + frequency[axis, 1] * y + phase[axis, 0])
            + 0.4 * size * np.sin(3 * (x - y) * frequency[axis, 2] + phase[axis, 1])
            for axis in (0, 1)
        ]
        bent.append(np.stack(moved, 1))
    return bent


def _print(
    strokes: list[Stroke], font: Font, weight: float, aspect: float, *, taper: float = 0.0
) -> np.ndarray:
    """Rasterise strokes: each pixel's ink by its distance to the nearest piece of a stroke."""
    pen = weight * HEIGHT / 2
    starts = np.concatenate([stroke[:-1] for stroke in strokes])
    ends = np.concatenate([stroke[1:] for stroke in strokes])
    points = np.stack([starts, ends]).astype(np.float32)  # [2, pieces, 2]
    tall = HEIGHT - 2 * MARGIN - 2 * pen
    x, y = points[..., 0] * aspect * tall, points[..., 1]
    x = x + font.slant * (1 - y) * tall
    low, high = float(y.min()), float(y.max())
    y = (y - low) / max(high - low, 0.5) * tall + MARGIN + pen
    x = x - x.min() + MARGIN + pen
    width = int(np.ceil(x.max() + pen + MARGIN))
    (x0, x1), (y0, y1) = x[..., None, None], y[..., None, None]  # [pieces, 1, 1]

    dx, dy = x1 - x0, y1 - y0
    long = np.maximum(dx * dx + dy * dy, 1e-6)
    column = np.arange(width, dtype=np.float32)[None, None, :]
    row = np.arange(HEIGHT, dtype=np.float32)[None, :, None]
    along = ((column - x0) * dx + (row - y0) * dy) / long  # [pieces, rows, columns]
    np.clip(along, 0, 1, out=along)
    away = (column - x0 - along * dx) ** 2
    along *= dy
    along += y0 - row
    along *= along
    away += along
    radius = pen * (1 - font.contrast * np.abs(dx) / np.sqrt(long))
    if taper:
        radius = radius * (1 - taper * np.linspace(0, 1, len(radius))[:, None, None] ** 2)
    np.sqrt(away, out=away)
    away -= radius.astype(np.float32)
    ink: np.ndarray = np.clip(0.5 - away.min(axis=0), 0, 1)
    return ink
