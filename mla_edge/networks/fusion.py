"""Fuse any number of modalities: a cross-modal bridge, then a gate over those that are there.

Shapes: B batch, M modalities, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mla_edge.networks.attention import FeedForward, HeadedAttention

# Added to the score of what is absent; finite, so that FP16 holds it and no row becomes NaN.
_ABSENT = -1e4


@dataclass(frozen=True)
class BridgeConfig:
    """The shape of the cross-modal bridge."""

    shared: int
    heads: int
    hidden: int
    depth: int


class CrossModalAttention(HeadedAttention):
    """Tokens of every modality ask the tokens of all others that are there, in one go."""

    def forward(self, tokens: Tensor, bias: Tensor) -> Tensor:
        """[B, N, C] and the mask [B, 1, N, N], added to the scores → [B, N, C]."""
        return self.merge(
            self.attend(
                self.split(self.query(tokens)),
                self.split(self.key(tokens)),
                self.split(self.value(tokens)),
                bias,
            )
        )


class BridgeLayer(nn.Module):
    """One exchange between modalities, with the same weights for each of them."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        """``hidden`` is the width of the feed-forward network."""
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.cross = CrossModalAttention(channels, heads)
        self.norm_feed = nn.LayerNorm(channels)
        self.feed = FeedForward(channels, hidden)

    def forward(self, tokens: Tensor, bias: Tensor, hears: Tensor) -> Tensor:
        """[B, N, C], who may be asked [B, 1, N, N], who has anyone to ask [B, N, 1]."""
        tokens = tokens + self.cross(self.norm(tokens), bias) * hears
        return self.think(tokens)

    def think(self, tokens: Tensor) -> Tensor:
        """What each token makes of itself, [B, N, C] → [B, N, C]."""
        return tokens + self.feed(self.norm_feed(tokens))


class CrossModalBridge(nn.Module):
    """Projects every modality into one shared space, where they attend to each other."""

    def __init__(self, config: BridgeConfig, channels: int, sizes: Sequence[int]) -> None:
        """For modalities of ``sizes`` tokens of ``channels`` channels."""
        super().__init__()
        self.sizes = list(sizes)
        self.project = nn.Linear(channels, config.shared)
        self.layers = nn.ModuleList(
            BridgeLayer(config.shared, config.heads, config.hidden) for _ in range(config.depth)
        )
        counts = torch.tensor(self.sizes)
        owner = torch.repeat_interleave(torch.arange(len(sizes)), counts)  # [N]
        own = (owner[:, None] == owner).float() * _ABSENT  # nobody asks its own modality
        self.owner: Tensor
        self.own: Tensor
        self.others: Tensor
        self.register_buffer("owner", owner, persistent=False)
        self.register_buffer("own", own, persistent=False)
        self.register_buffer("others", 1 - torch.eye(len(sizes)), persistent=False)

    def forward(self, tokens: list[Tensor], present: Tensor) -> list[Tensor]:
        """M × [B, N, C] and [B, M] → M × [B, N, shared]."""
        # With nobody to ask, the softmax is uniform over masked keys: what it gives is dropped.
        hears = (present @ self.others).clamp(0, 1)[:, self.owner]  # [B, N]
        absent = ((1 - present) * _ABSENT)[:, self.owner]  # [B, N]
        bias = self.own + absent[:, None, None]  # [B, 1, N, N]
        joined = self.project(torch.cat(tokens, 1))
        for layer in self.layers:
            joined = layer(joined, bias, hears.unsqueeze(2))
        return list(joined.split(self.sizes, dim=1))

    def alone(self, tokens: Tensor) -> Tensor:
        """Tokens of a modality with no other to ask, [B, N, C] → [B, N, shared]."""
        tokens = self.project(tokens)
        for layer in self.layers:
            tokens = layer.think(tokens)  # type: ignore[operator]
        return tokens


class DynamicGate(nn.Module):
    """Weights of the modalities for this input; the mask goes in before the softmax."""

    keep_float32 = True  # few values decide everything

    def __init__(self, channels: int, hidden: int = 32) -> None:
        """φ(x) = W2 · tanh(W1 · x + b1) + b2 for each modality, with shared weights."""
        super().__init__()
        self.inner = nn.Linear(channels, hidden)
        self.outer = nn.Linear(hidden, 1)

    def forward(self, features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """[B, M, C] and [B, M] → fused [B, C] and weights [B, M], 0 where absent."""
        scores = self.outer(torch.tanh(self.inner(features))).squeeze(2)
        weights = (scores + (1 - present) * _ABSENT).softmax(1)
        return (features * weights.unsqueeze(2)).sum(1), weights
