"""What counts as a change of a network, though none of its weights changed."""

import dataclasses
import sys

import pytest
import torch

from mla_edge.exporter import pipeline
from mla_edge.exporter.fingerprints import code_files, network_code, network_files
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.exporter.steps import StepCache
from mla_edge.networks import TierNetwork, load_network

SOURCE = """
from pathlib import Path

import numpy as np
import torch
from torch import nn
from {helper} import SLOPE

from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import InputSpec, Reading, Sample, Tier


def samples(split, count, seed):
    random = np.random.default_rng([seed, *split.encode()])
    rows = random.normal(0, 1, (count, 1, 8)).astype(np.float32)
    return [Sample({{"x": Reading(r, 0.0, "ab"[i % 2])}}) for i, r in enumerate(rows)]


def make():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(SLOPE), nn.Linear(16, 2))
    tier = TierNetwork(Tier("only", ("x",), ("logits",)), body.eval())
    return Network("leaky", ("a", "b"), (InputSpec("x", "tensor", (1, 8)),), (tier,), samples)
"""


@pytest.fixture
def leaky(tmp_path, request):
    """A network of torch's own modules only: its slope is in a file beside the builder's."""
    helper = f"slope_of_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{helper}.py").write_text("SLOPE = 0.01\n")
    (tmp_path / "leaky.py").write_text(SOURCE.format(helper=helper))
    yield tmp_path / "leaky.py", tmp_path / f"{helper}.py"
    sys.modules.pop(helper, None)


def with_slope(network, slope):
    part = network.tiers[0]
    body = torch.nn.Sequential(part.module[0], torch.nn.LeakyReLU(slope), part.module[2]).eval()
    return dataclasses.replace(network, tiers=(TierNetwork(part.tier, body),))


def test_another_slope_is_another_export(leaky, tmp_path, monkeypatch):
    network = load_network(f"{leaky[0]}:make")
    slope = 0.01
    monkeypatch.setattr(
        pipeline, "load_network", lambda ref, **given: with_slope(network, slope)
    )
    request = ExportRequest(
        "host", f"{leaky[0]}:make", "fp32", tmp_path / "out", calibration="quick", max_drop=100
    )
    cache = StepCache(tmp_path / "steps")
    first = export(request, cache=cache)
    assert export(request, cache=cache).reused
    before = first.bundle.graph("only", cpu=True).read_bytes()
    slope = -5.0
    second = export(request, cache=cache)
    assert not second.reused
    assert second.bundle.graph("only", cpu=True).read_bytes() != before


def test_the_builders_file_and_what_it_imports_count(leaky):
    ref = f"{leaky[0]}:make"
    network = load_network(ref)
    assert network_files(network, ref) == set(leaky)
    hashes = {network_code(network, ref)}
    for path in leaky:
        path.write_text(path.read_text() + "\n")
        hashes.add(network_code(network, ref))
    assert len(hashes) == 3


def test_a_package_that_builds_counts_whole(tmp_path, monkeypatch):
    package = tmp_path / "leaky_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "slope.py").write_text("SLOPE = 0.01\n")
    (package / "build.py").write_text(SOURCE.format(helper=".slope"))
    monkeypatch.syspath_prepend(str(tmp_path))
    network = load_network("leaky_package.build:make")
    found = network_files(network, "leaky_package.build:make")
    assert found == set(package.glob("*.py"))


def test_attributes_and_tensors_that_are_no_weights_count(network):
    mel = network.tiers[0].module.mel
    hashes = [network_code(network, "small")]
    assert network_code(network, "small") == hashes[0]
    hop = mel.hop
    try:
        mel.hop = hop // 2
        hashes.append(network_code(network, "small"))
        mel.hop = hop
        mel.offset = torch.ones(2)
        hashes.append(network_code(network, "small"))
        mel.offset = torch.zeros(2)
        hashes.append(network_code(network, "small"))
    finally:
        mel.hop = hop
        del mel.offset
    assert len(set(hashes)) == 4


def test_our_tables_pages_and_networks_count():
    names = {f"{path.parent.name}/{path.name}" for path in code_files()}
    assert names >= {
        "exporter/tensorrt_operators.json",
        "exporter/report.html.j2",
        "exporter/pipeline.py",
        "mla_edge/golden.py",
        "networks/encoders.py",
        "networks/digits.py",
    }
