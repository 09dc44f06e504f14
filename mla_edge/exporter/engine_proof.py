"""Prove engines on the machine that built them: same answers, INT8 really there, how fast."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Mapping

import numpy as np

from mla_edge.bundle import LEARNED, Bundle, ModePolicy, RouterPolicy
from mla_edge.engines.inspection import Inspection, inspect_layers
from mla_edge.engines.sidecar import plan_path, read_sidecar
from mla_edge.engines.verification import answer, form_of, required_agreement
from mla_edge.errors import (
    AccuracyGateError,
    InferenceError,
    MissingDependency,
)
from mla_edge.exporter.policy import MAX_LOSS, choose_mode, samples_needed
from mla_edge.golden import FILE as GOLDEN
from mla_edge.golden import Golden, compare, read_golden
from mla_edge.signals import PRESENT

if TYPE_CHECKING:
    from mla_edge.engines.bindings import Bindings
    from mla_edge.engines.sidecar import Target
    from mla_edge.engines.trt import TensorRTEngine

JUDGED = "judged"
NOTHING_PUBLISHED = "nothing was published"
_WARM_UP, _ROUNDS = 10, 50
_SLACK = 1.05  # two measurements of an engine differ by some hundredths


@dataclass(frozen=True)
class TierProof:
    """One engine against the float network on the golden samples."""

    top1_agreement: float
    max_error: float
    accuracy: float | None  # of the golden samples, where their labels are known
    float_accuracy: float | None
    ms: float  # median of one run, copies included
    inspection: Inspection
    form: str = "tensorrt"  # of the graph that it was built from: that, or dla
    warning: str = ""

    @property
    def drop_points(self) -> float | None:
        """Points of accuracy lost against the float network; None without labels."""
        if self.accuracy is None or self.float_accuracy is None:
            return None
        return round(100 * (self.float_accuracy - self.accuracy), 6)


@dataclass(frozen=True)
class Proof:
    """Whether the engines ran, and what came of it."""

    reason: str  # why they could not run here; empty where they did
    samples: int
    tiers: Mapping[str, TierProof] = field(default_factory=dict)
    policy: RouterPolicy | None = None  # None: the export's stays
    routing: str = ""

    @property
    def in_words(self) -> str:
        """One line."""
        if self.reason:
            return f"not run: {self.reason}"
        rows = (
            f"{name} {proof.top1_agreement:.1%} same answers, {proof.ms:.2f} ms"
            for name, proof in self.tiers.items()
        )
        return "; ".join(rows)

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "status": "not run" if self.reason else "ok",
            "reason": self.reason,
            "samples": self.samples,
            "routing": self.routing,
            "tiers": {
                name: {**dataclasses.asdict(proof), "drop_points": proof.drop_points}
                for name, proof in self.tiers.items()
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Proof:
        """What ``as_json`` gave; KeyError or TypeError if it is of another version."""
        tiers = {}
        for name, found in values["tiers"].items():
            given = {key: value for key, value in found.items() if key != "drop_points"}
            given["inspection"] = Inspection.from_json(given["inspection"])
            tiers[name] = TierProof(**given)
        return cls(values["reason"], values["samples"], tiers, routing=values["routing"])


def prove(bundle: Bundle, bindings: Bindings, target: Target) -> Proof:
    """Run every engine on the golden samples; a machine without a GPU says that it did not."""
    golden = read_golden(bundle.folder / GOLDEN)
    try:
        from mla_edge.engines.cuda import Gpu

        gpu = Gpu().hold()
    except (MissingDependency, InferenceError) as error:
        if target.flavour != "rtx":  # whose engines are also built where no GPU is
            raise
        return Proof(f"no GPU can be used here ({error})", len(golden))
    from mla_edge.engines.trt import TensorRTEngine

    with ExitStack() as stack:
        stack.callback(gpu.release)
        engines = {
            tier.name: stack.enter_context(
                closing(TensorRTEngine(plan_path(bundle, target.key, tier.name), bindings, gpu))
            )
            for tier in bundle.tiers
        }
        logits = answer(engines, bundle.tiers, golden)
        cost_ms = measure_costs(engines, bundle, golden)
        inspections = {name: inspect_layers(e.inspect()) for name, e in engines.items()}
    policy, routing = certify(
        bundle, golden, logits, cost_ms, f"{target.gpu}, {bindings.title}"
    )
    tiers = {}
    for name, found in logits.items():
        match = compare(golden.logits[name], found)
        tiers[name] = TierProof(
            top1_agreement=match.top1_agreement,
            max_error=match.max_error,
            accuracy=_accuracy(found, golden),
            float_accuracy=_accuracy(golden.logits[name], golden),
            ms=cost_ms[name],
            inspection=inspections[name],
            form=form_of(read_sidecar(plan_path(bundle, target.key, name)).graph),
            warning="; ".join(
                filter(
                    None,
                    (
                        warn_of_types(bundle, inspections[name]),
                        warn_of_goal(bundle, name, cost_ms[name]),
                    ),
                )
            ),
        )
    return Proof("", len(golden), tiers, policy, routing)


def measure_costs(
    engines: Mapping[str, TensorRTEngine], bundle: Bundle, golden: Golden
) -> dict[str, float]:
    """Median milliseconds of one run of each tier, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    known = dict(next(golden.samples()))
    for turn in range(_WARM_UP + _ROUNDS):
        for tier in bundle.tiers:
            inputs = {name: known[name] for name in tier.inputs}
            began = time.perf_counter()
            outputs = engines[tier.name].run(inputs)
            if turn >= _WARM_UP:
                taken[tier.name].append((time.perf_counter() - began) * 1e3)
            known.update({name: np.array(value) for name, value in outputs.items()})
    return {name: float(np.median(values)) for name, values in taken.items()}


def certify(
    bundle: Bundle,
    golden: Golden,
    logits: Mapping[str, np.ndarray],
    cost_ms: Mapping[str, float],
    measured_on: str,
) -> tuple[RouterPolicy | None, str]:
    """Choose the routing again from the engines' own answers, in every mode that can be.

    A mode with too few golden samples keeps the export's threshold. Returns the policy, and in
    words what was done.
    """
    if len(bundle.tiers) == 1:
        return None, "there is one tier"
    if golden.labels is None:
        return None, "the golden samples have no labels: the export's thresholds stay"
    full_ms = bundle.full_alone_ms(cost_ms)
    chosen: dict[str, ModePolicy] = {}
    said = []
    for mode, rows in _by_mode(bundle, golden).items():
        exported = bundle.policy.modes.get(mode)
        if exported is not None and exported.score == LEARNED:
            said.append(f"{mode}: kept, it routes by a learned score")
            continue
        needed = samples_needed(MAX_LOSS)
        if len(rows) < needed:
            said.append(f"{mode}: kept, {needed - len(rows)} golden samples are missing")
            continue
        of_mode = {name: found[rows] for name, found in logits.items()}
        routing = choose_mode(mode, of_mode, golden.labels[rows], cost_ms, full_ms)
        chosen[mode] = ModePolicy(routing.temperature, routing.threshold)
        said.append(f"{mode}: chosen again on {len(rows)} samples, {routing.kept:.0%} kept")
    # Costs of this machine even where the thresholds stay.
    policy = RouterPolicy({**bundle.policy.modes, **chosen}, dict(cost_ms), measured_on)
    return policy, "; ".join(said)


def warn_of_types(bundle: Bundle, found: Inspection) -> str:
    """A sentence where TensorRT put no layer of an INT8 bundle in INT8; otherwise empty."""
    if bundle.provenance.get("precision") != "int8" or not found.told or found.int8:
        return ""
    return (
        "the bundle is INT8, and TensorRT put no layer with weights in INT8: the engine is "
        "slower and larger than it could be"
    )


def warn_of_goal(bundle: Bundle, tier: str, ms: float) -> str:
    """A sentence where an engine is slower than the table of such a board had promised."""
    try:
        report = json.loads((bundle.folder / "report.json").read_text(encoding="utf-8"))
        goal = next(found["goal"] for found in report["tiers"] if found["name"] == tier)
        if goal is None or goal["timed_here"] or ms <= goal["target_ms"] * _SLACK:
            return ""
        return (
            f"{ms:.2f} ms, and {goal['target_ms']:.2f} ms were asked for: the table of "
            f"{goal['measured_on']} expected {goal['reached_ms']:.2f} ms; measure it again in "
            "this power mode, or ask for less"
        )
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        return ""  # a bundle without a report, or of another version


def check_gate(
    bundle: Bundle, proof: Proof, max_drop: float, *, outcome: str = NOTHING_PUBLISHED
) -> str:
    """The gate of the export, for engines: agreement as recorded, and accuracy.

    Returns ``JUDGED``, or why the points of accuracy lost could not be. AccuracyGateError names
    the tier, and says the ``outcome``; one golden sample may flip between two kinds of kernels.
    """
    unjudged = _why_not_judged(bundle, proof, max_drop)
    for name, found in proof.tiers.items():
        required = required_agreement(bundle, found.form, name, proof.samples)
        drop = found.drop_points
        lost = not unjudged and drop is not None and drop > max_drop
        if found.top1_agreement < required or lost:
            what = f", {drop:.2f} points lost" if drop is not None else ""
            allowed = f" ({max_drop:g} allowed)" if lost else ""
            raise AccuracyGateError(
                f"tier {name!r}: the engine gives the float network's answer on "
                f"{found.top1_agreement:.1%} of the golden samples, {required:.1%} are "
                f"required{what}{allowed}; {outcome}",
                hint="export with --recipe fp16, or name layers in keep_float of the recipe",
            )
    return unjudged or JUDGED


def _why_not_judged(bundle: Bundle, proof: Proof, max_drop: float) -> str:
    """Empty where the golden samples can tell ``max_drop`` points: of few, one flip is many."""
    if proof.reason:
        return "not judged: the engines did not run"
    if any(found.drop_points is None for found in proof.tiers.values()):
        return "not judged: the golden samples have no labels"
    if max_drop == 0 or 100 / proof.samples <= max_drop:
        return ""
    every = max(1, len(bundle.policy.modes))  # an export takes as many of each mode
    needed = math.ceil(math.ceil(100 / max_drop) / every) * every
    return (
        f"not judged: {proof.samples} golden samples, {needed} are needed for {max_drop:g} "
        f"point{'' if max_drop == 1 else 's'} (export --golden {needed})"
    )


def _accuracy(logits: np.ndarray, golden: Golden) -> float | None:
    if golden.labels is None:
        return None
    return float((logits.argmax(1) == golden.labels).mean())


def _by_mode(bundle: Bundle, golden: Golden) -> dict[str, np.ndarray]:
    """The rows of the golden samples in each mode."""
    names = [spec.name for spec in bundle.inputs]
    count = len(golden)
    there = golden.inputs[PRESENT] if PRESENT in golden.inputs else np.ones((count, 1))
    modes = ["+".join(n for n, on in zip(names, row) if on) for row in there]
    return {
        mode: np.array([i for i, m in enumerate(modes) if m == mode]) for mode in set(modes)
    }
