"""After pruning: let the smaller tier learn from the float one, on training data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Sequence

import numpy as np
import torch

from mla_edge.exporter.recipe import DistillationRecipe
from mla_edge.signals import Tensors

_SOFTNESS = 2.0  # temperature of both networks' logits (Hinton et al. 2015)


@dataclass(frozen=True)
class Distillation:
    """How far the fine-tune went."""

    steps: int
    seconds: float
    first_loss: float
    last_loss: float  # mean of the last tenth of the steps


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
    samples are batched along their first axis. Ends after ``recipe.steps``, or at its time
    limit.
    """
    draw = np.random.default_rng(seed)
    targets = [logits_of(teacher, [sample], inputs) for sample in samples]
    began = clock()  # the limit is of learning: a busy machine's teacher must not use it up
    parameters = [p for p in student.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.01)
    losses: list[float] = []
    while len(losses) < recipe.steps and clock() - began < recipe.time_limit_s:
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * (1 - len(losses) / recipe.steps)
        chosen = draw.choice(len(samples), min(recipe.batch, len(samples)), replace=False)
        with torch.enable_grad():
            found = _logits(student, [samples[i] for i in chosen], inputs)
            expected = torch.cat([targets[i] for i in chosen])
            loss = divergence(found, expected)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    for parameter in parameters:
        parameter.requires_grad_(False)
    student.zero_grad(set_to_none=True)
    tail = losses[-max(1, len(losses) // 10) :] or [float("nan")]
    first = losses[0] if losses else float("nan")
    return Distillation(len(losses), clock() - began, first, float(np.mean(tail)))


def logits_of(
    module: torch.nn.Module, samples: Sequence[Tensors], inputs: Sequence[str]
) -> torch.Tensor:
    """The module's first output for the samples as one batch, [samples, classes]."""
    with torch.no_grad():
        return _logits(module, samples, inputs)


def _logits(
    module: torch.nn.Module, samples: Sequence[Tensors], inputs: Sequence[str]
) -> torch.Tensor:
    batch = [torch.from_numpy(np.concatenate([s[name] for s in samples])) for name in inputs]
    outputs = module(*batch)
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
