"""2:4 sparsity: of every four weights along the input channels the two smaller ones are zero.

Tensor cores from Ampere on skip such zeros (Mishra et al. 2021, "Accelerating sparse deep
neural networks"). What is lost comes back, if at all, by learning with the zeros held.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator

import torch
from torch import nn

_GROUP, _KEPT = 4, 2


@dataclass(frozen=True)
class Sparsity:
    """The layers that were made sparse, and their share of all parameters."""

    layers: tuple[str, ...]
    share: float


@contextmanager
def held_sparse(module: nn.Module) -> Iterator[Sparsity]:
    """Make ``module`` sparse in place; while this lasts, training leaves the zeros.

    Linear layers and convolutions of one group become so, where the number of their input
    channels is a multiple of four and no module around them says ``keep_float32``.
    """
    masks = {name: _mask(weight) for name, weight in _weights(module).items()}
    handles = []
    weights = _weights(module)
    learned = {name: weight.requires_grad for name, weight in weights.items()}
    for name, mask in masks.items():
        weight = weights[name]
        with torch.no_grad():
            weight.mul_(mask)
        weight.requires_grad_(True)
        hold = functools.partial(torch.mul, mask)
        handles.append(weight.register_hook(hold))  # type: ignore[no-untyped-call]
    sparse = sum(weights[name].numel() for name in masks)
    total = sum(parameter.numel() for parameter in module.parameters())
    try:
        yield Sparsity(tuple(sorted(masks)), sparse / max(total, 1))
    finally:
        for handle in handles:
            handle.remove()
        for name, weight in weights.items():
            weight.requires_grad_(learned[name])


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights that can be sparse, by their layers' names."""
    found: dict[str, torch.Tensor] = {}

    def walk(part: nn.Module, name: str) -> None:
        if getattr(part, "keep_float32", False):
            return
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            alone = getattr(part, "groups", 1) == 1
            if alone and part.weight.shape[1] % _GROUP == 0:
                found[name] = part.weight
        for child, inner in part.named_children():
            walk(inner, f"{name}.{child}" if name else child)

    walk(module, "")
    return found


def _mask(weight: torch.Tensor) -> torch.Tensor:
    """Ones for the weights that stay: [out, in, …], the two largest of four along ``in``."""
    with torch.no_grad():
        rows = weight.detach().abs().movedim(1, -1)
        groups = rows.reshape(*rows.shape[:-1], -1, _GROUP)
        largest = groups.topk(_KEPT, dim=-1).indices
        mask = torch.zeros_like(groups).scatter_(-1, largest, 1.0)
        return mask.reshape(rows.shape).movedim(-1, 1)
