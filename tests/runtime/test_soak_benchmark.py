"""benchmarks/soak.py: all that it measures is judged, with the reason."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
START_S, MINUTES = 1000.0, 20
END_S = START_S + MINUTES * 60
MADE = [("camera", "killed", 1100.0, 1103.0), ("microphone", "lost", 1200.0, 1201.0)]


@pytest.fixture
def soak(monkeypatch):
    names = ("soak", "loop", "loops", "stamped_camera", "default_bundle")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("soak")
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def report(soak):
    """What the program reports of a run in which all was well, but for what is given."""

    def call(minutes=MINUTES, **changes):
        at = np.arange(START_S, END_S, 0.04)
        used = {name: at.copy() for name in ("at", "image", "audio")}
        for what, _, began_s, ended_s in MADE:
            name = {"camera": "image", "microphone": "audio"}[what]
            used[name][(at >= began_s) & (at < ended_s)] = -1
        moments = range(0, MINUTES * 60, 5)
        given = {
            "made": MADE,
            "used": used,
            "memory": [(at_s, 100.0) for at_s in moments],
            "counts": [(at_s, 5, 9) for at_s in moments],
            "too_young": 0,
            "run_end_s": END_S,
            **{name: change for name, change in changes.items() if not callable(change)},
        }
        for name, change in changes.items():
            if callable(change):
                given[name] = change(given[name])
        return soak.report(SimpleNamespace(minutes=minutes, seed=0), **given)

    return call


def masked(name, begin_s, end_s):
    """Leaves one modality out for a while."""

    def change(used):
        inside = (used["at"] >= begin_s) & (used["at"] < end_s)
        return {**used, name: np.where(inside, -1, used[name])}

    return change


def silent(begin_s, end_s):
    """Makes no decision for a while."""

    def change(used):
        kept = (used["at"] < begin_s) | (used["at"] >= end_s)
        return {name: times[kept] for name, times in used.items()}

    return change


def rising(by_mb_an_hour):
    return lambda memory: [(at_s, mb + by_mb_an_hour * at_s / 3600) for at_s, mb in memory]


def leaking(threads, files):
    """So many more after 15 minutes."""
    return lambda counts: [
        (at_s, t + threads * (at_s > 900), f + files * (at_s > 900)) for at_s, t, f in counts
    ]


def test_a_run_in_which_all_was_well_passes(report):
    found = report()
    assert (found["failed"], found["not_judged"]) == ([], [])
    assert found["memory_growth_mb_an_hour"] == 0
    assert found["threads_by_quarter"] == [[5, 5], [5, 5]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"used": masked("image", 1103, END_S)}, "1 times a source was never back"),
        ({"used": masked("image", 1103, 1105)}, "1 times a source was back too late"),
        ({"used": silent(1500, 1502)}, "2.04 s without a decision, 1.5 wanted"),
        ({"used": silent(1500, END_S)}, "700 s without a decision, 1.5 wanted"),
        ({"too_young": 3}, "3 decisions said their picture more than 150 ms younger"),
        ({"memory": rising(1.2)}, "memory grows by 1.2 MB an hour, 1 is too much"),
        ({"counts": leaking(1, 0)}, "threads grew from 5 … 5 to 6 … 6"),
        ({"counts": leaking(0, 2)}, "open files grew from 9 … 9 to 11 … 11"),
    ],
)
def test_what_does_not_hold_fails_with_its_reason(report, changes, reason):
    (said,) = report(**changes)["failed"]
    assert said.startswith(reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": rising(0.9)},
        {"counts": lambda rows: [*rows, (1199, 6, 12)]},
        {"counts": lambda rows: [(300.5, 4, 7), *(row for row in rows if row[0] >= 300)]},
    ],
)
def test_a_little_growth_and_a_moment_with_more_are_allowed(report, changes):
    assert report(**changes)["failed"] == []


def test_a_short_run_does_not_judge_a_slope(report):
    found = report(minutes=2, memory=rising(50.0))
    assert found["failed"] == []
    assert found["not_judged"] == ["memory, threads and open files: under 10 minutes"]


@pytest.mark.parametrize(("failed", "code"), [([], 0), (["a reason"], 1)])
def test_the_verdict_is_the_exit_code(soak, monkeypatch, tmp_path, capsys, failed, code):
    (tmp_path / "bundle.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["soak.py", str(tmp_path)])
    monkeypatch.setattr(soak, "soak", lambda args: {"failed": failed})
    assert soak.main() == code
    assert f"failed: {failed}" in capsys.readouterr().out


def test_memory_is_told_by_minute_so_that_a_step_is_no_slope(soak):
    held = [(at, 100.0 if at < 130 else 103.2) for at in range(0, 240, 5)]
    assert soak.by_minute(held) == [100.0, 100.0, 103.2, 103.2]
