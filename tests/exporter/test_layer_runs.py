"""Each layer by itself, rounded, on what the float network feeds it."""

import numpy as np
import pytest

from mla_edge.exporter.calibrators import CALIBRATORS, Range
from mla_edge.exporter.layer_runs import RoundedLayers, measure_layers
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import STYLES, run_with

HEAD = "/head/Gemm"


@pytest.fixture
def model(graph):
    return load_model(graph)


@pytest.fixture
def head(model):
    return next(layer for layer in find_layers(model) if layer.node.name == HEAD)


def test_only_weights_are_rounded(model, tensors):
    layers = find_layers(model)
    rounded = RoundedLayers(model, layers)
    names = [layer.node.output[0] for layer in layers]
    inputs = {value.name for value in model.graph.input}
    wanted = sorted({*names, *rounded.sources} - inputs)
    values = next(run_with(model, wanted, tensors))
    found = rounded.run({name: values[name] for name in rounded.sources})
    rounded.close()
    assert set(found) == set(names)
    for name in names:
        size = np.abs(values[name]).max()
        assert 0 < np.abs(found[name] - values[name]).max() < 0.05 * size, name


def test_a_range_that_clips_moves_the_mean_and_adds_noise(model, head, tensors):
    values = [v[head.source] for v in run_with(model, [head.source], tensors[:8])]
    largest = float(np.abs(values).max())
    good, bad = (Range(-end, end, end) for end in (largest, largest / 20))
    candidates = {head.source: {**dict.fromkeys(CALIBRATORS, good), "max": bad}}
    found = measure_layers(model, [head], candidates, tensors[:8])
    for style in STYLES:
        noise = {name: found.noise[style, name, head.source] for name in CALIBRATORS}
        assert noise["max"] > 0.3
        assert noise["mse"] < 0.01
        shift = found.shift[style, "max", HEAD]
        assert shift.shape == (4,)
        assert np.abs(shift).max() > 10 * np.abs(found.shift[style, "mse", HEAD]).max()


def test_a_tensor_that_no_layer_reads_is_judged_by_itself(model, head, tensors):
    values = [v[head.out] for v in run_with(model, [head.out], tensors[:4])]
    largest = float(np.abs(values).max())
    good, bad = (Range(-end, end, end) for end in (largest, largest / 4))
    inside = dict.fromkeys(CALIBRATORS, Range(-9.0, 9.0, 9.0))
    candidates = {
        head.source: inside,
        head.out: {**dict.fromkeys(CALIBRATORS, good), "max": bad},
    }
    found = measure_layers(model, [head], candidates, tensors[:4])
    for style in STYLES:
        assert found.noise[style, "max", head.out] > 10 * found.noise[style, "mse", head.out]
