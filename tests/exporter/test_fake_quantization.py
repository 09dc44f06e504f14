import copy

import numpy as np
import pytest
import torch
from torch import nn

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter.distillation import logits_of
from mla_edge.exporter.fake_quantization import (
    Rounding,
    Simulation,
    fold_batch_norms,
    match_calls,
    read_roundings,
)
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model, to_onnx
from mla_edge.exporter.quantization import STYLES, calibrate, quantize
from mla_edge.exporter.tracing import scopes_of
from mla_edge.networks import Network, TierNetwork
from mla_edge.networks.encoders import convolution
from mla_edge.signals import InputSpec, Tier


def simulate(module, graph, quantized, sample, names):
    """The module as its INT8 graph computes, and the layers of that which were not found."""
    folded = fold_batch_norms(module, [torch.from_numpy(sample[name]) for name in names])
    plain = load_model(graph)
    roundings = read_roundings(plain, load_model(quantized))
    scopes = scopes_of(folded, names, sample, "tier")
    calls, unseen = match_calls(plain, folded, scopes, roundings)
    return Simulation(folded, calls), roundings, unseen


def answers(graph, samples, names):
    engine = OnnxRuntimeEngine(graph, optimise=False)
    rows = [engine.run({name: s[name] for name in names})["logits"] for s in samples]
    return np.concatenate(rows)


@pytest.mark.parametrize("style", STYLES)
def test_it_computes_what_the_quantized_graph_does(network, graph, quantized, tensors, style):
    part = network.tiers[0]
    names = part.tier.inputs
    student, roundings, unseen = simulate(
        part.module, graph, quantized[style], tensors[0], names
    )
    found = logits_of(student, tensors, names, 1).numpy()
    wanted = answers(quantized[style], tensors, names)
    plain = answers(graph, tensors, names)
    assert unseen == []
    assert len(roundings) == len(find_layers(load_model(graph))) - (style == "cpu")
    # In the CPU form torch and ONNX Runtime round halves to other sides of a zero point.
    limit = 1e-5 if style == "tensorrt" else 0.3 * np.abs(wanted - plain).mean()
    assert np.abs(found - wanted).mean() < limit
    assert np.abs(wanted - plain).mean() > 1e-3
    whole = student.remove()
    np.testing.assert_allclose(logits_of(whole, tensors, names, 1), plain, atol=1e-5)


class Odd(nn.Module):
    """Layers that are called twice, multiply by a parameter, or have a norm others read."""

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 8, stride=(4, 4))
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.table = nn.Parameter(torch.randn(8, 16) * 0.3)
        self.head = nn.Linear(16, 4)

    def forward(self, image):
        seen = self.stem((image - 127.5) / 64)
        seen = self.norm(self.again(self.again(seen).relu())).relu().mean((2, 3))
        return self.head((seen @ self.table).relu())


@pytest.fixture
def odd(tensors, tmp_path):
    """The network, its float and its INT8 graph, and pictures."""
    torch.manual_seed(0)
    module = Odd()
    pictures = [{"image": sample["image"]} for sample in tensors]
    module.train()
    with torch.no_grad():
        module(torch.from_numpy(np.concatenate([sample["image"] for sample in pictures])))
    tier = TierNetwork(Tier("only", ("image",), ("logits",)), module.eval())
    inputs = (InputSpec("image", "image", (1, 3, 32, 32)),)
    network = Network("odd", ("a", "b", "c", "d"), inputs, (tier,), lambda *_: [])
    graph = to_onnx(network, tier, tmp_path / "odd.onnx", opset=17).path
    ranges = calibrate(graph, pictures)
    int8 = quantize(graph, tmp_path / "int8.onnx", ranges, style="tensorrt").path
    return module, graph, int8, pictures


def test_a_layer_called_twice_has_the_scales_of_each_call(odd):
    module, graph, int8, pictures = odd
    student, roundings, unseen = simulate(module, graph, int8, pictures[0], ["image"])
    assert unseen == ["/MatMul"]
    calls = [around for name, around in roundings.items() if name.startswith("/again")]
    assert len({around.source.scale for around in calls}) == 2
    student.remove()
    kept = graph.with_name("kept.onnx")
    quantize(graph, kept, calibrate(graph, pictures), style="tensorrt", keep_float=["/MatMul"])
    student, _, unseen = simulate(module, graph, kept, pictures[0], ["image"])
    assert unseen == []
    wanted = answers(kept, pictures, ["image"])
    assert np.abs(answers(graph, pictures, ["image"]) - wanted).mean() > 5e-5
    np.testing.assert_allclose(logits_of(student, pictures, ["image"]), wanted, atol=1e-5)


def test_norms_are_folded_where_that_changes_nothing(odd):
    module, _, _, pictures = odd
    image = torch.from_numpy(pictures[0]["image"])
    folded = fold_batch_norms(module, [image])
    assert isinstance(folded.stem[1], nn.Identity)
    assert isinstance(folded.norm, nn.BatchNorm2d)  # its convolution is called twice
    assert isinstance(module.stem[1], nn.BatchNorm2d)
    torch.testing.assert_close(folded(image), module(image), atol=1e-5, rtol=1e-4)


class Reads(nn.Module):
    """A norm whose input is used a second time."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.norm.weight.data[:] = 3.0

    def forward(self, image):
        seen = self.conv(image)
        return (self.norm(seen) + seen).mean((2, 3))


def test_a_norm_whose_input_is_used_again_stays():
    torch.manual_seed(0)
    module, image = Reads().eval(), torch.randn(1, 3, 8, 8)
    folded = fold_batch_norms(module, [image])
    assert isinstance(folded.norm, nn.BatchNorm2d)
    assert torch.equal(folded(image), module(image))


def test_weights_learn_through_the_rounding_and_scales_do_not(odd):
    module, graph, int8, pictures = odd
    student, _, _ = simulate(module, graph, int8, pictures[0], ["image"])
    before = copy.deepcopy(student.state_dict())
    images = torch.from_numpy(np.concatenate([sample["image"] for sample in pictures[:8]]))
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    student(images).square().sum().backward()
    names = [name for name, p in student.named_parameters() if p.grad is not None]
    assert len(names) == len(list(student.parameters()))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter -= 0.01 * parameter.grad
            parameter.requires_grad_(False)
    learned = student.remove()
    weight = "again.weight"
    assert not torch.equal(learned.state_dict()[weight], module.state_dict()[weight])
    assert sorted(before) != sorted(learned.state_dict())  # nothing of the simulation is left
    assert set(learned.state_dict()) <= {*module.state_dict(), "stem.0.bias"}


def test_what_is_cut_off_has_no_gradient():
    values = torch.tensor([-300.0, -0.4, 0.6, 200.0], requires_grad=True)
    rounded = Rounding(1.0, 0, -128, 127)(values)
    rounded.sum().backward()
    assert rounded.tolist() == [-128.0, 0.0, 1.0, 127.0]
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
