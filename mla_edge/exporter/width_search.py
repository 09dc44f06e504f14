"""Find the widths that reach a latency: solve by the table, measure the whole graph, correct.

The table adds up what groups save alone, and the whole graph takes a little more or less. So
the budget is corrected by what was measured until the goal is met. Then the cuts of each part
of the network, its heads, its linear and its convolution widths, are undone in turn: those
without which the graph is no slower are rolled back, and the budget is spent on the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from mla_edge.exporter.knapsack import Option, choose_widths
from mla_edge.exporter.latency_table import Idle, LatencyTable
from mla_edge.exporter.runs import saving

Times = Callable[[Mapping[str, Mapping[str, int]], int], Mapping[str, np.ndarray]]
"""Milliseconds in so many sessions, by choice of widths; nothing pruned is ``""``."""

_AIM = 0.99  # of the goal, for what is measured differs a little from time to time
_NEAR = 0.97  # of the goal: faster than that is pruned more than need be
_ATTEMPTS = 6
_SESSIONS = 8
_CLOSER_LOOK = 24  # sessions, to see whether a part of the cuts pays
_LEAST_EIGHTH = 8  # no uniform network is narrower, as no width of the table is


@dataclass(frozen=True)
class Attempt:
    """A choice by the table, and what the whole graph took."""

    widths: Mapping[str, int]
    loss: float
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Found:
    """The choice that reaches the goal, how it was come by, and what was rolled back."""

    chosen: Attempt
    attempts: tuple[Attempt, ...]
    undone: tuple[Idle, ...]


def cheapest_widths(table: LatencyTable) -> dict[str, int]:
    """The width of every group that takes the least time."""
    return {g: min(row, key=lambda width: row[width]) for g, row in table.rows.items()}


def by_table(table: LatencyTable) -> Times:
    """What ``table`` expects of any widths, where the machine that it is of is not here."""

    def expected(
        choices: Mapping[str, Mapping[str, int]], sessions: int
    ) -> dict[str, np.ndarray]:
        found = {"": table.whole_ms}
        found.update((name, table.expect(widths)) for name, widths in choices.items())
        return {name: np.full(sessions, ms) for name, ms in found.items()}

    return expected


def measured_ms(table: LatencyTable, taken: Mapping[str, np.ndarray], name: str) -> float:
    """What the choice called ``name`` takes where nothing pruned takes what the table says.

    The machine may be faster or slower than when the table was made.
    """
    return table.whole_ms * float(np.median(taken[name] / taken[""]))


def find_widths(
    table: LatencyTable,
    losses: Mapping[str, Mapping[int, float]],
    parts: Mapping[str, str],
    target_ms: float,
    time_widths: Times,
) -> Found | None:
    """The widths with the least loss whose graph was measured to take ``target_ms`` or less.

    ``parts`` says by group of which part of the network it is. None where no choice does.
    """
    options = {
        group: [Option(width, cost, losses[group][width]) for width, cost in row.items()]
        for group, row in table.rows.items()
    }
    attempts: list[Attempt] = []
    found = _approach(table, options, target_ms, time_widths, attempts)
    if found is None:
        return None
    idle = _idle_parts(table, found.widths, parts, time_widths)
    if idle:
        gone = {cut.what for cut in idle}
        for group, rows in options.items():
            if parts[group] in gone:
                options[group] = [max(rows, key=lambda option: option.width)]
        without = _approach(table, options, target_ms, time_widths, attempts)
        if without is not None:
            return Found(without, tuple(attempts), tuple(idle))
    return Found(found, tuple(attempts), ())  # together those cuts do count


def _approach(
    table: LatencyTable,
    options: Mapping[str, Sequence[Option]],
    target_ms: float,
    time_widths: Times,
    attempts: list[Attempt],
) -> Attempt | None:
    """The choice of least loss that reaches the goal; each one tried goes to ``attempts``."""
    fixed_ms = table.whole_ms - sum(max(row.items())[1] for row in table.rows.values())
    best: Attempt | None = None
    correction_ms = attempts[-1].measured_ms - attempts[-1].predicted_ms if attempts else 0.0
    # Nothing pruned misses the goal by the table, whatever one noisy measurement says.
    tried: list[Mapping[str, int]] = [{g: max(row) for g, row in table.rows.items()}]
    for _ in range(_ATTEMPTS):
        budget_ms = target_ms * _AIM - fixed_ms - correction_ms
        widths = choose_widths(options, budget_ms) or _cheapest(options)
        if widths in tried:
            break
        tried.append(widths)
        taken = measured_ms(table, time_widths({"chosen": widths}, _SESSIONS), "chosen")
        loss = sum(
            next(option.loss for option in options[group] if option.width == width)
            for group, width in widths.items()
        )
        attempt = Attempt(widths, loss, table.predict(widths), taken)
        attempts.append(attempt)
        if taken <= target_ms and (best is None or loss < best.loss):
            best = attempt
        if _NEAR * target_ms <= taken <= target_ms:
            break
        correction_ms = taken - attempt.predicted_ms
    return best


def _cheapest(options: Mapping[str, Sequence[Option]]) -> dict[str, int]:
    return {
        g: min(rows, key=lambda o: (o.cost_ms, o.loss)).width for g, rows in options.items()
    }


def _idle_parts(
    table: LatencyTable,
    widths: Mapping[str, int],
    parts: Mapping[str, str],
    time_widths: Times,
) -> list[Idle]:
    """The parts whose cuts can be undone without the graph becoming slower beyond noise."""
    whole = {group: max(row) for group, row in table.rows.items()}
    cut = sorted({parts[group] for group, width in widths.items() if width < whole[group]})
    choices = {
        part: {g: whole[g] if parts[g] == part else width for g, width in widths.items()}
        for part in cut
    }
    taken = time_widths({"chosen": widths, **choices}, _CLOSER_LOOK)
    savings = [Idle(part, *saving(taken[part], taken["chosen"])) for part in cut]
    return [found for found in savings if found.saved_ms <= found.noise_ms]


def uniform_widths(
    widths: Mapping[str, int], heads: Sequence[str], share: float, round_to: int
) -> dict[str, int]:
    """Every width cut to ``share`` of it, as a recipe's ratio does; heads are not rounded."""
    return {
        group: math.ceil(width * share)
        if group in heads
        else min(width, math.ceil(width * share / round_to) * round_to)
        for group, width in widths.items()
    }


def find_uniform(
    table: LatencyTable,
    heads: Sequence[str],
    round_to: int,
    target_ms: float,
    time_widths: Times,
) -> tuple[float, Attempt] | None:
    """The largest share of every width whose graph takes ``target_ms`` or less; None: none."""
    whole = {group: max(row) for group, row in table.rows.items()}
    shares: dict[tuple[int, ...], float] = {}  # one of each choice of widths
    for step in range(63, 64 // _LEAST_EIGHTH - 1, -1):
        widths = uniform_widths(whole, heads, step / 64, round_to)
        if widths != whole:
            shares.setdefault(tuple(widths.values()), step / 64)
    ladder = list(shares.values())
    found: tuple[float, Attempt] | None = None
    low, high = 0, len(ladder)
    while low < high:
        middle = (low + high) // 2
        widths = uniform_widths(whole, heads, ladder[middle], round_to)
        taken = measured_ms(table, time_widths({"uniform": widths}, _SESSIONS), "uniform")
        if taken <= target_ms:
            attempt = Attempt(widths, math.nan, table.predict(widths), taken)
            found, high = (ladder[middle], attempt), middle
        else:
            low = middle + 1
    return found
