"""The network ``commands``: a spoken command's words, seen on the mouth, heard, or both."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from mla_edge.errors import ConfigError
from mla_edge.networks.checkpoint import load_weights
from mla_edge.networks.encoders import ClipFront, EncoderConfig, HybridEncoder, LogMel
from mla_edge.networks.fusion import BridgeConfig
from mla_edge.networks.multimodal import MultimodalNetwork
from mla_edge.networks.network import Network, SampleSource, TierNetwork, student_of
from mla_edge.signals import NOTHING, InputSpec, Sample, Tier

RATE_HZ = 16000
FPS = 25
FRAMES, HEIGHT, WIDTH = 16, 60, 72
SAMPLES = 10240
INPUTS = (
    InputSpec("mouth", "clip", (1, FRAMES, HEIGHT, WIDTH), rate_hz=FPS),
    InputSpec("audio", "audio", (1, SAMPLES), rate_hz=RATE_HZ),
)
WEIGHTS = Path(__file__).with_name("weights") / "commands.safetensors"
CROP = (slice(14, 54), slice(12, 60))  # rows and columns of the mouth, with room to move
LABELS = (
    "bin", "lay", "place", "set",
    "blue", "green", "red", "white",
    "at", "by", "in", "with",
    *"abcdefghijklmnopqrstuvxyz",
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "again", "now", "please", "soon",
    NOTHING,
)  # fmt: skip


_MOUTH = EncoderConfig(
    in_channels=5,
    channels=(32, 64, 160),
    inner=(0, 0, 64),
    strides=((2, 2),) * 3,
    collapse=(5, 6),
    grid=(1, FRAMES),
    window=(1, 4),
    keep=8,
    depth=3,
    heads=5,
    hidden=480,
)
_AUDIO = EncoderConfig(
    channels=(24, 32, 80, 160),
    inner=(0, 32, 80, 128),
    strides=((2, 1), (2, 2), (2, 2), (2, 1)),
    grid=(4, 16),
    window=(4, 4),
    keep=16,
    depth=3,
    heads=5,
    hidden=640,
    pool=(4, 1),
)


def make_full() -> MultimodalNetwork:
    """The full tier, untrained: a token a frame, and as many moments of sound."""
    return _network(_MOUTH, _AUDIO, BridgeConfig(shared=256, heads=8, hidden=768, depth=2))


def make_student() -> MultimodalNetwork:
    """The student of the full tier, untrained: fewer blocks, the lips keep two of three."""
    mouth = replace(_MOUTH, inner=(0, 0, 0), depth=2, hidden=224)
    narrow = replace(_AUDIO, channels=(16, 32, 80, 160), inner=(0, 0, 0, 64))
    audio = replace(narrow, depth=1, hidden=224)
    return _network(mouth, audio, BridgeConfig(shared=160, heads=5, hidden=160, depth=1))


def _network(
    mouth: EncoderConfig, audio: EncoderConfig, bridge: BridgeConfig
) -> MultimodalNetwork:
    log_mel = LogMel(RATE_HZ, frame=512, hop=152, bands=64, frames=64)
    return MultimodalNetwork(
        {
            "mouth": HybridEncoder(ClipFront(FRAMES, taps=5, crop=CROP), mouth),
            "audio": HybridEncoder(log_mel, audio),
        },
        classes=len(LABELS),
        bridge=bridge,
    )


def make_lite() -> MultimodalNetwork:
    """The lite tier, untrained: the whole clip is one picture of 16 channels."""
    mouth = EncoderConfig(
        in_channels=FRAMES,
        channels=(32, 48, 64, 64),
        inner=(0, 0, 0, 64),
        strides=((2, 2),) * 3 + ((1, 1),),
        grid=(5, 6),
        window=(5, 6),
        keep=30,
        depth=0,
        heads=1,
        hidden=0,
    )
    audio = EncoderConfig(
        channels=(8, 16, 32, 64),
        inner=(0, 0, 32, 64),
        strides=((2, 1), (2, 2), (2, 2), (2, 2)),
        grid=(4, 4),
        window=(4, 4),
        keep=16,
        depth=0,
        heads=1,
        hidden=0,
    )
    return MultimodalNetwork(
        {
            "mouth": HybridEncoder(ClipFront(FRAMES, taps=FRAMES, crop=CROP), mouth),
            "audio": HybridEncoder(
                LogMel(RATE_HZ, frame=512, hop=304, bands=64, frames=32), audio
            ),
        },
        classes=len(LABELS),
        bridge=None,
    )


def commands(
    *, data: str | os.PathLike[str] | None = None, weights: str | os.PathLike[str] = WEIGHTS
) -> Network:
    """The network with its trained weights; its samples come from the folder ``data``.

    The folder is described in ``mla_edge.networks.commands_files``; what trained ``weights``
    tests nothing in it (``mla_edge.networks.commands_splits``). Nothing simulates this
    network's input, so without a folder it has no samples and an export says so.
    """
    full, lite, student = make_full(), make_lite(), make_student()
    modules = {"full": full, "lite": lite, student_of("full"): student}
    load_weights(Path(weights), modules, "commands")
    samples: SampleSource = _no_samples
    if data is not None:
        from mla_edge.networks.commands_data import sample_source

        samples = sample_source(data, weights=Path(weights))
    return Network(
        name="commands",
        labels=LABELS,
        inputs=INPUTS,
        tiers=tuple(
            TierNetwork(Tier(name, ("mouth", "audio", "present"), ("logits",)), module, smaller)
            for name, module, smaller in (("lite", lite, None), ("full", full, student))
        ),
        samples=samples,
    )


def _no_samples(split: str, count: int, seed: int) -> list[Sample]:
    raise ConfigError(
        f"the network commands has no {split} samples of its own",
        hint="give it a folder of clips with --data (see docs/how-to/train.md)",
    )
