"""Accuracy, latency and size after every step of an export: the points of the report's curve.

Accuracy is of the samples held back, latency of one thread of this machine, all graphs in
turns, size that of the graph's file; all as ONNX Runtime runs them. INT8 kernels that cut off
sums, which the machine of the bundle has not, tell the latency only. A tier that goes on from
earlier ones counts with them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

from mla_edge.bundle import sha256_of
from mla_edge.exporter.float_graphs import PRUNED
from mla_edge.exporter.held_back import answers
from mla_edge.exporter.job import kept_json
from mla_edge.exporter.policy import route
from mla_edge.exporter.runs import machine, open_engines, run_tiers, time_runs
from mla_edge.exporter.steps import hash_of
from mla_edge.signals import PRESENT

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.exporter.policy import ModeRouting
    from mla_edge.exporter.tiers import TierResult

FLOAT, STUDENT, UNTAUGHT, LEARNED = "float", "student", "pruned", "distilled"
TENSORRT, CPU, ROUTED = "tensorrt", "cpu", "routed"
_SESSIONS = 3
_NORMAL = 1.96  # of the normal distribution at 97.5 %


@dataclass(frozen=True)
class Point:
    """What is known of the network after one step; ``tier`` is empty of all tiers together."""

    tier: str
    step: str
    precision: str
    ms: float
    size_bytes: int
    accuracy: float
    drop_points: float  # against the tier's float network; of routing: the last tier's
    lost: int  # samples that float gets right and this does not
    won: int  # and the other way round
    doubt_points: float  # how far the 95 % interval of the change reaches


def measure_curve(
    job: Job,
    results: Sequence[TierResult],
    held: HeldBack,
    routings: Sequence[ModeRouting],
) -> dict[str, Any]:
    """The points, in the order of the steps of every tier, and how they were measured."""
    graphs = {result.name: _graphs(result) for result in results}
    said = {name: _answers(job, name, found, held) for name, found in graphs.items()}
    taken = _times(job, graphs, held)
    points = []
    for result in results:
        name = result.name
        earlier = [graphs[other] for other in _asked(job, name) if other != name]
        before = [taken[other] for other in _asked(job, name) if other != name]
        for step, path in graphs[name].items():
            files = [path, *(found.get(step, found[FLOAT]) for found in earlier)]
            ms = taken[name][step] + sum(t.get(step, t[FLOAT]) for t in before)
            size = sum(file.stat().st_size for file in files)
            precision = {TENSORRT: job.precision, CPU: result.cpu_precision}.get(step, "fp32")
            judged = _judge(said[name][step], held.logits[name], held.labels)
            points.append(Point(name, step, precision, ms, size, **judged))
    if len(results) > 1:
        shipped = {r.name: _step_of(graphs[r.name], r.cpu_graph) for r in results}
        answer, each_ms = _routed(job, results, held, routings, shipped, said, taken)
        judged = _judge(answer, held.logits[results[-1].name], held.labels)
        size = sum(result.cpu_graph.stat().st_size for result in results)
        precision = "/".join(sorted({result.cpu_precision for result in results}))
        points.append(Point("", ROUTED, precision, float(each_ms.mean()), size, **judged))
    return {
        "points": [asdict(point) for point in points],
        "samples": len(held.labels),
        "measured_on": machine(),
    }


def _graphs(result: TierResult) -> dict[str, Path]:
    """The graph after each step that made another one of the tier."""
    untaught = result.float_graph.with_name(PRUNED)
    learned = untaught.exists()
    smaller = STUDENT if result.shrunk["student"] else UNTAUGHT
    steps = {
        FLOAT: result.reference_graph,
        smaller: untaught if learned else result.float_graph,
        LEARNED: result.float_graph,
        TENSORRT: result.tensorrt_graph,
        CPU: result.cpu_graph,
    }
    found: dict[str, Path] = {}
    hashes = set()
    for step, path in steps.items():
        made = sha256_of(path)
        if made not in hashes:
            found[step] = path
            hashes.add(made)
    return found


def _step_of(graphs: Mapping[str, Path], graph: Path) -> str:
    """The step that made ``graph``."""
    wanted = sha256_of(graph)
    return next(step for step, path in graphs.items() if sha256_of(path) == wanted)


def _answers(
    job: Job, tier: str, graphs: Mapping[str, Path], held: HeldBack
) -> dict[str, np.ndarray]:
    """The logits of each graph of a tier, [samples, classes]."""
    part = next(part for part in job.network.tiers if part.tier.name == tier)
    others = {step: path for step, path in graphs.items() if step != FLOAT}
    with job.steps.step("curve accuracy", tier):
        logits = {step: answers(job, part, path, held, step) for step, path in others.items()}
    return {FLOAT: held.logits[tier], **logits}


def _times(
    job: Job, graphs: Mapping[str, Mapping[str, Path]], held: HeldBack
) -> dict[str, dict[str, float]]:
    """Milliseconds of one run on one thread, by tier and step; all graphs in turns."""
    feeds = {
        part.tier.name: {name: held.feeds[0][name] for name in part.tier.inputs}
        for part in job.network.tiers
    }

    def measure() -> dict[str, Any]:
        cases = {
            f"{tier} {step}": (path, feeds[tier])
            for tier, found in graphs.items()
            for step, path in found.items()
        }
        taken = time_runs(cases, sessions=_SESSIONS)
        return {
            tier: {step: float(np.median(taken[f"{tier} {step}"])) for step in found}
            for tier, found in graphs.items()
        }

    hashes = [[sha256_of(path) for path in found.values()] for found in graphs.values()]
    return kept_json(
        job, "curve latency", "", hash_of("curve latency", hashes, machine()), measure
    )


def _asked(job: Job, tier: str) -> list[str]:
    """The tiers that an answer of ``tier`` takes: itself, and earlier ones it goes on from."""
    given = {PRESENT, *(spec.name for spec in job.network.inputs)}
    names: list[str] = []
    for part in job.network.tiers:
        names.append(part.tier.name)
        if part.tier.name == tier:
            return [tier] if set(part.tier.inputs) <= given else names
    return names


def _routed(  # noqa: PLR0913 - what routes, what it routes, and what each tier said and took
    job: Job,
    results: Sequence[TierResult],
    held: HeldBack,
    routings: Sequence[ModeRouting],
    shipped: Mapping[str, str],
    said: Mapping[str, Mapping[str, np.ndarray]],
    taken: Mapping[str, Mapping[str, float]],
) -> tuple[np.ndarray, np.ndarray]:
    """The logits and the milliseconds of each sample held back, as the policy routes it."""
    logits = {name: said[name][step] for name, step in shipped.items()}
    if any(len(_asked(job, name)) > 1 for name in shipped):
        graphs = {result.name: result.cpu_graph for result in results}
        exact = job.exact(CPU)
        with open_engines(graphs, threads=job.threads, exact=exact) as engines:
            logits = run_tiers(engines, held.feeds)[0]
    last = results[-1].name
    alone_ms = sum(taken[name][shipped[name]] for name in _asked(job, last))
    until_ms = np.cumsum([taken[name][step] for name, step in shipped.items()])
    answer, ms = logits[last].copy(), np.full(len(held.labels), alone_ms)
    for routing in routings:
        rows = np.array(held.modes) == routing.mode
        if routing.threshold <= 1.0 and rows.any():
            part = {name: found[rows] for name, found in logits.items()}
            chosen = route(part, routing.temperature, routing.threshold)
            answer[rows] = np.stack(list(part.values()))[chosen, np.arange(rows.sum())]
            ms[rows] = until_ms[chosen]
    return answer, ms


def _judge(logits: np.ndarray, wanted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What a Point says of accuracy; ``wanted`` are the float network's logits.

    The interval is of two proportions on the same samples (Wald, from those that differ).
    """
    right, before = logits.argmax(1) == labels, wanted.argmax(1) == labels
    lost, won = int((before & ~right).sum()), int((right & ~before).sum())
    count = len(labels)
    spread = math.sqrt(max(0.0, lost + won - (lost - won) ** 2 / count)) / count
    return {
        "accuracy": float(right.mean()),
        "drop_points": round(100 * (lost - won) / count, 6),
        "lost": lost,
        "won": won,
        "doubt_points": 100 * _NORMAL * spread,
    }
