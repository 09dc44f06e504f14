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
    assert adapt(*words, "--seeds", "3", "4", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["base"]["without"] == "ann"
    assert [draw["seed"] for draw in shown["draws"]] == [3, 4]
    for draw in shown["draws"]:
        assert draw["measured"] == {"speaker": 20, "others": 50}
        assert draw["adapted"]["examples"] == {"learned": 60, "held_out": 20}
        for when in ("before", "after"):
            assert set(draw[when]) == {"speaker", "others", "worn"}
            for tiers in draw[when].values():
                assert set(tiers) == {"lite", "full", "full-student"}
                assert all(0 <= right <= 100 for right in tiers.values())
        for tier, fact in draw["adapted"]["tiers"].items():
            if fact["refused"]:
                assert draw["after"]["speaker"][tier] == draw["before"]["speaker"][tier]
                assert draw["after"]["worn"][tier] == draw["before"]["worn"][tier]

    said = sys.modules["adapt"].to_table(shown)
    assert "| full's student, which ships, the new speaker | " in said
    assert said.count("parameters (") == 3

    assert adapt("--speaker", "bob") == 2  # the base is of another speaker
    assert "not trained without bob" in capsys.readouterr().err
    assert adapt("--speaker", "cy") == 2
    assert "--speaker is one of ann, bob" in capsys.readouterr().err
    assert adapt(*words[:2], "--examples", "55") == 2
    assert "--examples 55: every digit wants two or more" in capsys.readouterr().err
