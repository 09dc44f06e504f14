"""Encoders: from the raw tensor of a modality to tokens.

Shapes: B batch, C channels, N = rows × columns tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mla_edge.networks.attention import MultiLevelAttention, TransformerBlock
from mla_edge.networks.tokens import TokenReweighting


class ImageFront(nn.Module):
    """Pixels 0…255 to about -2…2 (fixed mean and deviation), inside the graph."""

    keep_float32 = True

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, height, width] → the same shape."""
        return (image - 127.5) * (1 / 64)


class LogMel(nn.Module):
    """Log-mel energies of a waveform by a fixed convolution, a windowed DFT, in FP32.

    Frames are not centred. Mel scale: 2595 · log10(1 + f / 700) (O'Shaughnessy 1987).
    """

    keep_float32 = True  # powers span ten decades

    def __init__(self, rate_hz: int, *, frame: int, hop: int, bands: int, frames: int) -> None:
        """``frames`` of ``frame`` samples, ``hop`` apart, ending at the newest sample."""
        super().__init__()
        self.samples = frame + (frames - 1) * hop
        self.hop = hop
        self.basis: Tensor
        self.mel: Tensor
        bins = frame // 2 + 1
        time = torch.arange(frame, dtype=torch.float64)
        angle = 2 * math.pi * torch.arange(bins, dtype=torch.float64)[:, None] * time / frame
        window = torch.hann_window(frame, periodic=True, dtype=torch.float64)
        basis = torch.cat([angle.cos(), angle.sin()]) * window  # [2 bins, frame]
        self.register_buffer("basis", basis.float()[:, None], persistent=False)
        self.register_buffer("mel", _mel_filters(rate_hz, frame, bands), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """[B, samples] → [B, 1, bands, frames]."""
        recent = sound[:, None, -self.samples :]
        spectrum = nn.functional.conv1d(recent, self.basis, stride=self.hop)
        real, imaginary = spectrum.chunk(2, dim=1)
        energy = self.mel @ (real * real + imaginary * imaginary)  # [B, bands, frames]
        # Fixed statistics: speech at usual levels comes to about zero mean and deviation one.
        return ((energy + 1e-5).log() * (1 / 3) + 0.5).unsqueeze(1)


def _mel_filters(rate_hz: int, frame: int, bands: int) -> Tensor:
    """Triangular filters, [bands, frame // 2 + 1]."""
    top = 2595 * math.log10(1 + rate_hz / 2 / 700)
    low = 2595 * math.log10(1 + 60 / 700)
    edges_mel = torch.linspace(low, top, bands + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    bins_hz = torch.arange(frame // 2 + 1, dtype=torch.float64) * rate_hz / frame
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0).float()


class ClipFront(nn.Module):
    """Frames of a clip, each with its neighbours in time as channels, inside the graph.

    A 2-D convolution over them is the 3-D stem of lip reading (Stafylakis & Tzimiropoulos
    2017). With ``taps`` of all frames the whole clip is one picture (Chung & Zisserman 2016).
    """

    keep_float32 = True

    def __init__(self, frames: int, *, taps: int, crop: tuple[slice, slice]) -> None:
        """``taps`` frames are seen at once, an odd number or all; ``crop`` of rows, columns."""
        super().__init__()
        self.frames, self.taps, self.crop = frames, taps, crop

    def forward(self, clip: Tensor) -> Tensor:
        """[B, frames, height, width] of 0…255 → [B·frames, taps, rows, columns].

        With ``taps`` of all frames [B, frames, rows, columns].
        """
        rows, columns = self.crop
        x = (clip[:, :, rows, columns] - 127.5) * (1 / 64)
        if self.taps == self.frames:
            return x
        half = self.taps // 2
        padded = torch.cat([x[:, :1]] * half + [x] + [x[:, -1:]] * half, 1)
        near = [padded[:, i : i + self.frames] for i in range(self.taps)]
        return torch.stack(near, 2).flatten(0, 1)


class VectorFront(nn.Module):
    """A vector of readings (IMU, embedded text) as a one-row picture."""

    def forward(self, values: Tensor) -> Tensor:
        """[B, length] → [B, 1, 1, length]."""
        return values[:, None, None]


def convolution(inner: int, outer: int, *, size: int = 3, stride: tuple[int, int]) -> nn.Module:
    """Convolution, batch norm and ReLU, which INT8 engines fuse into one."""
    return nn.Sequential(
        nn.Conv2d(inner, outer, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outer),
        nn.ReLU(),
    )


def collapse(channels: int, size: tuple[int, int]) -> nn.Module:
    """A frame's ``size`` of positions to one, each with weights of its own."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, size, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )


class ResidualConvolution(nn.Module):
    """Two 3×3 convolutions around a residual; the inner width may be pruned."""

    def __init__(self, channels: int, inner: int) -> None:
        """``channels`` → ``inner`` → ``channels``."""
        super().__init__()
        self.first = convolution(channels, inner, stride=(1, 1))
        self.second = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, height, width] → the same shape."""
        return (x + self.norm(self.second(self.first(x)))).relu()


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of one hybrid encoder."""

    channels: tuple[int, ...]  # after the stem and each stage
    inner: tuple[int, ...]  # inner width of each stage's residual; 0 for none
    strides: tuple[tuple[int, int], ...]
    grid: tuple[int, int]  # rows × columns of tokens at the end
    window: tuple[int, int]
    keep: int  # keys of the top-k attention
    depth: int
    heads: int
    hidden: int  # width of the feed-forward networks
    pool: tuple[int, int] = (1, 1)  # tokens averaged together for the bridge
    in_channels: int = 1
    collapse: tuple[int, int] = (0, 0)  # rows × columns of a frame made one token, if any


class HybridEncoder(nn.Module):
    """Convolutions for the near, a transformer with multi-level attention for the far."""

    def __init__(self, front: nn.Module, config: EncoderConfig) -> None:
        """``front`` turns the raw tensor into [B, in_channels, height, width]."""
        super().__init__()
        self.front = front
        self.config = config
        stages: list[nn.Module] = []
        width = config.in_channels
        for channels, inner, stride in zip(config.channels, config.inner, config.strides):
            stages.append(convolution(width, channels, stride=stride))
            if inner:
                stages.append(ResidualConvolution(channels, inner))
            width = channels
        if config.collapse[0]:
            stages.append(collapse(width, config.collapse))
        self.stages = nn.Sequential(*stages)
        rows, columns = config.grid
        self.position = nn.Parameter(torch.randn(1, rows * columns, width) * 0.02)
        self.weigh_input = TokenReweighting(width)
        self.weigh_middle = TokenReweighting(width)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                MultiLevelAttention(
                    width, config.heads, config.grid, config.window, config.keep
                ),
                width,
                config.hidden,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.config.channels[-1]

    @property
    def tokens(self) -> int:
        """How many tokens come out."""
        rows, columns = self.shape
        return rows * columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the tokens that come out."""
        (rows, columns), (down, across) = self.config.grid, self.config.pool
        return rows // down, columns // across

    def forward(self, raw: Tensor) -> Tensor:
        """Raw tensor of the modality → [B, N / pooled, C]."""
        return self.encode(self.front(raw))

    def encode(self, features: Tensor) -> Tensor:
        """Output of the front, [B, in_channels, height, width] → [B, N / pooled, C]."""
        x = self.stages(features)  # [B, C, rows, columns]
        if self.config.collapse[0]:  # [B·N, C, 1, 1]
            tokens = x.reshape(-1, self.position.shape[1], self.width)
        else:
            tokens = x.flatten(2).transpose(1, 2)
        tokens = self.weigh_input(tokens + self.position)
        middle = len(self.blocks) // 2
        for i, block in enumerate(self.blocks):
            tokens = block(tokens)
            if i + 1 == middle:
                tokens = self.weigh_middle(tokens)
        return self.norm(self._pooled(tokens))

    def _pooled(self, tokens: Tensor) -> Tensor:
        (rows, columns), (down, across) = self.config.grid, self.config.pool
        if (down, across) == (1, 1):
            return tokens
        cut = tokens.reshape(-1, rows // down, down, columns // across, across, self.width)
        return cut.mean((2, 4)).flatten(1, 2)
