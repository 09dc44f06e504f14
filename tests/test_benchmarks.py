"""The programs that make the documents' figures, on a small folder of the same form."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from data_folder import make_data_folder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture
def digits(folder, monkeypatch):
    """Calls benchmarks/digits.py as it is typed; its exit code."""
    spec = importlib.util.spec_from_file_location("digits", ROOT / "benchmarks" / "digits.py")
    program = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "digits", program)  # dataclasses look there
    spec.loader.exec_module(program)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["digits.py", "--data", str(folder), *words])
        return program.main()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches this small only wait for one another's threads
    yield call
    torch.set_num_threads(threads)


def test_any_folder_of_the_form_is_measured_in_every_row(digits, capsys):
    assert digits("--float-only", "--samples", "10", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    rows = shown["percent_right"]
    noises, pictures = ("clean", "10 dB", "0 dB", "-10 dB"), ("clear", "blurred")
    assert {f"both, {n}, {p}" for n in noises for p in (*pictures, "half-occluded")} < set(rows)
    assert {f"camera, {p}" for p in pictures} | {f"microphone, {n}" for n in noises} < set(rows)
    assert {"none, camera", "none, microphone", "none, both"} < set(rows)
    assert "microphone, new speakers" in rows  # none of the two is known
    assert len(rows) == 23
    assert shown["samples"] == 10
    for row in rows.values():
        assert list(row) == ["float", "student float", "lite float"]
        assert all(0 <= percent <= 100 for percent in row.values())
    assert rows["none, both"]["float"] >= 60  # a trained network, on scenes that are real


def test_one_row_is_that_of_the_whole_table(digits, capsys):
    words = ("--float-only", "--samples", "10")
    assert digits(*words, "--only", "none, camera", "--only", "camera, clear") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| condition | float | student float | lite float |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "none, camera",
        "camera, clear",
    ]


def test_a_row_that_does_not_exist_is_answered_with_all(digits, capsys):
    assert digits("--float-only", "--samples", "10", "--only", "camera") == 2
    said = capsys.readouterr().err
    assert "there is no row 'camera'" in said
    assert "camera, clear; camera, blurred" in said
