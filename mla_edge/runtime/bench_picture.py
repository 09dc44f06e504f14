"""How late decisions are, as a picture: the share of decisions over milliseconds."""

from __future__ import annotations

import math
from html import escape
from typing import Any, Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 320, 48, 40
_COLOURS = ("#1d6fa5", "#c4561d", "#3a7d44", "#7a4fa3")


def draw(runs: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """An SVG of every run's latency (solid) and age (dashed), by their percentiles."""
    curves = [
        (number, name, run["curves"][name])
        for number, run in enumerate(runs)
        for name in ("latency_ms", "age_ms")
        if run[name]["p50"] is not None
    ]
    most = max(max(values) for _, _, values in curves)
    low = math.log10(max(0.1, min(min(values) for _, _, values in curves)))
    high = math.log10(max(most, 10**low * 10))

    def x(value: float) -> float:
        share = (math.log10(max(value, 10**low)) - low) / (high - low)
        return round(_LEFT + share * (_WIDTH - _LEFT - 16), 1)

    def y(percent: float) -> float:
        return round(16 + (100 - percent) / 100 * (_HEIGHT - _BOTTOM - 16), 1)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(title)}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for percent in (0, 50, 90, 100):
        lines.append(
            f'<path d="M{_LEFT} {y(percent)}H{_WIDTH - 16}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y(percent) + 4}" text-anchor="end">{percent} %</text>'
        )
    for decade in range(math.floor(low), math.ceil(high) + 1):
        for step in (1, 2, 5):
            value = step * 10.0**decade
            if 10**low <= value <= 10**high:
                lines.append(
                    f'<path d="M{x(value)} 16V{_HEIGHT - _BOTTOM}" stroke="#eee"/>'
                    f'<text x="{x(value)}" y="{_HEIGHT - _BOTTOM + 16}" '
                    f'text-anchor="middle">{value:g}</text>'
                )
    for number, name, values in curves:
        points = " ".join(f"{x(value)},{y(i)}" for i, value in enumerate(values))
        dash = "" if name == "latency_ms" else ' stroke-dasharray="5 4"'
        lines.append(
            f'<polyline points="{points}" fill="none" stroke-width="2"{dash} '
            f'stroke="{_COLOURS[number % len(_COLOURS)]}"/>'
        )
    lines.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">milliseconds: latency solid, age of the data '
        f"dashed; {escape(title)}</text></svg>"
    )
    return "\n".join(lines) + "\n"
