"""Dynamic token weights: how much each token counts, decided by the tokens themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DynamicWeights(nn.Module):
    """Weights over tokens: softmax of φ(x) = W2 · tanh(W1 · x + b1) + b2."""

    keep_float32 = True  # a softmax over few values: INT8 or FP16 would move the choice

    def __init__(self, channels: int, hidden: int = 32) -> None:
        """``channels`` of a token, ``hidden`` width of φ."""
        super().__init__()
        self.inner = nn.Linear(channels, hidden)
        self.outer = nn.Linear(hidden, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, N], each row sums to 1."""
        return self.outer(torch.tanh(self.inner(tokens))).squeeze(2).softmax(1)


class TokenReweighting(nn.Module):
    """Scales tokens by their dynamic weights, with mean weight 1 (input and middle level)."""

    def __init__(self, channels: int) -> None:
        """``channels`` of a token."""
        super().__init__()
        self.weights = DynamicWeights(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, N, C]."""
        return tokens * (self.weights(tokens) * tokens.shape[1]).unsqueeze(2)


class TokenPooling(nn.Module):
    """The sum of tokens by their dynamic weights (output level)."""

    def __init__(self, channels: int) -> None:
        """``channels`` of a token."""
        super().__init__()
        self.weights = DynamicWeights(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, C]."""
        return (tokens * self.weights(tokens).unsqueeze(2)).sum(1)
