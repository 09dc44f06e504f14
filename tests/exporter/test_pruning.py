import pytest
import torch
from torch import nn

from mla_edge.errors import ExportError
from mla_edge.exporter.pruning import ROUND_TO, find_groups, prune
from mla_edge.networks.attention import MultiLevelAttention, TransformerBlock
from mla_edge.networks.encoders import ResidualConvolution, convolution

WIDTH, HEADS, HIDDEN = 64, 4, 128


class Mixed(nn.Module):
    """Picture [1, 3, 16, 16] → logits: stem, residual, transformer block, torch's attention."""

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, WIDTH, stride=(2, 2))
        self.residual = ResidualConvolution(WIDTH, 96)
        attention = MultiLevelAttention(WIDTH, HEADS, (8, 8), (4, 4), 8)
        self.block = TransformerBlock(attention, WIDTH, HIDDEN)
        self.theirs = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.sensitive = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, WIDTH))
        self.sensitive.keep_float32 = True
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image):
        tokens = self.residual(self.stem(image)).flatten(2).transpose(1, 2)
        tokens = self.block(tokens)
        tokens = tokens + self.theirs(tokens, tokens, tokens, need_weights=False)[0]
        return self.head((tokens + self.sensitive(tokens)).mean(1))


@pytest.fixture
def mixed():
    torch.manual_seed(0)
    return Mixed().eval(), [torch.randn(1, 3, 16, 16)]


def test_only_inner_widths_shrink_and_they_end_on_16(mixed):
    module, example = mixed
    pruned = prune(module, example, channels=0.3)
    assert {change.layer: (change.before, change.after) for change in pruned.changes} == {
        "residual.first.0": (96, 80),
        "block.feed.expand": (128, 96),
    }
    assert all(change.after % ROUND_TO == 0 for change in pruned.changes)
    assert pruned.module.residual.first[1].num_features == 80
    assert pruned.module.residual.second.weight.shape == (WIDTH, 80, 3, 3)
    assert pruned.parameters_after < pruned.parameters_before


def test_the_residual_stream_attentions_and_sensitive_parts_keep_their_widths(mixed):
    module, example = mixed
    smaller = prune(module, example, channels=0.9).module
    assert smaller.stem[0].out_channels == WIDTH
    assert smaller.block.attention.local.query.weight.shape == (WIDTH, WIDTH)
    assert smaller.block.attention.overall.project.weight.shape == (WIDTH, WIDTH)
    assert smaller.theirs.in_proj_weight.shape == (3 * WIDTH, WIDTH)
    assert smaller.sensitive[0].out_features == 64
    assert smaller.head.weight.shape == (5, WIDTH)


def test_heads_are_sliced_and_counted(mixed):
    module, example = mixed
    pruned = prune(module, example, heads=0.5)
    assert {change.layer for change in pruned.changes} == {
        "block.attention.local",
        "block.attention.overall",
    }
    for attention in (
        pruned.module.block.attention.local,
        pruned.module.block.attention.overall,
    ):
        assert attention.heads == 2
        assert attention.query.weight.shape == (WIDTH // 2, WIDTH)
        assert attention.project.weight.shape == (WIDTH, WIDTH // 2)


def test_the_strongest_heads_stay(mixed):
    module, example = mixed
    local = module.block.attention.local
    with torch.no_grad():
        local.project.weight[:, : WIDTH // 2] *= 0.01  # heads 0 and 1 say nothing
        kept = local.query.weight[WIDTH // 2 :].clone()
    smaller = prune(module, example, heads=0.5).module
    assert torch.equal(smaller.block.attention.local.query.weight, kept)


def test_the_weakest_channels_go(mixed):
    module, example = mixed
    feed = module.block.feed
    with torch.no_grad():
        for weight in (feed.expand.weight, feed.expand.bias):
            weight[:32] *= 1e-4
        feed.contract.weight[:, :32] *= 1e-4
        expected = module(*example)
        found = prune(module, example, channels=0.25).module(*example)
        other = prune(module, example, channels=0.5).module(*example)
    # The residual's channels matter: the outputs differ, but less than with more gone.
    assert (found - expected).abs().max() < (other - expected).abs().max()
    smaller = prune(module, example, channels=0.25).module.block.feed
    assert torch.equal(smaller.expand.weight, feed.expand.weight[32:])


def test_never_more_than_the_share_is_removed(mixed):
    module, example = mixed
    for share in (0.05, 0.1, 0.4, 0.6):
        for change in prune(module, example, channels=share).changes:
            assert change.after >= change.before * (1 - share)


class Stages(nn.Module):
    """Picture [1, 3, 16, 16] → logits: two residual streams, of 64 and of 128 channels."""

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 64, stride=(1, 1))
        self.narrow = nn.Sequential(ResidualConvolution(64, 32), ResidualConvolution(64, 32))
        self.widen = convolution(64, 128, stride=(2, 2))
        self.wide = ResidualConvolution(128, 32)
        self.head = nn.Linear(128, 5)

    def forward(self, image):
        return self.head(self.wide(self.widen(self.narrow(self.stem(image)))).mean((2, 3)))


def test_the_residual_streams_shrink_where_that_is_asked_for():
    torch.manual_seed(0)
    module, example = Stages().eval(), [torch.randn(1, 3, 16, 16)]
    weakest = slice(0, 32)
    with torch.no_grad():  # all that writes into the first half of the narrow stream
        for layer in (module.stem, module.narrow[0].second, module.narrow[1].second):
            for weight in (
                layer[0] if isinstance(layer, nn.Sequential) else layer
            ).parameters():
                weight[weakest] *= 1e-4
    kept = module.stem[0].weight[32:].clone()
    pruned = prune(module, example, residual=0.5)
    assert sorted((change.before, change.after) for change in pruned.changes) == [
        (64, 32),
        (128, 64),
    ]
    smaller = pruned.module
    assert torch.equal(smaller.stem[0].weight, kept)
    assert smaller.narrow[1].second.weight.shape == (32, 32, 3, 3)  # inner width as it was
    assert smaller.widen[0].weight.shape == (64, 32, 3, 3)
    assert smaller.head.weight.shape == (5, 64)
    both = prune(module, example, channels=0.5, residual=0.5)
    assert both.module.narrow[1].second.weight.shape == (32, 16, 3, 3)


def test_a_stream_that_is_normalised_keeps_its_width(mixed):
    module, example = mixed
    assert prune(module, example, residual=0.5).changes == ()


def test_nothing_to_do_gives_an_equal_copy(mixed):
    module, example = mixed
    pruned = prune(module, example)
    assert pruned.changes == ()
    assert pruned.module is not module
    with torch.no_grad():
        assert torch.equal(pruned.module(*example), module(*example))


def test_the_original_is_not_touched(mixed):
    module, example = mixed
    before = {name: value.clone() for name, value in module.state_dict().items()}
    prune(module, example, channels=0.5, heads=0.5)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in module.parameters())


class Fixed(nn.Module):
    """Writes its inner width down where pruning cannot see it."""

    def __init__(self):
        super().__init__()
        self.wide, self.back = nn.Linear(8, 64), nn.Linear(64, 4)
        self.scale = torch.ones(64)

    def forward(self, x):
        return self.back(self.wide(x) * self.scale)


def test_a_network_that_cannot_lose_channels_is_an_error_of_ours():
    with pytest.raises(ExportError, match="does not run with fewer channels") as caught:
        prune(Fixed().eval(), [torch.randn(1, 8)], channels=0.5)
    assert "prune" in caught.value.hint


class TwoOutputs(nn.Module):
    """Gives its inner features to a later tier."""

    def __init__(self):
        super().__init__()
        self.wide, self.back = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x):
        features = self.wide(x).relu()
        return self.back(features), features


def test_an_output_that_would_change_its_shape_is_refused():
    with pytest.raises(ExportError, match="outputs changed"):
        prune(TwoOutputs().eval(), [torch.randn(1, 8)], channels=0.5)


def test_widths_by_layer_are_what_comes_out(mixed):
    module, example = mixed
    wanted = {"block.feed.expand": 48, "block.attention.local": 3}
    pruned = prune(module, example, widths=wanted)
    assert {change.layer: change.after for change in pruned.changes} == wanted
    assert pruned.module.block.feed.contract.weight.shape == (WIDTH, 48)
    assert pruned.module.block.attention.overall.heads == HEADS
    assert pruned.module.residual.first[0].out_channels == 96


def test_widths_by_layer_come_before_the_shares(mixed):
    module, example = mixed
    pruned = prune(module, example, channels=0.5, heads=0.5, widths={"block.feed.expand": 112})
    assert {change.layer: change.after for change in pruned.changes} == {
        "residual.first.0": 48,
        "block.feed.expand": 112,
        "block.attention.local": 2,
        "block.attention.overall": 2,
    }


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"stem.0": 32}, r"stem\.0: no width"),
        ({"block.feed.expand": 144}, "is 128 wide and cannot be made 144"),
        ({"block.attention.local": 0}, "is 4 wide and cannot be made 0"),
        ({"block.feed.expand": 40}, "has 40 channels"),
    ],
)
def test_a_width_that_cannot_be_is_refused(mixed, widths, message):
    module, example = mixed
    with pytest.raises(ExportError, match=message):
        prune(module, example, widths=widths)


def test_the_groups_are_all_that_pruning_can_take(mixed):
    module, example = mixed
    groups = {group.layer: group for group in find_groups(module, example)}
    pruned = prune(module, example, channels=0.9, heads=0.9)
    assert {(name, group.width) for name, group in groups.items()} == {
        (change.layer, change.before) for change in pruned.changes
    }
    feed = groups["block.feed.expand"]
    assert [reader.layer for reader in feed.readers] == ["block.feed.contract"]
    smaller = prune(module, example, widths={"block.feed.expand": 112}).module
    kept = sorted(feed.weakest[16:])
    assert torch.equal(smaller.block.feed.expand.weight, module.block.feed.expand.weight[kept])
    heads = groups["block.attention.local"]
    assert heads.kind == "heads"
    assert {group.part for group in groups.values()} == {
        "attention heads",
        "linear widths",
        "convolution widths",
    }
    assert set(heads.weakest) == set(range(HEADS))
    assert all(parameter.grad is None for parameter in module.parameters())


class Joined(nn.Module):
    """Tokens [1, n, 32] → the same; one layer makes queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.wide, self.back = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, tokens):
        count = tokens.shape[1]
        query, key, value = self.qkv(tokens).view(count, 3, 2, 16).permute(1, 2, 0, 3)
        seen = (query @ key.transpose(-1, -2)).softmax(-1) @ value
        tokens = tokens + self.out(seen.permute(1, 0, 2).reshape(1, count, 32))
        return tokens + self.back(self.wide(tokens).relu())


def test_a_width_that_is_cut_up_on_the_way_is_no_group():
    groups = find_groups(Joined().eval(), [torch.randn(1, 8, 32)])
    assert [group.layer for group in groups] == ["wide"]


def test_a_width_that_is_no_multiple_of_16_is_left_where_rounding_would_widen_it():
    narrow = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 64), nn.Linear(64, 4))
    pruned = prune(narrow.eval(), [torch.randn(1, 8)], channels=0.15)
    assert [(change.layer, change.after) for change in pruned.changes] == []
    pruned = prune(narrow, [torch.randn(1, 8)], channels=0.5)
    assert {change.layer: change.after for change in pruned.changes} == {"0": 16, "2": 32}
