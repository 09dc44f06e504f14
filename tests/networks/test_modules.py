import numpy as np
import pytest
import torch
from torch import nn

from mla_edge.networks.attention import (
    MultiLevelAttention,
    TopKAttention,
    TransformerBlock,
    WindowAttention,
)
from mla_edge.networks.encoders import LogMel
from mla_edge.networks.fusion import BridgeConfig, CrossModalBridge, DynamicGate
from mla_edge.networks.lora import LoRALinear, add_lora, merge_lora
from mla_edge.networks.tokens import DynamicWeights, TokenPooling, TokenReweighting


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def tokens(count=16, channels=8, batch=2):
    return torch.randn(batch, count, channels)


def test_window_attention_sees_its_own_window_only():
    attention = WindowAttention(8, 2, grid=(4, 4), window=(2, 2)).eval()
    x = tokens()
    changed = x.clone()
    changed[:, 15] += 1  # the last token, in the last window
    same = torch.isclose(attention(x), attention(changed)).all(2)[0].reshape(4, 4)
    assert same[:2].all()
    assert same[2:, :2].all()
    assert not same[2:, 2:].any()


def test_window_attention_equals_full_attention_in_one_window():
    attention = WindowAttention(8, 2, grid=(4, 4), window=(4, 4)).eval()
    x = tokens()
    direct = attention.merge(
        attention.attend(
            attention.split(attention.query(x)),
            attention.split(attention.key(x)),
            attention.split(attention.value(x)),
            None,
        )
    )
    assert torch.allclose(attention(x), direct, atol=1e-6)


def test_a_grid_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide into windows"):
        WindowAttention(8, 2, grid=(4, 5), window=(2, 2))


def test_top_k_attention_reads_only_the_most_important_tokens():
    attention = TopKAttention(8, 2, keep=4).eval()
    x = tokens(batch=1)
    kept = attention.importance(x).topk(4).indices[0].tolist()
    dropped = next(i for i in range(16) if i not in kept)
    values = []
    attention.value.register_forward_hook(lambda m, i, o: values.append(i[0]))
    attention(x)
    assert values[0].shape == (1, 4, 8)
    assert not any(torch.equal(values[0][0, j], x[0, dropped]) for j in range(4))


def test_top_k_passes_gradient_to_the_choice():
    attention = TopKAttention(8, 2, keep=4)
    attention(tokens()).sum().backward()
    assert attention.importance.inner.weight.grad.abs().sum() > 0


def test_mix_of_one_is_local_attention_alone():
    attention = MultiLevelAttention(8, 2, (4, 4), (2, 2), keep=4).eval()
    x = tokens()
    with torch.no_grad():
        attention.mix.fill_(50.0)
        assert torch.allclose(attention(x), attention.local(x), atol=1e-6)
        attention.mix.fill_(-50.0)
        assert torch.allclose(attention(x), attention.overall(x), atol=1e-6)


def test_pruned_heads_leave_what_the_kept_heads_say():
    attention = TopKAttention(8, 4, keep=4).eval()
    x = tokens()
    with torch.no_grad():  # heads 1 and 3 say nothing, so they can go without a trace
        for head in (1, 3):
            attention.project.weight[:, head * 2 : head * 2 + 2] = 0
        before = attention(x)
        assert attention.head_importance()[[1, 3]].tolist() == [0, 0]
        attention.prune_heads([0, 2])
        assert attention.heads == 2
        assert attention.query.weight.shape == (4, 8)
        assert torch.allclose(attention(x), before, atol=1e-6)


def test_dynamic_weights_are_the_formula():
    weights = DynamicWeights(8, hidden=4)
    x = tokens()
    weight, bias = (p.detach().numpy() for p in weights.inner.parameters())
    inner = np.tanh(x.numpy() @ weight.T + bias)
    scores = inner @ weights.outer.weight.detach().numpy()[0] + weights.outer.bias.item()
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert np.allclose(weights(x).detach().numpy(), expected, atol=1e-6)


def test_reweighting_keeps_the_scale_and_pooling_is_a_mean():
    ones = torch.ones(2, 16, 8)
    assert torch.allclose(TokenReweighting(8)(ones), ones, atol=1e-6)
    assert torch.allclose(TokenPooling(8)(ones), ones[:, 0], atol=1e-6)


def bridge_of(*sizes):
    config = BridgeConfig(shared=16, heads=2, hidden=32, depth=1)
    return CrossModalBridge(config, 8, sizes).eval()


def test_an_absent_modality_changes_nothing():
    bridge, gate = bridge_of(5, 7, 3), DynamicGate(16).eval()
    present = torch.tensor([[1.0, 0.0, 1.0]]).expand(2, -1)
    parts = [tokens(5), tokens(7), tokens(3)]

    def fused(middle):
        said = bridge([parts[0], middle, parts[2]], present)
        return gate(torch.stack([part.mean(1) for part in said], 1), present)

    out, weights = fused(parts[1])
    other, _ = fused(torch.full_like(parts[1], 9.0))
    assert torch.allclose(out, other, atol=1e-6)
    assert weights[:, 1].abs().max() == 0
    assert torch.allclose(weights.sum(1), torch.ones(2))


def test_a_lone_modality_hears_nobody():
    bridge = bridge_of(5, 7)
    present = torch.tensor([[1.0, 0.0]]).expand(2, -1)
    one, other = tokens(5), tokens(7)
    alone = bridge([one, other], present)[0]
    layer, shared = bridge.layers[0], bridge.project(one)
    assert torch.allclose(alone, shared + layer.feed(layer.norm_feed(shared)), atol=1e-5)


def test_a_present_modality_is_heard():
    bridge = bridge_of(5, 7)
    present = torch.ones(2, 2)
    one = tokens(5)
    first = bridge([one, tokens(7)], present)[0]
    second = bridge([one, tokens(7)], present)[0]
    assert not torch.allclose(first, second, atol=1e-3)


def test_lora_starts_equal_trains_little_and_merges():
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    x = torch.randn(3, 64)
    before = network(x)
    whole = sum(p.numel() for p in network.parameters())
    trainable = add_lora(network, rank=2, where=lambda name: name == "0")
    assert trainable == 2 * (64 + 64)
    assert trainable < whole
    assert torch.allclose(network(x), before)
    adapted = network[0]
    assert isinstance(adapted, LoRALinear)
    with torch.no_grad():
        adapted.up.normal_()
    changed = network(x)
    assert not torch.allclose(changed, before)
    merge_lora(network)
    assert type(network[0]) is nn.Linear
    assert torch.allclose(network(x), changed, atol=1e-5)


def test_log_mel_equals_a_plain_fourier_transform():
    front = LogMel(8000, frame=256, hop=80, bands=48, frames=96)
    sound = torch.randn(1, 8000) * 0.1
    recent = sound[0, -front.samples :].double().numpy()
    window = np.hanning(257)[:-1]
    frames = np.stack([recent[i * 80 : i * 80 + 256] * window for i in range(96)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = np.log(front.mel.double().numpy() @ power.T + 1e-5) / 3 + 0.5
    assert np.allclose(front(sound)[0, 0].numpy(), expected, atol=1e-3)
    assert (front.mel.sum(1) > 0).all()


def test_log_mel_is_the_same_for_a_moving_window():
    front = LogMel(8000, frame=256, hop=80, bands=48, frames=48)
    sound = torch.randn(1, 8000 + 80) * 0.1
    early, late = front(sound[:, :-80]), front(sound[:, 80:])
    assert torch.allclose(early[..., 1:], late[..., :-1], atol=1e-4)


def test_a_block_is_residual():
    block = TransformerBlock(nn.Identity(), 8, 16).eval()
    with torch.no_grad():
        block.feed.contract.weight.zero_()
        block.feed.contract.bias.zero_()
    x = tokens()
    assert torch.allclose(block(x), x + block.norm_attention(x))
