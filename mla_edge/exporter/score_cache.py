"""``python -m mla_edge.exporter.score_cache NETWORK --data DIR``: a learned score to ship."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Mapping, Sequence

import numpy as np

from mla_edge._content import content_dir
from mla_edge.errors import MlaEdgeError
from mla_edge.exporter.calibration import (
    Example,
    in_mode,
    labelled,
    load_calibration,
    load_calibration_spec,
    modes,
    to_examples,
)
from mla_edge.exporter.fingerprints import code_fingerprint, network_code
from mla_edge.exporter.held_back import hold_back
from mla_edge.exporter.job import Job
from mla_edge.exporter.recipe import check_tiers, load_recipe
from mla_edge.exporter.runs import open_engines, run_tiers
from mla_edge.exporter.sampling import draw_samples
from mla_edge.exporter.score import Rows, fit_score, judge_score
from mla_edge.exporter.score_graph import POOLED, add_pooled
from mla_edge.exporter.shipped_score import ShippedScore, pooled_by, write_score
from mla_edge.exporter.steps import StepCache, Steps, hash_of
from mla_edge.exporter.tiers import export_tier
from mla_edge.networks import load_network
from mla_edge.profiles import load_profile
from mla_edge.signals import PRESENT

if TYPE_CHECKING:
    from mla_edge.engines import Engine

_SEED = 1  # not that of the calibration set


def learn_score(job: Job, learns: int, judges: int) -> ShippedScore:
    """Fit a head to ``learns`` TRAIN samples, and judge it in each mode on TUNE."""
    held = hold_back(job)
    graphs = {
        part.tier.name: export_tier(job, part, held).cpu_graph for part in job.network.tiers
    }
    first = job.network.tiers[0]
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "lite.onnx"
        pooled = pooled_by(first.module)
        graph.write_bytes(add_pooled(graphs[first.tier.name].read_bytes(), pooled))
        with open_engines({**graphs, first.tier.name: graph}, threads=job.threads) as engines:
            rows = {
                split: _rows(job, engines, split, count)
                for split, count in (("train", learns), ("tune", judges))
            }
    head = fit_score(rows["train"])
    judged = {mode: judge_score(head, found) for mode, found in rows["tune"].items()}
    source = f"real data: fitted to {learns} samples of train, judged on {judges} of tune"
    return ShippedScore(head, judged, source)


def _rows(job: Job, engines: Mapping[str, Engine], split: str, count: int) -> dict[str, Rows]:
    network = job.network
    samples = draw_samples(network, split, count, _SEED)
    examples = to_examples(samples, network.inputs)
    found = {}
    for mode in modes(network.inputs):
        rows = _mode_rows(engines, in_mode(examples, network.inputs, mode), network.labels)
        if rows is not None:
            found["+".join(mode)] = rows
    return found


def _mode_rows(
    engines: Mapping[str, Engine], examples: Sequence[Example], labels: Sequence[str]
) -> Rows | None:
    tensors, known = labelled(examples, labels)
    if not tensors:
        return None
    logits, feeds = run_tiers(engines, tensors)
    lite, full = logits.values()
    none = np.zeros((1, 0), np.float32)
    return Rows(
        present=np.concatenate([feed.get(PRESENT, none) for feed in feeds]),
        pooled=np.concatenate([feed.get(POOLED, none) for feed in feeds]),
        lite=lite,
        full=full,
        labels=known,
    )


def main(arguments: list[str] | None = None) -> int:
    """Learn the score of a network on real data and write the file that ships."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("network", help="digits, package.module:function or file.py:function")
    parser.add_argument("--data", type=Path, required=True, help="folder with the real data")
    parser.add_argument("--recipe", default="default", help="a name in export/, or a path")
    parser.add_argument("--learns", type=int, default=5000, help="samples of train")
    parser.add_argument("--judges", type=int, default=4000, help="samples of tune")
    parser.add_argument("--out", type=Path, default=content_dir("calibration"))
    options = parser.parse_args(arguments)
    try:
        job = _job(options.network, options.data, options.recipe)
        score = learn_score(job, options.learns, options.judges)
        sys.stdout.write(f"{write_score(options.out, job, score)}\n")
        for mode, found in score.modes.items():
            both = f"confidence {found.confidence}, learned {found.learned} ± {found.error:.3f}"
            sys.stdout.write(f"  {mode}: {both}: {found.score}\n")
    except MlaEdgeError as error:
        sys.stderr.write(f"{error}\n  {error.hint}\n")
        return error.exit_code
    return 0


def _job(ref: str, data: Path, recipe_name: str) -> Job:
    recipe, network = load_recipe(recipe_name), load_network(ref, data=data)
    check_tiers(recipe, recipe_name, [part.tier.name for part in network.tiers])
    return Job(
        profile=load_profile("host"),
        recipe=recipe,
        precision=recipe.precision,
        network=network,
        calibration=load_calibration(load_calibration_spec(recipe.calibration), network),
        own_samples=False,
        trains=False,
        base=hash_of(network.fingerprint, network_code(network, ref), code_fingerprint()),
        steps=Steps(lambda event: None),
        cache=StepCache(),
    )


if __name__ == "__main__":
    sys.exit(main())
