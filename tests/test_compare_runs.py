"""Two runs are compared decision by decision, and a label that differs is no success."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "compare_runs.py"


def decision(moment_s, label, tier="lite", truth=None, confidence=0.99):
    return {
        "label": label,
        "confidence": confidence,
        "tier": tier,
        "reason": "lite-confident",
        "mode": "image+audio",
        "capture_time_s": {"image": moment_s, "audio": moment_s},
        "decision_time_s": moment_s,
        "latency_ms": 1.5,
        "age_ms": 0.0,
        "truth": truth,
    }


def lines(decisions):
    return "".join(
        json.dumps(row) + "\n" for row in [*decisions, {"summary": {"seconds": 1.0}}]
    )


@pytest.fixture
def compared(tmp_path):
    """Write two outputs of ``run --json``, and what the script makes of them."""

    def compare(here, there):
        (tmp_path / "x86-64.jsonl").write_text(here, encoding="utf-8")
        (tmp_path / "aarch64.jsonl").write_text(there, encoding="utf-8")
        command = [sys.executable, str(SCRIPT), "x86-64.jsonl", "aarch64.jsonl"]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return compare


RUN = [decision(0.0, "none", truth="none"), decision(0.033333, "3", truth="3")]


def test_equal_labels_succeed_whatever_the_latency_and_the_tier(compared):
    other = [{**RUN[0], "latency_ms": 99.0}, {**RUN[1], "tier": "full", "confidence": 0.74}]
    done = compared(lines(RUN), lines(other))
    assert done.returncode == 0, done.stderr
    cells = {line[:33].strip(): line[33:].split("  ") for line in done.stdout.splitlines()}
    shown = {name: [cell.strip() for cell in row if cell] for name, row in cells.items()}
    assert shown[""] == ["x86-64", "aarch64"]
    assert shown["decisions"] == ["2", "2"]
    assert shown["tiers"] == ["lite 2", "full 1, lite 1"]
    assert shown["right, where the truth is known"] == ["2 of 2", "2 of 2"]
    assert shown["equal labels"] == ["2 of 2"]
    assert shown["equal tiers"] == ["1 of 2"]
    assert shown["top-1 agreement"] == ["100.00%"]
    assert shown["confidence, most apart"] == ["0.250000"]


def test_a_label_that_differs_is_shown_and_fails(compared):
    done = compared(lines(RUN), lines([RUN[0], {**RUN[1], "label": "8", "confidence": 0.5}]))
    assert done.returncode == 1
    assert "1 of 2" in done.stdout
    assert "differs at 0.033 s: 3 (lite, 99.0%) and 8 (lite, 50.0%), truth 3" in done.stdout


def test_only_the_first_labels_that_differ_are_listed(compared):
    moments = [number / 30 for number in range(14)]
    here, there = ([decision(moment, label) for moment in moments] for label in "38")
    done = compared(lines(here), lines(there))
    assert done.returncode == 1
    assert done.stdout.count("differs at") == 10
    assert done.stdout.endswith("and 4 more\n")


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (RUN[:1], "2 decisions, the other 1"),
        ([RUN[0], decision(0.066667, "3", truth="3")], "decision_time_s"),
        ([RUN[0], {**RUN[1], "truth": "8"}], "truth is 3 in one and 8 in the other"),
        (
            [RUN[0], {**RUN[1], "capture_time_s": {"image": 0.033333, "audio": None}}],
            "capture_time_s",
        ),
    ],
)
def test_runs_that_did_not_see_the_same_are_not_compared(compared, other, why):
    done = compared(lines(RUN), lines(other))
    assert done.returncode == 1
    assert done.stdout == ""
    assert why in done.stderr
    assert "--as-fast-as-possible" in done.stderr


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the run did not end well"),
        (json.dumps(RUN[0]) + "\n", "the run did not end well"),
        (lines([]), "no decision"),
        (lines([RUN[0], {"label": "3"}]), "line 2 is not a decision"),
        ("Error: there is no bundle\n", "Expecting value"),
    ],
)
def test_a_file_that_is_no_run_is_named(compared, text, why):
    done = compared(lines(RUN), text)
    assert done.returncode == 2
    assert done.stderr.startswith("aarch64.jsonl: ")
    assert why in done.stderr


def test_a_file_that_is_not_there_is_named(tmp_path):
    command = [sys.executable, str(SCRIPT), "nothing.jsonl", "nothing.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nothing.jsonl" in done.stderr
