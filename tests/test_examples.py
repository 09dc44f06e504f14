"""The example of a network of one's own does what its page says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mla_edge
from mla_edge.engines.verification import verify

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "your_network"

pytest.importorskip("torch", reason="exporting needs torch")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, "-m", "mla_edge", "export"]
    command += ["examples/your_network/alarms.py:make_network", "--profile", "agx-orin"]
    command += ["--calibration", "quick", "--out", str(out), "--json"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(out / "steps")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_exports_and_proves_itself(exported):
    assert exported["network"] == "alarms"
    assert exported["worst_drop_points"] <= 1.0
    assert exported["opset"] == 17
    with mla_edge.load(exported["bundle"]) as model:
        assert all(check.ok for check in verify(model.bundle))


def test_the_bundle_knows_the_sounds_it_was_made_for(exported, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import alarms

    samples = alarms.samples("test", 40, 7)
    with mla_edge.load(exported["bundle"]) as model:
        predictions = [model.infer(sample) for sample in samples]
    right = [p.label == s.truth for p, s in zip(predictions, samples)]
    assert sum(right) >= 38
    assert {p.mode for p in predictions} == {"audio"}
    assert {p.tier for p in predictions} == {"only"}


def test_its_training_makes_the_weights_that_ship(monkeypatch):
    """Two steps of it run, from the same module and samples; the whole takes half a minute."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import train

    saved = {}
    monkeypatch.setattr(train, "STEPS", 2)
    monkeypatch.setattr(train, "save_file", lambda state, path: saved.update({path: state}))
    train.main()
    (state,) = saved.values()
    assert set(saved) == {FOLDER / "alarms.safetensors"}
    assert "mel.basis" not in state
    assert state["body.5.weight"].shape[1] == 704
