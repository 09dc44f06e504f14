"""What the report's page makes of the facts: headline, rows of tables, and the chart."""

from __future__ import annotations

import math
from typing import Any, Mapping, Sequence

from mla_edge.exporter.curve_chart import lay_out

WIDE, NARROW = (760, 400), (340, 400)  # pictures for a desktop and for a phone
_ROWS = 14  # of the layers before the full table
_SAME = 1.05  # less apart is no difference to speak of
_COLOURS = 3  # of tiers; more begin again


def view(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates take beside ``facts``; what a report has not is left out."""
    found: dict[str, Any] = {"steps": [], "charts": [], "headlines": [], "layer_lists": {}}
    if "curve" in facts:
        steps = _steps(facts)
        max_drop = facts["gate"]["max_drop_points"]
        found["steps"] = steps
        found["charts"] = [lay_out(steps, max_drop, *size) for size in (WIDE, NARROW)]
        found["headlines"] = [_headline(steps, tier["name"]) for tier in facts["tiers"]]
    for name, layers in facts.get("layers", {}).items():
        found["layer_lists"][name] = _lists(layers)
    return found


def decibels(noise: float) -> str:
    """The ratio of signal to noise, whose share ``noise`` is."""
    return "exact" if noise <= 0 else f"{-10 * math.log10(noise):.1f} dB"


def times(before: float, after: float, more: str, less: str) -> str:
    """How many times ``after`` is better than ``before``, or worse: ``2.0 times faster``."""
    if max(before, after) < _SAME * min(before, after):
        return "about the same"
    if before >= after:
        return f"{before / after:.1f} times {more}"
    return f"{after / before:.1f} times {less}"


def _steps(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points of the curve with their titles, and what the float network of the tier was."""
    tiers = [tier["name"] for tier in facts["tiers"]]
    points = facts["curve"]["points"]
    whole = {p["tier"]: p for p in points if p["step"] == "float"}
    whole[""] = whole[tiers[-1]]
    most = {key: max(p[key] for p in points) for key in ("ms", "size_bytes")}
    return [
        {
            **p,
            "title": _title(p, len(tiers) > 1),
            "colour": str(tiers.index(p["tier"]) % _COLOURS) if p["tier"] else "routed",
            "float_accuracy": whole[p["tier"]]["accuracy"],
            "float_ms": whole[p["tier"]]["ms"],
            "float_bytes": whole[p["tier"]]["size_bytes"],
            "ms_share": p["ms"] / most["ms"],
            "size_share": p["size_bytes"] / most["size_bytes"],
        }
        for p in points
    ]


def _title(point: Mapping[str, Any], several: bool) -> str:
    """The tier and what was done to it, in a few words."""
    graph = {"tensorrt": "TensorRT", "cpu": "CPU"}.get(point["step"])
    words = f"{point['precision'].upper()} {graph}" if graph else point["step"]
    return f"{point['tier']} {words}" if several and point["tier"] else words


def _headline(steps: Sequence[Mapping[str, Any]], tier: str) -> dict[str, Any]:
    """A tier in float and as the bundle has it for a processor."""
    own = [step for step in steps if step["tier"] == tier and step["step"] != "tensorrt"]
    return {"tier": tier, "before": own[0], "after": own[-1]}


def _lists(layers: Mapping[str, Any]) -> dict[str, Any]:
    """The most costly layers and operators, and for each graph the layers with most error."""
    costs = [{**row, "name": row["layer"], "what": "layer"} for row in layers["rows"]]
    costs += [
        {**row, "name": row["operator"], "what": f"{row['nodes']} nodes"}
        for row in layers["others"]
    ]
    costs.sort(key=lambda row: -row["share"])
    rest = costs[_ROWS:]
    errors = {}
    for form in ("tensorrt", "cpu"):
        rows = [
            {"name": row["layer"], "noise": row["noise"][form]}
            for row in layers["rows"]
            if form in row["noise"]
        ]
        rows.sort(key=lambda row: -row["noise"])
        if rows:
            worst = math.sqrt(rows[0]["noise"]) or 1.0
            for row in rows:
                row["size"] = math.sqrt(row["noise"])
                row["bar"] = row["size"] / worst
            errors[form] = {"rows": rows[:_ROWS], "layers": len(rows)}
    most = costs[0]["share"] if costs else 1.0
    return {
        "costs": [{**row, "bar": row["share"] / (most or 1.0)} for row in costs[:_ROWS]],
        "rest": {"count": len(rest), "share": sum(row["share"] for row in rest)},
        "errors": errors,
    }
