"""Compare two runs of ``mla-edge run --json`` that saw the same: what each decided, and who.

    python scripts/compare_runs.py x86-64.jsonl aarch64.jsonl

Run both on the simulator, with the same seed and as fast as possible: time is then that of the
simulator, and decisions at the same moment belong together, however slow a machine is. The
table goes to stdout, and after it each label that differs. Exits with 1 if one does, or if the
runs did not see the same, and with 2 if a file is no such run.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict

SHOWN = 10
"""So many differing labels are listed."""

KEYS = ("label", "confidence", "tier", "truth", "capture_time_s", "decision_time_s")

Decision = Dict[str, Any]


class NotComparable(Exception):
    """The runs saw different things, so their labels say nothing about each other."""


def read_decisions(text: str) -> list[Decision]:
    """The decisions of a run's output, one JSON object a line, without its summary.

    ValueError: a line is no decision, the summary is not the last line, or nothing was decided.
    """
    rows = [json.loads(line) for line in text.splitlines()]
    if not rows or not isinstance(rows[-1], dict) or "summary" not in rows[-1]:
        raise ValueError("its last line is not the summary, so the run did not end well")
    for number, row in enumerate(rows[:-1], start=1):
        if not isinstance(row, dict) or not set(KEYS) <= set(row):
            raise ValueError(f"line {number} is not a decision")
    if len(rows) == 1:
        raise ValueError("it holds no decision")
    return rows[:-1]


def check_same_world(first: list[Decision], second: list[Decision]) -> None:
    """Raise NotComparable unless both decided at the same moments, on the same things."""
    if len(first) != len(second):
        raise NotComparable(f"one made {len(first)} decisions, the other {len(second)}")
    for here, there in zip(first, second):
        for key in ("decision_time_s", "capture_time_s", "truth"):
            if here[key] != there[key]:
                raise NotComparable(
                    f"at {here['decision_time_s']:.3f} s {key} is {here[key]} in one"
                    f" and {there[key]} in the other"
                )


def compare(
    first: list[Decision], second: list[Decision], names: list[str]
) -> tuple[str, bool]:
    """The table of both runs with the labels that differ, and whether none does."""
    check_same_world(first, second)
    pairs = list(zip(first, second))
    differing = [pair for pair in pairs if pair[0]["label"] != pair[1]["label"]]
    equal_tiers = sum(here["tier"] == there["tier"] for here, there in pairs)
    equal_labels = len(pairs) - len(differing)
    apart = max(abs(here["confidence"] - there["confidence"]) for here, there in pairs)
    rows = [
        ("", *names),
        ("decisions", f"{len(first)}", f"{len(second)}"),
        ("tiers", _tiers(first), _tiers(second)),
        ("right, where the truth is known", _right(first), _right(second)),
        ("equal labels", f"{equal_labels} of {len(pairs)}"),
        ("equal tiers", f"{equal_tiers} of {len(pairs)}"),
        ("top-1 agreement", f"{equal_labels / len(pairs):.2%}"),
        ("confidence, most apart", f"{apart:.6f}"),
    ]
    lines = [f"{row[0]:<33}" + "".join(f"{cell:<24}" for cell in row[1:]) for row in rows]
    for here, there in differing[:SHOWN]:
        lines.append(
            f"differs at {here['decision_time_s']:.3f} s: {_answer(here)} and {_answer(there)},"
            f" truth {here['truth']}"
        )
    if len(differing) > SHOWN:
        lines.append(f"and {len(differing) - SHOWN} more")
    return "\n".join(line.rstrip() for line in lines), not differing


def main() -> int:
    """Print the comparison of the two files that were named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs=2, help="what mla-edge run --json printed")
    paths: list[Path] = parser.parse_args().runs
    runs = []
    for path in paths:
        try:
            runs.append(read_decisions(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
    try:
        table, equal = compare(*runs, [path.stem for path in paths])
    except NotComparable as error:
        print(
            f"these runs cannot be compared: {error}; give both the same bundle, seed and"
            " --duration, and --as-fast-as-possible",
            file=sys.stderr,
        )
        return 1
    print(table)
    return 0 if equal else 1


def _tiers(run: list[Decision]) -> str:
    names = [decision["tier"] for decision in run]
    return ", ".join(f"{name} {names.count(name)}" for name in sorted(set(names)))


def _right(run: list[Decision]) -> str:
    judged = [decision for decision in run if decision["truth"] is not None]
    right = sum(decision["label"] == decision["truth"] for decision in judged)
    return f"{right} of {len(judged)}"


def _answer(decision: Decision) -> str:
    return f"{decision['label']} ({decision['tier']}, {decision['confidence']:.1%})"


if __name__ == "__main__":
    sys.exit(main())
