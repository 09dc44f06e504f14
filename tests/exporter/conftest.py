"""A small network of the family's shape, and what the exporter's graph steps make of it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter import shares
from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.exporter.quantization import STYLES, calibrate, quantize
from mla_edge.networks import Network, TierNetwork
from mla_edge.networks.attention import MultiLevelAttention, TransformerBlock
from mla_edge.networks.encoders import ResidualConvolution, convolution
from mla_edge.signals import Frame, InputSpec, Sample, Sound, Tier

LABELS = ("low", "middle", "high", "none")
SIDE, WINDOW, RATE_HZ = 32, 1600, 8000


class LogMel(nn.Module):
    """Waveform [1, samples] -> log energies [1, bands, frames]: a fixed convolution."""

    keep_float32 = True

    def __init__(self, bands=16, width=64, hop=32):
        super().__init__()
        time = torch.arange(width) * 2 * math.pi / width
        waves = torch.stack(
            [f(k * time) for k in range(1, bands + 1) for f in (torch.cos, torch.sin)]
        )
        self.register_buffer("waves", waves[:, None] * torch.hann_window(width))
        self.hop = hop

    def forward(self, audio):
        parts = nn.functional.conv1d(audio[:, None], self.waves, stride=self.hop)
        power = parts.square().unflatten(1, (-1, 2)).sum(2)
        return (torch.log(power + 1e-5) + 4.0) / 3.0


class Residual(nn.Module):
    """[1, channels, …] -> the same shape: two convolutions beside the identity."""

    def __init__(self, channels):
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        )

    def forward(self, image):
        return torch.relu(image + self.second(self.first(image)))


class Attention(nn.Module):
    """Tokens [1, n, width] -> the same: windows of four, plus every query's best few keys."""

    def __init__(self, width, heads=2, window=4, best=3):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mix = nn.Parameter(torch.zeros(1))
        self.heads, self.window, self.best = heads, window, best

    def forward(self, tokens):
        _, count, width = tokens.shape
        each = width // self.heads
        q, k, v = (
            self.qkv(self.norm(tokens)).view(count, 3, self.heads, each).permute(1, 2, 0, 3)
        )
        shape = (self.heads, count // self.window, self.window, each)
        local = nn.functional.scaled_dot_product_attention(
            q.view(shape), k.view(shape), v.view(shape)
        )
        scores = q @ k.transpose(-1, -2) / each**0.5  # [heads, n, n]
        top, where = scores.topk(self.best, dim=-1)
        sparse = torch.full_like(scores, -1e4).scatter(-1, where, top).softmax(-1)
        share = torch.sigmoid(self.mix)
        mixed = share * local.reshape(self.heads, count, each) + (1 - share) * (sparse @ v)
        return tokens + self.out(mixed.permute(1, 0, 2).reshape(1, count, width))


class Feed(nn.Module):
    """Tokens [1, n, width] -> the same."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.wide, self.back = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )

    def forward(self, tokens):
        return tokens + self.back(nn.functional.gelu(self.wide(self.norm(tokens))))


class Gate(nn.Module):
    """Features [1, M, width] and present [1, M] -> their weighted sum [1, width]."""

    keep_float32 = True

    def __init__(self, width):
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, features, present):
        scores = self.score(features)[..., 0] + (present - 1) * 1e4
        return (torch.softmax(scores, -1)[..., None] * features).sum(1)


class Small(nn.Module):
    """Image, audio, present -> logits, and the fused feature."""

    def __init__(self, width=32, blocks=2):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), Residual(width)
        )
        self.shrink = nn.Conv2d(width, width, 3, 2, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(Attention(width), Feed(width)) for _ in range(blocks)
        )
        self.mel = LogMel()
        self.listen = nn.Sequential(
            nn.Conv1d(16, width, 3, 2, 1), nn.ReLU(), nn.Conv1d(width, width, 3, 2, 1)
        )
        self.gate = Gate(width)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, image, audio, present):
        seen = self.shrink(self.stem((image - 127.5) / 64)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            seen = block(seen)
        heard = self.listen(self.mel(audio)).mean(-1)
        fused = self.gate(torch.stack((seen.mean(1), heard), 1), present)
        return self.head(fused), fused


class Later(nn.Module):
    """A tier that goes on from an earlier tier's feature, and has no use for the picture."""

    def __init__(self, width=32):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, len(LABELS)))

    def forward(self, image, feature):
        return self.body(feature)


class Prunable(nn.Module):
    """Picture → logits: every kind of width that pruning can make smaller."""

    def __init__(self, width=32, hidden=96):
        super().__init__()
        self.stem = nn.Sequential(  # two widths side by side, and a convolution in groups
            convolution(3, 48, stride=(2, 2)),
            nn.Conv2d(48, 48, 3, padding=1, groups=48),
            convolution(48, 64, stride=(2, 2)),
            convolution(64, width, stride=(1, 1)),
        )
        self.residual = ResidualConvolution(width, 64)
        attention = MultiLevelAttention(width, 4, (8, 8), (4, 4), 8)
        self.block = TransformerBlock(attention, width, hidden)
        self.head = nn.Linear(width, len(LABELS))

    def forward(self, image):
        seen = self.residual(self.stem((image - 127.5) / 64)).flatten(2).transpose(1, 2)
        return self.head(self.block(seen).mean(1))


def make_prunable():
    """One tier, one input; seeded, and not trained."""
    torch.manual_seed(0)
    tier = TierNetwork(Tier("only", ("image",), ("logits",)), Prunable().eval())
    inputs = (InputSpec("image", "image", (1, 3, SIDE, SIDE)),)
    return Network("prunable", LABELS, inputs, (tier,), make_pictures)


def make_pictures(split, count, seed):
    """The pictures of `make_samples` alone."""
    samples = make_samples(split, count, seed)
    return [Sample({"image": sample.signals["image"]}) for sample in samples]


def make_network():
    """Seeded; its norms have seen data, so that activations are of a trained network's size."""
    torch.manual_seed(0)
    first, later = Small(), Later()
    first.train()
    with torch.no_grad():
        for inputs in make_tensors(64, seed=1):
            first(*(torch.from_numpy(inputs[name]) for name in ("image", "audio", "present")))
    inputs = (
        InputSpec("image", "image", (1, 3, SIDE, SIDE)),
        InputSpec("audio", "audio", (1, WINDOW), RATE_HZ),
    )
    tiers = (
        TierNetwork(
            Tier("lite", ("image", "audio", "present"), ("logits", "feature")), first.eval()
        ),
        TierNetwork(Tier("full", ("image", "feature"), ("logits",)), later.eval()),
    )
    return Network("small", LABELS, inputs, tiers, make_samples)


def make_samples(split, count, seed):
    """Stripes and tones, finer and higher by class."""
    random = np.random.default_rng([seed, *split.encode()])
    return [_sample(random, number % len(LABELS)) for number in range(count)]


def make_tensors(count, seed):
    """What the preprocessing makes of samples: the same, as tensors."""
    random = np.random.default_rng(seed)
    tensors = []
    for number in range(count):
        sample = _sample(random, number % len(LABELS))
        image = sample.signals["image"].image.astype(np.float32).transpose(2, 0, 1)[None]
        present = np.float32([[1, 1], [1, 0], [0, 1]][int(random.integers(3))])[None]
        tensors.append({
            "image": image * present[0, 0],
            "audio": sample.signals["audio"].samples[None] * present[0, 1],
            "present": present,
        })  # fmt: skip
    return tensors


def _sample(random, label):
    across = np.arange(SIDE) * (label + 1) * 0.4 + random.uniform(0, 6)
    stripes = 110 + 60 * np.sin(across)[:, None, None] * random.uniform(0.5, 1, 3)
    image = np.clip(stripes + random.normal(0, 8, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    tone = np.sin(np.arange(WINDOW) * (label + 1) * 0.35 + random.uniform(0, 6))
    sound = (random.uniform(0.2, 0.6) * tone + random.normal(0, 0.02, WINDOW)).astype(
        np.float32
    )
    return Sample({
        "image": Frame(image, 0.0, LABELS[label]),
        "audio": Sound(sound, RATE_HZ, 0.0, LABELS[label]),
    })  # fmt: skip


@pytest.fixture(scope="session")
def network():
    return make_network()


@pytest.fixture(scope="session")
def prunable():
    return make_prunable()


@pytest.fixture(scope="session")
def tensors():
    return make_tensors(48, seed=2)


@pytest.fixture(scope="session")
def graph(network, tmp_path_factory):
    """The first tier in float, at opset 17."""
    path = tmp_path_factory.mktemp("graphs") / "lite.onnx"
    return to_onnx(network, network.tiers[0], path, opset=17).path


@pytest.fixture(scope="session")
def ranges(graph, tensors):
    return calibrate(graph, tensors)


@pytest.fixture
def mixed(network, ranges, tmp_path):
    """Makes the INT8 form of the graph in half precision, by the float graph's ranges."""

    def make(**how):
        tier = network.tiers[0]
        half = to_onnx(network, tier, tmp_path / "half.onnx", opset=19, half=True).path
        return quantize(half, tmp_path / "mixed.onnx", ranges, style="tensorrt", **how).path

    return make


@pytest.fixture(scope="session")
def quantized(graph, ranges):
    """The two INT8 forms, by style."""
    return {
        style: quantize(graph, graph.with_suffix(f".{style}.onnx"), ranges, style=style).path
        for style in STYLES
    }


@pytest.fixture(scope="session")
def held_back(graph):
    """Samples, the float logits, and labels that the float network gets right."""
    samples = make_tensors(32, seed=3)
    engine = OnnxRuntimeEngine(graph)
    logits = [engine.run(sample)["logits"] for sample in samples]
    return samples, logits, [int(row.argmax()) for row in logits]


@pytest.fixture
def shares_pay(monkeypatch):
    """A graph takes as long as it is large, so that no noise of this machine undoes a share."""

    def time_runs(cases, *, sessions):
        # As much more in one session as less in the next: the mean is exact.
        noise = np.resize([1e-6, -1e-6], sessions)
        return {
            name: path.stat().st_size / 1e5 + noise * (-1) ** place
            for place, (name, (path, _)) in enumerate(cases.items())
        }

    monkeypatch.setattr(shares, "time_runs", time_runs)
