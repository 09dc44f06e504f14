"""``adapt``, straight down: from a user's folder of examples to weights that learned it."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from mla_edge.errors import AccuracyGateError, ConfigError
from mla_edge.exporter.fingerprints import weights_file
from mla_edge.exporter.sampling import draw_samples
from mla_edge.exporter.steps import OnStep, StepEvent, Steps
from mla_edge.labelled_folder import LabelledFolder, read_folder, split_rows
from mla_edge.networks import Network, load_network
from mla_edge.networks.adaptation import (
    AdaptationPlan,
    Adapters,
    adapt_tier,
    answers_of,
    check_batches,
    tensors_of,
)
from mla_edge.networks.checkpoint import check_output, save_tiers
from mla_edge.signals import Sample

REMEMBERED = 512  # samples that the network was made for, to distil on; half for the last tier
FEWEST = 2  # examples of a class: one to learn from, one to measure with
MEASURED = 200  # others of them, to say what was forgotten


@dataclass(frozen=True)
class AdaptRequest:
    """What to adapt, to which folder, how, and where to."""

    network: str
    folder: Path
    out: Path
    weights: Path | None = None  # to start from, in place of the network's own
    data: Path | None = None  # real samples of what the network was made for
    held_out_share: float = 0.2
    max_drop: float = 2.0  # points that a tier may lose on what it was made for
    plan: AdaptationPlan = AdaptationPlan()


@dataclass(frozen=True)
class Score:
    """How a tier answers some samples."""

    right: int
    of: int
    loss: float  # mean cross-entropy, nats

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return self.right / self.of

    def as_json(self) -> dict[str, Any]:
        """For reports."""
        return {**dataclasses.asdict(self), "accuracy": self.accuracy}


@dataclass(frozen=True)
class TierOutcome:
    """What one tier learned, and what it forgot."""

    name: str
    adapters: Adapters
    new: tuple[Score, Score]  # the user's examples held out, before and after
    old: tuple[Score, Score]  # samples the network was made for, before and after
    refused: str  # why the tier stays as it was; empty where it does not

    def as_json(self) -> dict[str, Any]:
        """For reports."""
        return {
            "adapted": not self.refused,
            "refused": self.refused or None,
            **dataclasses.asdict(self.adapters),
            "trainable_share": self.adapters.share,
            "held_out": {k: s.as_json() for k, s in zip(("before", "after"), self.new)},
            "remembered": {k: s.as_json() for k, s in zip(("before", "after"), self.old)},
        }


@dataclass(frozen=True)
class Adapted:
    """The network after learning, and how it went."""

    network: Network
    tiers: tuple[TierOutcome, ...]
    learned: int  # examples
    held_out: int
    groups: tuple[str, ...]  # held out whole
    folder: LabelledFolder
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """For reports."""
        return {
            "examples": {"learned": self.learned, "held_out": self.held_out},
            "groups_held_out": list(self.groups),
            "files_without_row": list(self.folder.unnamed),
            "data_sha256": self.folder.sha256,
            "tiers": {tier.name: tier.as_json() for tier in self.tiers},
            "seconds": round(self.seconds, 1),
        }


def _silent(event: StepEvent) -> None:
    """Nobody listens."""


def adapt(request: AdaptRequest, on_step: OnStep = _silent) -> Adapted:
    """Adapt a network to the examples of a folder, and write its weights.

    ConfigError names what is wrong with the folder or an option. AccuracyGateError says that
    the last tier is no better on the examples held out, or has forgotten too much; then, and
    when interrupted, nothing is written.
    """
    steps = Steps(on_step)
    if not 0 < request.held_out_share < 1:
        raise ConfigError(
            f"--held-out-share {request.held_out_share:g}: nothing would be left to learn "
            "from, or to measure with",
            hint="give a share between 0 and 1, such as 0.2",
        )
    check_output(request.out)
    with steps.step("load_network"):
        if request.data is not None and not request.data.is_dir():
            raise ConfigError(f"{request.data}: no such folder", hint="give --data a folder")
        network = load_network(request.network, data=request.data, weights=request.weights)
    adapted = adapt_network(network, request, steps)
    last = adapted.tiers[-1]
    if last.refused:
        problem = AccuracyGateError(
            f"nothing is written: {last.name} {last.refused}",
            hint="give more examples, or others; a lower --held-out-share leaves more to "
            "learn from, --steps and --seed another chance",
        )
        problem.details.update(adapted.as_json())
        raise problem
    with steps.step("write"):
        modules = {part.tier.name: part.module for part in adapted.network.tiers}
        save_tiers(modules, request.out, _about(request, network, adapted))
        steps.note(str(request.out))
    return adapted


def adapt_network(network: Network, request: AdaptRequest, steps: Steps) -> Adapted:
    """The network after learning ``request.folder``, students as tiers; writes nothing.

    A tier that is no better on the examples held out, or has forgotten too much, stays as it
    was, and its outcome says why.
    """
    began = time.monotonic()
    plan = request.plan
    network = dataclasses.replace(network, tiers=network.learners)
    with steps.step("read_folder"):
        folder = read_folder(request.folder, network.inputs, network.labels, fewest=FEWEST)
        learned, held = split_rows(folder.rows, request.held_out_share, plan.seed)
        steps.note(f"{len(learned)} examples to learn from, {len(held)} held out")
    check_batches(network, learned[0].sample)
    with steps.step("draw_samples"):
        known = draw_samples(network, "train", REMEMBERED, plan.seed)
        remembered = tensors_of(known, network.inputs)
        test = [s for s in draw_samples(network, "test", MEASURED, plan.seed) if s.truth]
    fresh = [row.sample for row in held]
    before = [measure(network, samples) for samples in (fresh, test)]
    outcomes, refused = [], ""
    adapted = network
    for place, part in enumerate(network.tiers):
        name = part.tier.name
        with steps.step("adapt", name):

            def tell(done: int, loss: float) -> None:
                steps.progress(f"{done} of {plan.steps} steps, loss {loss:.3f}")

            # A cheap tier has few parameters and forgets most, but reminding it costs little.
            last = place + 1 == len(network.tiers)
            how = plan if last else dataclasses.replace(plan, remembered=64, keep=4.0)
            kept = remembered[: len(remembered) // 2] if last else remembered
            tier, adapters = adapt_tier(adapted, part, learned, kept, how, tell)
            tiers = (*adapted.tiers[:place], tier, *adapted.tiers[place + 1 :])
            changed = dataclasses.replace(adapted, tiers=tiers)
            after = [measure(changed, samples) for samples in (fresh, test)]
            new, old = ((b[name], a[name]) for b, a in zip(before, after))
            refused = find_refusal(new, old, request.max_drop)
            adapted = adapted if refused else changed
            steps.note(
                f"held out {new[0].accuracy:.1%} → {new[1].accuracy:.1%}, what it knew "
                f"{old[0].accuracy:.1%} → {old[1].accuracy:.1%}"
                + (f": {refused}, so undone" if refused else "")
            )
        outcomes.append(TierOutcome(name, adapters, new, old, refused))
    groups = tuple(sorted({row.group for row in held} - {row.group for row in learned}))
    seconds = time.monotonic() - began
    return Adapted(adapted, tuple(outcomes), len(learned), len(held), groups, folder, seconds)


def measure(network: Network, samples: Sequence[Sample]) -> dict[str, Score]:
    """How every tier answers ``samples``, whose truths are known."""
    truths = np.array([network.labels.index(str(sample.truth)) for sample in samples])
    scores = {}
    for name, logits in answers_of(network, samples).items():
        exact = logits.astype(np.float64)
        exact -= exact.max(1, keepdims=True)
        chances = exact - np.log(np.exp(exact).sum(1, keepdims=True))
        loss = -chances[np.arange(len(truths)), truths].mean()
        right = int((logits.argmax(1) == truths).sum())
        scores[name] = Score(right, len(truths), float(loss))
    return scores


def find_refusal(new: tuple[Score, Score], old: tuple[Score, Score], max_drop: float) -> str:
    """Why a tier should stay as it was; empty where it should not.

    Few are held out, so as many right answers with a lower loss count as better.
    """
    before, after = new
    if (after.right, -after.loss) <= (before.right, -before.loss):
        return (
            f"is no better on the examples held out ({before.right} → {after.right} of "
            f"{after.of} right, loss {before.loss:.3f} → {after.loss:.3f})"
        )
    dropped = 100 * (old[0].right - old[1].right) / old[1].of  # exact where it is a limit
    if dropped > max_drop:
        return (
            f"lost {dropped:.1f} points on what it was made for, more than {max_drop:g} "
            f"({old[0].right} → {old[1].right} of {old[1].of})"
        )
    return ""


def _about(request: AdaptRequest, network: Network, adapted: Adapted) -> dict[str, str]:
    """What stands in the header of the weights, and in the provenance of a bundle of them."""
    start: Mapping[str, Any] = weights_file(request.weights) if request.weights else {}
    facts = {
        "from": {"network": network.name, "fingerprint": network.fingerprint, "weights": start},
        "settings": {
            **dataclasses.asdict(request.plan),
            "held_out_share": request.held_out_share,
            "max_drop": request.max_drop,
        },
        **adapted.as_json(),
    }
    return {"network": network.name, "adapted": json.dumps(facts)}
