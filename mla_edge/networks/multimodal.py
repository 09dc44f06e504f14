"""The family's network: encoders per modality, a cross-modal bridge, a dynamic gate, a head.

Shapes: B batch, M modalities, N tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mla_edge.networks.encoders import ClipFront, HybridEncoder
from mla_edge.networks.fusion import BridgeConfig, CrossModalBridge, DynamicGate
from mla_edge.networks.tokens import TokenPooling
from mla_edge.signals import GATE, attention_of


@dataclass(frozen=True)
class Fused:
    """Everything training wants to see of one pass; export keeps ``logits`` only."""

    logits: Tensor  # [B, classes]
    each: Tensor  # [B, M, classes]: what each modality says, before fusion
    features: Tensor  # [B, M, C]
    gate: Tensor  # [B, M]


class MultimodalNetwork(nn.Module):
    """One to six modalities in, class logits out; absent ones are masked, never faked.

    Without a ``bridge`` the modalities meet only in the gate, as a small tier does.
    """

    def __init__(
        self, encoders: Mapping[str, HybridEncoder], classes: int, bridge: BridgeConfig | None
    ) -> None:
        """``encoders`` by input name, in the order of the ``present`` mask, of equal width."""
        super().__init__()
        widths = {encoder.width for encoder in encoders.values()}
        if len(widths) != 1:
            raise ValueError(f"the encoders' tokens differ in width: {sorted(widths)}")
        width = widths.pop()
        self.names = tuple(encoders)
        self.width = width  # channels of an encoder's token
        self.encoders = nn.ModuleDict(encoders)
        self.bridge: CrossModalBridge | None = None
        if bridge is not None and len(encoders) > 1:
            sizes = [encoder.tokens for encoder in encoders.values()]
            self.bridge = CrossModalBridge(bridge, width, sizes)
            width = bridge.shared
        self.pools = nn.ModuleList(TokenPooling(width) for _ in encoders)
        self.norm = nn.LayerNorm(width)
        self.gate = DynamicGate(width)
        self.head = nn.Linear(width, classes)

    pooled = "norm"
    """The part that gives the features [B, M, C] which an exporter may learn a score from."""

    @property
    def shows(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """What an exported graph can show of itself: of each name, whose softmax, what shape.

        The gate's weights, and of each modality the weights by which its tokens are summed up:
        over the picture, or over frequency and time. The frames of a clip that are one picture
        have no place in it: it shows a part of what the camera sees.
        """
        shown: dict[str, tuple[str, tuple[int, ...]]] = {}
        if len(self.names) > 1:
            shown[GATE] = ("gate", (1, len(self.names)))
        for number, name in enumerate(self.names):
            encoder: HybridEncoder = self.encoders[name]  # type: ignore[assignment]
            rows, columns = encoder.shape
            if not isinstance(encoder.front, ClipFront) or rows == 1:
                shown[attention_of(name)] = (f"pools.{number}.weights", (1, rows, columns))
        return shown

    def forward(self, *inputs: Tensor) -> Tensor:
        """Raw tensor of each modality, ``present`` [B, M] if M > 1 → logits [B, classes]."""
        raws = dict(zip(self.names, inputs))
        if len(self.names) == 1:
            present = torch.ones_like(inputs[0].flatten(1)[:, :1])
        else:
            present = inputs[-1]
        return self.fuse(
            {name: self.encoders[name](raws[name]) for name in raws}, present
        ).logits

    def fuse(self, encoded: Mapping[str, Tensor], present: Tensor) -> Fused:
        """Tokens of each modality, [B, N, C], and the mask [B, M] → what training wants."""
        tokens = [encoded[name] for name in self.names]
        if self.bridge is not None:
            tokens = self.bridge(tokens, present)
        pooled = [pool(part) for pool, part in zip(self.pools, tokens)]
        features = self.norm(torch.stack(pooled, 1))  # [B, M, C]
        fused, gate = self.gate(features, present)
        return Fused(self.head(fused), self.head(features), features, gate)

    def alone(self, name: str, tokens: Tensor) -> Tensor:
        """Logits [B, classes] with only ``name`` there, of its tokens [B, N, C].

        What ``fuse`` gives with a mask of that one, without the work for those that are absent.
        """
        if self.bridge is not None:
            tokens = self.bridge.alone(tokens)
        logits: Tensor = self.head(self.norm(self.pools[self.names.index(name)](tokens)))
        return logits
