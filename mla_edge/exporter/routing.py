"""Measure what routing needs, and choose its policy in every mode."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

from mla_edge.bundle import CONFIDENCE, LEARNED, RouterPolicy, sha256_of
from mla_edge.exporter.calibration import in_mode, labelled, modes
from mla_edge.exporter.policy import ModeRouting, choose_mode, make_policy
from mla_edge.exporter.runs import machine, measure_costs, open_engines, run_tiers
from mla_edge.exporter.steps import hash_of
from mla_edge.signals import PRESENT, SCORE, Tensors

if TYPE_CHECKING:
    from mla_edge.exporter.job import Job
    from mla_edge.exporter.shipped_score import ShippedScore
    from mla_edge.exporter.tiers import TierResult


def choose_policy(
    job: Job, results: Sequence[TierResult], score: ShippedScore | None = None
) -> tuple[RouterPolicy, dict[str, Any], list[ModeRouting]]:
    """Temperature and threshold of every mode from the graphs that run on a processor here.

    Where ``score`` says that a mode routes by the learned one, it does. Also gives each
    tier's cost in float, measured in the same turns, and what routing does.
    """
    graphs = [sha256_of(path) for r in results for path in (r.cpu_graph, r.reference_graph)]
    key = hash_of(
        "policy",
        job.base,
        graphs,
        job.calibration.sha256,
        machine(),
        job.threads,
        job.exact("cpu"),
        None if score is None else sorted(score.modes.items()),
    )
    entry = job.cache.find(key)
    if entry is None:
        with job.steps.step("policy"):
            entry = job.cache.store(
                key, lambda folder: _measure_policy(job, results, score, folder)
            )
    else:
        job.steps.reused("policy")
    found = json.loads((entry / "policy.json").read_text(encoding="utf-8"))
    routings = [ModeRouting(**row) for row in found["modes"]]
    policy = make_policy(routings, found["cost_ms"], found["measured_on"])
    return policy, found["float_cost_ms"], routings


def _measure_policy(
    job: Job, results: Sequence[TierResult], score: ShippedScore | None, folder: Path
) -> None:
    """Write ``policy.json``: costs, and the choice in every mode."""
    network = job.network
    graphs = {result.name: result.cpu_graph for result in results}
    pairs = {f"{r.name} float": r.reference_graph for r in results}
    feed = job.calibration.tune[0].tensors
    taken = measure_costs({**graphs, **pairs}, feed, threads=job.threads)
    costs = {name: taken[name] for name in graphs}
    given = {PRESENT, *(spec.name for spec in network.inputs)}
    last = network.tiers[-1].tier
    # A last tier that goes on from earlier ones cannot be asked alone.
    full_ms = costs[last.name] if set(last.inputs) <= given else sum(costs.values())
    rows = []
    with open_engines(graphs, threads=job.threads, exact=job.exact("cpu")) as engines:
        for mode in modes(network.inputs):
            examples = in_mode(job.calibration.tune, network.inputs, mode)
            tensors, labels = labelled(examples, network.labels)
            if len(labels):
                logits, feeds = run_tiers(engines, tensors)
                rows.append(
                    _choose("+".join(mode), logits, feeds, labels, costs, full_ms, score)
                )
    found = {
        "cost_ms": costs,
        "float_cost_ms": {r.name: taken[f"{r.name} float"] for r in results},
        "measured_on": machine(),
        "modes": [dataclasses.asdict(row) for row in rows],
    }
    (folder / "policy.json").write_text(json.dumps(found), encoding="utf-8")


def _choose(  # noqa: PLR0913 - what was measured in one mode
    mode: str,
    logits: Mapping[str, np.ndarray],
    feeds: Sequence[Tensors],
    labels: np.ndarray,
    costs: Mapping[str, float],
    full_ms: float,
    score: ShippedScore | None,
) -> ModeRouting:
    judged = None if score is None else score.modes.get(mode)
    if judged is None:
        return choose_mode(mode, logits, labels, costs, full_ms)
    normalised = {CONFIDENCE: judged.confidence, LEARNED: judged.learned}
    if judged.score != LEARNED:
        chosen = choose_mode(mode, logits, labels, costs, full_ms)
        return dataclasses.replace(chosen, normalised=normalised)
    safe = 1.0 - np.array([float(feed[SCORE][0, 0]) for feed in feeds])
    chosen = choose_mode(
        mode, logits, labels, costs, full_ms, safe=safe, thresholds=judged.thresholds
    )
    return dataclasses.replace(
        chosen, score=LEARNED, thresholds=judged.thresholds, normalised=normalised
    )
