"""Widths by the table against the same share of every width: which network is the better one.

Both reach the goal, both learn from the whole network for as long, both become INT8. Tune
samples choose between them; what is reported of the test samples chose nothing.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np
import torch

from mla_edge.certify import binomial_cdf
from mla_edge.exporter.distillation import divergence
from mla_edge.exporter.float_graphs import make_float_graphs
from mla_edge.exporter.int8 import quantize_tier
from mla_edge.exporter.runs import open_engines, run_tiers, saving, time_runs

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.networks import TierNetwork

KNAPSACK, UNIFORM = "knapsack", "uniform"
SLACK = 1.05  # two measurements of a graph differ by some hundredths
_DOUBT = 0.05  # a difference that chance alone gives as often as that is none


@dataclass(frozen=True)
class Entrant:
    """One way to prune a tier, and what was expected of it."""

    name: str  # KNAPSACK or UNIFORM
    widths: Mapping[str, int]  # of every group
    predicted_ms: float
    share: float | None = None  # of every width, where it is the same for all
    expected_ms: float | None = None  # by a table of elsewhere: then nothing is timed here


@dataclass(frozen=True)
class Score:
    """How an entrant did: its graph on a processor, its answers and its latency."""

    graph: Path
    ms: float  # where nothing pruned takes what the table says
    right: np.ndarray  # [tune samples], bool
    divergence: float  # from the whole network's answers to the tune samples
    test_accuracy: float
    facts: Mapping[str, Any]  # for the report


def with_widths(job: Job, tier: str, widths: Mapping[str, int]) -> Job:
    """The job with the tier pruned to ``widths``, by no share, and not its student."""
    how = dataclasses.replace(
        job.recipe.tier(tier),
        student=False,
        prune=0.0,
        prune_heads=0.0,
        prune_residual=0.0,
        widths=dict(widths),
    )
    tiers = {**job.recipe.tiers, tier: how}
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, tiers=tiers))


def make_graphs(job: Job, part: TierNetwork, form: str) -> tuple[Path, Path]:
    """The folder of the tier's float graphs, and its graph for a processor in ``form``."""
    folder = make_float_graphs(job, part)
    if form != "int8":
        return folder, folder / "float.onnx"
    quantized, _ = quantize_tier(job, part, folder / "float.onnx", {})
    return folder, quantized / "cpu.onnx"


def score(  # noqa: PLR0913 - the entrants, what they are held against, and their samples
    job: Job,
    part: TierNetwork,
    form: str,
    whole: tuple[Path | None, float],
    entrants: Sequence[Entrant],
    held: HeldBack,
    tuned: HeldBack,
) -> dict[str, Score]:
    """Make the graphs of the entrants, time them in turns with ``whole``, and try them.

    ``whole`` is the graph with nothing pruned, and what it takes by the table. Without that
    graph nothing is timed: the entrants say what a table of elsewhere expects of them.
    """
    name, (whole_graph, whole_ms) = part.tier.name, whole
    graphs, shrunk = {}, {}
    for entrant in entrants:
        folder, graphs[entrant.name] = make_graphs(
            with_widths(job, name, entrant.widths), part, form
        )
        shrunk[entrant.name] = json.loads((folder / "shrunk.json").read_text(encoding="utf-8"))
    with job.steps.step("compare", name):
        taken: Mapping[str, np.ndarray] = {}
        if whole_graph is not None:
            sample = {wanted: held.feeds[0][wanted] for wanted in part.tier.inputs}
            cases = {key: (graph, sample) for key, graph in {"": whole_graph, **graphs}.items()}
            taken = time_runs(cases, sessions=16)
        scores = {}
        for entrant in entrants:
            graph = graphs[entrant.name]
            logits, right = _answers(job, part, graph, tuned)
            wanted = torch.from_numpy(np.stack(list(tuned.logits[name])))
            apart = float(divergence(torch.from_numpy(logits), wanted))
            _, right_in_test = _answers(job, part, graph, held)
            saved_ms, noise_ms, ratio = _against_whole(entrant, taken, whole_ms)
            made = shrunk[entrant.name]
            facts = {
                "name": entrant.name,
                "share": entrant.share,
                "widths": {row["layer"]: row["after"] for row in made["pruned"]},
                "parameters": made["parameters_after"],
                "predicted_ms": entrant.predicted_ms,
                "ms": whole_ms * ratio,
                "speedup": 1 / ratio,
                "saved_ms": saved_ms,
                "noise_ms": noise_ms,
                "distillation": made["distillation"],
                "tune_samples": len(right),
                "tune_accuracy": float(right.mean()),
                "divergence": apart,
                "test_samples": len(right_in_test),
                "test_accuracy": float(right_in_test.mean()),
            }
            scores[entrant.name] = Score(
                graph, whole_ms * ratio, right, apart, float(right_in_test.mean()), facts
            )
        said = (f"{key} {s.right.mean():.1%} in {s.ms:.2f} ms" for key, s in scores.items())
        job.steps.note(", ".join(said))
    return scores


def choose(scores: Mapping[str, Score], target_ms: float) -> tuple[str, str]:
    """The name of the better entrant, and in a sentence whether the table helped.

    The better one has fewer wrong answers to the tune samples, or where that may be chance,
    answers nearer to the whole network's. What is chance is told by an exact test on the
    samples that only one of them gets right (McNemar 1947). One that misses the goal is not
    taken while the other reaches it.
    """
    ours, other = scores[KNAPSACK], scores.get(UNIFORM)
    if other is None:
        return KNAPSACK, "no uniform pruning reaches this latency"
    only_ours = int((ours.right & ~other.right).sum())
    only_other = int((other.right & ~ours.right).sum())
    chance = two_sided(only_ours, only_other)

    def badness(name: str) -> tuple[bool, int, float]:
        found = scores[name]
        wrong = int((~found.right).sum()) if chance <= _DOUBT else 0
        return found.ms > target_ms * SLACK, wrong, found.divergence

    best = min(scores, key=badness)
    points = 100 * float(ours.right.mean() - other.right.mean())
    gained = f"{points:+.2f} points on {len(ours.right)} tune samples (p = {chance:.2g})"
    if chance > _DOUBT:
        verdict = f"it did not help by more than chance: {gained}"
    elif points > 0:
        verdict = f"it helped: {gained}"
    else:
        verdict = f"it did not help: {gained}"
    return best, f"against uniform pruning to the same latency {verdict}; {best} is kept"


def two_sided(one: int, other: int) -> float:
    """How often a fair coin falls at least as unevenly as ``one`` to ``other``."""
    return min(1.0, 2 * binomial_cdf(min(one, other), one + other, 0.5))


def _against_whole(
    entrant: Entrant, taken: Mapping[str, np.ndarray], whole_ms: float
) -> tuple[float, float | None, float]:
    """Milliseconds saved, their noise if they were measured, the share of time that is left."""
    if entrant.expected_ms is not None:
        return whole_ms - entrant.expected_ms, None, entrant.expected_ms / whole_ms
    ratio = float(np.median(taken[entrant.name] / taken[""]))
    return (*saving(taken[""], taken[entrant.name]), ratio)


def _answers(
    job: Job, part: TierNetwork, graph: Path, held: HeldBack
) -> tuple[np.ndarray, np.ndarray]:
    """The graph's logits, [samples, classes], and where its answer is right, [samples]."""
    feeds = [{name: feed[name] for name in part.tier.inputs} for feed in held.feeds]
    graphs, exact = {part.tier.name: graph}, job.exact("cpu")
    with open_engines(graphs, threads=job.threads, exact=exact) as engines:
        logits = run_tiers(engines, feeds)[0][part.tier.name]
    return logits, logits.argmax(1) == held.labels
