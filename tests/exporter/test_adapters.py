"""Low-rank adapters are merged before anything else is made of a tier."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter.calibration import CalibrationSpec, load_calibration
from mla_edge.exporter.job import Job
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.recipe import Recipe
from mla_edge.exporter.steps import StepCache, Steps
from mla_edge.exporter.tiers import make_float_graphs
from mla_edge.networks.lora import LoRALinear, add_lora, merge_lora
from mla_edge.profiles import load_profile


@pytest.fixture
def adapted(network):
    """The network with adapters that have learned something in its first tier."""
    module = copy.deepcopy(network.tiers[0].module)
    add_lora(module)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, LoRALinear):
                part.up.normal_(0, 0.1)
    part = dataclasses.replace(network.tiers[0], module=module.eval())
    return dataclasses.replace(network, tiers=(part, *network.tiers[1:]))


def make_graph(network, folder):
    spec = CalibrationSpec("quick", calibrate=32, tune=32, test=32)
    job = Job(
        profile=load_profile("host"),
        recipe=Recipe("mine", precision="fp32"),
        precision="fp32",
        network=network,
        calibration=load_calibration(spec, network),
        own_samples=False,
        trains=False,
        base=network.fingerprint,
        steps=Steps(lambda event: None),
        cache=StepCache(folder),
    )
    return make_float_graphs(job, network.tiers[0]) / "float.onnx"


def products(graph):
    return sorted(
        node.name for node in load_model(graph).graph.node if node.op_type in ("MatMul", "Gemm")
    )


def test_an_adapted_tier_exports_as_the_merged_one(network, adapted, tensors, tmp_path):
    graph = make_graph(adapted, tmp_path)
    assert products(graph) == products(make_graph(network, tmp_path))
    part = adapted.tiers[0]
    assert any(isinstance(module, LoRALinear) for module in part.module.modules())
    merged = dataclasses.replace(part, module=merge_lora(copy.deepcopy(part.module)))
    plain = make_graph(dataclasses.replace(adapted, tiers=(merged,)), tmp_path)
    assert products(graph) == products(plain)
    sample = tensors[0]
    answers = [OnnxRuntimeEngine(path).run(sample)["logits"] for path in (graph, plain)]
    np.testing.assert_allclose(*answers, atol=1e-5)
    inputs = [torch.from_numpy(sample[name]) for name in part.tier.inputs]
    with torch.no_grad():
        expected = part.module(*inputs)[0].numpy()
    np.testing.assert_allclose(answers[0], expected, atol=1e-4)


def test_a_module_that_is_an_adapted_layer_and_one_used_twice_are_merged():
    layer = LoRALinear(torch.nn.Linear(4, 4), 2, 8.0)
    assert isinstance(merge_lora(layer), torch.nn.Linear)
    twice = merge_lora(torch.nn.Sequential(layer, torch.nn.ReLU(), layer))
    assert not any(isinstance(module, LoRALinear) for module in twice.modules())
