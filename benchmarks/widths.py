"""What the latency table predicts for many choices of widths, and what the whole graph takes.

    python benchmarks/widths.py [--tier full] [--random 6] [--json]

The tier is one of ``digits``, in INT8 for a processor, on one thread of this machine. Choices
are shares of every width, and widths drawn at random from those of the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from mla_edge.exporter.latency_table import LatencyTable, allowed_widths
from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.exporter.pruning import ROUND_TO, find_groups, prune
from mla_edge.exporter.quantization import calibrate
from mla_edge.exporter.tracing import example_inputs, scopes_of
from mla_edge.exporter.width_search import measured_ms, uniform_widths
from mla_edge.exporter.width_timer import WidthTimer
from mla_edge.networks import load_network

SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)


def measure(tier: str, count: int, folder: Path) -> tuple[LatencyTable, dict[str, list[float]]]:
    """The table, and by choice the predicted and the measured milliseconds."""
    network = load_network("digits")
    part = next(part for part in network.tiers if part.tier.name == tier)
    samples = example_inputs(network, part, 32)
    example = [torch.from_numpy(samples[0][name]) for name in part.tier.inputs]
    groups = find_groups(part.module, example)
    whole = {group.layer: group.width for group in groups}
    heads = [group.layer for group in groups if group.kind == "heads"]
    options = {
        name: allowed_widths(width, 1 if name in heads else ROUND_TO)
        for name, width in whole.items()
    }
    halved = prune(part.module, example, widths=uniform_widths(whole, heads, 0.5, ROUND_TO))
    graphs = []
    for name, module in (("whole", part.module), ("halved", halved.module)):
        smaller = dataclasses.replace(part, module=module)
        graphs.append(to_onnx(network, smaller, folder / f"{name}.onnx", opset=17).path)
    scopes = scopes_of(part.module, part.tier.inputs, samples[0], tier)
    ranges = calibrate(graphs[0], samples)
    uncut, cut = graphs
    timer = WidthTimer(uncut, cut, scopes, whole, samples[0], folder, ranges=ranges)
    table = timer.measure(tier, options)
    draw = np.random.default_rng(0)
    choices = {
        f"{share:.1%}": uniform_widths(whole, heads, share, ROUND_TO) for share in SHARES
    }
    for number in range(count):
        choices[f"random {number + 1}"] = {
            g: int(draw.choice(row)) for g, row in options.items()
        }
    taken = timer.time(choices, 16)
    return table, {
        name: [table.predict(widths), measured_ms(table, taken, name)]
        for name, widths in choices.items()
    }


def main() -> int:
    """Print the table of the documents."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--tier", default="full", choices=("lite", "full"))
    parser.add_argument("--random", type=int, default=6, metavar="N")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table, rows = measure(asked.tier, asked.random, Path(folder))
    if asked.json:
        print(json.dumps({"table": table.to_json(), "rows": rows}))
        return 0
    print(f"{table.whole_ms:.2f} ms with nothing pruned, on {table.measured_on}\n")
    print("| widths | by the table | measured | apart |\n|---|---|---|---|")
    for name, (predicted, measured) in rows.items():
        apart = 100 * (predicted / measured - 1)
        print(f"| {name} | {predicted:.2f} ms | {measured:.2f} ms | {apart:+.1f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
