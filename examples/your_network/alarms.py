"""A network of your own: one microphone, one tier, four kinds of sound.

    mla-edge export examples/your_network/alarms.py:make_network --profile agx-orin

``make_network`` is all the export asks for. Everything else here is how this network happens to
be written: put your module, your labels and your samples in their place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import load_file
from torch import Tensor, nn

from mla_edge.networks import Network, TierNetwork
from mla_edge.networks.encoders import LogMel, convolution
from mla_edge.signals import InputSpec, Sample, Sound, Tier

LABELS = ("rising", "falling", "beeping", "none")
RATE_HZ = 12_000
WINDOW = 6_000  # half a second
WEIGHTS = Path(__file__).with_name("alarms.safetensors")


class Alarms(nn.Module):
    """Log-mel energies, then three convolutions and a linear layer."""

    def __init__(self) -> None:
        """Make the layers; the shapes follow from the 44 frames of 32 bands."""
        super().__init__()
        # A fixed convolution inside the graph, so that board and laptop cannot differ.
        self.mel = LogMel(RATE_HZ, frame=256, hop=128, bands=32, frames=44)
        self.body = nn.Sequential(
            convolution(1, 16, stride=(2, 1)),
            convolution(16, 32, stride=(2, 2)),
            convolution(32, 64, stride=(2, 2)),
            nn.AvgPool2d((4, 1)),
            nn.Flatten(),
            nn.Linear(64 * 11, 64),
            nn.ReLU(),
            nn.Linear(64, len(LABELS)),
        )

    def forward(self, audio: Tensor) -> Tensor:
        """[B, 6000] → logits [B, 4]."""
        return self.body(self.mel(audio))


def make_network() -> Network:
    """What ``mla-edge export`` calls."""
    module = Alarms()
    module.load_state_dict(load_file(WEIGHTS))
    return Network(
        name="alarms",
        labels=LABELS,
        inputs=(InputSpec("audio", "audio", (1, WINDOW), rate_hz=RATE_HZ),),
        tiers=(TierNetwork(Tier("only", ("audio",), ("logits",)), module.eval()),),
        samples=samples,
    )


def samples(split: str, count: int, seed: int) -> list[Sample]:
    """Sounds with their label as ``truth``; yours would read recordings, a folder a split."""
    splits = ("train", "calibrate", "tune", "test")
    random = np.random.default_rng((splits.index(split), seed))
    return [_sound(LABELS[i % len(LABELS)], random) for i in range(count)]


def _sound(label: str, random: np.random.Generator) -> Sample:
    time_s = np.arange(WINDOW) / RATE_HZ
    low_hz, high_hz = np.sort(random.uniform(400, 3000, 2)) + (0, 600)
    if label == "beeping":
        tone = np.sin(2 * np.pi * high_hz * time_s)
        tone *= np.sin(2 * np.pi * random.uniform(4, 9) * time_s + random.uniform(0, 6)) > 0
    else:
        start_hz, end_hz = (low_hz, high_hz) if label == "rising" else (high_hz, low_hz)
        sweep_hz = start_hz + (end_hz - start_hz) * time_s / time_s[-1]
        tone = np.sin(2 * np.pi * np.cumsum(sweep_hz) / RATE_HZ)
    loudness = 0.0 if label == "none" else random.uniform(0.05, 0.5)
    noise = random.normal(0, random.uniform(0.005, 0.05), WINDOW)
    heard = np.clip(loudness * tone + noise, -1, 1).astype(np.float32)
    return Sample({"audio": Sound(heard, RATE_HZ, 0.0, truth=label)})
