"""ResNet-50 with seeded random weights: what it weighs and how fast it is, not what it knows.

    mla-edge export benchmarks/resnet50.py:network --profile host --recipe default \\
        --calibration quick --max-drop 100

The layers are those of He et al. 2015 (arXiv:1512.03385) with the stride on the 3 x 3
convolution, as everybody publishes them: 25.6 million parameters, 224 x 224. Random weights
have no accuracy to lose, so the gate is opened; ``references.py`` measures the rest.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import Frame, InputSpec, Sample, Tier

SIDE, CLASSES = 224, 1000
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, inner width
EXPANSION = 4  # the residual stream is so many times as wide
SPLITS = ("train", "calibrate", "tune", "test")


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the picture's size, and its batch norm."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 beside the identity, or beside a 1 x 1 where the shape changes."""

    def __init__(self, inputs: int, inner: int, stride: int) -> None:
        """The output has ``EXPANSION * inner`` channels."""
        super().__init__()
        outputs = EXPANSION * inner
        self.first = convolution(inputs, inner, 1)
        self.second = convolution(inner, inner, 3, stride)
        self.third = convolution(inner, outputs, 1)
        same = inputs == outputs and stride == 1
        self.beside = nn.Identity() if same else convolution(inputs, outputs, 1, stride)

    def forward(self, picture: Tensor) -> Tensor:
        """[B, inputs, h, w] → [B, outputs, h / stride, w / stride]."""
        inner = torch.relu(self.second(torch.relu(self.first(picture))))
        return torch.relu(self.third(inner) + self.beside(picture))


class ResNet50(nn.Module):
    """Pictures in 0…255 → logits of 1,000 classes."""

    def __init__(self) -> None:
        """Make the layers with torch's own random weights."""
        super().__init__()
        self.stem = nn.Sequential(
            convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
        )
        blocks, width = [], 64
        for stage, (count, inner) in enumerate(STAGES):
            for block in range(count):
                stride = 2 if stage and not block else 1
                blocks.append(Bottleneck(width, inner, stride))
                width = EXPANSION * inner
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)
        )

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, 224, 224] → logits [B, 1000]."""
        logits: Tensor = self.head(self.blocks(self.stem(image / 127.5 - 1.0)))
        return logits


def network() -> Network:
    """What ``mla-edge export`` calls."""
    torch.manual_seed(0)
    return Network(
        name="resnet50",
        labels=tuple(str(number) for number in range(CLASSES)),
        inputs=(InputSpec("image", "image", (1, 3, SIDE, SIDE)),),
        tiers=(TierNetwork(Tier("only", ("image",), ("logits",)), ResNet50().eval()),),
        samples=samples,
    )


def samples(split: str, count: int, seed: int) -> list[Sample]:
    """Coloured clouds; their labels mean nothing, because the weights do not either."""
    random = np.random.default_rng((SPLITS.index(split), seed))
    drawn = []
    for number in range(count):
        coarse = random.integers(0, 256, (7, 7, 3), np.uint8)
        picture = cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        drawn.append(Sample({"image": Frame(picture, 0.0, truth=str(number % CLASSES))}))
    return drawn
