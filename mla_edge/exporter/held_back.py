"""The samples that measure an export, and what the float network says to them."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

from mla_edge.bundle import sha256_of
from mla_edge.engines import verification
from mla_edge.engines.saturation import saturates
from mla_edge.errors import ConfigError
from mla_edge.exporter.agreement import Agreement, measure_answers
from mla_edge.exporter.calibration import in_mode, label_of, labelled, modes, over_modes
from mla_edge.exporter.float_graphs import reference_graphs
from mla_edge.exporter.job import HeldBack, Job
from mla_edge.exporter.policy import MAX_LOSS, samples_needed
from mla_edge.exporter.runs import open_engines, run_tiers
from mla_edge.exporter.steps import hash_of, versions
from mla_edge.golden import Golden
from mla_edge.signals import PRESENT

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.tiers import TierResult
    from mla_edge.networks import TierNetwork
    from mla_edge.signals import Tensors

GOLDEN_SAMPLES = 12
_ANSWERS = "logits.npy"
_CANDIDATES = 8  # looked at for each one taken


def hold_back(job: Job, split: str = "test") -> HeldBack:
    """The samples of ``split`` (test or tune), and the float network's answers to them."""
    network = job.network
    spread = over_modes(getattr(job.calibration, split), network.inputs)
    known = [example for example in spread if label_of(example, network.labels) is not None]
    tensors, labels = labelled(known, network.labels)
    graphs = reference_graphs(job)
    with job.steps.step("reference", "" if split == "test" else split):
        with open_engines(graphs, threads=job.threads) as engines:
            logits, feeds = run_tiers(engines, tensors)
        accuracy = {name: (rows.argmax(1) == labels).mean() for name, rows in logits.items()}
        job.steps.note(", ".join(f"{name} {share:.1%}" for name, share in accuracy.items()))
    return HeldBack(graphs, feeds, labels, ["+".join(e.truths) for e in known], logits)


def compare(job: Job, part: TierNetwork, graph: Path, held: HeldBack, form: str) -> Agreement:
    """How close a graph is to the float network on the samples held back."""
    name = part.tier.name
    key = _key("agreement", job, graph, form)
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused(f"agreement {form}", name)
        return Agreement(**json.loads((entry / "agreement.json").read_text(encoding="utf-8")))
    with job.steps.step(f"agreement {form}", name):
        feeds = [{wanted: feed[wanted] for wanted in part.tier.inputs} for feed in held.feeds]
        wanted, labels = list(held.logits[name]), held.labels.tolist()
        found, logits = measure_answers(wanted, graph, feeds, labels, exact=job.exact(form))
        job.steps.note(f"drop {found.drop_points:+.2f} points, cosine {found.cosine:.4f}")
        text = json.dumps(dataclasses.asdict(found))

        def make(folder: Path) -> None:
            (folder / "agreement.json").write_text(text, encoding="utf-8")

        job.cache.store(key, make)
        job.cache.store(
            _key("answers", job, graph, form), lambda folder: _write(folder, logits)
        )
    return found


def answers(job: Job, part: TierNetwork, graph: Path, held: HeldBack, form: str) -> np.ndarray:
    """What a graph says to the samples held back as it is run, optimised: [samples, classes].

    Nothing is run where ``compare`` has done so.
    """
    key = _key("answers", job, graph, form)
    entry = job.cache.find(key)
    if entry is None:
        feeds = [{name: feed[name] for name in part.tier.inputs} for feed in held.feeds]
        engines = {part.tier.name: graph}
        with open_engines(engines, threads=job.threads, exact=job.exact(form)) as opened:
            logits = run_tiers(opened, feeds)[0][part.tier.name]
        entry = job.cache.store(key, lambda folder: _write(folder, logits))
    return np.asarray(np.load(entry / _ANSWERS, allow_pickle=False))


def _key(what: str, job: Job, graph: Path, form: str) -> str:
    return hash_of(
        what,
        job.base,
        sha256_of(graph),
        job.calibration.sha256,
        versions(),
        [saturates(), job.exact(form)],
    )


def _write(folder: Path, logits: np.ndarray) -> None:
    np.save(folder / _ANSWERS, logits)


def pick_golden(job: Job, held: HeldBack, count: int) -> Golden:
    """``count`` tune samples to prove a machine with, the same number of every mode.

    Few ones are chosen so that none is a close call. Enough to choose the routing again are
    taken as they come; they are no test samples, so what was reported on those still holds.
    ConfigError if the calibration set has too few.
    """
    network = job.network
    names = {name for part in network.tiers for name in part.tier.inputs}
    given = sorted(names & {PRESENT, *(spec.name for spec in network.inputs)})
    turns = modes(network.inputs)
    each = max(1, count // len(turns))
    inputs: list[Tensors] = []
    labels: list[np.ndarray] = []
    rows: dict[str, list[np.ndarray]] = {part.tier.name: [] for part in network.tiers}
    with open_engines(held.graphs, threads=job.threads) as engines:
        for mode in turns:
            examples = in_mode(job.calibration.tune, network.inputs, mode)
            tensors, known = labelled(examples, network.labels)
            if len(tensors) < each:
                raise ConfigError(
                    f"{each} golden samples of {'+'.join(mode)} are wanted; the calibration "
                    f"set has {len(tensors)} to tune with",
                    hint="give --golden less, or raise tune in the calibration set",
                )
            few = each < samples_needed(MAX_LOSS)
            logits, _ = run_tiers(engines, tensors[: _CANDIDATES * each if few else each])
            chosen = _clearest(logits, each) if few else np.arange(each)
            inputs += [tensors[i] for i in chosen]
            labels.append(known[chosen])
            for name, found in logits.items():
                rows[name].append(found[chosen])
    return Golden(
        {name: np.concatenate([feed[name] for feed in inputs]) for name in given},
        {name: np.concatenate(found) for name, found in rows.items()},
        np.concatenate(labels),
    )


def _clearest(logits: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """The first ``count`` samples on which every tier is as sure as usual, in their order."""
    margins = [np.diff(np.sort(rows, axis=1)[:, -2:])[:, 0] for rows in logits.values()]
    clear = np.min([margin / np.median(margin) for margin in margins], axis=0)
    return np.argsort(clear < 1.0, kind="stable")[:count]


def match_golden(
    job: Job, results: Sequence[TierResult], golden: Golden
) -> dict[str, dict[str, Any]]:
    """How well the graphs of every tier agree on the golden samples, as ``verify`` asks.

    Beside the two of the bundle it is the simulation of a DLA's INT8, where one was asked for:
    ``build`` holds an engine for the DLA against that.
    """
    tiers = [part.tier for part in job.network.tiers]
    forms = {
        "tensorrt": {result.name: result.tensorrt_graph for result in results},
        "cpu": {result.name: result.cpu_graph for result in results},
    }
    simulated = {
        result.name: result.dla.simulated
        for result in results
        if result.dla is not None and result.dla.simulated is not None
    }
    if len(simulated) == len(results):
        forms["dla"] = simulated
    return {
        form: {
            tier: dataclasses.asdict(match)
            for tier, match in verification.measure(
                graphs, tiers, golden, cpu=form == "cpu", exact=job.exact(form)
            ).items()
        }
        for form, graphs in forms.items()
    }
