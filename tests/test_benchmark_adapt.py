"""benchmarks/adapt.py on a small folder of the same form."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from data_folder import make_data_folder

from mla_edge.exporter import adapting
from mla_edge.networks.plan import Plan, Stage

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def adapt(folder, tmp_path, monkeypatch):
    """Calls benchmarks/adapt.py as it is typed, with a base that is hardly trained."""
    spec = importlib.util.spec_from_file_location("adapt", ROOT / "benchmarks" / "adapt.py")
    program = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "adapt", program)
    spec.loader.exec_module(program)
    stages = tuple(Stage(stage.name, 3, 1e-4) for stage in program.BASE.stages)
    monkeypatch.setattr(program, "BASE", Plan(stages, batch=2))
    monkeypatch.setattr(adapting, "REMEMBERED", 8)
    monkeypatch.setattr(adapting, "MEASURED", 8)

    def call(*words):
        fixed = ["--data", str(folder), "--base", str(tmp_path / "base.safetensors")]
        monkeypatch.setattr(sys, "argv", ["adapt.py", *fixed, *words])
        return program.main()

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)


def test_it_measures_what_was_not_shown_and_the_others(adapt, capsys):
    words = ("--speaker", "ann", "--examples", "80", "--steps", "2")
    assert adapt(*words, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["measured"] == {"speaker": 20, "others": 50}
    assert shown["adapted"]["examples"] == {"learned": 60, "held_out": 20}
    assert shown["base"]["without"] == "ann"
    for tiers in shown["percent_right"].values():
        assert set(tiers) == {"lite", "full"}
        assert all(0 <= right["before"] <= 100 for right in tiers.values())

    assert adapt("--speaker", "bob") == 2  # the base is of another speaker
    assert "not trained without bob" in capsys.readouterr().err
    assert adapt("--speaker", "cy") == 2
    assert "--speaker is one of ann, bob" in capsys.readouterr().err
    assert adapt(*words[:2], "--examples", "55") == 2
    assert "--examples 55: every digit wants two or more" in capsys.readouterr().err
