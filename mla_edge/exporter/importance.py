"""How much of a network's answers is lost with each width of each group.

No labels are needed: the loss is that of the distillation that follows, the divergence of the
softened answers from those of the whole network. It is measured with one group cut at a time,
before any fine-tune, and not estimated from gradients: with the whole network as its teacher
the gradient is zero, and its square (Molchanov et al. 2019; Theis et al. 2018) adds channels up
as if none stood in for another. What goes first is what pruning takes first.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch

from mla_edge.exporter.distillation import at_a_time, divergence, logits_of
from mla_edge.exporter.pruning import Group
from mla_edge.signals import Tensors


def measure_losses(  # noqa: PLR0913 - a network, its inputs, and what is cut of it
    module: torch.nn.Module,
    groups: Sequence[Group],
    options: Mapping[str, Sequence[int]],
    samples: Sequence[Tensors],
    inputs: Sequence[str],
    on_progress: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[int, float]]:
    """The divergence by group and width of ``options``, each with that group cut alone.

    A narrower width never counts as less of a loss than a wider one. ``module`` is in eval mode
    and as it was afterwards.
    """
    with _one_thread():
        return _measure(module, groups, options, samples, inputs, on_progress)


def _measure(  # noqa: PLR0913
    module: torch.nn.Module,
    groups: Sequence[Group],
    options: Mapping[str, Sequence[int]],
    samples: Sequence[Tensors],
    inputs: Sequence[str],
    on_progress: Callable[[str], None],
) -> dict[str, dict[int, float]]:
    most = at_a_time(module, samples, inputs)
    whole = logits_of(module, samples, inputs, most)
    cut = copy.deepcopy(module)
    losses: dict[str, dict[int, float]] = {}
    for number, group in enumerate(groups):
        row: dict[int, float] = {}
        worst = 0.0
        for width in sorted(options[group.layer], reverse=True):
            if width < group.width:
                with _without(cut, group, group.width - width) as smaller:
                    found = float(divergence(logits_of(smaller, samples, inputs, most), whole))
                worst = max(worst, found if np.isfinite(found) else np.finfo(float).max)
            row[width] = worst
        losses[group.layer] = row
        on_progress(f"{number + 1} of {len(groups)} groups")
    return losses


@contextmanager
def _one_thread() -> Iterator[None]:
    """Two threads that wait for each other on a busy machine take many times as long as one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _without(module: torch.nn.Module, group: Group, count: int) -> Iterator[torch.nn.Module]:
    """The module without the ``count`` weakest of a group, until the end of the context."""
    gone = group.weakest[:count]
    if group.kind == "heads":
        smaller = copy.deepcopy(module)
        kept = sorted(set(range(group.width)) - set(gone))
        smaller.get_submodule(group.layer).prune_heads(kept)  # type: ignore[operator]
        yield smaller
        return
    weights = {}
    for reader in group.readers:  # a channel that nobody reads is one that is not there
        weight = module.get_parameter(f"{reader.layer}.weight")
        weights[reader.layer] = weight, weight.detach().clone()
        columns = [c for c, channel in zip(reader.columns, reader.channels) if channel in gone]
        with torch.no_grad():
            weight.index_fill_(reader.axis, torch.tensor(columns, dtype=torch.int64), 0.0)
    try:
        yield module
    finally:
        with torch.no_grad():
            for weight, before in weights.values():
                weight.copy_(before)
