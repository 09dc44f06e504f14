"""Size and speed of a bundle of digits or commands against the float network, in one run.

    python benchmarks/speed.py [BUNDLE] [--data DIR] [--samples 600] [--threads 1] [--json]

Every figure is a ratio of medians taken in turns on this machine with ONNX Runtime. The routed
figure is whole decisions through ``mla_edge.load``: preprocessing, lite, router and, where it
escalates, full; it stands against preprocessing and the float full network on the same samples.
Samples are test samples of the data folder, or of the simulator without one.

For digits it also measures the alternative to a lite tier of its own: the first stages of the
full network, shared, whose cost is a lower bound of what a lite tier on top of them costs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from default_bundle import add_bundle
from torch import Tensor, nn

import mla_edge
from mla_edge.engines import Engine, open_engine
from mla_edge.errors import MlaEdgeError
from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.networks import Network, TierNetwork, load_network
from mla_edge.networks.multimodal import MultimodalNetwork
from mla_edge.preprocess import Preprocessor
from mla_edge.signals import Sample, Tensors, Tier


class FirstStages(nn.Module):
    """The first stages of both encoders of a network, and the least head there can be."""

    def __init__(self, full: MultimodalNetwork, stages: int) -> None:
        """``stages`` of the encoders' convolution stages, residuals counted."""
        super().__init__()
        encoders: list[Any] = [full.encoders[name] for name in full.names]
        self.fronts = nn.ModuleList(encoder.front for encoder in encoders)
        self.stages = nn.ModuleList(encoder.stages[:stages] for encoder in encoders)
        config = encoders[0].config
        width = [c for c, i in zip(config.channels, config.inner) for _ in range(1 + bool(i))]
        self.head = nn.Linear(width[stages - 1], 11)

    def forward(self, image: Tensor, audio: Tensor, present: Tensor) -> Tensor:
        """Raw tensors → logits [B, classes]."""
        parts = [
            stage(front(raw)).mean((2, 3))
            for front, stage, raw in zip(self.fronts, self.stages, (image, audio))
        ]
        weights = present.softmax(1)
        logits: Tensor = self.head(parts[0] * weights[:, :1] + parts[1] * weights[:, 1:])
        return logits


def float_graphs(network: Network, folder: Path) -> dict[str, Path]:
    """Float graphs of both tiers, of students, and of the shared first stages."""
    parts = {part.tier.name: part for part in network.tiers}
    full = parts["full"].module
    assert isinstance(full, MultimodalNetwork)
    graphs = {}
    for name, part in parts.items():
        graphs[f"{name} float"] = to_onnx(network, part, folder / f"{name}.onnx", opset=17).path
        if part.student is not None:
            student = dataclasses.replace(part, module=part.student)
            path = folder / f"{name}.student.onnx"
            graphs[f"{name} student float"] = to_onnx(network, student, path, opset=17).path
    if network.name != "digits":
        return graphs
    for stages in (1, 3, 5):
        title = f"first {stages} stages"
        tier = Tier(f"shared{stages}", parts["full"].tier.inputs, ("logits",))
        shared = TierNetwork(tier, FirstStages(full, stages).eval())
        graphs[title] = to_onnx(network, shared, folder / f"{tier.name}.onnx", opset=17).path
    return graphs


def time_in_turns(
    graphs: dict[str, Path], feed: Tensors, rounds: int, threads: int
) -> dict[str, float]:
    """Median milliseconds of each graph, run in turns."""
    engines = {name: open_engine(path, threads=threads) for name, path in graphs.items()}
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    for turn in range(rounds + 10):
        for name, engine in engines.items():
            inputs = {spec.name: feed[spec.name] for spec in engine.inputs}
            began = time.perf_counter()
            engine.run(inputs)
            if turn >= 10:
                taken[name].append((time.perf_counter() - began) * 1e3)
    for engine in engines.values():
        engine.close()
    return {name: float(np.median(values)) for name, values in taken.items()}


def time_routed(
    folder: Path, network: Network, samples: list[Sample], engine: Engine, threads: int
) -> dict[str, float]:
    """Whole decisions, routed and always float full, in turns on the same samples."""
    preprocess = Preprocessor(network.inputs)
    routed_ms, float_ms, lite, routed_right, float_right = [], [], [], [], []
    with mla_edge.load(folder, threads=threads) as model:
        for turn, sample in enumerate([*samples[:20], *samples]):
            began = time.perf_counter()
            prediction = model.infer(sample)
            between = time.perf_counter()
            inputs = preprocess(sample)
            logits = engine.run(inputs)["logits"]
            ended = time.perf_counter()
            if turn < 20:
                continue
            routed_ms.append((between - began) * 1e3)
            float_ms.append((ended - between) * 1e3)
            lite.append(prediction.tier == "lite")
            routed_right.append(prediction.label == sample.truth)
            float_right.append(network.labels[int(logits.argmax())] == sample.truth)
    return {
        "routed ms": float(np.mean(routed_ms)),
        "float full ms": float(np.mean(float_ms)),
        "lite share %": 100 * float(np.mean(lite)),
        "routed right %": 100 * float(np.mean(routed_right)),
        "float full right %": 100 * float(np.mean(float_right)),
    }


def measure(args: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """All of it."""
    bundle = mla_edge.Bundle.read(args.bundle)
    network = load_network(bundle.network, data=args.data)
    graphs = float_graphs(network, scratch)
    for tier in bundle.tiers:
        graphs[f"{tier.name} cpu int8"] = bundle.graph(tier.name, cpu=True)
    samples = network.samples("test", args.samples, 77)
    preprocess = Preprocessor(network.inputs)
    whole = next(sample for sample in samples if len(sample.signals) == 2)
    feed = {name: value.copy() for name, value in preprocess(whole).items()}
    median_ms = time_in_turns(graphs, feed, args.rounds, args.threads)
    size_mb = {name: path.stat().st_size / 1e6 for name, path in graphs.items()}
    engine = open_engine(graphs["full float"], threads=args.threads)
    routed = time_routed(args.bundle, network, samples, engine, args.threads)
    engine.close()
    full = median_ms["full float"]
    return {
        "bundle": bundle.name,
        "threads": args.threads,
        "median_ms": {k: round(v, 3) for k, v in median_ms.items()},
        "share_of_full_float": {k: round(v / full, 3) for k, v in median_ms.items()},
        "size_mb": {k: round(v, 3) for k, v in size_mb.items()},
        "routed": {k: round(v, 3) for k, v in routed.items()},
        "full_smaller": round(size_mb["full float"] / size_mb["full cpu int8"], 2),
        "full_faster": round(full / median_ms["full cpu int8"], 2),
        "routed_faster": round(routed["float full ms"] / routed["routed ms"], 2),
        "routed_loss_points": round(routed["float full right %"] - routed["routed right %"], 2),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_bundle(parser)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            result = measure(args, Path(scratch))
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result.items():
            print(f"{name}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
