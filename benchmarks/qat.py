"""What a fine-tune in INT8 gains over INT8 by calibration, and over learning on in float.

    python benchmarks/qat.py --data DIR [--recipe compact] [--tier lite] [--json]
    python benchmarks/qat.py --uneven 2.7 [--json]

The first is a tier of ``digits`` as a recipe prunes it. The second is the example network
`alarms`, made hard to quantize: its channels are of sizes that spread over that many powers of
ten, while its answers are the same. All learn from the float network for as many steps of as
many samples; every row is then quantized with every layer in INT8.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from mla_edge.exporter.calibration import load_calibration
from mla_edge.exporter.distillation import distil
from mla_edge.exporter.float_graphs import (
    float_module,
    make_float_graphs,
    training_feeds,
    write_graphs,
)
from mla_edge.exporter.held_back import compare, hold_back
from mla_edge.exporter.int8 import quantize_tier
from mla_edge.exporter.job import Job
from mla_edge.exporter.pipeline import ExportRequest, Plan, hash_network, load
from mla_edge.exporter.qat import learn
from mla_edge.exporter.steps import StepCache, StepEvent, Steps
from mla_edge.networks import TierNetwork

ALARMS = f"{Path(__file__).parents[1] / 'examples' / 'your_network' / 'alarms.py'}:make_network"


def make_uneven(network: Any, spread: float) -> None:
    """Let channels differ in size by up to ``spread`` powers of ten; the answers stay.

    What a batch norm makes larger, the next convolution makes smaller.
    """
    body = network.tiers[0].module.body
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm, convolution in ((body[0][1], body[1][0]), (body[1][1], body[2][0])):
            sizes = 10 ** (spread * torch.rand(norm.num_features, generator=draw))
            norm.weight *= sizes
            norm.bias *= sizes
            convolution.weight /= sizes[None, :, None, None]


def prepare(asked: argparse.Namespace, cache: Path) -> tuple[Job, TierNetwork]:
    """The export that the command line asks for, and its tier."""
    uneven = asked.uneven is not None
    request = ExportRequest(
        "host", ALARMS if uneven else "digits", asked.recipe, Path(tempfile.gettempdir()),
        asked.data,
    )  # fmt: skip
    steps = Steps(say)
    plan: Plan = load(request, steps)
    if uneven:
        make_uneven(plan.network, asked.uneven)
    recipe = plan.recipe
    learning = dataclasses.replace(recipe.qat, time_limit_s=3600.0)
    job = Job(
        profile=plan.profile,
        recipe=dataclasses.replace(recipe, qat=learning),
        precision="int8",
        network=plan.network,
        calibration=load_calibration(plan.calibration, plan.network),
        own_samples=True,
        trains=True,
        base=hash_network(request, plan),
        steps=steps,
        cache=StepCache(cache),
    )
    name = "only" if uneven else asked.tier
    return job, next(part for part in plan.network.tiers if part.tier.name == name)


def measure(job: Job, part: TierNetwork) -> dict[str, dict[str, float]]:
    """Points lost on test samples and the cosine, by what was done and by form of graph."""
    held = hold_back(job)
    graphs = make_float_graphs(job, part)
    plain = graphs / "float.onnx"
    quantized, _ = quantize_tier(job, part, plain, {})
    rows = {"float": row(job, part, held, {"float": plain})}
    rows["calibrated"] = row(job, part, held, forms(quantized))

    module = copy.deepcopy(float_module(job, part, graphs))
    recipe, names = job.recipe.qat, part.tier.inputs
    feeds = training_feeds(job, part, recipe.samples)
    with job.steps.step("distil on", part.tier.name), tempfile.TemporaryDirectory() as folder:
        job.steps.note(str(distil(module, part.module, feeds, names, recipe)))
        write_graphs(job, dataclasses.replace(part, module=module), Path(folder))
        again, _ = quantize_tier(job, part, Path(folder) / "float.onnx", {})
    rows["learned on in float, calibrated"] = row(job, part, held, forms(again))

    learned, facts = learn(job, part, plain, quantized, "tensorrt")
    print(facts["training"], file=sys.stderr)
    if learned is not None:
        again, _ = quantize_tier(job, part, learned / "float.onnx", {})
        rows["learned in INT8"] = row(job, part, held, forms(again))
    return rows


def forms(folder: Path) -> dict[str, Path]:
    """The two INT8 graphs in ``folder``."""
    return {form: folder / f"{form}.onnx" for form in ("tensorrt", "cpu")}


def row(job: Job, part: TierNetwork, held: Any, graphs: dict[str, Path]) -> dict[str, float]:
    """What each graph loses against the float network."""
    found = {}
    for form, path in graphs.items():
        agreement = compare(job, part, path, held, form)
        found[f"{form} drop"] = agreement.drop_points
        found[f"{form} cosine"] = agreement.cosine
    return found


def say(event: StepEvent) -> None:
    """One line a step, on stderr."""
    if event.seconds is not None:
        note = f"{event.step} {event.tier} {event.note}"
        print(f"{event.seconds:7.1f} s  {note}", file=sys.stderr)


def main() -> int:
    """Print the table of the documents."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", default="compact")
    parser.add_argument("--tier", default="lite", choices=("lite", "full"))
    parser.add_argument("--uneven", type=float, metavar="POWERS")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if (asked.data is None) == (asked.uneven is None):
        parser.error("give --data or --uneven")
    with tempfile.TemporaryDirectory() as cache:
        rows = measure(*prepare(asked, Path(cache)))
    if asked.json:
        print(json.dumps(rows))
        return 0
    print("| | TensorRT form, points | its cosine | CPU form, points | its cosine |")
    print("|---|---|---|---|---|")
    for name, found in rows.items():
        cells = [f"{-value + 0.0:+.2f}" if "drop" in key else f"{value:.4f}"
                 for key, value in found.items()]  # fmt: skip
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
