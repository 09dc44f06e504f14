"""The whole round: parts in a bundle, a table measured by ``build``, an export by that table.

On ONNX Runtime everything is real. On a board TensorRT and the GPU are the fakes, which compute
with ONNX Runtime; the real TensorRT-RTX builds the parts where it is installed.
"""

import functools
import json
import zipfile

import pytest
from board_trees import make_agx_xavier
from typer.testing import CliRunner

from mla_edge.bundle import Bundle
from mla_edge.cli import app
from mla_edge.engines.target import RTX_CAPABILITIES
from mla_edge.engines.verification import verify
from mla_edge.errors import BundleError, ConfigError, InferenceError, MissingDependency
from mla_edge.exporter import part_timing, pipeline, runs
from mla_edge.exporter.engine_build import BuildSpec
from mla_edge.exporter.engine_process import run_build
from mla_edge.exporter.latency_table import LatencyTable
from mla_edge.exporter.part_archive import read_archive, unpack
from mla_edge.exporter.part_timing import TableRequest
from mla_edge.exporter.pipeline import ExportRequest, describe_plan, export
from mla_edge.exporter.steps import StepCache
from mla_edge.exporter.table_file import read_tables

QUICK = 'source = "network"\ncalibrate = 32\ntune = 32\ntest = 32\n'


@pytest.fixture(scope="module")
def place(prunable, tmp_path_factory):
    """Exports the network with widths of every kind, each time with the same finished steps."""
    out = tmp_path_factory.mktemp("round")
    (out / "quick.toml").write_text(QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_network", lambda ref, **given: prunable)

        def request(profile, **options):
            return ExportRequest(
                profile,
                "prunable:make",
                out=out / ("goal" if "latency_table" in options else "parts"),
                calibration=str(out / "quick.toml"),
                max_drop=100.0,
                **options,
            )

        request.cache = StepCache(out / "steps")
        yield request


@pytest.fixture(scope="module")
def bundles(place):
    """With the parts in it, by profile."""

    @functools.lru_cache(maxsize=None)
    def make(profile):
        return export(place(profile, latency_parts=True), cache=place.cache).bundle

    return make


@pytest.fixture
def few(monkeypatch):
    """Two sessions of a few runs: the tests are of what is done, not of how fast it is."""
    monkeypatch.setattr(runs, "_RUNS", 3)
    monkeypatch.setattr(runs.time_in_turns, "__defaults__", (2,))


def call(monkeypatch, root, *words):
    """The command line on a machine whose files are under ``root``."""
    monkeypatch.setattr(part_timing, "TableRequest", functools.partial(TableRequest, root=root))
    return CliRunner().invoke(app, [*map(str, words)])


def silent(event):
    """Nobody listens."""


def test_the_parts_are_a_small_file_of_the_bundle(bundles):
    bundle = bundles("agx-xavier")
    name = "latency/only.parts.zip"
    assert name in bundle.files
    assert all(check.ok for check in verify(bundle))
    archive = read_archive(bundle.folder / name)
    assert (archive.network, archive.profile, archive.tier) == (
        "prunable",
        "agx-xavier",
        "only",
    )
    assert (archive.precision, archive.carries_types) == ("int8", False)
    assert list(archive.parts["block.feed.expand"]) == [32, 64, 96]
    assert list(archive.parts["block.attention.local"]) == [1, 2, 3, 4]
    with zipfile.ZipFile(bundle.folder / name) as packed:
        sizes = [(i.file_size, i.compress_size) for i in packed.infolist()]
    assert len(sizes) == 1 + archive.count
    assert sum(small for _, small in sizes) < 0.5 * sum(large for large, _ in sizes)


def test_here_a_table_is_measured_and_pruned_by(bundles, place, few, tmp_path, monkeypatch):
    bundle, path = bundles("host"), tmp_path / "table.json"
    done = call(
        monkeypatch, tmp_path, "build", bundle.folder, "--latency-table", path, "--dry-run"
    )
    assert "only: time" in done.stdout
    assert not path.exists()
    done = call(
        monkeypatch, tmp_path, "build", bundle.folder, "--latency-table", path, "--json"
    )
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["tiers"]["only"]["measured_on"] == runs.machine()
    assert list(tmp_path.iterdir()) == [path]
    table = read_tables(path).tables["only"]
    assert table.threads == 1
    assert 0 < min(rung.ms for rung in table.ladder) < table.whole_ms
    assert set(table.rows) >= {"block.feed.expand", "block.attention.local"}

    # Whatever a busy machine measured: a table by which every width pays the same.
    even(path, read_archive(bundle.folder / "latency/only.parts.zip"))
    request = place("host", latency_table=path, target_speedup=1.3)
    todo = describe_plan(request)["steps"]
    assert any("from a table of" in step for step in todo)
    result = export(request, cache=place.cache)
    goal = result.report["tiers"][0]["goal"]
    table = read_tables(path).tables["only"]
    assert not goal["timed_here"]
    assert goal["reached_ms"] <= goal["target_ms"] == pytest.approx(table.whole_ms / 1.3)
    kept = next(found for found in goal["networks"] if found["name"] == goal["kept"])
    assert kept["ms"] == pytest.approx(table.expect(kept["widths"])) == goal["reached_ms"]
    after = {row["layer"]: row["after"] for row in result.report["tiers"][0]["pruned"]}
    assert after == kept["widths"]
    page = (result.bundle.folder / "report.html").read_text()
    assert "was not timed there yet" in page
    assert LatencyTable.from_json(
        json.loads((result.bundle.folder / "latency/only.json").read_text())
    ) == table  # fmt: skip


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


def test_on_a_board_engines_are_built_and_timed(
    fakes, bundles, place, few, tmp_path, monkeypatch
):
    fakes.use("8.6")
    bundle, path = bundles("agx-xavier"), tmp_path / "table.json"
    root = make_agx_xavier(tmp_path / "board")
    monkeypatch.setattr(part_timing, "run_build", in_this_process(fakes))
    words = ["build", bundle.folder, "--latency-table", path]
    stopped = RuntimeError("as if it had been interrupted")
    with monkeypatch.context() as patch:
        patch.setattr(part_timing._TensorRT, "time", stopping_after(2, stopped))
        assert call(patch, root, *words).exception is stopped
    left = tmp_path / "table.json.partial"
    assert len(json.loads(left.read_text())["rows"]) == 2
    done = call(monkeypatch, root, *words)
    assert done.exit_code == 0, done.stderr
    assert not left.exists()
    table = read_tables(path).tables["only"]
    assert table.measured_on == (
        "Xavier (fake), p2888-0004, TensorRT 8.6.1, 7 MODE_15W_DESKTOP"
    )
    assert (table.threads, table.precision) == (0, "int8")
    assert table.whole_ms > 0
    assert not (bundle.folder / "engines").exists()
    assert "--profile agx-xavier --latency-table table.json" in done.stdout

    result = export(
        place("agx-xavier", latency_table=path, target_latency_ms=1e4), cache=place.cache
    )
    goal = result.report["tiers"][0]["goal"]
    assert goal["measured_on"] == table.measured_on
    assert goal["whole_ms"] == table.whole_ms
    with pytest.raises(ConfigError, match=r"cannot become 1e-06 ms: .* ms on Xavier \(fake\)"):
        request = place("agx-xavier", latency_table=path, target_latency_ms=1e-6)
        export(request, cache=place.cache)


def in_this_process(fakes):
    """`run_build` without its process, which takes half a second to start."""

    def build(flavour, spec, plan, on_beat):
        from mla_edge.exporter.engine_build import build_engine

        data, built = build_engine(fakes.bindings, spec)
        assert built.flags == ("INT8", "FP16")
        plan.write_bytes(data)
        return built

    return build


def stopping_after(count, error):
    real, left = part_timing._TensorRT.time, [count]

    def time(self, *given):
        if not left[0]:
            raise error
        left[0] -= 1
        return real(self, *given)

    return time


def test_a_part_is_built_in_a_process_as_the_bundles_engines_are(
    fakes, bundles, few, tmp_path, monkeypatch
):
    fakes.use("8.6")
    bundle = bundles("agx-xavier")
    archive = read_archive(bundle.folder / "latency/only.parts.zip")
    request = TableRequest(
        bundle.folder, tmp_path / "t.json", root=make_agx_xavier(tmp_path / "board")
    )
    with part_timing._recognise(request, part_timing.Steps(silent)) as (_, _, place):
        widths = archive.parts["block.feed.expand"]
        [graph] = unpack(bundle.folder / "latency/only.parts.zip", [widths[32]], tmp_path)
        [taken] = place.time(archive, [graph], archive.feeds["block.feed.expand"])
    assert len(taken) == 2
    assert (taken > 0).all()


def test_the_real_rtx_builds_the_parts_and_cannot_time_them_without_a_gpu(bundles, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    bundle = bundles("rtx")
    path = bundle.folder / "latency/only.parts.zip"
    archive = read_archive(path)
    names = [archive.wholes[0].file, *(min(r.items())[1] for r in archive.parts.values())]
    for graph in unpack(path, names, tmp_path):
        spec = BuildSpec(
            str(graph), "int8", archive.carries_types, capabilities=RTX_CAPABILITIES
        )
        assert run_build("rtx", spec, graph.with_suffix(".plan"), silent).layers > 3
    with pytest.raises((MissingDependency, InferenceError)):
        part_timing.measure(TableRequest(bundle.folder, tmp_path / "t.json"), silent)
    assert not (tmp_path / "t.json").exists()


def test_what_cannot_be_measured_is_refused_before_anything_is_timed(
    bundles, place, tmp_path, monkeypatch
):
    bundle = bundles("host")
    with pytest.raises(ConfigError, match="inside of the bundle"):
        part_timing.measure(TableRequest(bundle.folder, bundle.folder / "t.json"), silent)
    with pytest.raises(ConfigError, match="no such folder"):
        part_timing.measure(TableRequest(bundle.folder, tmp_path / "no/t.json"), silent)
    done = call(
        monkeypatch,
        "/",
        "build",
        bundle.folder,
        "--latency-table",
        tmp_path / "t.json",
        "--dla",
    )
    assert done.exit_code == 2
    without = Bundle.read(export(place("host", latency_table=None), cache=place.cache)
                          .bundle.folder)  # fmt: skip
    with pytest.raises(BundleError, match="has no parts to time") as caught:
        part_timing.measure(TableRequest(without.folder, tmp_path / "t.json"), silent)
    assert caught.value.hint == "mla-edge export --profile host --latency-parts"
    assert list(tmp_path.iterdir()) == []
