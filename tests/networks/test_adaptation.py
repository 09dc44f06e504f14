"""Learning a few examples: little is trainable, what no example shows stays as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mla_edge.errors import ConfigError
from mla_edge.labelled_folder import Row
from mla_edge.networks import Network, TierNetwork
from mla_edge.networks.adaptation import (
    MOST_TRAINABLE,
    AdaptationPlan,
    adapt_tier,
    answers_of,
    check_batches,
    tensors_of,
)
from mla_edge.networks.digits import digits
from mla_edge.networks.example_wear import worn
from mla_edge.networks.lora import (
    ADAPTED,
    LINEAR_AND_CONVOLUTIONS,
    LoRAConv2d,
    add_lora,
    lora_size,
    merge_lora,
)
from mla_edge.signals import Frame, InputSpec, Sample, Sound, Tier

PLAN = AdaptationPlan(steps=4, examples=6, remembered=4)


@pytest.fixture(scope="module")
def network():
    return digits()


@pytest.fixture(scope="module")
def remembered(network):
    return tensors_of(network.samples("train", 12, 0), network.inputs)


def tones(*labels):
    """One sound of each of ``labels``."""
    return [
        Row(i + 2, f"{i}", label, "", Sample({"audio": Sound(tone(i), 8000, 0.0, label)}))
        for i, label in enumerate(labels)
    ]


def tone(i):
    return (0.3 * np.sin(np.arange(3000) * (0.1 + 0.2 * i))).astype(np.float32)


def adapt(network, place, rows, remembered, plan=PLAN):
    return adapt_tier(network, network.tiers[place], rows, remembered, plan, lambda *_: None)


@pytest.mark.parametrize("place", [0, 1])
def test_only_what_the_examples_go_through_is_changed(network, remembered, one_thread, place):
    before = copy.deepcopy(network.tiers[place].module.state_dict())
    tier, adapters = adapt(network, place, tones("3", "7"), remembered)
    assert all(
        torch.equal(value, before[name])
        for name, value in network.tiers[place].module.state_dict().items()
    )
    after = tier.module.state_dict()
    assert list(after) == list(before)  # merged: plain layers again
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert {name.split(".")[1] for name in changed if name.startswith("encoders")} == {"audio"}
    assert {"head.weight", "gate.inner.weight"} <= changed
    assert not any("norm" in name or "bias" in name for name in changed)
    assert not any(isinstance(module, ADAPTED) for module in tier.module.modules())
    assert 0 < adapters.share <= MOST_TRAINABLE
    assert adapters.parameters == sum(p.numel() for p in tier.module.parameters())
    assert not tier.module.training


def test_learning_is_seeded_and_takes_the_examples_in(network, remembered, one_thread):
    rows = tones("3", "7")
    plan = AdaptationPlan(steps=40, examples=8, remembered=4, rate=2e-2)
    (one, _), (other, _) = (adapt(network, 0, rows, remembered, plan) for _ in range(2))
    states = one.module.state_dict(), other.module.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    learned = Network("x", network.labels, network.inputs, (one,), network.samples)
    samples = [row.sample for row in rows]
    truths = torch.tensor([3, 7])

    def loss(logits):
        return float(nn.functional.cross_entropy(torch.from_numpy(logits), truths))

    before, after = (loss(answers_of(n, samples)["lite"]) for n in (network, learned))
    assert after < before - 0.5


def test_a_rank_that_makes_too_much_trainable_is_refused(network, remembered):
    rank_9 = AdaptationPlan(steps=1, rank=9)
    with pytest.raises(ConfigError, match=r"tier 'lite': .* rank 9 .*5107 of its 255378"):
        adapt(network, 0, tones("3", "7"), remembered, rank_9)
    _, adapters = adapt(
        network, 1, tones("3"), remembered, AdaptationPlan(steps=1, rank=1, examples=2)
    )
    assert adapters.rank == 1


def test_a_network_that_takes_one_sample_at_a_time_is_told():
    class Alone(nn.Module):
        def forward(self, image):
            return image.reshape(1, -1)[:, :2] * 1.0

    inputs = (InputSpec("image", "image", (1, 3, 8, 8)),)
    tier = TierNetwork(Tier("only", ("image",), ("logits",)), Alone().eval())
    network = Network("alone", ("a", "b"), inputs, (tier,), lambda *_: [])
    sample = Sample({"image": Frame(np.zeros((8, 8, 3), np.uint8), 0.0, "a")})
    with pytest.raises(ConfigError, match=r"tier 'only' does not take two samples .*\[1, 2\]"):
        check_batches(network, sample)


def test_a_later_tier_learns_on_what_the_earlier_one_gives(one_thread):
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(192, 256)
            self.head = nn.Linear(256, 2)

        def forward(self, image):
            feature = self.body(image.flatten(1) / 255)
            return self.head(feature), feature

    torch.manual_seed(0)
    inputs = (InputSpec("image", "image", (1, 3, 8, 8)),)
    later = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2)).eval()
    tiers = (
        TierNetwork(Tier("lite", ("image",), ("logits", "feature")), First().eval()),
        TierNetwork(Tier("full", ("feature",), ("logits",)), later),
    )
    network = Network("early", ("a", "b"), inputs, tiers, lambda *_: [])
    rows = [
        Row(i, f"{i}", "ab"[i], "", Sample({"image": Frame(picture(i), 0.0, "ab"[i])}))
        for i in range(2)
    ]
    old = tensors_of([row.sample for row in rows], inputs)
    check_batches(network, rows[0].sample)
    plan = AdaptationPlan(steps=30, rate=2e-2, examples=4, remembered=1, rank=1)
    tier, _ = adapt(network, 1, rows, old, plan)
    changed = Network("early", network.labels, inputs, (tiers[0], tier), network.samples)
    samples = [row.sample for row in rows]
    before, after = (answers_of(n, samples)["full"] for n in (network, changed))
    assert (after[1, 1] - after[1, 0]) > (before[1, 1] - before[1, 0])


def picture(i):
    return np.full((8, 8, 3), 40 + 150 * i, np.uint8)


def test_a_convolution_starts_equal_and_merges():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(8, 16, 3, stride=(2, 1), padding=1, dilation=1),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 4, 1, bias=False),
    ).eval()
    x = torch.randn(2, 8, 9, 9)
    before = network(x)
    size = lora_size(network, rank=6, kinds=LINEAR_AND_CONVOLUTIONS)
    assert add_lora(network, rank=6, kinds=LINEAR_AND_CONVOLUTIONS) == size
    assert size == 6 * (72 + 16) + 4 * (16 + 4)  # the last has no more than four
    assert torch.allclose(network(x), before, atol=1e-6)
    assert type(network[1]) is nn.Conv2d  # in groups: left as it is
    for part in (network[0], network[2]):
        assert isinstance(part, LoRAConv2d)
        nn.init.normal_(part.up)
    changed = network(x)
    assert not torch.allclose(changed, before, atol=1e-2)
    assert type(merge_lora(network)[0]) is nn.Conv2d
    assert torch.allclose(network(x), changed, atol=1e-5)


@pytest.mark.parametrize("length", [100, 7990, 8000])
def test_worn_examples_have_the_form_of_the_input_and_differ(network, length):
    rng = np.random.default_rng(0)
    word = np.full(length, 0.3, np.float32)
    shown = np.full((128, 128, 3), 90, np.uint8)
    sample = Sample({"image": Frame(shown, 0.0, "3"), "audio": Sound(word, 8000, 0.0, "3")})
    made = [worn(sample, network.inputs, rng) for _ in range(30)]
    assert {tuple(one.signals) for one in made} == {("image",), ("audio",), ("image", "audio")}
    sounds = [one.signals["audio"].samples for one in made if "audio" in one.signals]
    assert {sound.shape for sound in sounds} == {(8000,)}
    assert len({sound.tobytes() for sound in sounds}) == len(sounds)
    assert all(np.isfinite(sound).all() and np.abs(sound).max() <= 1 for sound in sounds)
    pictures = [one.signals["image"].image for one in made if "image" in one.signals]
    assert {(p.shape, p.dtype) for p in pictures} == {((128, 128, 3), np.dtype(np.uint8))}
    assert all(one.truth == "3" for one in made)
