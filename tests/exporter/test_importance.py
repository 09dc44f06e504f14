import pytest
import torch

from mla_edge.exporter.distillation import divergence, logits_of
from mla_edge.exporter.importance import measure_losses
from mla_edge.exporter.pruning import find_groups, prune
from mla_edge.exporter.tracing import example_inputs


@pytest.fixture(scope="module")
def samples(prunable):
    return example_inputs(prunable, prunable.tiers[0], 20)


@pytest.fixture(scope="module")
def groups(prunable, samples):
    example = [torch.from_numpy(samples[0]["image"])]
    return find_groups(prunable.tiers[0].module, example)


@pytest.mark.parametrize(
    ("layer", "width"),
    [
        ("block.feed.expand", 48),
        ("residual.first.0", 16),
        ("stem.0.0", 32),
        ("block.attention.overall", 1),
    ],
)
def test_the_loss_is_that_of_the_network_pruned_so(prunable, samples, groups, layer, width):
    module = prunable.tiers[0].module
    chosen = [group for group in groups if group.layer == layer]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    losses = measure_losses(module, chosen, {layer: [width]}, samples, ["image"])
    smaller = prune(
        module, [torch.from_numpy(samples[0]["image"])], widths={layer: width}
    ).module
    found, whole = (logits_of(part, samples, ["image"]) for part in (smaller, module))
    assert losses[layer][width] == pytest.approx(float(divergence(found, whole)), rel=1e-3)
    assert losses[layer][width] > 0
    assert all(torch.equal(value, before[n]) for n, value in module.state_dict().items())


def test_a_narrower_width_never_loses_less_and_the_whole_loses_nothing(
    prunable, samples, groups
):
    options = {g.layer: range(g.width, 0, -1 if g.kind == "heads" else -16) for g in groups}
    said = []
    module = prunable.tiers[0].module
    losses = measure_losses(module, groups, options, samples, ["image"], said.append)
    assert len(said) == len(groups) == len(losses)
    for group in groups:
        row = [losses[group.layer][width] for width in options[group.layer]]
        assert row[0] == 0.0
        assert row == sorted(row)
        assert row[-1] > 0


class OneAtATime(torch.nn.Module):
    """Knows how many samples it is given, and it is one."""

    def __init__(self):
        super().__init__()
        self.wide, self.back = torch.nn.Linear(4, 32), torch.nn.Linear(32, 3)

    def forward(self, tokens):
        return self.back(self.wide(tokens.reshape(1, 4)).relu())


def test_a_network_that_takes_one_sample_at_a_time_is_given_one():
    torch.manual_seed(0)
    module = OneAtATime().eval()
    samples = [{"x": torch.randn(1, 4).numpy()} for _ in range(5)]
    groups = find_groups(module, [torch.zeros(1, 4)])
    losses = measure_losses(module, groups, {"wide": [32, 16]}, samples, ["x"])
    assert losses["wide"][16] > losses["wide"][32] == 0.0
