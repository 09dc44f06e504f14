"""Choose one width of every group: the least loss that a latency allows.

A multiple-choice knapsack, as Shen et al. (2022, Structural Pruning via Latency-Saliency
Knapsack) and Frantar & Alistarh (2022, SPDY) put pruning. Costs and losses add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

import numpy as np

_BINS = 10_000  # of the latency axis


@dataclass(frozen=True)
class Option:
    """One width that a group may have, what it costs to run, and what is lost with it."""

    width: int
    cost_ms: float
    loss: float


def choose_widths(
    groups: Mapping[str, Sequence[Option]], budget_ms: float
) -> dict[str, int] | None:
    """The width of every group with the least sum of losses whose costs fit into the budget.

    Dynamic programming, group after group, over the choices that no other beats in both cost
    and loss. Where those are more than 10,000, one is kept in each of as many bins of the
    budget: the choice is then the best of a budget that is smaller by one bin a group. None
    where even the cheapest widths do not fit. ValueError for a group without options, and for a
    cost or a loss that is negative or not finite.
    """
    _check(groups)
    most_ms = budget_ms * (1 + 1e-12)  # sums in another order differ in their last bits
    costs, losses = np.zeros(1), np.zeros(1)
    ways = []  # by group: which choice of the groups before, and which option
    for rows in groups.values():
        added = np.array([(option.cost_ms, option.loss) for option in rows])
        all_costs = (costs[:, None] + added[:, 0]).ravel()
        all_losses = (losses[:, None] + added[:, 1]).ravel()
        best = _unbeaten(all_costs, all_losses, most_ms)
        if not len(best):
            return None
        costs, losses = all_costs[best], all_losses[best]
        ways.append(np.divmod(best, len(rows)))
    at, picks = len(costs) - 1, []  # the last one costs most and loses least
    for before, option in reversed(ways):
        picks.append(int(option[at]))
        at = int(before[at])
    return {
        name: rows[pick].width for (name, rows), pick in zip(groups.items(), reversed(picks))
    }


def _unbeaten(costs: np.ndarray, losses: np.ndarray, most_ms: float) -> np.ndarray:
    """Indices of those that fit and lose less than all that cost no more, cheapest first."""
    order = np.lexsort((losses, costs))
    order = order[costs[order] <= most_ms]
    if not len(order):
        return order
    before = np.concatenate(([np.inf], np.minimum.accumulate(losses[order])[:-1]))
    order = order[losses[order] < before]
    if len(order) > _BINS:
        bins = np.floor(costs[order] * (_BINS / most_ms))
        order = order[np.append(bins[1:] != bins[:-1], True)]
    return order


def _check(groups: Mapping[str, Sequence[Option]]) -> None:
    for name, rows in groups.items():
        values = [value for option in rows for value in (option.cost_ms, option.loss)]
        if not rows or not np.isfinite(values).all() or min(values) < 0:
            raise ValueError(f"{name}: costs and losses are finite and 0 or more: {list(rows)}")
