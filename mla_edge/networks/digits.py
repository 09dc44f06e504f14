"""The reference network ``digits``: a digit shown to the camera, said, or both."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mla_edge.networks.checkpoint import load_weights
from mla_edge.networks.encoders import EncoderConfig, HybridEncoder, ImageFront, LogMel
from mla_edge.networks.fusion import BridgeConfig
from mla_edge.networks.multimodal import MultimodalNetwork
from mla_edge.networks.network import Network, TierNetwork, student_of
from mla_edge.signals import NOTHING, InputSpec, Tier

LABELS = (*"0123456789", NOTHING)
RATE_HZ = 8000
INPUTS = (
    InputSpec("image", "image", (1, 3, 128, 128)),
    InputSpec("audio", "audio", (1, RATE_HZ), rate_hz=RATE_HZ),
)
WEIGHTS = Path(__file__).with_name("weights") / "digits.safetensors"

_TIER_INPUTS = ("image", "audio", "present")


_IMAGE = EncoderConfig(
    in_channels=3,
    channels=(24, 32, 80, 160),
    inner=(0, 32, 80, 128),
    strides=((2, 2),) * 4,
    grid=(8, 8),
    window=(4, 4),
    keep=16,
    depth=3,
    heads=5,
    hidden=640,
    pool=(2, 2),
)
_AUDIO = replace(
    _IMAGE,
    in_channels=1,
    strides=((2, 2), (2, 2), (2, 2), (2, 1)),
    grid=(3, 12),
    window=(3, 4),
    keep=12,
    pool=(3, 1),
)


def make_full() -> MultimodalNetwork:
    """The full tier, untrained."""
    return _network(_IMAGE, _AUDIO, BridgeConfig(shared=256, heads=8, hidden=768, depth=2))


def make_student() -> MultimodalNetwork:
    """The student of the full tier, untrained: one block an encoder instead of three."""

    def smaller(config: EncoderConfig) -> EncoderConfig:
        narrow = replace(config, channels=(16, 32, 80, 160), inner=(0, 0, 64, 96))
        return replace(narrow, depth=1, hidden=320)

    bridge = BridgeConfig(shared=160, heads=5, hidden=320, depth=1)
    return _network(smaller(_IMAGE), smaller(_AUDIO), bridge)


def _network(
    image: EncoderConfig, audio: EncoderConfig, bridge: BridgeConfig
) -> MultimodalNetwork:
    log_mel = LogMel(RATE_HZ, frame=256, hop=80, bands=48, frames=96)
    return MultimodalNetwork(
        {"image": HybridEncoder(ImageFront(), image), "audio": HybridEncoder(log_mel, audio)},
        classes=len(LABELS),
        bridge=bridge,
    )


def make_lite() -> MultimodalNetwork:
    """The lite tier, untrained: convolutions only, the modalities meet in the gate."""
    image = EncoderConfig(
        in_channels=3,
        channels=(8, 16, 32, 64),
        inner=(0, 0, 32, 64),
        strides=((2, 2),) * 4,
        grid=(8, 8),
        window=(8, 8),
        keep=64,
        depth=0,
        heads=1,
        hidden=0,
    )
    audio = EncoderConfig(
        channels=(8, 16, 32, 64),
        inner=(0, 0, 32, 64),
        strides=((2, 2), (2, 2), (2, 2), (2, 1)),
        grid=(3, 6),
        window=(3, 6),
        keep=18,
        depth=0,
        heads=1,
        hidden=0,
    )
    return MultimodalNetwork(
        {
            "image": HybridEncoder(ImageFront(), image),
            "audio": HybridEncoder(
                LogMel(RATE_HZ, frame=256, hop=160, bands=48, frames=48), audio
            ),
        },
        classes=len(LABELS),
        bridge=None,
    )


def digits(
    *, data: str | os.PathLike[str] | None = None, weights: str | os.PathLike[str] = WEIGHTS
) -> Network:
    """The network with its trained weights.

    Its samples come from the simulator, or from the data folder ``data`` (see
    ``mla_edge.networks.digits_files``).
    """
    full, lite, student = make_full(), make_lite(), make_student()
    modules = {"full": full, "lite": lite, student_of("full"): student}
    load_weights(Path(weights), modules, "digits")
    from mla_edge.networks.digits_data import sample_source

    return Network(
        name="digits",
        labels=LABELS,
        inputs=INPUTS,
        tiers=tuple(
            TierNetwork(Tier(name, _TIER_INPUTS, ("logits",)), module, smaller)
            for name, module, smaller in (("lite", lite, None), ("full", full, student))
        ),
        samples=sample_source(data),
    )
