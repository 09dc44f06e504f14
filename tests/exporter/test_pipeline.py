import dataclasses
import json
import os
import re
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Prunable

from mla_edge.bundle import Bundle
from mla_edge.engines import open_engine
from mla_edge.engines.verification import verify
from mla_edge.errors import AccuracyGateError, ConfigError, ExportError
from mla_edge.exporter import (
    fallback,
    int8,
    pipeline,
    publishing,
    shrinking,
    tier_widths,
    width_search,
)
from mla_edge.exporter.goal import LatencyGoal
from mla_edge.exporter.latency_table import LatencyTable
from mla_edge.exporter.layers import find_layers, floating_layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.pipeline import ExportRequest, describe_plan, export
from mla_edge.exporter.quantization import calibrate
from mla_edge.exporter.ranges import Range
from mla_edge.exporter.refusal import Loss, _advice
from mla_edge.exporter.steps import StepCache, Steps

ALARMS = f"{Path(__file__).parents[2] / 'examples' / 'your_network' / 'alarms.py'}:make_network"
SMALL = "tests_small_network:make"
QUICK = """source = "network"
calibrate = 48
tune = 96
test = 96
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "quick.toml"
    path.write_text(QUICK)
    return str(path)


@pytest.fixture(scope="module")
def steps_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


@pytest.fixture
def cache(steps_cache):
    return StepCache(steps_cache)


@pytest.fixture
def alarms(tmp_path, quick):
    return ExportRequest("agx-xavier", ALARMS, out=tmp_path / "out", calibration=quick)


@pytest.fixture
def small(monkeypatch, network, tmp_path, quick):
    """The two-tier network whose second tier goes on from the first; untrained: no gate."""
    monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: network)
    return ExportRequest(
        "agx-orin", SMALL, out=tmp_path / "out", calibration=quick, max_drop=100.0
    )


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_bundle_is_whole_and_proves_itself(alarms, cache):
    result = export(alarms, cache=cache)
    bundle = Bundle.read(alarms.out / "alarms-agx-xavier")
    assert all(check.ok for check in verify(bundle))
    assert set(bundle.files) == {
        "golden.npz",
        "graphs/only.onnx",
        "graphs/only.cpu.onnx",
        "report.html",
        "report.json",
    }
    assert os.listdir(alarms.out) == ["alarms-agx-xavier"]
    assert result.bundle == bundle
    assert not result.reused
    assert bundle.labels == ("rising", "falling", "beeping", "none")
    assert bundle.policy.modes["audio"].threshold == 0.0
    assert result.report["gate"]["passed"]
    assert result.report["profile"]["opset"] == 16
    assert {t["name"] for t in result.report["tiers"]} == {"only"}
    assert json.loads((bundle.folder / "report.json").read_text()) == result.report


def test_equal_inputs_reuse_the_bundle_and_others_do_not(alarms, cache):
    first = export(alarms, cache=cache)
    stamp = (first.bundle.folder / "bundle.json").stat().st_mtime_ns
    again = export(alarms, cache=cache)
    assert again.reused
    assert again.report == first.report
    assert (first.bundle.folder / "bundle.json").stat().st_mtime_ns == stamp
    assert not export(dataclasses.replace(alarms, max_drop=0.5), cache=cache).reused


def test_a_bundle_is_made_again_after_tensorrt_was_installed(alarms, monkeypatch):
    plan = pipeline.load(alarms, Steps(lambda event: None))
    hashes = set()
    for installed in (None, "1.5", "1.6"):
        monkeypatch.setattr(pipeline, "tensorrt_version", lambda found=installed: found)
        hashes.add(pipeline.hash_inputs("base", alarms, plan, "samples"))
    assert len(hashes) == 3


def test_a_bundle_that_was_damaged_is_not_reused(alarms, cache):
    first = export(alarms, cache=cache)
    graph = first.bundle.graph("only", cpu=True)
    graph.write_bytes(graph.read_bytes()[:-10])
    assert not export(alarms, cache=cache).reused
    Bundle.read(first.bundle.folder).check_hashes()


def test_finished_steps_are_reused_and_damaged_ones_are_not(alarms, tmp_path):
    cache = StepCache(tmp_path / "steps")
    export(alarms, cache=cache)
    shutil.rmtree(alarms.out)

    def run():
        seen = []
        export(alarms, seen.append, cache=cache)
        shutil.rmtree(alarms.out)
        return {event.step for event in seen if event.reused}

    expected = {
        "to_onnx",
        "calibrate",
        "quantize",
        "cpu_speed",
        "agreement tensorrt",
        "agreement cpu",
        "policy",
        "sensitivity",
        "curve latency",
        "layers",
    }
    assert run() == expected
    for graph in (tmp_path / "steps").rglob("*.onnx"):
        graph.write_bytes(graph.read_bytes()[:-10])
    assert "quantize" not in run()
    assert run() == expected


def test_keep_keeps_both(alarms, cache):
    first = export(alarms, cache=cache)
    second = export(dataclasses.replace(alarms, keep=True, max_drop=0.5), cache=cache)
    assert len(os.listdir(alarms.out)) == 2
    assert second.kept.name.startswith("alarms-agx-xavier-20")
    Bundle.read(second.kept).check_hashes()
    Bundle.read(second.bundle.folder).check_hashes()
    inputs = [
        Bundle.read(f).provenance["inputs_sha256"]
        for f in (second.kept, alarms.out / first.bundle.name)
    ]
    assert len(set(inputs)) == 2
    third = export(dataclasses.replace(alarms, keep=True, max_drop=0.7), cache=cache)
    assert third.kept not in (None, second.kept)
    assert len(os.listdir(alarms.out)) == 3


def step_names(request, cache):
    seen = []
    export(request, seen.append, cache=cache)
    shutil.rmtree(request.out)
    return [(event.step, event.tier, event.seconds is None) for event in seen]


@pytest.mark.parametrize(
    ("which", "least", "tiers"), [("alarms", 20, {"only"}), ("small", 40, {"lite", "full"})]
)
def test_an_interrupt_in_any_step_leaves_nothing(request, tmp_path, which, least, tiers):
    wanted = request.getfixturevalue(which)
    points = list(dict.fromkeys(step_names(wanted, StepCache(tmp_path / "first"))))
    assert len(points) > least
    assert {tier for _, tier, _ in points} == {"", *tiers}
    # Two tiers have the steps of one twice: every third is enough of them.
    for number, point in enumerate(points if len(tiers) == 1 else points[::3]):
        cache = StepCache(tmp_path / "steps" / str(number % 2))

        def interrupt(event, point=point):
            if (event.step, event.tier, event.seconds is None) == point:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export(wanted, interrupt, cache=cache)
        if point == ("publish", "", False):  # it was over already
            (bundle,) = wanted.out.iterdir()
            Bundle.read(bundle).check_hashes()
        else:
            assert not wanted.out.exists(), point
        assert not list(tmp_path.rglob("*.partial")), point


def test_an_interrupt_leaves_the_old_bundle_as_it_was(alarms, cache):
    export(alarms, cache=cache)
    before = files(alarms.out)
    other = dataclasses.replace(alarms, max_drop=0.25)

    def interrupt(event):
        if event.step == "publish":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(other, interrupt, cache=cache)
    assert files(alarms.out) == before
    assert export(alarms, cache=cache).reused


@pytest.fixture
def ruined(alarms, shares_pay, tmp_path):
    recipe = tmp_path / "ruined.toml"
    recipe.write_text(
        'title = "too hard"\nprecision = "int8"\ncalibration = "quick"\n'
        "[tiers.only]\nprune = 0.8\n"
    )
    return dataclasses.replace(alarms, recipe=str(recipe))


def test_the_gate_publishes_nothing_and_does_not_blame_int8_for_pruning(alarms, ruined, cache):
    with pytest.raises(AccuracyGateError, match="points of accuracy") as caught:
        export(ruined, cache=cache)
    assert caught.value.exit_code == 4
    names = ["alarms-agx-xavier.failed-report.html", "alarms-agx-xavier.failed-report.json"]
    assert files(alarms.out) == names
    report = json.loads((alarms.out / names[1]).read_text())
    tier, worst = report["tiers"][0], report["gate"]["worst_drop_points"]
    assert not report["gate"]["passed"]
    assert tier["lost_points"]["pruning"] > 30
    assert abs(tier["lost_points"]["precision"]) < 5
    assert sum(tier["lost_points"].values()) == pytest.approx(worst)
    assert f"Pruning alone lost {tier['lost_points']['pruning']:.2f}" in str(caught.value)
    assert "prune less" in caught.value.hint
    assert "keep_float" not in caught.value.hint
    page = (alarms.out / names[0]).read_text()
    assert "Nothing was published" in page and "There is no bundle." in page
    points = {point["step"]: point for point in report["curve"]["points"]}
    assert points["pruned"]["drop_points"] > 30
    assert 'id="samples"' in page and 'id="layers"' in page
    export(alarms, cache=cache)
    assert os.listdir(alarms.out) == ["alarms-agx-xavier"]


@pytest.fixture
def cut_short(monkeypatch):
    """Makes the ranges of the first layers far too small: INT8 is ruined there."""

    def cut(count):
        def make(graph, samples, tune):
            found = calibrate(graph, samples)
            names = [layer.node.name for layer in find_layers(load_model(graph))][:count]
            places = dict(found.places)
            for place, r in found.places.items():
                if place.rpartition(":")[0] in names:
                    places[place] = Range(r.low / 50, r.high / 50, r.amplitude / 50)
            return dataclasses.replace(found, places=places)

        monkeypatch.setattr(int8, "calibrate_by_tensor", make)

    return cut


def test_the_gate_names_the_layers_that_int8_hurt(alarms, tmp_path, monkeypatch, cut_short):
    cut_short(100)
    monkeypatch.setattr(fallback, "_fewest", lambda *_: None)
    with pytest.raises(AccuracyGateError) as caught:
        export(alarms, cache=StepCache(tmp_path / "steps"))
    report = json.loads((alarms.out / "alarms-agx-xavier.failed-report.json").read_text())
    tier, worst = report["tiers"][0], report["gate"]["worst_drop_points"]
    assert tier["lost_points"] == {"pruning": 0.0, "precision": worst}
    assert tier["worst_layers"] == tier["sensitivity"]["layers"][: len(tier["worst_layers"])]
    first = tier["worst_layers"][0]["layer"]
    assert f"INT8 lost {worst:.2f}, most of it in {first}" in str(caught.value)
    assert "Pruning" not in str(caught.value)
    assert "keep_float" in caught.value.hint


def test_layers_that_int8_breaks_are_left_in_float(alarms, tmp_path, cut_short):
    cut_short(2)
    done = export(alarms, cache=StepCache(tmp_path / "steps"))
    tier = done.report["tiers"][0]
    assert done.report["gate"]["worst_drop_points"] <= 1.0
    left = tier["left_in_float"]["tensorrt"]
    assert 1 <= len(left) <= 3
    graph = load_model(done.bundle.graph("only", cpu=False))
    assert set(left) <= set(floating_layers(graph))
    assert set(left) <= set(tier["tensorrt"]["exempt"])
    assert left[0] in (done.bundle.folder / "report.html").read_text()
    why = {row["layer"]: row for row in tier["float_layers"] if "tensorrt" in row["forms"]}
    table = [row["layer"] for row in tier["sensitivity"]["layers"]]
    for layer in left:
        assert "points were lost" in why[layer]["reason"]
        assert f"place {table.index(layer) + 1} of {len(table)}" in why[layer]["reason"]


def test_the_gate_leaves_the_old_bundle(alarms, ruined, cache):
    export(alarms, cache=cache)
    with pytest.raises(AccuracyGateError):
        export(ruined, cache=cache)
    assert export(alarms, cache=cache).reused


def test_what_is_no_bundle_is_left_alone(alarms, cache):
    target = alarms.out / "alarms-agx-xavier"
    target.mkdir(parents=True)
    (target / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not a bundle; it is left alone"):
        export(alarms, cache=cache)
    assert files(alarms.out) == ["alarms-agx-xavier", "alarms-agx-xavier/thesis.txt"]


def test_what_a_killed_export_left_goes_after_a_day(alarms, cache):
    old, new = (alarms.out / f".alarms-agx-xavier.{age}.partial" for age in ("old", "new"))
    for folder in (old, new):
        (folder / "graphs").mkdir(parents=True)
    os.utime(old, (0, 0))
    export(alarms, cache=cache)
    assert not old.exists()
    assert new.exists()


def test_an_empty_folder_is_filled(alarms, cache):
    (alarms.out / "alarms-agx-xavier").mkdir(parents=True)
    export(alarms, cache=cache)
    Bundle.read(alarms.out / "alarms-agx-xavier").check_hashes()


def test_a_folder_that_cannot_be_written_is_named(alarms, cache, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        export(dataclasses.replace(alarms, out=tmp_path / "file" / "out"), cache=cache)
    assert str(tmp_path / "file") in str(caught.value)
    assert "--out" in caught.value.hint


@pytest.fixture
def tiny_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_too_small_is_said_before_the_work(alarms, cache, tiny_disk):
    seen = []
    with pytest.raises(ExportError, match="MB are free") as caught:
        export(dataclasses.replace(alarms, out=tiny_disk / "out"), seen.append, cache=cache)
    assert str(tiny_disk) in str(caught.value)
    assert "to_onnx" not in {event.step for event in seen}
    assert files(tiny_disk) == []


def test_a_disk_that_fills_up_leaves_nothing(alarms, cache, tiny_disk, monkeypatch):
    monkeypatch.setattr(pipeline, "check_room", lambda folder, needed_mb: None)
    with pytest.raises(ExportError, match="No space left on device; nothing was published"):
        export(dataclasses.replace(alarms, out=tiny_disk / "out"), cache=cache)
    assert files(tiny_disk) == []


def test_a_cache_that_fills_up_leaves_nothing(alarms, tiny_disk):
    with pytest.raises(ExportError, match="No space left on device") as caught:
        export(alarms, cache=StepCache(tiny_disk / "steps"))
    assert "XDG_CACHE_HOME" in caught.value.hint
    assert not alarms.out.exists()
    assert not list(tiny_disk.rglob("*.onnx"))


def test_the_exchange_works_where_the_system_cannot_do_it_in_one_step(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing.ctypes, "CDLL", lambda *_, **__: object())
    new, old = tmp_path / ".new", tmp_path / "bundle"
    for folder, text in ((new, "new"), (old, "old")):
        folder.mkdir()
        (folder / "bundle.json").write_text(text)
    assert publishing.publish(new, old, keep=False) is None
    assert (old / "bundle.json").read_text() == "new"
    assert (new / "bundle.json").read_text() == "old"


def test_two_tiers_of_which_one_goes_on_from_the_other(small, cache):
    result = export(small, cache=cache)
    assert all(check.ok for check in verify(result.bundle))
    assert set(result.bundle.policy.modes) == {"image+audio", "image", "audio"}
    assert result.report["profile"]["opset"] == 17
    for row in result.report["routing"]["modes"]:
        assert row["full_cost_ms"] == pytest.approx(sum(result.bundle.policy.cost_ms.values()))
        assert row["samples"] == 96


def test_a_board_without_int8_gets_half_precision_and_a_float_graph(small, cache):
    recipe = dataclasses.replace(small, recipe="fp16")
    result = export(recipe, cache=cache)
    sizes = result.report["tiers"][0]["size_bytes"]
    assert result.report["precision"] == "fp16"
    assert sizes["tensorrt"] < 0.75 * sizes["cpu"]
    assert result.report["tiers"][0]["cpu_precision"] == "fp32"


def test_float_as_trained(small, cache):
    result = export(dataclasses.replace(small, recipe="fp32", profile="host"), cache=cache)
    assert result.bundle.name == "small-host"
    drops = [a["drop_points"] for t in result.report["tiers"] for a in t["agreement"].values()]
    assert drops == [0.0] * 4


def test_training_data_brings_the_pruned_tier_closer(alarms, shares_pay, monkeypatch, tmp_path):
    from mla_edge.networks import load_network

    data = tmp_path / "data"
    data.mkdir()
    (data / "take.txt").write_text("real")
    monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: load_network(ref))
    recipe = tmp_path / "hard.toml"
    recipe.write_text(
        'title = "hard"\nprecision = "fp32"\ncalibration = "quick"\n'
        "[tiers.only]\nprune = 0.5\n"
        "[distillation]\nsamples = 256\nsteps = 120\nlearning_rate = 2e-3\n"
    )
    hard = dataclasses.replace(alarms, recipe=str(recipe), max_drop=100.0)
    without = export(hard, cache=StepCache(tmp_path / "steps")).report["tiers"][0]
    report = export(
        dataclasses.replace(hard, data=data), cache=StepCache(tmp_path / "steps")
    ).report
    taught = report["tiers"][0]
    assert without["distillation"] is None
    assert taught["distillation"]["steps"] == 120
    points = {point["step"]: point for point in report["curve"]["points"]}
    assert list(points) == ["float", "pruned", "distilled"]  # the recipe asks for no INT8
    assert points["pruned"]["lost"] > points["distilled"]["lost"]
    assert taught["agreement"]["cpu"]["cosine"] > without["agreement"]["cpu"]["cosine"] + 0.02
    (data / "take.txt").write_text("other")
    again = export(dataclasses.replace(hard, data=data), cache=StepCache(tmp_path / "steps"))
    assert not again.reused


@pytest.fixture
def hasty(monkeypatch, prunable, tmp_path, quick):
    """A network with widths of every kind, untrained: no gate. No time decides a test."""
    monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: prunable)
    monkeypatch.setattr(width_search, "_SESSIONS", 2)
    monkeypatch.setattr(width_search, "_CLOSER_LOOK", 4)
    monkeypatch.setattr(shrinking, "SLACK", 5.0)
    out = tmp_path / "out"
    return ExportRequest("host", SMALL, out=out, calibration=quick, max_drop=100.0)


def test_a_student_takes_the_place_of_its_teacher_and_is_held_against_it(
    hasty, prunable, cache, tmp_path, monkeypatch
):
    torch.manual_seed(1)
    student = Prunable(width=16, hidden=32).eval()
    tiers = (dataclasses.replace(prunable.tiers[0], student=student),)
    taught = dataclasses.replace(prunable, tiers=tiers)
    monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: taught)
    recipe = tmp_path / "student.toml"
    recipe.write_text(
        'title = "its student"\nprecision = "fp32"\ncalibration = "quick"\n'
        "[tiers.only]\nstudent = true\nprune = 0.5\n"
    )
    request = dataclasses.replace(hasty, recipe=str(recipe))
    assert "only: its student" in describe_plan(request)["steps"]
    result = export(request, cache=cache)
    tier = result.report["tiers"][0]
    counts = [sum(p.numel() for p in m.parameters()) for m in tiers[0].modules]
    assert [tier["parameters"], tier["parameters_after"]] == counts
    assert tier["student"]
    assert tier["pruned"] == []
    assert tier["size_bytes"]["cpu"] < 0.7 * tier["size_bytes"]["float"]
    # Untrained, it answers like nobody, and the comparison with its teacher shows that.
    assert tier["agreement"]["cpu"]["cosine"] < 0.99
    picture = torch.rand(1, 3, 32, 32) * 255
    with closing(open_engine(result.bundle.graph("only", cpu=True))) as engine:
        found = engine.run({"image": picture.numpy()})["logits"]
    with torch.no_grad():
        assert np.allclose(found, student(picture).numpy(), atol=1e-4)
    # A goal of latency is of the network itself, so its student is left aside.
    goal = export(dataclasses.replace(request, target_latency_ms=1e4), cache=cache)
    assert not goal.report["tiers"][0]["student"]


def test_a_goal_of_latency_is_reached_and_held_against_uniform_pruning(hasty, cache, prunable):
    result = export(dataclasses.replace(hasty, target_speedup=1.05), cache=cache)
    bundle, tier = result.bundle, result.report["tiers"][0]
    goal = tier["goal"]
    assert all(check.ok for check in verify(bundle))
    assert goal["least_ms"] < goal["target_ms"] == pytest.approx(goal["whole_ms"] / 1.05)
    assert {found["name"] for found in goal["networks"]} == {"knapsack", "uniform"}
    kept = next(found for found in goal["networks"] if found["name"] == goal["kept"])
    assert {row["layer"]: row["after"] for row in tier["pruned"]} == kept["widths"] != {}
    assert tier["parameters_after"] == kept["parameters"] < tier["parameters"]
    assert goal["attempts"]
    assert "uniform pruning" in goal["verdict"]
    table = LatencyTable.from_json(
        json.loads((bundle.folder / "latency/only.json").read_text())
    )
    assert "latency/only.json" in bundle.files
    assert set(table.rows) >= set(kept["widths"])
    assert "Latency goal of only" in (bundle.folder / "report.html").read_text()
    seen = []
    again = dataclasses.replace(hasty, target_speedup=1.05, max_drop=99.0)
    assert (
        export(again, seen.append, cache=cache).report["tiers"][0]["pruned"] == tier["pruned"]
    )
    reused = {event.step for event in seen if event.reused}
    assert {"latency_table", "importance", "knapsack", "prune"} <= reused


def test_a_goal_that_no_widths_reach_is_refused_with_the_best_that_they_do(hasty, cache):
    with pytest.raises(ConfigError, match=r"only cannot become 50 times faster") as caught:
        export(dataclasses.replace(hasty, target_speedup=50.0), cache=cache)
    assert re.search(
        r"with the narrowest widths \d+\.\d+ ms \(\d+\.\d+ times", str(caught.value)
    )
    assert not hasty.out.exists()


def test_a_goal_that_is_met_already_prunes_nothing(hasty, cache):
    result = export(dataclasses.replace(hasty, target_latency_ms=1000.0), cache=cache)
    tier = result.report["tiers"][0]
    assert tier["pruned"] == tier["goal"]["networks"] == []
    assert "nothing pruned" in tier["goal"]["verdict"]
    assert verify(result.bundle)


def test_a_network_with_no_width_to_prune_cannot_have_a_goal(alarms, cache, monkeypatch):
    monkeypatch.setattr(tier_widths, "find_groups", lambda module, example: [])
    with pytest.raises(ConfigError, match="no width of this tier can be pruned"):
        export(dataclasses.replace(alarms, target_speedup=1.2), cache=cache)


def test_a_graph_that_became_too_slow_is_not_published(hasty, cache, monkeypatch):
    real = shrinking.time_runs

    def slower(cases, sessions):  # as if layers had come to be in float since
        taken = real(cases, sessions=1)
        return {name: ms * (1 if name == "" else 9) for name, ms in taken.items()}

    monkeypatch.setattr(shrinking, "time_runs", slower)
    with pytest.raises(ExportError, match="check_latency: only takes") as caught:
        export(dataclasses.replace(hasty, target_speedup=1.05), cache=cache)
    assert "ask for less" in caught.value.hint
    assert not hasty.out.exists()


def test_a_refusal_does_not_send_a_goal_to_the_recipe():
    job = SimpleNamespace(goal=LatencyGoal("full", speedup=1.5), trains=False, precision="int8")
    loss = Loss(pruning=3.0, precision=0.5, layers=())
    assert _advice(job, "full", loss).startswith("ask for less than 1.5 times faster, or let")
    assert _advice(job, "lite", loss).startswith("prune less in the recipe")


def test_a_goal_is_said_in_the_plan(hasty):
    todo = describe_plan(dataclasses.replace(hasty, target_speedup=1.5))["steps"]
    assert any("prune to 1.5 times faster by a knapsack" in step for step in todo)


def test_a_missing_data_folder_is_named(alarms, cache, tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        export(dataclasses.replace(alarms, data=tmp_path / "none"), cache=cache)


def test_a_plan_writes_nothing(alarms, tmp_path):
    before = files(tmp_path)
    plan = describe_plan(alarms)
    assert files(tmp_path) == before
    assert plan["bundle"].endswith("out/alarms-agx-xavier")
    assert any("opset 16, int8" in step for step in plan["steps"])
    assert any("(new;" in step for step in plan["steps"])


def test_a_board_that_is_not_supported_says_why(alarms):
    with pytest.raises(ConfigError, match="Python 3.6"):
        export(dataclasses.replace(alarms, profile="nano"))


def test_constant_samples_are_refused_by_name(alarms, tmp_path):
    path = tmp_path / "flat.npz"
    np.savez(path, audio=np.full((40, 6000), 0.25, np.float32))
    with pytest.raises(ExportError, match="'audio' is the same in all 40"):
        export(
            dataclasses.replace(alarms, calibration=str(path)), cache=StepCache(tmp_path / "c")
        )
    assert not alarms.out.exists()


def test_too_few_recorded_samples_are_refused(alarms, tmp_path):
    path = tmp_path / "few.npz"
    random = np.random.default_rng(0)
    np.savez(path, audio=random.normal(0, 0.1, (12, 6000)).astype(np.float32))
    with pytest.raises(ConfigError, match="12 samples are too few"):
        export(
            dataclasses.replace(alarms, calibration=str(path)), cache=StepCache(tmp_path / "c")
        )
    assert not alarms.out.exists()
