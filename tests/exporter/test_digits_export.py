"""The default export of the reference network, whole, as a newcomer runs it."""

import importlib.util
import json
import shutil

import numpy as np
import onnx
import pytest
from data_folder import make_data_folder
from typer.testing import CliRunner

import mla_edge
from mla_edge.cli import app
from mla_edge.exporter.operators import check_operators
from mla_edge.signals import Frame, Sample, Sound


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What the command printed, and the bundle's folder."""
    out = tmp_path_factory.mktemp("out")
    words = ["export", "--profile", "agx-xavier", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), out / "digits-agx-xavier"


def test_the_bundle_keeps_what_the_board_asks(exported):
    said, folder = exported
    assert said["opset"] == 16
    for tier in ("lite", "full"):
        path = folder / "graphs" / f"{tier}.onnx"
        opsets = {o.domain: o.version for o in onnx.load(path).opset_import}
        assert opsets == {"": 16}
        check_operators(path, "8.5")
        assert max(said["tiers"][tier]["drop_points"].values()) <= 1.0


def test_its_int8_is_that_of_real_data(exported):
    _, folder = exported
    report = json.loads((folder / "report.json").read_text())
    found = {tier["name"]: tier["ranges_from"] for tier in report["tiers"]}
    assert set(found) == {"lite", "full"}
    assert all(source.startswith("real data") for source in found.values()), found


def test_a_real_tensorrt_builds_the_graphs(exported):
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        pytest.skip("tensorrt-rtx is not installed")
    said, _ = exported
    assert {name: tier["tensorrt"] for name, tier in said["tiers"].items()} == {
        "lite": "ok",
        "full": "ok",
    }


def test_the_bundle_verifies_and_sees_a_changed_graph(exported):
    _, folder = exported
    assert CliRunner().invoke(app, ["verify", str(folder)]).exit_code == 0
    path = folder / "graphs" / "lite.cpu.onnx"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    assert CliRunner().invoke(app, ["verify", str(folder)]).exit_code == 5
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("source", "least", "tiers"),
    [
        ("sim://digits?seed=7", 0.95, {"lite"}),
        ("sim://digits?seed=7&noise_db=0&occlude=0.5", 0.6, {"lite", "full"}),
    ],
)
def test_it_judges_the_simulator_right(exported, source, least, tiers):
    _, folder = exported
    words = ["run", "--bundle", str(folder), "--camera", source, "--mic", source]
    words += ["--duration", "20", "--as-fast-as-possible", "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])["summary"]
    assert summary["decisions"] > 400
    assert summary["accuracy"] > least, summary
    assert set(summary["tiers"]) >= tiers


def test_the_bundle_answers_with_one_modality_or_none_to_see(exported):
    _, folder = exported
    grey = Frame(np.full((240, 320, 3), 128, np.uint8), 0.0)
    silence = Sound(np.zeros(8000, np.float32), 8000, 0.0)
    with mla_edge.load(folder) as model:
        for signals in ({"image": grey}, {"audio": silence}, {"image": grey, "audio": silence}):
            assert model.infer(Sample(signals)).label == "none"


def test_it_is_certified_on_what_no_step_of_it_has_seen(exported, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(exported[1], folder)
    words = ["certify", str(folder), "--data", str(make_data_folder(tmp_path)), "--json"]
    told = CliRunner().invoke(app, [*words, "--epsilon", "0.3", "--epsilon", "0.01"])
    found = json.loads(told.stdout)
    # Exported without --data: what tunes was not seen, but for what chose the shipped ranges.
    units = {mode: each["units"] for mode, each in found["modes"].items()}
    assert units == {"image": 60, "audio": 113, "image+audio": 60}
    assert "new ones could" in found["modes"]["audio"]["rungs"][0]["why"]
    assert found["attempt"] == 1
    assert CliRunner().invoke(app, words).exit_code == 2  # once
