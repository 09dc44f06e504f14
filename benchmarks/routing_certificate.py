"""What moments certify, how well a score ranks them, and how often a certificate is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from mla_edge.certify import (
    THRESHOLDS,
    betting_p_value,
    certify_policy,
    certify_threshold,
    fewest_units,
)
from mla_edge.runtime.listening import Heard

_STEP = 1e-3  # of the smallest epsilon
_ROOM = 1.5  # at the smallest nothing at all may be lost


@dataclass(frozen=True)
class Evidence:
    """Moments that both tiers answered, and their units: arrays [rows].

    Where each unit is one moment the test is exact (binomial); otherwise it bets on the mean
    loss of each unit's moments.
    """

    heard: Heard
    units: np.ndarray
    grid: Sequence[float] = THRESHOLDS  # to try, from careful to bold

    @property
    def members(self) -> np.ndarray:
        """The units, in order of their number."""
        return np.unique(self.units)

    def rows_of(self, members: np.ndarray) -> np.ndarray:
        """The moments of some units."""
        return np.flatnonzero(np.isin(self.units, members))

    @property
    def is_single(self) -> bool:
        """Whether each unit is one moment."""
        return len(self.members) == len(self.units)

    def certify(self, members: np.ndarray, epsilon: float, delta: float) -> float | None:
        """The boldest threshold that holds on ``members``, looked at in that order."""
        if self.is_single:
            losing = self.heard.losing_scores()[self.rows_of(members)]
            return certify_threshold(
                losing, losing > 0, self.grid, epsilon=epsilon, delta=delta
            ).threshold
        losses = self.losses()[:, np.searchsorted(self.members, members)]
        found = certify_policy(losses, epsilon=epsilon, delta=delta)
        return None if found is None else self.grid[found]

    def losses(self) -> np.ndarray:
        """Mean loss of each unit at each threshold, [thresholds, units]."""
        number = np.searchsorted(self.members, self.units)
        counts = np.bincount(number)
        losing = self.heard.losing_scores()
        lost = (losing > 0) & (losing >= np.array(self.grid)[:, None])
        return np.stack([np.bincount(number, row) / counts for row in lost.astype(float)])

    def fewest(self, epsilon: float, delta: float) -> int:
        """Units that can pass at all: if none of them loses anything."""
        count = fewest_units(epsilon, delta)
        while not self.is_single and betting_p_value(np.zeros(count), epsilon, delta) > delta:
            count += 1
        return count

    def least_epsilon(self, count: int, delta: float) -> float:
        """The smallest epsilon, in steps of 0.1 %, that ``count`` units can show at all."""
        epsilon = math.ceil((1 - delta ** (1 / count)) / _STEP) * _STEP
        while self.fewest(epsilon, delta) > count:
            epsilon += _STEP
        return float(round(epsilon, 4))


def resplit(evidence: Evidence, epsilon: float, delta: float, splits: int) -> dict[str, Any]:
    """Certify on random halves of the units, and watch what the other halves lose.

    At the smallest epsilon that a half can show, where that is larger. The half that is watched
    is a sample as well: at a true loss just under epsilon it is above it now and then.
    """
    members = evidence.members
    half = len(members) // 2
    used, least = epsilon, evidence.least_epsilon(half, delta)
    if least > epsilon:
        used = round(_ROOM * least, 3)
    rng = np.random.default_rng(0)
    kept, lost, lost_of_all, none = [], [], [], 0
    for _ in range(splits):
        order = rng.permutation(members)
        found = evidence.certify(order[:half], used, delta)
        none += found is None
        rows = evidence.rows_of(order[half:])
        keeps, spoils, _ = evidence.heard.above(np.inf if found is None else found)
        kept.append(float(np.mean(keeps[rows])))
        lost.append(float(np.mean(spoils[rows])))
        lost_of_all.append(float(np.mean(spoils)))
    return {
        "epsilon": used,
        "delta": delta,
        "splits": splits,
        "units_of_a_half": half,
        "nothing_certified": none / splits,
        "kept_median": float(np.median(kept)),
        "lost_median": float(np.median(lost)),
        "violations": float(np.mean(np.array(lost_of_all) > used)),
        "other_half_above": float(np.mean(np.array(lost) > used)),
    }
