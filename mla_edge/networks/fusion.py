"""Fuse any number of modalities: a cross-modal bridge, then a gate over those that are there.

Shapes: B batch, M modalities, N tokens, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mla_edge.networks.attention import FeedForward, HeadedAttention

# Added to the score of what is absent; finite, so that FP16 holds it and no row becomes NaN.
_ABSENT = -1e4


class CrossModalAttention(HeadedAttention):
    """Tokens of one modality ask the tokens of all others that are there."""

    def forward(self, tokens: Tensor, others: Tensor, bias: Tensor) -> Tensor:
        """[B, N, C], [B, N', C], [B, 1, 1, N'] → [B, N, C]."""
        return self.merge(
            self.attend(
                self.split(self.query(tokens)),
                self.split(self.key(others)),
                self.split(self.value(others)),
                bias,
            )
        )


class BridgeLayer(nn.Module):
    """One exchange between modalities, with the same weights for each."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        """``hidden`` is the width of the feed-forward network."""
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.cross = CrossModalAttention(channels, heads)
        self.norm_feed = nn.LayerNorm(channels)
        self.feed = FeedForward(channels, hidden)

    def forward(self, tokens: list[Tensor], present: Tensor) -> list[Tensor]:
        """M × [B, N, C] and [B, M] → M × [B, N, C]."""
        normed = [self.norm(part) for part in tokens]
        absent = (1 - present) * _ABSENT  # [B, M]
        out = []
        for own, part in enumerate(tokens):
            others = [i for i in range(len(tokens)) if i != own]
            keys = torch.cat([normed[i] for i in others], 1)
            bias = torch.cat(
                [absent[:, i : i + 1].expand(-1, normed[i].shape[1]) for i in others], 1
            )
            # With no other modality there, the softmax is uniform over masked keys: drop it.
            any_other = torch.cat([present[:, i : i + 1] for i in others], 1).amax(1)
            heard = self.cross(normed[own], keys, bias[:, None, None, :])
            part = part + heard * any_other[:, None, None]
            out.append(part + self.feed(self.norm_feed(part)))
        return out


class CrossModalBridge(nn.Module):
    """Projects every modality into one shared space, where they attend to each other."""

    def __init__(self, channels: int, shared: int, heads: int, hidden: int, depth: int) -> None:
        """From an encoder's ``channels`` to ``shared`` ones, through ``depth`` layers."""
        super().__init__()
        self.project = nn.Linear(channels, shared)
        self.layers = nn.ModuleList(BridgeLayer(shared, heads, hidden) for _ in range(depth))

    def forward(self, tokens: list[Tensor], present: Tensor) -> list[Tensor]:
        """M × [B, N, C] and [B, M] → M × [B, N, shared]."""
        shared = [self.project(part) for part in tokens]
        for layer in self.layers:
            shared = layer(shared, present)
        return shared


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
