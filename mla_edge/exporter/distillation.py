"""Let a tier that became smaller or INT8 learn from the float one, on training data."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any, Callable, Sequence

import numpy as np
import torch

from mla_edge.exporter.recipe import DistillationRecipe
from mla_edge.exporter.tracing import FORWARD_ERRORS
from mla_edge.signals import Tensors

_BATCH = 32  # samples at a time
_SOFTNESS = 2.0  # temperature of both networks' logits (Hinton et al. 2015)


@dataclass(frozen=True)
class Distillation:
    """How far the fine-tune went; the losses are on samples that it did not learn from."""

    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    kept: bool  # False: it made the student worse, which is as it was before


def distil(  # noqa: PLR0913 - two networks, data, recipe, and what tests set
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    samples: Sequence[Tensors],
    inputs: Sequence[str],
    recipe: DistillationRecipe,
    *,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> Distillation:
    """Train ``student`` in place to give ``teacher``'s logits.

    Both stay in eval mode: batch statistics and dropout belong to the first training. The
    samples are batched along their first axis where the teacher takes more than one, and it is
    asked about each when that is first drawn. Ends after ``recipe.steps``, or after the step in
    which its time is up. A tenth of the samples is kept apart to see whether it helped: if not,
    the student is as before.
    """
    draw = np.random.default_rng(seed)
    began = clock()
    apart = samples[: max(1, len(samples) // 10)]
    samples = samples[len(apart) :] or apart
    before = copy.deepcopy(student.state_dict())
    most = at_a_time(teacher, apart, inputs)
    first_loss = _loss_on(apart, student, teacher, inputs, most)
    targets: dict[int, torch.Tensor] = {}
    parameters = [p for p in student.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.01)
    steps = 0
    while not steps or (steps < recipe.steps and clock() - began < recipe.time_limit_s):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * (1 - steps / recipe.steps)
        chosen = draw.choice(len(samples), min(recipe.batch, len(samples)), replace=False)
        new = [i for i in chosen if i not in targets]
        if new:
            answers = logits_of(teacher, [samples[i] for i in new], inputs, most)
            targets.update(zip(new, answers))
        with torch.enable_grad():
            found = _logits(student, [samples[i] for i in chosen], inputs, most)
            expected = torch.stack([targets[i] for i in chosen])
            loss = divergence(found, expected)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        steps += 1
    for parameter in parameters:
        parameter.requires_grad_(False)
    student.zero_grad(set_to_none=True)
    last_loss = _loss_on(apart, student, teacher, inputs, most)
    kept = last_loss < first_loss
    if not kept:
        student.load_state_dict(before)
    return Distillation(steps, clock() - began, first_loss, last_loss, kept)


def _loss_on(
    samples: Sequence[Tensors],
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    inputs: Sequence[str],
    most: int,
) -> float:
    found, expected = (
        logits_of(module, samples, inputs, most) for module in (student, teacher)
    )
    return float(divergence(found, expected))


def at_a_time(
    module: torch.nn.Module, samples: Sequence[Tensors], inputs: Sequence[str]
) -> int:
    """How many samples the module takes as one batch: a network may be written for one."""
    try:
        both = logits_of(module, samples[:2], inputs)
    except FORWARD_ERRORS:
        return 1
    alone = logits_of(module, samples[:2], inputs, 1)
    same = both.shape == alone.shape and torch.allclose(both, alone, rtol=1e-3, atol=1e-3)
    return _BATCH if same else 1


def logits_of(
    module: torch.nn.Module,
    samples: Sequence[Tensors],
    inputs: Sequence[str],
    most: int = _BATCH,
) -> torch.Tensor:
    """The module's first output for the samples, ``most`` of them at a time.

    [samples, classes].
    """
    with torch.no_grad():
        return _logits(module, samples, inputs, most)


def _logits(
    module: torch.nn.Module, samples: Sequence[Tensors], inputs: Sequence[str], most: int
) -> torch.Tensor:
    found = []
    for i in range(0, len(samples), most):
        part = samples[i : i + most]
        batch = [torch.from_numpy(np.concatenate([s[name] for s in part])) for name in inputs]
        found.append(first_output(module(*batch)))
    return torch.cat(found)


def first_output(outputs: Any) -> torch.Tensor:
    """The logits among what a tier's module gives."""
    first: torch.Tensor = outputs[0] if isinstance(outputs, (tuple, list)) else outputs
    return first


def divergence(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the softened answers, per sample."""
    return torch.nn.functional.kl_div(
        torch.log_softmax(found / _SOFTNESS, 1),
        torch.log_softmax(expected / _SOFTNESS, 1),
        reduction="batchmean",
        log_target=True,
    ) * (_SOFTNESS * _SOFTNESS)
