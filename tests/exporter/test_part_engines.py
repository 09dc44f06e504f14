"""How a board times parts: on the fakes of its TensorRT and GPU, with graphs made by hand."""

import dataclasses
import functools
import json

import pytest
from board_trees import make_agx_xavier
from faking import make_bundle, make_graph
from typer.testing import CliRunner

from mla_edge.bundle import Bundle, sha256_of
from mla_edge.cli import app
from mla_edge.errors import BundleError, ExportError
from mla_edge.exporter import engine_proof, part_engines, part_timing, runs
from mla_edge.exporter.part_archive import PartArchive, Whole, write_archive
from mla_edge.exporter.part_timing import TableRequest, measure
from mla_edge.exporter.table_file import read_tables

FEED = {"x": {"shape": [1, 3, 8, 8], "low": -1.0, "high": 1.0}}
FILES = ("whole.onnx", "narrow.onnx", "2.onnx", "4.onnx")


@pytest.fixture
def bundle(tmp_path):
    """For an AGX Xavier: two whole graphs, and a group of two widths."""
    made = make_bundle(tmp_path / "made-agx-xavier", profile="agx-xavier")
    graphs = tmp_path / "graphs"
    graphs.mkdir()
    for name in FILES:
        make_graph(graphs / name)
    archive = PartArchive(
        network="made",
        profile="agx-xavier",
        tier="lite",
        precision="int8",
        carries_types=False,
        float_layers=(),
        inputs={"x": (1, 3, 8, 8)},
        left_out=("odd",),
        wholes=(Whole("whole.onnx", {}), Whole("narrow.onnx", {"feed": 2})),
        parts={"feed": {2: "2.onnx", 4: "4.onnx"}},
        feeds={"": FEED, "feed": FEED},
    )
    (made.folder / "latency").mkdir()
    path = made.folder / "latency/lite.parts.zip"
    write_archive(path, archive, graphs)
    files = {**made.files, "latency/lite.parts.zip": sha256_of(path)}
    dataclasses.replace(made, files=files).write()
    return Bundle.read(made.folder)


@pytest.fixture
def request_for(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.time_in_turns, "__defaults__", (2,))
    root = make_agx_xavier(tmp_path / "board")
    monkeypatch.setattr(part_timing, "TableRequest", functools.partial(TableRequest, root=root))
    (tmp_path / "tables").mkdir()
    return TableRequest(bundle.folder, tmp_path / "tables/table.json", root=root)


def test_engines_are_built_timed_and_written_as_a_table(fakes, bundle, request_for):
    fakes.use("8.6")
    before = sorted(bundle.folder.rglob("*"))
    words = ["build", str(bundle.folder), "--latency-table", str(request_for.table)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    assert "--profile agx-xavier --latency-table table.json" in done.stdout
    found = read_tables(request_for.table)
    assert (found.network, found.profile) == ("made", "agx-xavier")
    table = found.tables["lite"]
    assert table.measured_on == (
        "Xavier (fake), p2888-0004, TensorRT 8.6.1, 7 MODE_15W_DESKTOP"
    )
    assert (table.tier, table.precision, table.threads) == ("lite", "int8", 0)
    assert table.left_out == ("odd",)
    assert 4 in table.rows["feed"]
    assert [dict(rung.widths) for rung in table.ladder] == [{"feed": 2}]
    assert table.whole_ms > 0
    assert fakes.machine.calls.count("execute") == 4 * 2 * 15  # graphs, sessions, runs
    assert sorted(bundle.folder.rglob("*")) == before
    assert fakes.machine.left_over() == []


def test_every_part_is_built_as_the_bundles_own_engines_are(fakes, request_for, monkeypatch):
    fakes.use("8.6")
    real, seen = part_engines.run_build, []

    def look(flavour, spec, plan, on_beat):
        built = real(flavour, spec, plan, on_beat)
        seen.append((spec, built.flags))
        return built

    monkeypatch.setattr(part_engines, "run_build", look)
    measure(dataclasses.replace(request_for, workspace_mb=96, optimisation_level=1))
    assert [flags for _, flags in seen] == [("INT8", "FP16")] * 4
    assert {(spec.workspace_mb, spec.optimisation_level) for spec, _ in seen} == {(96, 1)}
    assert len({spec.timing_cache for spec, _ in seen}) == 1


def test_what_was_interrupted_goes_on_where_it_stopped(fakes, request_for, monkeypatch):
    fakes.use("8.6")
    real, built = part_engines.run_build, []

    def until(count):
        def run(flavour, spec, plan, on_beat):
            if len(built) == count:
                raise KeyboardInterrupt
            built.append(spec.graph)
            return real(flavour, spec, plan, on_beat)

        return run

    left = request_for.table.with_name("table.json.partial")
    monkeypatch.setattr(part_engines, "run_build", until(3))
    with pytest.raises(KeyboardInterrupt):
        measure(request_for)
    assert list(json.loads(left.read_text())["rows"]) == ["lite "]
    assert not request_for.table.exists()
    monkeypatch.setattr(part_engines, "run_build", until(99))
    measure(request_for)
    assert len(built) == 3 + 2  # not the whole graphs again
    assert not left.exists()
    left.write_text("of something else")
    measure(request_for)
    assert len(built) == 5 + 4


def test_a_part_that_tensorrt_refuses_ends_it_without_a_table(fakes, request_for):
    fakes.use("8.6", BUILD_ENDS="memory")
    with pytest.raises(ExportError, match=r"cannot build 0\.onnx"):
        measure(request_for)
    assert not request_for.table.exists()


def test_another_board_is_refused(fakes, request_for, tmp_path):
    fakes.use("10.3", SM=86)
    with pytest.raises(BundleError, match="this machine is no Jetson"):
        measure(dataclasses.replace(request_for, root=tmp_path / "nothing"))
    assert list(request_for.table.parent.iterdir()) == []


def test_an_engine_that_is_slower_than_its_table_promised_is_told(bundle):
    goal = {"timed_here": False, "target_ms": 2.0, "reached_ms": 1.9, "measured_on": "a Xavier"}
    report = bundle.folder / "report.json"
    report.write_text(json.dumps({"tiers": [{"name": "lite", "goal": goal}]}))
    assert engine_proof.warn_of_goal(bundle, "lite", 2.05) == ""
    said = engine_proof.warn_of_goal(bundle, "lite", 2.5)
    assert said.startswith(
        "2.50 ms, and 2.00 ms were asked for: the table of a Xavier expected"
    )
    assert engine_proof.warn_of_goal(bundle, "full", 2.5) == ""
    report.write_text(json.dumps({"tiers": [{"name": "lite", "goal": None}]}))
    assert engine_proof.warn_of_goal(bundle, "lite", 2.5) == ""
