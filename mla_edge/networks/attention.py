"""Multi-level attention over tokens: local windows and sparse global top-k, mixed.

Shapes: B batch, N tokens, C channels, H heads, D = head_width, W tokens a window, K kept keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mla_edge.networks.tokens import DynamicWeights


class HeadedAttention(nn.Module):
    """Query, key, value and output projections whose heads can be removed one by one."""

    def __init__(self, channels: int, heads: int) -> None:
        """``heads`` heads of ``channels // heads`` channels each."""
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.heads = heads
        self.head_width = channels // heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)

    def split(self, tokens: Tensor) -> Tensor:
        """[B, N, H·D] → [B, H, N, D]."""
        return tokens.unflatten(2, (self.heads, self.head_width)).transpose(1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        """[B, H, N, D] → [B, N, C], through the output projection."""
        return self.project(heads.transpose(1, 2).flatten(2))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Scaled dot-product attention, [..., N, D]; ``bias`` is added to the scores."""
        scores = query @ key.transpose(-2, -1) * self.head_width**-0.5
        if bias is not None:
            scores = scores + bias
        return scores.softmax(-1) @ value

    def head_importance(self) -> Tensor:
        """The L2 norm of the output projection's columns of each head, [H]."""
        columns = self.project.weight.detach().unflatten(1, (self.heads, self.head_width))
        return columns.pow(2).sum((0, 2)).sqrt()

    def prune_heads(self, keep: Sequence[int]) -> None:
        """Keep only the heads in ``keep``: slices projection rows in, columns out."""
        rows = torch.cat(
            [torch.arange(h * self.head_width, (h + 1) * self.head_width) for h in keep]
        )
        for linear in (self.query, self.key, self.value):
            linear.weight = nn.Parameter(linear.weight.detach()[rows].clone())
            linear.bias = nn.Parameter(linear.bias.detach()[rows].clone())
            linear.out_features = len(rows)
        self.project.weight = nn.Parameter(self.project.weight.detach()[:, rows].clone())
        self.project.in_features = len(rows)
        self.heads = len(keep)


class WindowAttention(HeadedAttention):
    """Attention inside windows of a token grid: O(N · W) instead of O(N²)."""

    def __init__(
        self, channels: int, heads: int, grid: tuple[int, int], window: tuple[int, int]
    ) -> None:
        """``grid`` rows × columns of tokens, cut into windows of ``window``."""
        super().__init__(channels, heads)
        if grid[0] % window[0] or grid[1] % window[1]:
            raise ValueError(f"a grid of {grid} does not divide into windows of {window}")
        self.grid = grid
        self.window = window

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, N, C]."""
        (rows, columns), (height, width) = self.grid, self.window
        down, across = rows // height, columns // width
        cut = (-1, down, height, across, width)

        def windows(flat: Tensor) -> Tensor:
            # [B, N, H·D] → [B·windows, H, W, D]
            split = flat.reshape(*cut, self.heads, self.head_width).permute(0, 1, 3, 5, 2, 4, 6)
            return split.reshape(-1, self.heads, height * width, self.head_width)

        out = self.attend(
            windows(self.query(tokens)),
            windows(self.key(tokens)),
            windows(self.value(tokens)),
            None,
        )
        out = out.reshape(-1, down, across, self.heads, height, width, self.head_width)
        out = out.permute(0, 1, 4, 2, 5, 3, 6)  # [B, down, height, across, width, H, D]
        return self.project(out.reshape(-1, rows * columns, self.heads * self.head_width))


class TopKAttention(HeadedAttention):
    """Global attention to the K most important tokens: O(N · K).

    A dynamic weight of each token decides which keys are kept. Its logarithm is added to the
    scores of the kept ones, so that training can move the choice.
    """

    def __init__(self, channels: int, heads: int, keep: int) -> None:
        """Keep ``keep`` keys."""
        super().__init__(channels, heads)
        self.keep = keep
        self.importance = DynamicWeights(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, N, C]."""
        weights = self.importance(tokens)  # [B, N]
        kept, index = weights.topk(self.keep, dim=1)  # [B, K]
        chosen = tokens.gather(1, index.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        out = self.attend(
            self.split(self.query(tokens)),
            self.split(self.key(chosen)),  # [B, H, K, D]
            self.split(self.value(chosen)),
            kept.clamp_min(1e-6).log()[:, None, None, :],
        )
        return self.merge(out)


class MultiLevelAttention(nn.Module):
    """Local window and global top-k attention, mixed per channel by a learned share."""

    def __init__(
        self,
        channels: int,
        heads: int,
        grid: tuple[int, int],
        window: tuple[int, int],
        keep: int,
    ) -> None:
        """See WindowAttention and TopKAttention."""
        super().__init__()
        self.local = WindowAttention(channels, heads, grid, window)
        self.overall = TopKAttention(channels, heads, keep)
        self.mix = nn.Parameter(torch.zeros(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, N, C]."""
        share = self.mix.sigmoid()
        return share * self.local(tokens) + (1 - share) * self.overall(tokens)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU, which a CPU and INT8 like better than GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        """``channels`` → ``hidden`` → ``channels``."""
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., C] → [..., C]."""
        return self.contract(self.expand(tokens).relu())


class TransformerBlock(nn.Module):
    """Pre-norm block: multi-level attention, then a feed-forward network."""

    def __init__(self, attention: nn.Module, channels: int, hidden: int) -> None:
        """Around ``attention``, which maps [B, N, C] to [B, N, C]."""
        super().__init__()
        self.norm_attention = nn.LayerNorm(channels)
        self.attention = attention
        self.norm_feed = nn.LayerNorm(channels)
        self.feed = FeedForward(channels, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, N, C]."""
        tokens = tokens + self.attention(self.norm_attention(tokens))
        return tokens + self.feed(self.norm_feed(tokens))
