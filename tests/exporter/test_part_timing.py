"""The whole round: parts in a bundle, a table measured by ``build``, an export by that table.

On ONNX Runtime everything is real. The real TensorRT-RTX builds parts where it is installed.
How a board times them is in test_part_engines.py.
"""

import dataclasses
import functools
import json
import zipfile

import pytest
from typer.testing import CliRunner

from mla_edge.bundle import Bundle
from mla_edge.cli import app
from mla_edge.engines.target import RTX_CAPABILITIES
from mla_edge.engines.verification import verify
from mla_edge.errors import BundleError, ConfigError
from mla_edge.exporter import part_timing, pipeline, runs
from mla_edge.exporter.calibration import load_calibration, load_calibration_spec
from mla_edge.exporter.engine_build import BuildSpec
from mla_edge.exporter.engine_process import run_build
from mla_edge.exporter.job import Job
from mla_edge.exporter.latency_parts import make_parts
from mla_edge.exporter.latency_table import LatencyTable
from mla_edge.exporter.part_archive import read_archive, unpack
from mla_edge.exporter.part_timing import TableRequest
from mla_edge.exporter.pipeline import ExportRequest, describe_plan, export
from mla_edge.exporter.recipe import load_recipe
from mla_edge.exporter.steps import StepCache, Steps
from mla_edge.exporter.table_file import TableFile, read_tables, write_tables
from mla_edge.profiles import load_profile

QUICK = 'source = "network"\ncalibrate = 32\ntune = 32\ntest = 32\n'


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("round")
    (folder / "quick.toml").write_text(QUICK)
    return folder


@pytest.fixture(scope="module")
def exported(prunable, out):
    """Exports the network with widths of every kind, each time with the same finished steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_network", lambda ref, **given: prunable)

        def make(profile, **options):
            request = ExportRequest(
                profile, "prunable:make", out=out, calibration=str(out / "quick.toml"),
                max_drop=100.0, **options,
            )  # fmt: skip
            make.plan = describe_plan(request)["steps"]
            return export(request, cache=StepCache(out / "steps"))

        yield make


@pytest.fixture(scope="module")
def bundle(exported, out):
    """For this machine, with the parts in it; under a name of its own."""
    made = exported("host", latency_parts=True).bundle
    folder = made.folder.rename(out / "with-parts")
    return dataclasses.replace(made, folder=folder)


@pytest.fixture(scope="module")
def parts(prunable, out):
    """The file of the parts for a board, by profile."""

    @functools.lru_cache(maxsize=None)
    def make(profile):
        spec = load_calibration_spec(str(out / "quick.toml"))
        job = Job(
            profile=load_profile(profile),
            recipe=load_recipe("default"),
            precision="int8",
            network=prunable,
            calibration=load_calibration(spec, prunable),
            own_samples=True,
            trains=False,
            base="",
            steps=Steps(silent),
            cache=StepCache(out / "steps"),
        )
        return make_parts(job, prunable.tiers[0], None)

    return make


@pytest.fixture
def few(monkeypatch):
    """Two sessions of a few runs: the tests are of what is done, not of how fast it is."""
    monkeypatch.setattr(runs, "_RUNS", 3)
    monkeypatch.setattr(runs.time_in_turns, "__defaults__", (2,))


def call(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def silent(event):
    """Nobody listens."""


def test_the_parts_are_a_small_file_in_the_form_that_the_board_builds(parts):
    path = parts("agx-xavier")
    archive = read_archive(path)
    assert (archive.network, archive.profile, archive.tier) == (
        "prunable",
        "agx-xavier",
        "only",
    )
    assert (archive.precision, archive.carries_types) == ("int8", False)
    assert archive.inputs == {"image": (1, 3, 32, 32)}
    assert list(archive.parts["block.feed.expand"]) == [32, 64, 96]
    assert list(archive.parts["block.attention.local"]) == [1, 2, 3, 4]
    assert archive.wholes[0].widths == {}
    assert {min(whole.widths.values()) for whole in archive.wholes[1:]} == {1, 2, 3}
    with zipfile.ZipFile(path) as packed:
        sizes = [(i.file_size, i.compress_size) for i in packed.infolist()]
        graph = packed.read(archive.parts["block.feed.expand"][64])
    assert len(sizes) == 1 + archive.count
    assert sum(small for _, small in sizes) < 0.5 * sum(large for large, _ in sizes)
    assert b"QuantizeLinear" in graph


def test_the_real_rtx_builds_the_parts(parts, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    path = parts("rtx")  # INT8 beside FP16, both in the graph
    archive = read_archive(path)
    names = [archive.wholes[-1].file, archive.parts["block.attention.local"][2]]
    for graph in unpack(path, names, tmp_path):
        spec = BuildSpec(
            str(graph), "int8", archive.carries_types, capabilities=RTX_CAPABILITIES
        )
        built = run_build("rtx", spec, graph.with_suffix(".plan"), silent)
        assert built.layers > 3


def test_here_a_table_is_measured_and_pruned_by(bundle, exported, few, tmp_path):
    assert all(check.ok for check in verify(bundle))
    path = tmp_path / "table.json"
    words = ["build", bundle.folder, "--latency-table", path]
    assert "only: time" in call(*words, "--dry-run").stdout
    assert not path.exists()
    done = call(*words, "--json")
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)["tiers"]["only"]
    assert shown["measured_on"] == runs.machine()
    assert list(tmp_path.iterdir()) == [path]
    table = read_tables(path).tables["only"]
    assert (table.threads, table.whole_ms) == (1, shown["whole_ms"])
    archive = read_archive(bundle.folder / "latency/only.parts.zip")
    assert set(table.rows) == set(archive.parts)
    known = {f"{group} at {width}" for group, row in table.rows.items() for width in row}
    known |= {cut.what for cut in table.idle}
    assert known == {f"{g} at {width}" for g, row in archive.parts.items() for width in row}
    assert 0 < min(rung.ms for rung in table.ladder) < table.whole_ms

    # Whatever a busy machine measured: from here on every width pays alike.
    table = even(path, archive)
    result = exported("host", latency_table=path, target_speedup=1.3)
    assert any(f"from a table of {runs.machine()}" in step for step in exported.plan)
    goal = result.report["tiers"][0]["goal"]
    assert not goal["timed_here"]
    assert goal["reached_ms"] <= goal["target_ms"] == pytest.approx(2.0 / 1.3)
    kept = next(found for found in goal["networks"] if found["name"] == goal["kept"])
    assert kept["ms"] == pytest.approx(table.expect(kept["widths"]))
    assert kept["ms"] == pytest.approx(goal["reached_ms"])
    after = {row["layer"]: row["after"] for row in result.report["tiers"][0]["pruned"]}
    assert after == kept["widths"]
    made = result.bundle.folder
    assert "was not timed there yet" in (made / "report.html").read_text()
    written = json.loads((made / "latency/only.json").read_text())
    assert LatencyTable.from_json(written) == table
    with pytest.raises(BundleError, match="has no parts to time") as caught:
        part_timing.measure(TableRequest(made, tmp_path / "t.json"))
    assert caught.value.hint == "mla-edge export --profile host --latency-parts"


def test_a_board_is_pruned_to_milliseconds_by_its_table(parts, exported, tmp_path):
    archive = read_archive(parts("agx-xavier"))
    rows = {g: {w: 0.01 * w / max(row) for w in row} for g, row in archive.parts.items()}
    table = LatencyTable("only", "int8", "a Xavier", 0, 0.3, rows, archive.left_out)
    path, inputs = tmp_path / "table.json", {"only": archive.inputs}
    write_tables(path, TableFile("prunable", "agx-xavier", {"only": table}, inputs))
    with pytest.raises(ConfigError, match=r"cannot become 0\.1 ms: .* 0\.30 ms on a Xavier"):
        exported("agx-xavier", latency_table=path, target_latency_ms=0.1)
    result = exported("agx-xavier", latency_table=path, target_latency_ms=0.29)
    goal = result.report["tiers"][0]["goal"]
    assert goal["reached_ms"] <= 0.29 < goal["whole_ms"]
    assert (goal["measured_on"], goal["threads"]) == ("a Xavier", 0)
    assert result.report["tiers"][0]["pruned"]
    assert "went by parts that were timed on a Xavier" in " ".join(result.report["not_proven"])
    smaller = {"only": {"image": (1, 3, 16, 16)}}
    write_tables(path, TableFile("prunable", "agx-xavier", {"only": table}, smaller))
    with pytest.raises(ConfigError, match="its inputs were"):
        exported("agx-xavier", latency_table=path, target_latency_ms=0.28)


def even(path, archive):
    """Let the table at ``path`` say that half is saved by pruning everything, evenly."""
    found = json.loads(path.read_text())
    table = found["tiers"]["only"]["table"]
    table.update(whole_ms=2.0, ladder=[], idle=[])
    for group, row in archive.parts.items():
        table["rows"][group] = {
            str(width): 1.0 + width / max(row) / len(archive.parts) for width in row
        }
    path.write_text(json.dumps(found))
    return read_tables(path).tables["only"]


def test_what_cannot_be_measured_is_refused_before_anything_is_timed(bundle, tmp_path):
    with pytest.raises(ConfigError, match="inside of the bundle"):
        part_timing.measure(TableRequest(bundle.folder, bundle.folder / "t.json"))
    with pytest.raises(ConfigError, match="no such folder"):
        part_timing.measure(TableRequest(bundle.folder, tmp_path / "no/t.json"))
    done = call("build", bundle.folder, "--latency-table", tmp_path / "t.json", "--dla")
    assert done.exit_code == 2
    assert list(tmp_path.iterdir()) == []
    archive = bundle.folder / "latency/only.parts.zip"
    archive.write_bytes(archive.read_bytes() + b"changed")
    with pytest.raises(BundleError, match="only.parts.zip"):
        part_timing.measure(
            TableRequest(Bundle.read(bundle.folder).folder, tmp_path / "t.json")
        )
