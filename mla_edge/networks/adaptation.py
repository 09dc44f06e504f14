"""Fine-tune a network on a user's few examples, with low-rank adapters and distillation.

What is learned is an update of low rank to linear layers and convolutions (Hu et al. 2021,
LoRA), at most 2 % of a tier's parameters. What the network knew is kept by distillation from
itself, unadapted, on samples it was made for (Li & Hoiem 2016, Learning without Forgetting).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Callable, Dict, Sequence

import numpy as np
import torch
from torch import Tensor

from mla_edge.errors import ConfigError
from mla_edge.labelled_folder import Row
from mla_edge.networks.example_wear import worn
from mla_edge.networks.lora import (
    LINEAR,
    LINEAR_AND_CONVOLUTIONS,
    add_lora,
    lora_size,
    merge_lora,
)
from mla_edge.networks.losses import classified, distilled
from mla_edge.networks.multimodal import MultimodalNetwork
from mla_edge.networks.network import Network, TierNetwork
from mla_edge.networks.precision import mixed_precision
from mla_edge.networks.training import encode_present
from mla_edge.preprocess import Preprocessor
from mla_edge.signals import PRESENT, InputSpec, Sample, Tensors, Tier

MOST_TRAINABLE = 0.02  # of a tier's parameters
MOST_RANK = 16
_FACTOR = 8 / 3  # of every update, whatever its rank, so that one rate fits all
_AT_ONCE = 32  # samples of which answers are asked

Batch = Dict[str, Tensor]
OnStep = Callable[[int, float], None]
"""Called with the number of the step that is done and its loss."""


@dataclass(frozen=True)
class AdaptationPlan:
    """How long to learn, and how much at a time."""

    steps: int = 200
    rank: int | None = None  # None: the highest that fits
    rate: float = 4e-3
    examples: int = 24  # a step, of the user's
    remembered: int = 24  # a step, of those the network was made for
    keep: float = 2.0  # weight of what is remembered against what is new
    seed: int = 0


@dataclass(frozen=True)
class Adapters:
    """What is trainable in one tier."""

    rank: int
    trainable: int
    parameters: int
    convolutions: bool  # adapted as well, or linear layers only

    @property
    def share(self) -> float:
        """Of the tier's parameters."""
        return self.trainable / self.parameters


def adapt_tier(  # noqa: PLR0913 - a tier, its data, and who listens
    network: Network,
    part: TierNetwork,
    rows: Sequence[Row],
    remembered: Sequence[Tensors],
    plan: AdaptationPlan,
    on_step: OnStep,
) -> tuple[TierNetwork, Adapters]:
    """``part`` after learning ``rows``, its adapters merged; ``part`` itself is not changed.

    ``network`` has the earlier tiers as they are by now. Modules stay in eval mode: batch
    statistics belong to the first training. ConfigError where ``plan.rank`` would make more
    than 2 % of the parameters trainable, or where the module takes one sample at a time.
    """
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    names = {name for row in rows for name in row.sample.signals}
    student = copy.deepcopy(part.module).eval()
    adapters = _add_adapters(student, part.tier.name, names, plan.rank)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, total_steps=plan.steps, pct_start=0.1
    )
    old = [feed_of(network, part, batch) for batch in _stacked(remembered)]
    answers = torch.cat([_ask(part.module, batch) for batch in old])
    learner = _learner(student, part.tier, names, old)
    preprocess = Preprocessor(network.inputs)
    labels = [network.labels.index(row.label) for row in rows]
    for step in range(plan.steps):
        chosen = _draw(labels, plan.examples, rng)
        samples = [worn(rows[i].sample, network.inputs, rng) for i in chosen]
        new = feed_of(network, part, _batch_of(samples, preprocess))
        kept = rng.choice(len(answers), min(plan.remembered, len(answers)), replace=False)
        logits = learner(new, torch.from_numpy(kept))
        loss, _ = classified(logits[: len(chosen)], torch.tensor([labels[i] for i in chosen]))
        loss = loss + plan.keep * distilled(logits[len(chosen) :], answers[kept])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        on_step(step + 1, float(loss.detach()))
    module = merge_lora(student).requires_grad_(False).eval()
    return TierNetwork(part.tier, module), adapters


def answers_of(network: Network, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """The logits of every tier for ``samples``, [samples, classes], by the tier's name."""
    preprocess = Preprocessor(network.inputs)
    found: dict[str, list[np.ndarray]] = {part.tier.name: [] for part in network.tiers}
    for first in range(0, len(samples), _AT_ONCE):
        tensors = _batch_of(samples[first : first + _AT_ONCE], preprocess)
        for part in network.tiers:
            logits = _ask(part.module, feed_of(network, part, tensors))
            found[part.tier.name].append(logits.numpy())
    return {name: np.concatenate(rows) for name, rows in found.items()}


def tensors_of(samples: Sequence[Sample], inputs: Sequence[InputSpec]) -> list[Tensors]:
    """Every sample as the runtime makes it."""
    preprocess = Preprocessor(inputs)
    return [
        {name: value.copy() for name, value in preprocess(sample).items()} for sample in samples
    ]


def check_batches(network: Network, sample: Sample) -> None:
    """ConfigError unless every tier answers two samples at a time as it does one."""
    tensors = _batch_of([sample, sample], Preprocessor(network.inputs))
    for part in network.tiers:
        name = part.tier.name
        try:
            shape = tuple(_ask(part.module, feed_of(network, part, tensors)).shape)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            shape, why = (), f": {error}"
        else:
            why = f": it gave {list(shape)}"
        if shape != (2, len(network.labels)):
            raise ConfigError(
                f"{network.name}: tier {name!r} does not take two samples at a time{why}",
                hint="let its forward keep the first axis of its inputs as the batch",
            )


def feed_of(network: Network, part: TierNetwork, tensors: Batch) -> Batch:
    """What ``part`` takes: of ``tensors``, and of what earlier tiers of ``network`` give."""
    known = dict(tensors)
    for earlier in network.tiers:
        if set(part.tier.inputs) <= set(known):
            break
        with torch.no_grad():
            outputs = earlier.module(*(known[name] for name in earlier.tier.inputs))
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        known.update(zip(earlier.tier.outputs, outputs))
    return {name: known[name] for name in part.tier.inputs}


def _learner(
    student: torch.nn.Module, tier: Tier, names: set[str], old: Sequence[Batch]
) -> Callable[[Batch, Tensor], Tensor]:
    """Gives logits [new + kept, classes] of a batch of new samples, and of rows of ``old``."""
    if isinstance(student, MultimodalNetwork) and tier.inputs == (*student.names, PRESENT):
        return _Multimodal(student, names, old)
    rows = {name: torch.cat([batch[name] for batch in old]) for name in tier.inputs}
    return lambda new, kept: _logits(
        student, {name: torch.cat([new[name], rows[name][kept]]) for name in rows}
    )


class _Multimodal:
    """A learner that works only for what is there, in mixed precision as in training."""

    def __init__(
        self, student: MultimodalNetwork, names: set[str], old: Sequence[Batch]
    ) -> None:
        """Encoders of inputs that no example has learn nothing: they are asked once."""
        self._student = student
        self._frozen = [name for name in student.names if name not in names]
        wanted = (PRESENT, *(name for name in student.names if name in names))
        self._rows = {name: torch.cat([batch[name] for batch in old]) for name in wanted}
        with torch.no_grad():
            for name in self._frozen:
                encoder = student.encoders[name]
                self._rows[name] = torch.cat([encoder(batch[name]) for batch in old])

    def __call__(self, new: Batch, kept: Tensor) -> Tensor:
        """Logits of the batch ``new``, and of the rows ``kept`` of the old one."""
        old = {name: rows[kept] for name, rows in self._rows.items()}
        batch = {name: torch.cat([new[name], old[name]])
                 for name in old if name not in self._frozen}  # fmt: skip
        tokens = {}
        for name in self._student.names:
            if name in self._frozen:
                absent = old[name].new_zeros(len(new[name]), *old[name].shape[1:])
                tokens[name] = torch.cat([absent, old[name]])
            else:
                tokens[name] = encode_present(self._student, batch, name)
        with mixed_precision():
            return self._student.fuse(tokens, batch[PRESENT]).logits.float()


def _add_adapters(
    student: torch.nn.Module, tier: str, names: set[str], rank: int | None
) -> Adapters:
    """Adapt every layer that the inputs ``names`` go through; of others nothing is learned."""
    parameters = sum(p.numel() for p in student.parameters())
    absent: tuple[str, ...] = ()
    if isinstance(student, MultimodalNetwork):
        absent = tuple(f"encoders.{name}." for name in student.names if name not in names)

    def where(name: str) -> bool:
        return not name.startswith(absent)

    most = int(MOST_TRAINABLE * parameters)
    fitting = [
        (kinds, tried)
        for kinds in (LINEAR_AND_CONVOLUTIONS, LINEAR)
        for tried in ([rank] if rank else range(MOST_RANK, 0, -1))
        if 0 < lora_size(student, rank=tried, where=where, kinds=kinds) <= most
    ]
    if not fitting:
        wanted = lora_size(student, rank=rank or 1, where=where)
        raise ConfigError(
            f"tier {tier!r}: adapters of rank {rank or 1} have {wanted} parameters; at most "
            f"{most} of its {parameters} may be trainable ({MOST_TRAINABLE:.0%})",
            hint="give a lower --rank, or leave it away"
            if wanted and (rank or 1) > 1
            else "the network is too small to adapt: train it again with these examples",
        )
    kinds, chosen = fitting[0]
    trainable = add_lora(student, rank=chosen, scale=_FACTOR * chosen, where=where, kinds=kinds)
    assert trainable <= MOST_TRAINABLE * parameters
    return Adapters(chosen, trainable, parameters, kinds is LINEAR_AND_CONVOLUTIONS)


def _draw(labels: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """``count`` examples, each class as often as another."""
    classes = sorted(set(labels))
    order = rng.permutation(np.resize(rng.permutation(classes), count))
    places = np.array(labels)
    return [int(rng.choice(np.flatnonzero(places == one))) for one in order]


def _batch_of(samples: Sequence[Sample], preprocess: Preprocessor) -> Batch:
    rows = [{n: v.copy() for n, v in preprocess(sample).items()} for sample in samples]
    return {
        name: torch.from_numpy(np.concatenate([row[name] for row in rows])) for name in rows[0]
    }


def _stacked(tensors: Sequence[Tensors]) -> list[Batch]:
    parts = [tensors[i : i + _AT_ONCE] for i in range(0, len(tensors), _AT_ONCE)]
    return [
        {n: torch.from_numpy(np.concatenate([row[n] for row in part])) for n in part[0]}
        for part in parts
    ]


def _ask(module: torch.nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return _logits(module, batch)


def _logits(module: torch.nn.Module, batch: Batch) -> Tensor:
    outputs = module(*batch.values())
    first: Tensor = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return first.float()
