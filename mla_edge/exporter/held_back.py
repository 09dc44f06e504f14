"""The samples that measure an export, and what the float network says to them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from mla_edge.engines import verification
from mla_edge.exporter.calibration import label_of, labelled, over_modes
from mla_edge.exporter.job import HeldBack, Job
from mla_edge.exporter.runs import open_engines, run_tiers
from mla_edge.exporter.tiers import reference_graphs
from mla_edge.golden import Golden
from mla_edge.signals import PRESENT

if TYPE_CHECKING:
    from mla_edge.exporter.tiers import TierResult

GOLDEN_SAMPLES = 12


def hold_back(job: Job) -> HeldBack:
    """The test samples, and the float network's answers to them."""
    network = job.network
    spread = over_modes(job.calibration.test, network.inputs)
    known = [example for example in spread if label_of(example, network.labels) is not None]
    tensors, labels = labelled(known, network.labels)
    graphs = reference_graphs(job)
    with job.steps.step("reference"):
        with open_engines(graphs, threads=job.threads) as engines:
            logits, feeds = run_tiers(engines, tensors)
        accuracy = {name: (rows.argmax(1) == labels).mean() for name, rows in logits.items()}
        job.steps.note(", ".join(f"{name} {share:.1%}" for name, share in accuracy.items()))
    return HeldBack(graphs, feeds, labels, ["+".join(e.truths) for e in known], logits)


def pick_golden(job: Job, held: HeldBack) -> Golden:
    """Held-back samples to prove a machine with: every mode, and none that is a close call."""
    names = {name for part in job.network.tiers for name in part.tier.inputs}
    given = sorted(names & {PRESENT, *(spec.name for spec in job.network.inputs)})
    margins = [np.diff(np.sort(rows, axis=1)[:, -2:])[:, 0] for rows in held.logits.values()]
    clear = np.min([margin / np.median(margin) for margin in margins], axis=0)
    turns = sorted(set(held.modes))
    each = max(1, GOLDEN_SAMPLES // len(turns))
    chosen: list[int] = []
    for mode in turns:
        of_mode = [i for i, found in enumerate(held.modes) if found == mode]
        chosen += sorted(of_mode, key=lambda i: (clear[i] < 1.0, i))[:each]
    return Golden(
        {name: np.concatenate([held.feeds[i][name] for i in chosen]) for name in given},
        {name: rows[chosen] for name, rows in held.logits.items()},
    )


def match_golden(
    job: Job, results: Sequence[TierResult], golden: Golden
) -> dict[str, dict[str, Any]]:
    """How well both graphs of every tier agree on the golden samples, as ``verify`` asks."""
    tiers = [part.tier for part in job.network.tiers]
    forms = {
        "tensorrt": {result.name: result.tensorrt_graph for result in results},
        "cpu": {result.name: result.cpu_graph for result in results},
    }
    return {
        form: {
            tier: dataclasses.asdict(match)
            for tier, match in verification.measure(
                graphs, tiers, golden, cpu=verification.FORMS[form]
            ).items()
        }
        for form, graphs in forms.items()
    }
