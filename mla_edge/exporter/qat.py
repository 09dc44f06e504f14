"""Quantization-aware fine-tune: where INT8 alone misses the gate, the tier learns with it.

The tier is run as its INT8 graph computes, with that graph's scales, and learns from the whole
float network as a pruned tier does. What comes of it is a float tier like any other, and goes
through the same quantizer with the same ranges; layers that INT8 still breaks are left in
float. It replaces the graphs made without it only where tune samples say that it is better.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import torch

from mla_edge.bundle import sha256_of
from mla_edge.exporter.agreement import Agreement, measure
from mla_edge.exporter.distillation import distil
from mla_edge.exporter.fake_quantization import (
    Simulation,
    fold_batch_norms,
    match_calls,
    read_roundings,
)
from mla_edge.exporter.fallback import SHARE, Kept, hold_gate
from mla_edge.exporter.float_graphs import (
    float_module,
    mixes,
    training_feeds,
    without_adapters,
    write_graphs,
)
from mla_edge.exporter.held_back import compare, hold_back
from mla_edge.exporter.int8 import choose_ranges, freeze_ranges, quantize_tier
from mla_edge.exporter.layers import find_layers, structure_of
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.sparsity import held_sparse
from mla_edge.exporter.steps import hash_of
from mla_edge.exporter.tracing import scopes_of

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.networks import TierNetwork

_FACTS = "learned.json"


@dataclass(frozen=True)
class Int8Graphs:
    """The INT8 graphs of a tier, and what they were made from."""

    float_graph: Path
    folder: Path  # with tensorrt.onnx and cpu.onnx
    left_in_float: Kept


@dataclass(frozen=True)
class _Candidate:
    """A tier's graphs and what they lose, by form."""

    graphs: Int8Graphs
    all_int8: Mapping[str, float]  # points lost on test samples with no layer left in float
    tune: Mapping[str, Agreement]
    test: Mapping[str, Agreement]

    def badness(self, max_drop: float) -> tuple[bool, bool, int, float, float]:
        """What is less is better: whether it holds, layers in float, points lost, cosine.

        The test samples say only whether the gate is held, as they do for any export.
        """
        lost = max(found.drop_points for found in self.tune.values())
        holds = lost <= max_drop * SHARE
        floats = sum(len(names) for names in self.graphs.left_in_float.values())
        refused = max(found.drop_points for found in self.test.values()) > max_drop
        apart = 1 - min(found.cosine for found in self.tune.values())
        return refused, not holds, floats if holds else 0, lost, apart

    def holds_in_int8(self, max_drop: float) -> bool:
        """Whether it holds with no layer in float."""
        return self.badness(max_drop)[:3] == (False, False, 0)

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {
            "left_in_float": {f: len(names) for f, names in self.graphs.left_in_float.items()},
            "all_int8_drop_points": dict(self.all_int8),
            "tune_drop_points": {f: found.drop_points for f, found in self.tune.items()},
            "tune_cosine": {f: found.cosine for f, found in self.tune.items()},
            "test_drop_points": {f: found.drop_points for f, found in self.test.items()},
        }


def hold_or_learn(  # noqa: PLR0913 - a tier, its graphs, and what they are held against
    job: Job,
    part: TierNetwork,
    float_graph: Path,
    quantized: Path,
    held: HeldBack,
    forms: Sequence[str],
) -> tuple[Int8Graphs, dict[str, Any] | None]:
    """The better of the graphs in ``quantized`` and those of a tier that learned with INT8.

    With layers left in float where that is needed. Beside them what the fine-tune came to, for
    the report; None where it was not wanted, or there is no training data.
    """
    when = job.recipe.qat.when
    lost = {form: _lost(job, part, quantized, held, form) for form in forms}
    wanted = when == "always" or (when == "missed" and max(lost.values()) > job.max_drop)
    if not (job.trains and wanted):
        return _left(job, part, float_graph, quantized, held, forms), None
    style = max(lost, key=lambda form: lost[form])
    entry, facts = learn(job, part, float_graph, quantized, style)
    facts = {"why": when, "form": style, **facts, "after": None, "kept": False}
    if entry is None:
        plain = _candidate(job, part, float_graph, quantized, held, forms)
        return plain.graphs, {**facts, "before": plain.facts()}
    learned = entry / "float.onnx"
    again, _ = quantize_tier(job, part, learned, {})
    after = _candidate(job, part, learned, again, held, forms)
    # Where all layers in INT8 hold the gate now, and did not, some in float are no rival.
    settled = max(lost.values()) > job.max_drop and after.holds_in_int8(job.max_drop)
    before = _candidate(job, part, float_graph, quantized, held, forms, leave=not settled)
    kept = after.badness(job.max_drop) < before.badness(job.max_drop)
    verdict = "better on tune samples" if kept else "no better on tune samples, so undone"
    facts.update(before=before.facts(), after=after.facts(), kept=kept, verdict=verdict)
    return (after if kept else before).graphs, facts


def _lost(job: Job, part: TierNetwork, folder: Path, held: HeldBack, form: str) -> float:
    return compare(job, part, folder / f"{form}.onnx", held, form).drop_points


def _left(  # noqa: PLR0913
    job: Job,
    part: TierNetwork,
    float_graph: Path,
    quantized: Path,
    held: HeldBack,
    forms: Sequence[str],
) -> Int8Graphs:
    """The graphs with the layers in float that the gate needs."""
    folder, kept = hold_gate(job, part, float_graph, quantized, held, forms)
    return Int8Graphs(float_graph, folder, kept)


def _candidate(  # noqa: PLR0913
    job: Job,
    part: TierNetwork,
    float_graph: Path,
    quantized: Path,
    held: HeldBack,
    forms: Sequence[str],
    *,
    leave: bool = True,
) -> _Candidate:
    """The graphs in ``quantized``, measured on both splits; with layers left in float if so."""
    all_int8 = {form: _lost(job, part, quantized, held, form) for form in forms}
    graphs = Int8Graphs(float_graph, quantized, {})
    if leave:
        graphs = _left(job, part, float_graph, quantized, held, forms)
    tuned = hold_back(job, "tune")
    feeds = [{name: feed[name] for name in part.tier.inputs} for feed in tuned.feeds]
    wanted, labels = list(tuned.logits[part.tier.name]), tuned.labels.tolist()
    paths = {form: graphs.folder / f"{form}.onnx" for form in forms}
    return _Candidate(
        graphs,
        all_int8,
        tune={
            form: measure(wanted, path, feeds, labels, exact=job.exact(form))
            for form, path in paths.items()
        },
        test={form: compare(job, part, path, held, form) for form, path in paths.items()},
    )


def learn(
    job: Job, part: TierNetwork, float_graph: Path, quantized: Path, style: str
) -> tuple[Path | None, dict[str, Any]]:
    """A folder with the float graphs of the tier that learned, and how it went.

    None for the folder where that helped nothing.
    """
    name, recipe = part.tier.name, job.recipe.qat
    origin = choose_ranges(job, part, float_graph)
    graph = quantized / f"{style}.onnx"
    key = hash_of(
        "qat",
        job.base,
        sha256_of(float_graph),
        sha256_of(graph),
        repr(recipe),
        job.calibration.spec.seed,
        mixes(job, name),
    )
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused("qat", name)
    else:
        with job.steps.step("qat", name):
            module, facts = _fine_tune(job, part, float_graph, graph)
            taught = facts["training"]
            losses = f"{taught['first_loss']:.4f} → {taught['last_loss']:.4f}"
            undone = "" if taught["kept"] else ": worse, so undone"
            job.steps.note(
                f"{taught['steps']} steps in INT8, loss on samples kept apart {losses}{undone}"
            )

            def make(folder: Path) -> None:
                if taught["kept"]:
                    write_graphs(job, dataclasses.replace(part, module=module), folder)
                    freeze_ranges(folder, origin)
                (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")

            entry = job.cache.store(key, make)
    facts = json.loads((entry / _FACTS).read_text(encoding="utf-8"))
    if not facts["training"]["kept"]:
        return None, {**facts, "verdict": "worse on samples kept apart, so undone"}
    if structure_of(find_layers(load_model(entry / "float.onnx"))) != origin.ranges.structure:
        verdict = "it became another graph without its batch norms, so undone"
        return None, {**facts, "verdict": verdict}
    return entry, facts


def _fine_tune(
    job: Job, part: TierNetwork, float_graph: Path, graph: Path
) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The tier's module after it learned as ``graph`` computes, and how that went."""
    recipe, names = job.recipe.qat, part.tier.inputs
    feeds = training_feeds(job, part, recipe.samples)
    example = [torch.from_numpy(feeds[0][name]) for name in names]
    module = fold_batch_norms(float_module(job, part, float_graph.parent), example)
    plain = load_model(float_graph)
    roundings = read_roundings(plain, load_model(graph))
    scopes = scopes_of(module, names, feeds[0], part.tier.name)
    calls, unseen = match_calls(plain, module, scopes, roundings)
    sparse = job.recipe.tier(part.tier.name).sparsity
    with held_sparse(module) if sparse else nullcontext():
        student = Simulation(module, calls)
        taught = distil(student, without_adapters(part).module, feeds, names, recipe)
    facts = {
        "layers": len(roundings),
        "not_simulated": unseen,
        "training": asdict(taught),
    }
    return student.remove(), facts
