"""Weights rounded together: nearer outputs, on the same grid, in every form of a graph."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mla_edge.exporter.calibrators import weight_scales, whole_weights
from mla_edge.exporter.layer_runs import RoundedLayers
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model, to_onnx
from mla_edge.exporter.quantization import STYLES, quantize, run_with
from mla_edge.exporter.ranges import encode_rounding
from mla_edge.exporter.weight_rounding import round_together
from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import InputSpec, Tier


class Slides(nn.Module):
    """[1, 8, 13, 13] -> logits: convolutions of every kind, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(8, 8, 1)
        self.slow = nn.Conv2d(8, 12, (3, 2), stride=2, padding=(1, 0), dilation=(2, 1))
        self.deep = nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.head = nn.Linear(24, 5)

    def forward(self, image):
        image = torch.relu(self.slow(torch.relu(self.mix(image))))
        return self.head(torch.relu(self.deep(image)).mean((2, 3)))


def rounded(model, samples):
    layers = find_layers(model)
    sources = sorted({layer.source for layer in layers})
    constants = {tensor.name for tensor in model.graph.initializer}
    return layers, round_together(layers, run_with(model, sources, samples), constants)


def outputs(model, layers, samples, whole=None):
    """By layer, what it gives with rounded weights and with its own, on float inputs."""
    runner = RoundedLayers(model, layers, whole=whole)
    names = [layer.node.output[0] for layer in layers]
    found = []
    for values in run_with(model, sorted({*names, *runner.sources} - {"image"}), samples):
        given = runner.run({name: values[name] for name in runner.sources})
        found.append({la.node.name: (given[o], values[o]) for la, o in zip(layers, names)})
    runner.close()
    return found


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    torch.manual_seed(0)
    tier = TierNetwork(Tier("only", ("image",), ("logits",)), Slides().eval())
    inputs = (InputSpec("image", "image", (1, 8, 13, 13)),)
    network = Network("slides", tuple("abcde"), inputs, (tier,), lambda *_: [])
    path = tmp_path_factory.mktemp("slides") / "float.onnx"
    draw = np.random.default_rng(0)
    mixing = draw.normal(size=(8, 8)) * np.arange(1, 9)  # channels that go together
    samples = [
        {"image": np.einsum("oc,chw->ohw", mixing, draw.random((8, 13, 13)))[None]}
        for _ in range(32)
    ]
    samples = [{"image": s["image"].astype(np.float32)} for s in samples]
    return load_model(to_onnx(network, tier, path, opset=17).path), samples


def test_the_mean_that_is_moved_is_known_for_every_kind_of_layer(slides):
    """Only if the moments are of exactly what the layer sums over."""
    model, samples = slides
    layers, found = rounded(model, samples)
    assert [layer.node.op_type for layer in layers] == ["Conv", "Conv", "Conv", "Gemm"]
    whole = {name: one.whole for name, one in found.items()}
    nearest = outputs(model, layers, samples)
    together = outputs(model, layers, samples, whole)
    for layer in layers:
        name = layer.node.name
        moved = np.mean([t[name][0] - n[name][0] for t, n in zip(together, nearest)], 0)
        moved = moved.reshape(moved.shape[1], -1).mean(1)
        np.testing.assert_allclose(found[name].shift, moved, atol=2e-5, rtol=1e-3)
        assert np.abs(moved).max() > 1e-4


def test_outputs_come_nearer_but_for_a_mean(slides):
    model, samples = slides
    layers, found = rounded(model, samples[:24])
    whole = {name: one.whole for name, one in found.items()}
    left = {}
    for kind, steps in (("nearest", None), ("together", whole)):
        for one in outputs(model, layers, samples[24:], steps):  # that were not looked at
            for name, (given, wanted) in one.items():
                error = (given - wanted).reshape(given.shape[1], -1)
                error = error - error.mean(1, keepdims=True) if error.shape[1] > 1 else error
                left.setdefault((name, kind), []).append(float(np.square(error).sum()))
    share = {
        layer.node.name: np.sum(left[layer.node.name, "together"])
        / np.sum(left[layer.node.name, "nearest"])
        for layer in layers[:3]
    }
    assert max(share.values()) < 1
    assert min(share.values()) < 0.8
    for layer in layers:
        weights = numpy_helper.to_array(layer.weight)
        steps = weight_scales(weights, layer.axis)
        far = found[layer.node.name].whole - whole_weights(weights, steps, layer.axis)
        assert 0 < np.abs(far).max() < 8


def test_what_is_zero_stays_zero(slides):
    sparse = onnx.ModelProto.FromString(slides[0].SerializeToString())
    masks = {}
    for tensor in sparse.graph.initializer:
        if len(tensor.dims) == 4:
            values = numpy_helper.to_array(tensor).copy()
            values[:, ::2] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            masks[tensor.name] = values == 0
    layers, found = rounded(sparse, slides[1])
    for layer in layers:
        if layer.node.input[1] in masks:
            assert not found[layer.node.name].whole[masks[layer.node.input[1]]].any()


def test_every_form_of_a_graph_has_these_weights(graph, network, ranges, tensors, tmp_path):
    model = load_model(graph)
    layers, found = rounded(model, tensors)
    assert {layer.node.op_type for layer in layers} == {"Conv", "Gemm", "MatMul"}
    texts = {name: encode_rounding(one.whole) for name, one in found.items()}
    given = dataclasses.replace(ranges, roundings=dict.fromkeys(STYLES, texts))
    half = to_onnx(network, network.tiers[0], tmp_path / "half.onnx", opset=19, half=True).path
    for source, style in ((graph, "tensorrt"), (graph, "cpu"), (half, "tensorrt")):
        path = tmp_path / "made.onnx"
        made = onnx.load(
            str(quantize(source, path, given, style=style, int8_weights=True).path)
        )
        constants = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
        makers = {node.output[0]: node for node in made.graph.node}
        compared = 0
        for node in made.graph.node:
            maker = makers.get(node.input[1]) if node.name in found else None
            if maker is not None and maker.op_type == "DequantizeLinear":
                stored = constants[maker.input[0]]
                np.testing.assert_array_equal(stored, found[node.name].whole)
                compared += 1
        assert compared >= 10
