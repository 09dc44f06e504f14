"""2:4 sparsity: which weights go, that training leaves them, and which boards are refused."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from mla_edge.errors import ConfigError
from mla_edge.exporter.distillation import distil
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.exporter.recipe import DistillationRecipe, choose_precision, load_recipe
from mla_edge.exporter.sparsity import held_sparse
from mla_edge.networks import TierNetwork
from mla_edge.profiles import load_profile


def groups_of(weight):
    """[…, 4]: every four weights along the input channels."""
    rows = weight.detach().abs().movedim(1, -1)
    return rows.reshape(*rows.shape[:-1], -1, 4)


def test_the_two_larger_of_four_stay():
    layer = torch.nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -5.0, 0.5, 3.0], [4.0, 3.0, -2.0, 1.0]]))
    with held_sparse(layer):
        pass
    assert layer.weight.tolist() == [[0.0, -5.0, 0.0, 3.0], [4.0, 3.0, 0.0, 0.0]]


def test_marked_modules_and_odd_channels_stay_dense(network):
    module = copy.deepcopy(network.tiers[0].module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with held_sparse(module) as found:
        pass
    assert 0.3 < found.share < 1
    assert found.layers
    after = module.state_dict()
    for name in found.layers:
        assert (groups_of(after[f"{name}.weight"]) == 0).sum(-1).min() >= 2, name
    assert not [name for name in found.layers if name.startswith(("mel", "gate"))]
    changed = [n for n in before if not torch.equal(before[n], after[n])]
    assert sorted(changed) == sorted(f"{name}.weight" for name in found.layers)


def test_learning_leaves_the_zeros():
    torch.manual_seed(0)
    teacher = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
    )
    student = copy.deepcopy(teacher)
    draw = np.random.default_rng(0)
    samples = [{"x": draw.normal(size=(1, 8)).astype(np.float32)} for _ in range(64)]
    recipe = DistillationRecipe(samples=64, steps=40, batch=8, learning_rate=3e-3)
    with held_sparse(student) as found:
        before = {name: value.clone() for name, value in student.state_dict().items()}
        taught = distil(student, teacher, samples, ("x",), recipe)
    assert taught.kept
    assert taught.last_loss < taught.first_loss
    for name in found.layers:
        weight = student.state_dict()[f"{name}.weight"]
        assert torch.equal(weight == 0, before[f"{name}.weight"] == 0)
        assert not torch.equal(weight, before[f"{name}.weight"])


def test_the_graph_has_the_zeros(network, tmp_path):
    part = network.tiers[0]
    module = copy.deepcopy(part.module)
    with held_sparse(module):
        pass
    sparse = TierNetwork(part.tier, module)
    graph = to_onnx(network, sparse, tmp_path / "sparse.onnx", opset=17).path
    layers = find_layers(onnx.load(str(graph)))
    zeros = [
        float(np.mean(numpy_helper.to_array(la.weight) == 0))
        for la in layers
        if la.weight.dims[1 if la.axis == 0 else 0] % 4 == 0
    ]
    assert len(zeros) >= 10
    assert min(zeros) >= 0.5


@pytest.mark.parametrize(
    ("board", "why"),
    [
        ("agx-xavier", r"Jetson AGX Xavier is sm 72; tensor cores .* from sm 80"),
        ("host", "ONNX Runtime, which multiplies the zeros"),
        ("agx-orin", ""),
        ("agx-thor", ""),
        ("rtx", ""),
    ],
)
def test_boards_without_it_are_refused(tmp_path, board, why):
    path = tmp_path / "mine.toml"
    head = 'title = "x"\nprecision = "int8"\ncalibration = "default"\n'
    path.write_text(head + "[tiers.full]\nsparsity = '2:4'\n")
    recipe, profile = load_recipe(str(path)), load_profile(board)
    if not why:
        assert choose_precision(recipe, profile) == "int8"
        return
    with pytest.raises(ConfigError, match=why) as caught:
        choose_precision(recipe, profile)
    assert "[tiers.full] sparsity = '2:4'" in str(caught.value)
    assert "leave sparsity out" in caught.value.hint
    path.write_text(head + "[tiers.full]\nsparsity = '1:2'\n")
    with pytest.raises(ConfigError, match="sparsity is '1:2'"):
        load_recipe(str(path))
