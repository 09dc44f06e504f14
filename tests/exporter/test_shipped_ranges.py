"""INT8 ranges that ship: made once with real data, then used by exports that have none."""

import contextlib
import dataclasses
import io
import json
import shutil

import pytest

from mla_edge._content import content_dir
from mla_edge.errors import ConfigError
from mla_edge.exporter import calibration_cache, pipeline, shipped_ranges
from mla_edge.exporter.calibration import CalibrationSpec, load_calibration
from mla_edge.exporter.float_graphs import make_float_graphs
from mla_edge.exporter.job import Job
from mla_edge.exporter.layers import find_layers, structure_of
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.exporter.ranges import Ranges
from mla_edge.exporter.recipe import Recipe, TierRecipe, load_recipe
from mla_edge.exporter.steps import StepCache, Steps
from mla_edge.networks import load_network
from mla_edge.profiles import load_profile

PLAIN = TierRecipe()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(shipped_ranges, "content_dir", lambda kind: folder)
    return folder


def write_recipe(folder):
    path = folder / "mine.toml"
    path.write_text('title = "x"\nprecision = "int8"\ncalibration = "quick"\n')
    return str(path)


@pytest.fixture
def recipe(tmp_path):
    return write_recipe(tmp_path)


def other_scenes(network):
    """The same network on "real data": its samples are others."""

    def samples(split, count, seed):
        return network.samples(split, count, seed + 77)

    return dataclasses.replace(network, samples=samples)


@pytest.fixture(scope="module")
def command(network, tmp_path_factory):
    """The folder that the command has written to, and the paths that it printed."""
    root = tmp_path_factory.mktemp("command")
    real = other_scenes(network)
    words = ["small", "--data", str(root), "--recipe", write_recipe(root)]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("XDG_CACHE_HOME", str(root / "steps"))
        patch.setattr(calibration_cache, "load_network", lambda ref, **given: real)
        assert calibration_cache.main([*words, "--out", str(root / "files")]) == 0
    return root / "files", said.getvalue().split()


@pytest.fixture
def written(command, shipped):
    """The files that the command wrote, as those that ship."""
    shutil.copytree(command[0], shipped, dirs_exist_ok=True)


def test_those_of_digits_hold_ranges_alone_and_the_pages_say_so():
    root = content_dir("calibration")
    for tier in ("lite", "full"):
        entries = json.loads((root / f"digits-{tier}.json").read_text())["entries"]
        found = [Ranges.from_json(entry["ranges"]) for entry in entries]
        assert not any(ranges.corrections or ranges.roundings for ranges in found)
    pages = [root / "README.md", root.parent / "docs" / "how-to" / "export.md"]
    assert all("hold ranges alone" in page.read_text(encoding="utf-8") for page in pages)


def test_the_command_writes_a_file_a_tier(command, written, network):
    folder, said = command
    assert said == [str(folder / "small-lite.json"), str(folder / "small-full.json")]
    entry = shipped_ranges.find_ranges(network, "lite", PLAIN)
    assert entry["source"] == "real data, 48 samples"
    assert len(entry["samples_sha256"]) == 64


def test_an_export_without_data_gives_the_int8_of_the_real_data(
    written, shipped, network, recipe, tmp_path, monkeypatch
):
    def graphs(source, **options):
        monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: source)
        request = ExportRequest(
            "host", "small", recipe, tmp_path / "out", max_drop=100, **options
        )
        result = export(request, cache=StepCache(tmp_path / "steps"))
        return [
            result.bundle.graph(t, cpu=False).read_bytes() for t in ("lite", "full")
        ], result

    def origin(result, tier):
        row = next(row for row in result.report["tiers"] if row["name"] == tier)
        told = result.bundle.provenance["ranges"][tier]
        assert told == {
            "source": row["ranges_from"],
            "samples_sha256": row["ranges_samples_sha256"],
        }
        return row["ranges_from"], row["ranges_samples_sha256"]

    with_files, result = graphs(network)
    samples_sha256 = shipped_ranges.find_ranges(network, "lite", PLAIN)["samples_sha256"]
    assert origin(result, "lite") == ("real data, 48 samples", samples_sha256)
    assert result.report["calibration"]["sha256"] != samples_sha256
    with_data, result = graphs(other_scenes(network), data=tmp_path / "shipped")
    assert origin(result, "lite") == ("calibration set quick", samples_sha256)
    assert result.report["calibration"]["sha256"] == samples_sha256
    assert with_files == with_data
    for path in shipped.iterdir():
        path.unlink()
    without, result = graphs(network)
    assert not result.reused
    assert without != with_files


def test_a_set_of_the_users_own_is_used_and_not_taken_for_the_shipped_ranges(
    written, network, recipe, tmp_path, monkeypatch
):
    monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: network)
    cache = StepCache(tmp_path / "steps")

    def ranges_from(request):
        result = export(request, cache=cache)
        return result.reused, {tier["ranges_from"] for tier in result.report["tiers"]}

    plain = ExportRequest("host", "small", recipe, tmp_path / "out", max_drop=100)
    named = dataclasses.replace(plain, calibration="quick")  # the very same samples
    assert ranges_from(plain) == (False, {"real data, 48 samples"})
    assert ranges_from(named) == (False, {"calibration set quick"})
    assert ranges_from(named) == (True, {"calibration set quick"})
    assert ranges_from(plain) == (False, {"real data, 48 samples"})

    own = tmp_path / "own.toml"
    own.write_text('source = "network"\ncalibrate = 40\ntune = 40\ntest = 40\n')
    in_recipe = tmp_path / "with_own.toml"
    in_recipe.write_text(f'title = "x"\nprecision = "int8"\ncalibration = "{own}"\n')
    request = dataclasses.replace(plain, recipe=str(in_recipe))
    assert ranges_from(request) == (False, {"calibration set own"})


def test_ranges_that_do_not_fit_the_graph_give_way_to_the_calibration_set(
    written, shipped, network, recipe, tmp_path, monkeypatch
):
    for path in shipped.iterdir():
        held = json.loads(path.read_text())
        held["entries"][0]["ranges"]["structure"] = "that of nodes with other names"
        path.write_text(json.dumps(held))
    monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: network)
    request = ExportRequest("host", "small", recipe, tmp_path / "out", max_drop=100)
    seen = []
    result = export(request, seen.append, cache=StepCache(tmp_path / "steps"))
    said = "calibration set quick; the shipped ranges do not fit this graph"
    assert all(t["ranges_from"].startswith(said) for t in result.report["tiers"])
    notes = [event.note for event in seen if event.step == "quantize" and event.note]
    assert len(notes) == 2
    assert all(said in note for note in notes)


def test_only_int8_without_samples_of_the_users_own_takes_them(written, network):
    def taken(*how):
        found = shipped_ranges.ranges_to_use(network, Recipe("x"), *how)
        return [entry is not None for entry in found.values()]

    assert taken("int8", False) == [True, True]
    assert taken("int8", True) == [False, False]
    assert taken("fp16", False) == [False, False]


def test_they_are_for_exactly_their_network_and_pruning(written, network):
    assert shipped_ranges.find_ranges(network, "lite", TierRecipe(prune=0.5)) is None
    assert shipped_ranges.find_ranges(network, "lite", TierRecipe(prune_heads=0.5)) is None
    renamed = dataclasses.replace(network, labels=("a", "b", "c", "d"))
    assert shipped_ranges.find_ranges(renamed, "lite", PLAIN) is None


def test_without_files_there_are_none(network, shipped):
    assert shipped_ranges.find_ranges(network, "lite", PLAIN) is None
    assert shipped_ranges.ranges_to_use(network, Recipe("x"), "int8", False) == {
        "lite": None,
        "full": None,
    }


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"entries": [{}]})])
def test_a_damaged_file_is_named(network, shipped, text):
    (shipped / "small-lite.json").write_text(text)
    with pytest.raises(ConfigError, match=r"small-lite\.json: not a file of INT8 ranges"):
        shipped_ranges.find_ranges(network, "lite", PLAIN)


def test_the_command_says_what_is_wrong(capsys, tmp_path):
    assert calibration_cache.main(["none.py:make", "--data", str(tmp_path)]) == 2
    assert "none.py: no such file" in capsys.readouterr().err
    words = ["small", "--data", str(tmp_path), "--out", __file__]
    assert calibration_cache.main(words) == 2
    assert "is no folder\n  give another with --out" in capsys.readouterr().err


@pytest.mark.parametrize("tier", ["lite", "full"])
def test_those_that_ship_are_for_the_weights_that_ship(tier, tmp_path):
    network, how = load_network("digits"), load_recipe("default")
    entry = shipped_ranges.find_ranges(network, tier, how.tier(tier))
    assert entry is not None, "run python -m mla_edge.exporter.calibration_cache digits"
    assert entry["source"].startswith("real data")
    part = next(part for part in network.tiers if part.tier.name == tier)
    few = CalibrationSpec("few", calibrate=1, tune=1, test=48)
    job = Job(
        profile=load_profile("host"),
        recipe=how,
        precision="int8",
        network=network,
        calibration=load_calibration(few, network),
        own_samples=False,
        trains=False,
        base="digits",
        steps=Steps(lambda event: None),
        cache=StepCache(tmp_path),
    )
    graph = load_model(make_float_graphs(job, part) / "float.onnx")
    assert entry["ranges"]["structure"] == structure_of(find_layers(graph))
