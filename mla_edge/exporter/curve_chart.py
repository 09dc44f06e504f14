"""Where everything of the report's curve is drawn: points, lines, ticks, and labels apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

_LEFT, _RIGHT, _TOP, _BOTTOM = 40.0, 10.0, 24.0, 40.0  # margins, in the picture's units
_FONT, _CHARACTER = 12.0, 6.4  # height of a label, and about the width of one character
_APART = 5.0  # of two labels side by side
_SMALLEST, _LARGEST = 4.5, 15.0  # radius of a point; its area is the file's size
_ROOMY, _FEW = 500, 5  # in a narrower picture with more points not all have a name
_BETWEEN = ("student", "pruned", "distilled", "tensorrt")  # those that have none then
_ANGLES = (0, 180, 270, 90, 315, 225, 45, 135)  # degrees: where a label goes, the best first


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def lay_out(
    points: Sequence[Mapping[str, Any]], max_drop: float, width: int, height: int
) -> dict[str, Any]:
    """What the page draws of ``points``: latency to the right, logarithmic; accuracy upwards.

    A point has a ``title`` beside what ``curve`` measured. All is in a picture of ``width`` by
    ``height``.
    """
    plot = Box(_LEFT, _TOP, width - _RIGHT, height - _BOTTOM)
    gates = _gates(points, max_drop)
    low_ms, high_ms = _stretch([math.log(p["ms"]) for p in points], 0.12, 0.4)
    shown = [100 * p["accuracy"] for p in points]
    ends = [p["float_accuracy"] * 100 - p["drop_points"] + d for p in points for d in _doubt(p)]
    low, high = _stretch([*shown, *ends, *gates.values()], 0.08, 0.4)

    def x(ms: float) -> float:
        return plot.left + (plot.right - plot.left) * (math.log(ms) - low_ms) / (
            high_ms - low_ms
        )

    def y(accuracy: float) -> float:
        return plot.bottom - (plot.bottom - plot.top) * (accuracy - low) / (high - low)

    largest = max(p["size_bytes"] for p in points)
    drawn = []
    for p in points:
        middle = 100 * p["accuracy"]
        less, more = (middle + d for d in _doubt(p))
        drawn.append({
            **p,
            "label": None,
            "leader": None,
            "x": x(p["ms"]),
            "y": y(middle),
            "r": max(_SMALLEST, _LARGEST * math.sqrt(p["size_bytes"] / largest)),
            "from_y": min(y(less), plot.bottom),
            "to_y": max(y(more), plot.top),
        })  # fmt: skip
    lines = list(_lines(drawn))
    crowded = width < _ROOMY and len(drawn) > _FEW
    named = [p for p in drawn if not crowded or p["step"] not in _BETWEEN]
    _label(named, [*_spots(drawn), *_along(lines)], plot)
    return {
        "width": width,
        "height": height,
        "plot": plot,
        "points": sorted(drawn, key=lambda p: -p["r"]),
        "lines": lines,
        "gates": [
            {"y": y(value), "tier": tier, **_span(drawn, tier)} for tier, value in gates.items()
        ],
        "x_ticks": [(x(ms), f"{ms:g}") for ms in _rounds(math.exp(low_ms), math.exp(high_ms))],
        "y_ticks": [(y(v), f"{v:g}") for v in _even(low, min(high, 100.0))],
    }


def _doubt(point: Mapping[str, Any]) -> tuple[float, float]:
    return -point["doubt_points"], point["doubt_points"]


def _gates(points: Sequence[Mapping[str, Any]], max_drop: float) -> dict[str, float]:
    """The least accuracy that each tier may have, in percent."""
    return {
        p["tier"]: 100 * p["accuracy"] - max_drop
        for p in points
        if p["step"] == "float" and max_drop < 20  # a gate that is wide open is none
    }


def _span(drawn: Sequence[Mapping[str, Any]], tier: str) -> dict[str, float]:
    """How far to the left and right the points of a tier go, and a little further."""
    places = [p["x"] for p in drawn if p["tier"] == tier]
    return {"x1": min(places) - 18, "x2": max(places) + 18}


def _lines(drawn: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """From step to step of each tier; TensorRT's graph is no step on the way to a processor."""
    for tier in dict.fromkeys(p["tier"] for p in drawn if p["tier"]):
        steps = [p for p in drawn if p["tier"] == tier and p["step"] != "tensorrt"]
        yield {"tier": steps[0]["colour"], "path": [(p["x"], p["y"]) for p in steps]}


def _spots(drawn: Sequence[Mapping[str, Any]]) -> Iterator[Box]:
    """What the points and their intervals cover."""
    for p in drawn:
        yield Box(p["x"] - p["r"], p["y"] - p["r"], p["x"] + p["r"], p["y"] + p["r"])
        yield Box(p["x"] - 2, p["to_y"], p["x"] + 2, p["from_y"])


def _along(lines: Sequence[Mapping[str, Any]]) -> Iterator[Box]:
    """What the lines cover, piece by piece."""
    for line in lines:
        for (x1, y1), (x2, y2) in zip(line["path"], line["path"][1:]):
            pieces = max(1, round(math.hypot(x2 - x1, y2 - y1) / 8))
            for i in range(pieces + 1):
                x, y = x1 + (x2 - x1) * i / pieces, y1 + (y2 - y1) * i / pieces
                yield Box(x - 4, y - 2, x + 4, y + 2)


def _label(named: Sequence[dict[str, Any]], covered: Sequence[Box], plot: Box) -> None:
    """Give each point a place for its title where it covers nothing, if there is one."""
    taken = list(covered)
    for point in named:
        wide = len(point["title"]) * _CHARACTER
        best, least = None, math.inf
        for away, angle in ((a, b) for a in (6, 22, 40, 60, 80) for b in _ANGLES):
            box = _beside(point, away, math.radians(angle), wide)
            outside = (box.right - box.left) * _FONT - box.overlap(plot)
            badness = sum(box.overlap(other) for other in taken) + 3 * outside + away * 0.2
            if badness < least:
                best, least = (box, away), badness
        assert best is not None
        box, away = best
        taken.append(Box(box.left - _APART, box.top, box.right + _APART, box.bottom))
        point["label"] = {"x": box.left, "y": box.bottom - 2.5}
        if away > 10:
            end_x = min(max(point["x"], box.left), box.right)
            end_y = min(max(point["y"], box.top), box.bottom)
            point["leader"] = {"x": end_x, "y": end_y}


def _beside(point: Mapping[str, Any], away: float, angle: float, wide: float) -> Box:
    """The box of a label of width ``wide``, ``away`` from the edge of ``point``."""
    reach = point["r"] + away
    at_x = point["x"] + reach * math.cos(angle)
    at_y = point["y"] + reach * math.sin(angle)
    left = at_x - wide * (0.5 - 0.5 * math.cos(angle))
    if abs(math.cos(angle)) < 0.1:
        left = at_x - wide / 2
    middle = at_y + _FONT / 2 * math.sin(angle)
    return Box(left, middle - _FONT / 2, left + wide, middle + _FONT / 2)


def _stretch(values: Sequence[float], share: float, least: float) -> tuple[float, float]:
    """The range of ``values``, wider by ``share`` at both ends, and at least ``least`` wide."""
    low, high = min(values), max(values)
    more = max((high - low) * share, (least - (high - low)) / 2)
    return low - more, high + more


def _rounds(low: float, high: float) -> list[float]:
    """Round numbers between ``low`` and ``high``, for a logarithmic axis."""
    if high / low < 6:
        return _even(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [round(tick, 6) for tick in ticks if low <= tick <= high]


def _even(low: float, high: float) -> list[float]:
    """About five round numbers between ``low`` and ``high``."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first = math.ceil(low / step)
    return [round(i * step, 6) for i in range(first, math.floor(high / step) + 1)]
