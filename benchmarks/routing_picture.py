"""Accuracy over measured milliseconds of a decision, a panel for each mode."""

from __future__ import annotations

import math
from html import escape
from typing import Any, Iterator, Mapping, Sequence

_PANEL, _HEIGHT, _LEFT, _TOP, _BOTTOM = 330, 300, 52, 30, 44
_ROW = 18  # of the legend
_COLOURS = {
    "always lite": "#7f8c8d",
    "always full": "#2c3e50",
    "as exported": "#3a7d44",
    "certified": "#1d6fa5",
    "random, equal share": "#c9a227",
    "periodic, equal share": "#c4561d",
    "oracle": "#7a4fa3",
    "confidence certified": "#7fb3d5",
}


def draw(result: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """An SVG of what ``routing.py`` found, by mode."""
    width = _PANEL * len(result)
    names = list(
        dict.fromkeys(
            name.split(" at ")[0] for found in result.values() for name in _shown(found)
        )
    )
    lines_of = list(dict.fromkeys(by for found in result.values() for by in found["curves"]))
    across = max(1, width // 220)
    height = _HEIGHT + _ROW * (math.ceil((len(names) + len(lines_of) + 1) / across) + 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (mode, found) in enumerate(result.items()):
        lines += _panel(number * _PANEL, mode, found)
    entries = [
        *(f'<circle cx="8" cy="-4" r="5" fill="{_colour(name)}"/>' for name in names),
        *(f'<path d="M0 -4H16" {_line(by)}/>' for by in lines_of),
        '<path d="M0 -4H16" stroke="#999" stroke-dasharray="4 3"/>',
    ]
    for number, (entry, name) in enumerate(
        zip(
            entries,
            [*names, *(f"{by}, any threshold" for by in lines_of), "lite and full mixed"],
        )
    ):
        x, y = _LEFT + number % across * 220, _HEIGHT + _ROW * (number // across + 1)
        lines.append(
            f'<g transform="translate({x},{y})">{entry}<text x="22">{escape(name)}</text></g>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


def _shown(found: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """The ways that get a point."""
    return {name: row for name, row in found["ways"].items() if "share_of_full" in row}


def _colour(name: str) -> str:
    return next(colour for begin, colour in _COLOURS.items() if name.startswith(begin))


def _line(by: str) -> str:
    return f'stroke="{"#7fb3d5" if by == "confidence" else "#1d6fa5"}" stroke-width="2"'


def _panel(left: float, mode: str, found: Mapping[str, Any]) -> Iterator[str]:
    ways = _shown(found)
    curves: dict[str, Sequence[Mapping[str, float]]] = {
        by: [ways["always lite"], *points] for by, points in found["curves"].items()
    }
    points = [*ways.values(), *(point for curve in curves.values() for point in curve)]
    fastest, slowest = 0.0, max(point["cpu_ms"] for point in points) * 1.05
    worst, best = (f(100 * point["accuracy"] for point in points) for f in (min, max))
    room = max(0.1, 0.08 * (best - worst))
    low, high = worst - room, min(100.0, best) + room

    def x(point: Mapping[str, float]) -> float:
        share = (point["cpu_ms"] - fastest) / (slowest - fastest)
        return round(left + _LEFT + share * (_PANEL - _LEFT - 12), 1)

    def y(percent: float) -> float:
        share = (high - percent) / (high - low)
        return round(_TOP + share * (_HEIGHT - _TOP - _BOTTOM), 1)

    yield f'<text x="{left + _LEFT}" y="18" font-weight="bold">{escape(mode)}</text>'
    for value in _even(low, min(high, 100.0)):
        yield (
            f'<path d="M{left + _LEFT} {y(value)}H{left + _PANEL - 12}" stroke="#eee"/>'
            f'<text x="{left + _LEFT - 5}" y="{y(value) + 4}" text-anchor="end">'
            f"{value:g} %</text>"
        )
    for value in _even(fastest, slowest):
        at = x({"cpu_ms": value})
        yield (
            f'<path d="M{at} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#eee"/>'
            f'<text x="{at}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
        )
    yield (
        f'<text x="{left + (_LEFT + _PANEL) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">'
        "CPU milliseconds of a decision</text>"
    )
    for chosen, style in (
        ([ways["always lite"], ways["always full"]], 'stroke="#999" stroke-dasharray="4 3"'),
        *((curve, _line(by)) for by, curve in curves.items()),
    ):
        path = " ".join(f"{x(p)},{y(100 * p['accuracy'])}" for p in chosen)
        yield f'<polyline points="{path}" fill="none" {style}/>'
    for name, point in ways.items():
        yield (
            f'<circle cx="{x(point)}" cy="{y(100 * point["accuracy"])}" r="5" '
            f'fill="{_colour(name)}" fill-opacity="0.8"><title>{escape(name)}: '
            f"{point['accuracy']:.2%} in {point['cpu_ms']:.2f} ms</title></circle>"
        )


def _even(low: float, high: float) -> list[float]:
    """About five round numbers between ``low`` and ``high``."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    return [
        round(i * step, 6) for i in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]
