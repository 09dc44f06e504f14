"""``mla-edge export`` as it is typed: what it prints, what it writes, and its exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mla_edge.bundle import Bundle
from mla_edge.cli import app
from mla_edge.cli.export import _goal_words
from mla_edge.errors import AccuracyGateError
from mla_edge.exporter import building

ALARMS = f"{Path(__file__).parents[2] / 'examples' / 'your_network' / 'alarms.py'}:make_network"


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


@pytest.fixture
def export(tmp_path, monkeypatch, steps):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(steps))

    def invoke(*words):
        return CliRunner().invoke(app, ["export", *words, "--calibration", "quick"])

    return invoke


def test_json_is_one_object_on_stdout_and_words_are_on_stderr(export):
    done = export(ALARMS, "--profile", "agx-xavier", "--out", "out", "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["ok"] is True
    assert shown["bundle"] == "out/alarms-agx-xavier"
    assert shown["opset"] == 16
    assert shown["reused"] is False
    assert set(shown["tiers"]["only"]["drop_points"]) == {"tensorrt", "cpu"}
    assert shown["tiers"]["only"]["tensorrt"] in ("ok", "not checked")
    assert shown["tiers"]["only"]["exempt"] == 1  # its log-mel front end
    assert shown["worst_drop_points"] <= 1.0
    assert shown["routing"]["cost_ms"]["only"] > 0
    assert Bundle.read(shown["bundle"]).network == "alarms"
    lines = done.stderr.splitlines()
    assert any("to_onnx only" in line for line in lines)
    assert not any("\r" in line or "\x1b" in line for line in lines)
    again = json.loads(
        export(ALARMS, "--profile", "agx-xavier", "--out", "out", "--json").stdout
    )
    assert again["reused"] is True
    assert again["tiers"] == shown["tiers"]
    other = export(
        *(ALARMS, "--profile", "agx-xavier", "--out", "out", "--json", "--max-drop", "0.7")
    )
    replaced = [json.loads(other.stdout)["replaced"], shown["replaced"], again["replaced"]]
    assert replaced == [True, False, False]


def test_a_person_is_told_in_words(export):
    done = export(ALARMS, "--profile", "host")
    assert done.exit_code == 0, done.output
    assert "bundles/alarms-host: written" in done.stdout
    assert "only: " in done.stdout
    assert re.search(r"TensorRT: .*, 1 layer exempt from INT8", done.stdout)
    again = export(ALARMS, "--profile", "host")
    assert "bundles/alarms-host: reused, nothing it was made from has changed" in again.stdout
    created = Bundle.read("bundles/alarms-host").created
    other = export(ALARMS, "--profile", "host", "--max-drop", "0.7")
    assert f"bundles/alarms-host: replaced the bundle of {created}" in other.stdout
    Path("bundles/alarms-host/bundle.json").write_text("{")
    mended = export(ALARMS, "--profile", "host", "--max-drop", "0.7")
    assert "bundles/alarms-host: replaced a bundle that could not be read" in mended.stdout
    kept = export(ALARMS, "--profile", "host", "--keep", "--max-drop", "0.5")
    assert "bundles/alarms-host: written" in kept.stdout
    assert "the bundle that was there is now bundles/alarms-host-20" in kept.stdout


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(export, tmp_path):
    done = export(ALARMS, "--profile", "agx-orin", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "would write bundles/alarms-agx-orin" in done.stdout
    assert "opset 17, int8" in done.stdout
    shown = json.loads(export(ALARMS, "--profile", "agx-orin", "--dry-run", "--json").stdout)
    assert shown["dry_run"] is True
    assert shown["bundle"] == "bundles/alarms-agx-orin"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_names_what_the_recipe_does_to_the_weights(export, tmp_path):
    head = 'title = "x"\nprecision = "int8"\ncalibration = "quick"\n[tiers.only]\n'
    (tmp_path / "both.toml").write_text(head + 'sparsity = "2:4"\nweights = "int4"\n')
    words = (ALARMS, "--profile", "agx-orin", "--recipe", "both.toml", "--dry-run")
    steps = json.loads(export(*words, "--json").stdout)["steps"]
    assert steps[0] == "only: 2:4 sparsity"
    assert steps[1] == "only: to ONNX, opset 21, int8, linear layers with INT4 weights"


def test_a_lost_gate_exits_with_4(export, shares_pay, tmp_path):
    (tmp_path / "hard.toml").write_text(
        'title = "x"\nprecision = "int8"\ncalibration = "quick"\n[tiers.only]\nprune = 0.8\n'
    )
    done = export(ALARMS, "--profile", "host", "--recipe", "hard.toml")
    assert done.exit_code == 4
    assert "points of accuracy" in done.stderr
    assert "bundles/alarms-host.failed-report.json" in done.stderr
    assert "Traceback" not in done.output
    assert not (tmp_path / "bundles" / "alarms-host").exists()
    assert done.stdout == ""
    done = export(ALARMS, "--profile", "host", "--recipe", "hard.toml", "--json")
    assert done.exit_code == 4
    shown = json.loads(done.stdout)
    assert (shown["ok"], shown["exit_code"]) == (False, 4)
    assert "points of accuracy" in shown["problem"]
    assert shown["report"] in shown["fix"]
    assert not json.loads((tmp_path / shown["report"]).read_text())["gate"]["passed"]


def test_the_gate_of_build_is_one_object_too(export, monkeypatch):
    def refuse(*_):
        raise AccuracyGateError("the engine gives other answers", hint="export again")

    monkeypatch.setattr(building, "build", refuse)
    done = CliRunner().invoke(app, ["build", "bundles/any", "--json"])
    assert done.exit_code == 4
    shown = json.loads(done.stdout)
    assert (shown["ok"], shown["problem"]) == (False, "the engine gives other answers")


def test_a_recipe_for_a_tier_that_is_not_there_exits_with_2(export, tmp_path):
    (tmp_path / "typo.toml").write_text(
        'title = "x"\nprecision = "int8"\ncalibration = "quick"\n[tiers.onyl]\nprune = 0.5\n'
    )
    done = export(ALARMS, "--profile", "host", "--recipe", "typo.toml", "--dry-run")
    assert done.exit_code == 2
    assert "did you mean only?" in done.stderr
    done = export(ALARMS, "--profile", "host", "--dry-run")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_ends_with_130_and_leaves_nothing(tmp_path, how):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cold")}
    command = [sys.executable, "-m", "mla_edge", "export", ALARMS, "--profile", "host"]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in running.stderr:
            if "load_calibration" in line:
                break
        time.sleep(0.1)
        running.send_signal(how)
        _, rest = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "Traceback" not in rest
    assert not (tmp_path / "bundles").exists()
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target-latency-ms", "2", "--target-speedup", "2"], "are two goals"),
        (["--target-speedup", "0.5"], "is not faster"),
        (["--target-speedup", "1.5", "--target-tier", "full"], "its tiers: only"),
        (
            ["--target-latency-ms", "2", "--profile", "agx-xavier"],
            "give --latency-table, measured",
        ),
        (["--latency-table", "t.json"], "how fast is the tier to be"),
        (["--latency-table", "t.json", "--target-speedup", "2"], "No such file"),
    ],
)
def test_a_goal_that_is_none_exits_with_2(export, words, message):
    done = export(ALARMS, "--profile", "host", "--dry-run", *words)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_goal_is_part_of_the_plan(export):
    done = export(ALARMS, "--profile", "agx-orin", "--target-speedup", "1.5", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "only: prune to 1.5 times faster by a knapsack" in done.stdout


def test_what_came_of_a_goal_is_told_in_words():
    network = {"ms": 2.7, "test_accuracy": 0.925, "parameters": 3_360_000}
    goal = {
        "wanted": "1.5 times faster",
        "target_ms": 2.72,
        "whole_ms": 4.08,
        "reached_ms": 2.71,
        "timed_here": True,
        "networks": [{**network, "name": "knapsack"}, {**network, "name": "uniform"}],
        "rolled_back": [{"what": "attention heads"}],
        "verdict": "it helped",
    }
    lines = _goal_words(goal)
    assert lines[0].endswith("2.71 ms, 4.08 ms with nothing pruned")
    assert "knapsack: 2.70 ms, 92.5% right, 3.36 M parameters" in lines[1]
    assert "rolled back, for it made nothing faster: attention heads" in lines[3]
    assert _goal_words({**goal, "rolled_back": []})[-1].strip() == "it helped"
    there = _goal_words({**goal, "timed_here": False, "measured_on": "a Xavier"})
    assert "by the table of a Xavier" in there[0]
    assert "not timed here: mla-edge build or bench" in there[1]
    assert _goal_words(None) == []
