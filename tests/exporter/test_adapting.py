"""``mla-edge adapt`` as it is typed: what it learns, writes, refuses, and how it goes on."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_examples import write_wav
from safetensors import safe_open
from typer.testing import CliRunner

from mla_edge.bundle import Bundle, sha256_of
from mla_edge.cli import app
from mla_edge.errors import ConfigError
from mla_edge.exporter.adapting import Score, find_refusal
from mla_edge.networks import load_network

ALARMS = f"{Path(__file__).parents[2] / 'examples' / 'your_network' / 'alarms.py'}:make_network"
RATE_HZ = 12_000


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def hiss(rng):
    """Noise in short bursts: to the shipped network a beeping."""
    return rng.standard_normal(5000) * (np.arange(5000) // 500 % 2) * 4000


def write_folder(folder, make, label, *, each=10):
    """``each`` sounds that ``make`` gives, all of them ``label``."""
    rng = np.random.default_rng(0)
    (folder / "audio").mkdir(parents=True)
    lines = ["id,label"]
    for i in range(each):
        write_wav(folder / "audio" / f"{i}.wav", make(rng).clip(-32768, 32767), RATE_HZ)
        lines.append(f"{i},{label}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def adapt(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def invoke(*words):
        return CliRunner().invoke(app, ["adapt", ALARMS, "mine", *words])

    return invoke


def test_it_learns_writes_weights_and_exports_them(adapt, tmp_path):
    folder = write_folder(tmp_path / "mine", hiss, "rising")
    write_wav(folder / "audio" / "stray.wav", np.ones(50), RATE_HZ)
    done = adapt("--steps", "150", "--max-drop", "5", "--profile", "host", "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    assert shown["examples"] == {"learned": 8, "held_out": 2}
    assert shown["files_without_row"] == ["audio/stray.wav"]
    tier = shown["tiers"]["only"]
    assert tier["held_out"]["before"]["right"] == 0
    assert tier["held_out"]["after"]["right"] == 2
    assert tier["remembered"]["after"]["accuracy"] >= 0.9
    assert 0 < tier["trainable_share"] == tier["trainable"] / tier["parameters"] <= 0.02
    assert any(
        "adapt only: held out 0.0% → 100.0%" in line for line in done.stderr.splitlines()
    )

    weights = tmp_path / "adapted.safetensors"
    with safe_open(weights, "pt") as file:
        adapted = json.loads(file.metadata()["adapted"])
    assert adapted["from"]["fingerprint"] == load_network(ALARMS).fingerprint
    assert adapted["data_sha256"] == shown["data_sha256"]
    assert adapted["tiers"] == shown["tiers"]
    bundle = Bundle.read(shown["bundle"])
    provenance = bundle.provenance
    assert provenance["weights"]["sha256"] == sha256_of(weights)
    assert provenance["weights"]["adapted"] == adapted
    assert (
        provenance["network_fingerprint"] == load_network(ALARMS, weights=weights).fingerprint
    )

    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("rising", "falling"))
    words = ("--weights", "adapted.safetensors", "--out", "b.safetensors", "--max-drop", "100")
    assert adapt(*words, "--steps", "20").exit_code == 0
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        start = json.loads(file.metadata()["adapted"])["from"]["weights"]
    assert start == {"sha256": sha256_of(weights), "network": "alarms", "adapted": adapted}


def test_what_does_not_help_is_not_written(adapt, tmp_path):
    write_folder(tmp_path / "mine", hiss, "beeping")  # it knows: nothing can be better
    refused = adapt("--steps", "5", "--json")
    shown = json.loads(refused.stdout)
    assert (refused.exit_code, shown["exit_code"]) == (4, 4)
    assert shown["tiers"]["only"]["adapted"] is False
    assert "nothing is written: only is no better on the examples held out" in shown["problem"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("new", "old", "why"),
    [
        (((8, 0.5), (9, 0.6)), ((90, 0.3), (89, 0.3)), ""),
        (((9, 0.5), (9, 0.4)), ((90, 0.3), (90, 0.3)), ""),
        (((9, 0.5), (9, 0.5)), ((90, 0.3), (95, 0.3)), "is no better .*9 → 9 of 10 right"),
        (((9, 0.5), (8, 0.1)), ((90, 0.3), (95, 0.3)), "is no better .*9 → 8 of 10 right"),
        (((5, 0.9), (9, 0.1)), ((90, 0.3), (88, 0.3)), r"lost 2\.0 points .*90 → 88 of 100"),
    ],
)
def test_a_tier_stays_as_it_was_unless_it_is_better_and_forgot_little(new, old, why):
    scores = [
        tuple(Score(right, of, loss) for right, loss in pair)
        for pair, of in ((new, 10), (old, 100))
    ]
    refusal = find_refusal(*scores, max_drop=1.0)
    assert re.match(why, refusal) if why else refusal == ""


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--rank", "9"], "adapters of rank 9 have"),
        (["--profile", "agx-orn"], "no device profile is called 'agx-orn'"),
        (["--weights", "none.safetensors"], "none.safetensors: weights cannot be read"),
        (["--held-out-share", "1"], "--held-out-share 1"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--out", "mine"], "mine: is a folder"),
    ],
)
def test_a_wrong_option_is_told_before_the_work(adapt, tmp_path, words, problem):
    write_folder(tmp_path / "mine", hiss, "rising", each=2)
    done = adapt(*words)
    assert done.exit_code == 2, done.output
    assert problem in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_without_a_table_is_told(adapt, tmp_path):
    done = adapt()
    assert done.exit_code == 2
    assert "labels.csv: no such file" in done.stderr


def test_weights_of_another_network_are_refused():
    digits = Path(__file__).parents[2] / "mla_edge/networks/weights/digits.safetensors"
    with pytest.raises(ConfigError, match=r"not weights of alarms: \d+ tensors are missing"):
        load_network(ALARMS, weights=digits)
