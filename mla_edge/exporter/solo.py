"""One input asked alone: lite's graph without the encoders of the others, where that pays.

Where sound alone is certain, the picture need not be looked at, and the reverse. The graph for
that is lite's own with the other inputs masked for good: whatever depends on nothing else has
one value then, which takes its place.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

from mla_edge.bundle import LEARNED, ModePolicy, RouterPolicy, Solo, sha256_of
from mla_edge.certify import THRESHOLDS, binomial_cdf
from mla_edge.errors import MissingDependency
from mla_edge.exporter.calibration import in_mode, labelled, modes
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.policy import DOUBT, MAX_LOSS, confidence, samples_needed
from mla_edge.exporter.quantization import run_with
from mla_edge.exporter.runs import measure_costs, open_engines, run_tiers
from mla_edge.exporter.showing import show, shown_by
from mla_edge.exporter.steps import hash_of
from mla_edge.signals import NOTHING, PRESENT, SCORE, InputSpec, Tensors, attention_of, solo_of

if TYPE_CHECKING:
    from mla_edge.exporter.job import Job
    from mla_edge.exporter.tiers import TierResult
    from mla_edge.networks import Network

try:
    import onnx
    from onnx import numpy_helper
except ImportError as error:
    raise MissingDependency(
        f"onnx cannot be loaded, and graphs are written with it: {error}",
        hint="pip install 'mla-edge[export]'",
    ) from error

_PAYS = 0.95  # of the cost without: what saves less is not worth a graph
_LOGITS = "logits"
_FOUND = "solos.json"


@dataclasses.dataclass(frozen=True)
class Tried:
    """What asking ``input`` alone first does in ``mode``, on its tune samples."""

    mode: str
    input: str
    samples: int
    threshold: float | None  # None: none holds, or it does not pay
    temperature: float
    kept: float  # share of the decisions that look at nothing else
    cost_ms: float  # of a decision, in the mean
    cost_before_ms: float
    why: str


@dataclasses.dataclass(frozen=True)
class Solos:
    """The policy with what is asked alone, the graphs for it, and all that was tried."""

    policy: RouterPolicy
    graphs: Mapping[str, Path]
    tried: tuple[Tried, ...] = ()

    def copy_into(self, folder: Path, network: Network) -> None:
        """Put the graphs beside those of the tiers, in the form that runs on processors.

        They give the attention over their input, where the tier does.
        """
        lite = network.tiers[0]
        for spec in network.inputs:
            path = self.graphs.get(solo_of(lite.tier.name, spec.name))
            if path is not None:
                name = attention_of(spec.name)
                seen = {key: of for key, of in shown_by(lite.module).items() if key == name}
                out = folder / f"{solo_of(lite.tier.name, spec.name)}.cpu.onnx"
                out.write_bytes(show(path.read_bytes(), seen))


def add_solos(job: Job, results: Sequence[TierResult], policy: RouterPolicy) -> Solos:
    """Ask an input alone first in each mode of several where the tune samples say that it pays.

    For two tiers whose first takes every input itself, and classes that all say something: that
    there is nothing to see does not say that there is nothing to hear.
    """
    inputs = job.network.inputs
    takes = {value.name for value in load_model(results[0].cpu_graph).graph.input}
    whole = takes == {PRESENT, *(spec.name for spec in inputs)}
    if len(results) != 2 or not whole or NOTHING in job.network.labels:
        return Solos(policy, {})
    key = hash_of(
        "solo",
        job.base,
        [sha256_of(each.cpu_graph) for each in results],
        job.calibration.sha256,
        repr(policy),
        job.threads,
        job.exact("cpu"),
    )
    entry = job.cache.find(key)
    if entry is None:
        with job.steps.step("solo"):
            entry = job.cache.store(key, lambda folder: _try_all(job, results, policy, folder))
    else:
        job.steps.reused("solo")
    rows = json.loads((entry / _FOUND).read_text(encoding="utf-8"))
    tried = tuple(Tried(**row) for row in rows)
    lite, graphs, changed = results[0].name, {}, dict(policy.modes)
    for one in tried:
        if one.threshold is not None:
            solo = Solo(one.input, one.temperature, one.threshold)
            changed[one.mode] = dataclasses.replace(changed[one.mode], solo=solo)
    for mode in changed.values():
        if mode.solo is not None:
            name = solo_of(lite, mode.solo.input)
            graphs[name] = entry / f"{mode.solo.input}.onnx"
    return Solos(dataclasses.replace(policy, modes=changed), graphs, tried)


def _try_all(
    job: Job, results: Sequence[TierResult], policy: RouterPolicy, folder: Path
) -> None:
    """Write a graph for each input, and what it does in each mode that has it and others."""
    inputs = job.network.inputs
    graphs = {result.name: result.cpu_graph for result in results}
    for spec in inputs:
        graphs[spec.name] = folder / f"{spec.name}.onnx"
        isolate(results[0].cpu_graph, graphs[spec.name], spec.name, inputs)
    costs = measure_costs(graphs, job.calibration.tune[0].tensors, threads=job.threads)
    rows = []
    with open_engines(graphs, threads=job.threads, exact=job.exact("cpu")) as engines:
        for mode in modes(inputs):
            known = policy.modes.get("+".join(mode))
            examples = in_mode(job.calibration.tune, inputs, mode)
            tensors, labels = labelled(examples, job.network.labels)
            if len(mode) < 2 or known is None or known.threshold > 1 or not len(labels):
                continue
            logits, feeds = run_tiers(engines, tensors)
            lite, full = (logits[result.name] for result in results)
            kept = _scores(known, lite, feeds) >= known.threshold
            tried = [
                try_input(
                    "+".join(mode),
                    name,
                    policy.modes[name].temperature,
                    (logits[name], lite, full),
                    kept,
                    labels,
                    (costs[name], costs[results[0].name], costs[results[1].name]),
                )
                for name in mode
                if name in policy.modes
            ]
            rows += [dataclasses.asdict(each) for each in _best(tried)]
    (folder / _FOUND).write_text(json.dumps(rows), encoding="utf-8")


def _best(tried: Sequence[Tried]) -> list[Tried]:
    """All of one mode, but only the cheapest is to be asked."""
    least_ms = min((each.cost_ms for each in tried), default=0.0)
    return [
        dataclasses.replace(each, threshold=None, why=f"{each.why}; another saves more")
        if each.threshold is not None and each.cost_ms > least_ms
        else each
        for each in tried
    ]


def _scores(policy: ModePolicy, logits: np.ndarray, feeds: Sequence[Tensors]) -> np.ndarray:
    """How safe it is to keep lite's answers, [samples], by the score that the mode goes by."""
    if policy.score == LEARNED and SCORE in feeds[0]:
        return 1.0 - np.array([feed[SCORE].flat[0] for feed in feeds], np.float64)
    return confidence(logits, policy.temperature)


def try_input(  # noqa: PLR0913 - three answers, what they cost, and what is right
    mode: str,
    name: str,
    temperature: float,
    logits: tuple[np.ndarray, np.ndarray, np.ndarray],
    kept: np.ndarray,
    labels: np.ndarray,
    costs: tuple[float, float, float],
) -> Tried:
    """Whether to ask ``name`` alone; ``logits`` and ``costs`` are its own, lite's and full's.

    ``kept`` says where lite is kept when it is asked. As for lite, thresholds are tried from
    careful to bold until what is spoiled may come from a loss of one point.
    """
    right = [rows.argmax(1) == labels for rows in logits]
    sure = confidence(logits[0], temperature)
    after = np.where(kept, costs[1], costs[1] + costs[2])
    before_ms, count = float(after.mean()), len(labels)
    best, best_ms, why = None, before_ms, f"{count} samples are too few"
    if count >= samples_needed(MAX_LOSS):
        why = "no threshold saves 5 % of the time"
        for threshold in THRESHOLDS:
            alone = sure >= threshold
            answered = np.where(alone, right[0], np.where(kept, right[1], right[2]))
            spoiled = int(np.sum(~answered & right[2]))
            if binomial_cdf(spoiled, count, MAX_LOSS) > DOUBT:
                why += f"; a bolder one would spoil {spoiled} of {count} answers"
                break
            cost_ms = float((costs[0] + np.where(alone, 0.0, after)).mean())
            if cost_ms < min(best_ms, _PAYS * before_ms):
                best, best_ms = threshold, cost_ms
    if best is not None:
        why = f"looks at nothing else in {float(np.mean(sure >= best)):.0%} of the decisions"
    share = 0.0 if best is None else float(np.mean(sure >= best))
    return Tried(mode, name, count, best, temperature, share, best_ms, before_ms, why)


def isolate(graph: Path, out: Path, name: str, inputs: Sequence[InputSpec]) -> None:
    """Write ``graph`` as it is where ``name`` is there, and no other of ``inputs``.

    It takes nothing else, and gives the logits alone. What depends on the masked inputs only is
    computed now, once.
    """
    model = load_model(graph)
    masked = {spec.name: np.zeros(spec.shape, np.float32) for spec in inputs}
    masked[PRESENT] = np.array([[float(spec.name == name) for spec in inputs]], np.float32)
    nodes, fixed = _split(model, name)
    values = next(run_with(model, fixed, [masked], optimise=False)) if fixed else {}
    used = {each for node in nodes for each in node.input}
    kept = [each for each in model.graph.initializer if each.name in used]
    made = [numpy_helper.from_array(np.array(values[each]), each) for each in fixed]
    made_of = onnx.helper.make_graph(
        nodes,
        f"{model.graph.name}.{name}",
        [each for each in model.graph.input if each.name == name],
        [each for each in model.graph.output if each.name == _LOGITS],
        [*kept, *made],
    )
    alone = onnx.helper.make_model(made_of, opset_imports=model.opset_import)
    alone.ir_version = model.ir_version
    onnx.checker.check_model(alone, full_check=True)
    out.write_bytes(alone.SerializeToString(deterministic=True))


def _split(model: Any, name: str) -> tuple[list[Any], list[str]]:
    """The nodes between the input ``name`` and the logits, and what others give them."""
    moving = {name}
    for node in model.graph.node:  # in the order in which they run
        if moving & set(node.input):
            moving |= set(node.output)
    needed, nodes = {_LOGITS}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output) and moving & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    there = {name, "", *(each.name for each in model.graph.initializer)}
    made = {each for node in nodes for each in node.output}
    return nodes[::-1], sorted(needed - made - there)
