import numpy as np
import onnxruntime
import pytest
import torch

from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.networks import Network, TierNetwork
from mla_edge.networks.digits import LABELS, make_full, make_lite, make_student
from mla_edge.networks.encoders import EncoderConfig, HybridEncoder, VectorFront
from mla_edge.networks.fusion import BridgeConfig
from mla_edge.networks.multimodal import MultimodalNetwork
from mla_edge.signals import InputSpec, Reading, Sample, Tier


def vector_encoder():
    config = EncoderConfig(
        channels=(8, 16),
        inner=(0, 16),
        strides=((1, 2), (1, 2)),
        grid=(1, 8),
        window=(1, 4),
        keep=2,
        depth=2,
        heads=2,
        hidden=32,
    )
    return HybridEncoder(VectorFront(), config)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_one_to_six_modalities_build_and_export(count, tmp_path):
    torch.manual_seed(count)
    names = [f"sensor{i}" for i in range(count)]

    def readings(split, n, seed):
        noise = np.random.default_rng(seed).standard_normal((n, 32)).astype(np.float32)
        return [Sample({name: Reading(row[None], 0.0) for name in names}) for row in noise]

    module = MultimodalNetwork(
        {name: vector_encoder() for name in names}, 4, BridgeConfig(16, 2, 32, 1)
    ).eval()
    inputs = (*names, *(["present"] if count > 1 else []))
    network = Network(
        name="sensors",
        labels=tuple("abcd"),
        inputs=tuple(InputSpec(name, "tensor", (1, 32)) for name in names),
        tiers=(TierNetwork(Tier("full", inputs, ("logits",)), module),),
        samples=readings,
    )
    graph = to_onnx(network, network.tiers[0], tmp_path / "full.onnx", opset=17)
    session = onnxruntime.InferenceSession(str(graph.path))
    rng = np.random.default_rng(0)
    feed = {name: rng.standard_normal((1, 32)).astype(np.float32) for name in names}
    if count > 1:
        feed["present"] = np.array([[1] * (count - 1) + [0]], np.float32)
    with torch.no_grad():
        expected = module(*(torch.from_numpy(feed[name]) for name in inputs)).numpy()
    assert np.allclose(session.run(None, feed)[0], expected, atol=1e-4)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    image = torch.from_numpy(rng.uniform(0, 255, (2, 3, 128, 128)).astype(np.float32))
    audio = torch.from_numpy(rng.normal(0, 0.1, (2, 8000)).astype(np.float32))
    return image, audio


def test_the_full_tier_has_the_size_that_is_promised():
    full = sum(p.numel() for p in make_full().parameters())
    assert 3e6 <= full <= 6e6
    assert sum(p.numel() for p in make_lite().parameters()) < 0.1 * full
    assert sum(p.numel() for p in make_student().parameters()) < 0.4 * full


@pytest.mark.parametrize("make", [make_full, make_lite, make_student])
def test_what_is_absent_does_not_matter(make, inputs):
    network = make().eval()
    image, audio = inputs
    with torch.no_grad():
        for present, changed in (
            ((1.0, 0.0), (image, audio * 5)),
            ((0.0, 1.0), (255 - image, audio)),
        ):
            mask = torch.tensor([present]).expand(2, -1)
            expected = network(image, audio, mask)
            assert expected.shape == (2, len(LABELS))
            assert torch.allclose(network(*changed, mask), expected, atol=1e-5)


@pytest.mark.parametrize("make", [make_full, make_lite, make_student])
def test_a_modality_alone_needs_no_work_for_the_others(make, inputs):
    network = make().eval()
    for i, name in enumerate(network.names):
        mask = torch.eye(2)[i].expand(2, -1)
        with torch.no_grad():
            tokens = network.encoders[name](inputs[i])
            assert torch.allclose(
                network.alone(name, tokens), network(*inputs, mask), atol=1e-5
            )


def test_both_modalities_matter_when_both_are_there(inputs):
    network = make_full().eval()
    image, audio = inputs
    both = torch.ones(2, 2)
    with torch.no_grad():
        expected = network(image, audio, both)
        assert not torch.allclose(network(255 - image, audio, both), expected, atol=1e-3)
        assert not torch.allclose(network(image, audio.flip(1), both), expected, atol=1e-3)


def test_encoders_of_different_width_are_refused():
    other = HybridEncoder(
        VectorFront(),
        EncoderConfig((8,), (0,), ((1, 2),), (1, 16), (1, 4), 2, 0, 1, 0),
    )
    with pytest.raises(ValueError, match="differ in width"):
        MultimodalNetwork({"a": vector_encoder(), "b": other}, 4, None)
