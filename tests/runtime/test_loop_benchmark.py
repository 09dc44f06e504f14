"""benchmarks/loop.py, cold_start.py and overhead.py: what they count, and that they run."""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SPAN = (100.0, 101.0)


@pytest.fixture
def programs(monkeypatch):
    """The modules of the benchmark, by name; they import each other as scripts do."""
    names = ("stamped_camera", "loops", "loop", "cold_start", "overhead")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    modules = {name: __import__(name) for name in names}
    yield modules
    for name in names:
        del sys.modules[name]


def test_a_stamp_survives_jpeg(programs):
    import cv2

    camera = programs["stamped_camera"]
    rng = np.random.default_rng(0)
    for time_s in (0.0, 12345.678901, 2.0**47 / 1e6):
        picture = rng.integers(40, 100, (480, 640, 3), np.uint8)
        camera.draw_stamp(picture, time_s)
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        assert camera.read_stamp(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)) == pytest.approx(time_s)


def test_a_network_takes_its_time_of_the_processor(programs):
    began_s = time.thread_time()
    programs["loops"].think(20)
    assert 0.02 <= time.thread_time() - began_s < 0.03


def test_repeated_and_missed_pictures_are_counted(programs):
    taken = [100 + n / 30 for n in (0, 1, 1, 4, 5)]  # the second twice, two left out
    decisions = [(each + 0.05, each) for each in taken] + [(99.0, 98.9), (102.0, 101.9)]
    figures = programs["loop"].figures(decisions, [], SPAN)
    assert figures["decisions"] == 5
    assert figures["age_p50_ms"] == figures["age_max_ms"] == 50.0
    assert (figures["repeated"], figures["missed"]) == (1, 2)
    assert figures["repeated_unmarked"] == 1


def test_a_repeated_picture_is_marked_by_what_was_said_with_it(programs):
    decisions = [(100.1, 100.0), (100.2, 100.0), (100.3, 100.0), (100.4, 100.35)]
    told = [(100.2, "repeated"), (100.25, "lost")]
    figures = programs["loop"].figures(decisions, told, SPAN)
    assert (figures["repeated"], figures["repeated_unmarked"]) == (2, 1)


def test_a_stale_decision_is_marked_only_by_what_was_said_before_it(programs):
    decisions = [(100.2, 99.9), (100.55, 99.9), (100.8, 99.9), (101.3, 101.25)]
    told = [(100.3, "repeated"), (100.7, "stale"), (101.3, "back")]
    after = programs["loop"].after_break(decisions, told, *SPAN)
    assert after == {
        "stale_decisions": 2,
        "unmarked": 1,
        "told_after_s": 0.7,
        "recovered_after_s": 0.3,
    }


def test_each_loop_is_a_row_and_a_dash_is_never(programs):
    never = {
        "stale_decisions": 3,
        "unmarked": 3,
        "told_after_s": None,
        "recovered_after_s": None,
    }
    row = {
        **programs["loop"].figures([(100.1, 100.0)], [], SPAN),
        "loop": "plain",
        "cores": 1.0,
        "memory_mb": 70,
        "first_decision_s": 0.4,
        "stall": never,
        "killed": never,
    }
    none = {**row, "loop": "thread", "decisions": 0}
    lines = programs["loop"].as_table([row, none]).splitlines()
    assert lines[2].startswith("| plain | 1 | 100 / 100 / 100 ms | 0 | 0 | 1.00 | 70 MB |")
    assert lines[2].endswith("| 3, 3; — | 3, 3; — |")
    assert len({line.count("|") for line in lines}) == 1


def test_of_several_runs_the_median_of_each_figure_is_shown(programs):
    rows = [
        {"loop": "ours", "decisions": 219, "stall": {"recovered_after_s": 0.3}},
        {"loop": "ours", "decisions": 0},
        {"loop": "ours", "decisions": 218, "stall": {"recovered_after_s": None}},
    ]
    assert programs["loop"].middle(rows) == {
        "loop": "ours",
        "decisions": 218,
        "stall": {"recovered_after_s": None},
    }
    assert programs["loop"].middle(rows[:1]) == rows[0]


@pytest.mark.parametrize("runs", ["0", "2"])
def test_runs_without_a_middle_are_refused(programs, small_bundle, monkeypatch, capsys, runs):
    words = [str(small_bundle.folder), "--runs", runs]
    monkeypatch.setattr(sys, "argv", ["loop.py", *words])
    with pytest.raises(SystemExit):
        programs["loop"].main()
    assert f"--runs {runs}: give an odd number" in capsys.readouterr().err


def test_without_mediapipe_its_row_is_left_out_and_that_is_said(programs, capsys):
    nothing = type("Args", (), {"loop": None, "mediapipe_python": "/no/such/python"})
    assert programs["loop"].loops_to_run(nothing) == ["plain", "thread", "ours"]
    assert "pip install mediapipe" in capsys.readouterr().err


def test_a_process_is_known_by_its_time_and_memory(programs):
    held_mb, most_mb = programs["loop"].memory_of(os.getpid())
    assert 10 < held_mb <= most_mb
    assert programs["loop"].cpu_of(os.getpid()) > 0


def test_the_start_is_measured_on_both_cameras(programs, small_bundle, monkeypatch, capsys):
    words = [str(small_bundle.folder), "--runs", "1", "--seconds", "0", "--json"]
    monkeypatch.setattr(sys, "argv", ["cold_start.py", *words])
    programs["cold_start"].main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert list(rows) == ["simulator", "http camera"]
    for row in rows.values():
        assert 0 < row["first_decision_cpu_s"] <= row["first_decision_s"] * os.cpu_count()
        assert row["resident_mb"] <= row["most_resident_mb"]


def test_the_age_of_decisions_is_held_against_one_and_a_half_frames(
    programs, small_bundle, monkeypatch, capsys
):
    words = [str(small_bundle.folder), "--seconds", "3"]
    monkeypatch.setattr(sys, "argv", ["overhead.py", *words])
    programs["overhead"].main()
    shown = json.loads(capsys.readouterr().out)
    assert shown["age_less_engines_ms"]["wanted_p99"] == 50
    for name in ("age_ms", "age_less_engines_ms", "overhead_ms"):
        assert 0 < shown[name]["p50"] <= shown[name]["p99"]
    assert shown["age_less_engines_ms"]["p50"] < shown["age_ms"]["p50"]


def test_pictures_that_were_drawn_before_are_the_simulators(programs):
    module = programs["overhead"]
    options = module.DigitsOptions.parse("sim://digits?size=96x64")
    drawn = module.DrawnBefore(options, module.InputSpec("audio", "audio", (1, 8000), 8000))
    world = module.DigitsWorld(options)
    for number in (0, 7, 29):
        expected, truth = world.frame(number / options.fps)
        picture, said = drawn.frame(3 + number / options.fps)
        assert (picture == expected).all()
        assert said == truth
    assert drawn.sound(9.0, 8000, 8000)[0].shape == (8000,)
