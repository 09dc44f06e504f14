"""The samples that measure an export, and what the float network says to them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np
import torch

from mla_edge.engines import verification
from mla_edge.exporter.calibration import label_of, labelled, over_modes
from mla_edge.golden import Golden
from mla_edge.signals import PRESENT, Tensors

if TYPE_CHECKING:
    from mla_edge.exporter.job import Job
    from mla_edge.exporter.tiers import TierResult
    from mla_edge.networks import Network

GOLDEN_SAMPLES = 12


@dataclass(frozen=True)
class HeldBack:
    """Test samples in every mode in turn, and what the float network says to them."""

    feeds: list[Tensors]  # with the outputs that later tiers take
    labels: np.ndarray
    modes: list[str]
    logits: Mapping[str, np.ndarray]  # by tier, [samples, classes]


def hold_back(job: Job) -> HeldBack:
    """The test samples, and the float network's answers to them."""
    network = job.network
    spread = over_modes(job.calibration.test, network.inputs)
    known = [example for example in spread if label_of(example, network.labels) is not None]
    tensors, labels = labelled(known, network.labels)
    with job.steps.step("reference"):
        logits, feeds = run_float(network, tensors)
        accuracy = {name: (rows.argmax(1) == labels).mean() for name, rows in logits.items()}
        job.steps.note(", ".join(f"{name} {share:.1%}" for name, share in accuracy.items()))
    return HeldBack(feeds, labels, ["+".join(e.truths) for e in known], logits)


def run_float(
    network: Network, samples: Sequence[Tensors]
) -> tuple[dict[str, np.ndarray], list[Tensors]]:
    """The float network's logits by tier, and the samples with the outputs later tiers take."""
    logits: dict[str, list[np.ndarray]] = {part.tier.name: [] for part in network.tiers}
    feeds = []
    with torch.no_grad():
        for sample in samples:
            feed = dict(sample)
            for part in network.tiers:
                found = part.module(*(torch.from_numpy(feed[n]) for n in part.tier.inputs))
                values = found if isinstance(found, (tuple, list)) else (found,)
                outputs = {n: v.numpy() for n, v in zip(part.tier.outputs, values)}
                logits[part.tier.name].append(outputs.pop("logits")[0])
                feed.update(outputs)
            feeds.append(feed)
    return {name: np.stack(rows) for name, rows in logits.items()}, feeds


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
