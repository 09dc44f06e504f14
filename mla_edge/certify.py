"""Certify routing: how often may a cheap answer be wrong where the full one was right.

What is claimed: with probability 1 - delta over the data that certify, the share of moments
whose routed answer is wrong while the full tier's is right is at most epsilon, for units that
are exchangeable with those. A unit is what is independent: a picture, a take, a clip, a
session; never a frame. The data certify once, and chose nothing before.

Learn then Test (Angelopoulos, Bates, Candès, Jordan & Lei 2021): the thresholds are fixed
beforehand, from careful to bold, and tested in that order by a p-value that is exact; the first
one that fails ends it, and the last one that passed is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from mla_edge.errors import ConfigError

POWER = 0.8  # of `units_needed`: the chance that so many units are enough
THRESHOLDS = tuple(1.0 - float(miss) for miss in np.geomspace(1e-7, 0.75, 112))
"""Of a confidence, from careful to bold: fixed here, so that no data has a say in them.

A temperature that was fitted where nearly all is right makes confidences crowd below 1: the
most careful threshold has to be higher than where they do.
"""

_EXACT = 1e-9
_RUNS, _RUNS_AT_ONCE = 8, 50  # of a simulation
_BETS = (0.05, 0.1, 0.2, 0.4, 0.8)  # of what a monitor may stake at most


@dataclass(frozen=True)
class Certified:
    """A threshold that holds, or None, which is the full tier always."""

    threshold: float | None
    epsilon: float
    delta: float
    units: int
    losses: int  # units that the threshold loses, of those that certified it
    p_value: float  # of the threshold; of the most careful one where none holds


def binomial_cdf(successes: int, trials: int, rate: float) -> float:
    """P(X <= ``successes``) for X ~ Binomial(``trials``, ``rate``), by a sum of logarithms."""
    if successes < 0:
        return 0.0
    if successes >= trials or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    ways = math.lgamma(trials + 1)
    logs = [
        ways
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(rate)
        + (trials - k) * math.log1p(-rate)
        for k in range(successes + 1)
    ]
    largest = max(logs)
    return min(1.0, math.exp(largest) * math.fsum(math.exp(value - largest) for value in logs))


def highest_rate(successes: int, trials: int, doubt: float) -> float:
    """The highest rate that ``successes`` of ``trials`` do not speak against (Clopper-Pearson).

    A higher one would show so few with a chance of ``doubt`` at most. 1 where none was tried.
    """
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    while high - low > _EXACT:
        middle = (low + high) / 2
        if binomial_cdf(successes, trials, middle) > doubt:
            low = middle
        else:
            high = middle
    return high


def betting_p_value(losses: np.ndarray, epsilon: float, delta: float) -> float:
    """A p-value for "the mean loss is above ``epsilon``", of losses [units] in 0…1, in order.

    p = min(1, 1 / max_t prod_{i<=t} (1 - v_i (L_i - epsilon))) with bets
    v_i = min(sqrt(2 ln(1/delta) / (n s_{i-1})), 0.999 / (1 - epsilon)), s the variance of the
    losses before, with a prior of 0.25 (Waudby-Smith & Ramdas 2024, hedged capital). For whole
    sessions of a policy with a memory, whose moments are not independent.
    """
    values = np.asarray(losses, np.float64)
    if values.ndim != 1 or not len(values):
        raise ConfigError(f"losses are {list(values.shape)}", hint="give one for each unit")
    if not ((values >= 0) & (values <= 1)).all():
        raise ConfigError("a loss is not between 0 and 1", hint="give each unit's share lost")
    return float(_p_values(values[None], epsilon, delta)[0])


def _p_values(losses: np.ndarray, epsilon: float, delta: float) -> np.ndarray:
    """As ``betting_p_value``, of each row of losses [runs, units]."""
    count = losses.shape[1]
    seen = np.arange(1, count + 1)
    means = (0.5 + np.cumsum(losses, axis=1)) / (seen + 1)
    spreads = (0.25 + np.cumsum((losses - means) ** 2, axis=1)) / (seen + 1)
    before = np.concatenate([np.full((len(losses), 1), 0.25), spreads[:, :-1]], axis=1)
    bets = np.sqrt(2 * math.log(1 / delta) / (count * before))
    bets = np.minimum(bets, 0.999 / (1 - epsilon))
    capital = np.cumsum(np.log1p(-bets * (losses - epsilon)), axis=1)
    return np.asarray(np.exp(-np.maximum(capital.max(axis=1), 0.0)))


def last_passing(p_values: Sequence[float], delta: float) -> int | None:
    """The last of the tests in a fixed order before the first that fails; None: the first does.

    The first that fails is not taken: returning it breaks the guarantee.
    """
    passed = [i for i, p in enumerate(p_values) if p <= delta]
    for i in range(len(p_values)):
        if i >= len(passed) or passed[i] != i:
            return i - 1 if i else None
    return len(p_values) - 1 if len(p_values) else None


def certify_threshold(
    scores: np.ndarray,
    regrets: np.ndarray,
    thresholds: Sequence[float],
    *,
    epsilon: float,
    delta: float,
) -> Certified:
    """The boldest of ``thresholds`` that holds; lite is kept at a score of at least that.

    ``scores`` [units] and ``regrets`` [units] (lite wrong and full right) are of independent
    units. ``thresholds`` come from other data, highest first. ConfigError where they do not fit
    together, or epsilon or delta is no probability.
    """
    scores, regrets = np.asarray(scores, np.float64), np.asarray(regrets, bool)
    _check(scores, regrets, thresholds, epsilon, delta)
    units = len(scores)
    counts = [int(np.count_nonzero(regrets & (scores >= at))) for at in thresholds]
    p_values = [binomial_cdf(count, units, epsilon) for count in counts]
    found = last_passing(p_values, delta)
    best = 0 if found is None else found
    threshold = None if found is None else float(thresholds[best])
    return Certified(threshold, epsilon, delta, units, counts[best], p_values[best])


def certify_ladder(
    scores: np.ndarray,
    regrets: np.ndarray,
    thresholds: Sequence[float],
    *,
    epsilons: Sequence[float],
    delta: float,
) -> list[Certified]:
    """A rung for each of ``epsilons``; all hold together, each by its part of delta.

    A policy may move between rungs as it likes (heat, power, deadlines) and keeps the claim of
    the boldest rung that it stood on.
    """
    share = delta / max(1, len(epsilons))
    return [
        certify_threshold(scores, regrets, thresholds, epsilon=epsilon, delta=share)
        for epsilon in epsilons
    ]


def certify_policy(losses: np.ndarray, *, epsilon: float, delta: float) -> int | None:
    """The last of a chain of policies that holds, by losses [policies, sessions] in 0…1.

    The chain is fixed on other data, careful first; None: not even the first holds.
    """
    rows = np.asarray(losses, np.float64)
    if rows.ndim != 2:
        raise ConfigError(
            f"losses are {list(rows.shape)}", hint="give a row of sessions for each policy"
        )
    return last_passing([betting_p_value(row, epsilon, delta) for row in rows], delta)


def fewest_units(epsilon: float, delta: float) -> int:
    """The fewest independent units that can pass at all: when none of them is lost."""
    check_levels(epsilon, delta=delta)
    return math.ceil(math.log(delta) / math.log1p(-epsilon))


def units_needed(
    epsilon: float, delta: float, *, regret: float = 0.0, power: float = POWER
) -> int:
    """Independent units with which a threshold of true ``regret`` passes with chance ``power``.

    Exact for the binomial test: the least n with P(X <= k) >= power, where k is the most losses
    that pass. ConfigError where regret is not below epsilon: no number is enough.
    """
    check_levels(epsilon, delta=delta)
    if not 0 <= regret < epsilon:
        raise ConfigError(
            f"a regret of {regret:g} cannot be certified at epsilon {epsilon:g}",
            hint="take a larger epsilon, or a more careful threshold",
        )
    units = fewest_units(epsilon, delta)
    allowed = 0
    while True:
        # Only where one more loss passes does the power rise: go from one such n to the next.
        while binomial_cdf(allowed, units, epsilon) > delta:
            units += 1
        if binomial_cdf(allowed, units, regret) >= power:
            return units
        allowed += 1


def fewest_sessions(epsilon: float, delta: float) -> int:
    """The fewest sessions that can pass at all: when none of them loses anything."""
    sessions = fewest_units(epsilon, delta)
    while betting_p_value(np.zeros(sessions), epsilon, delta) > delta:
        sessions += 1
    return sessions


def sessions_needed(
    epsilon: float, delta: float, *, like: np.ndarray | None = None, power: float = POWER
) -> int:
    """About how many sessions pass with chance ``power``, if they lose like those of ``like``.

    ``like`` [sessions] has losses in 0…1 that are drawn from, by a fixed seed; by default they
    are as uneven as exponential ones, with a mean of a quarter of epsilon. Not more than 64
    times the fewest that can pass at all: then the mean is too near to epsilon.
    """
    low = fewest = fewest_sessions(epsilon, delta)
    if like is None:
        like = -epsilon / 4 * np.log1p(-(np.arange(200) + 0.5) / 200)
    losses = np.minimum(np.asarray(like, np.float64), 1.0)

    def is_enough(sessions: int) -> bool:
        rng = np.random.default_rng(0)
        passed = 0
        for _ in range(_RUNS):
            drawn = rng.choice(losses, (_RUNS_AT_ONCE, sessions))
            passed += int((_p_values(drawn, epsilon, delta) <= delta).sum())
        return passed >= power * _RUNS * _RUNS_AT_ONCE

    if is_enough(low):
        return low
    high = 2 * low
    while not is_enough(high):
        if high >= 64 * fewest:
            return high
        low, high = high, 2 * high
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high


class Monitor:
    """Watches audits of a certified policy, and says when they no longer fit its certificate.

    Each audit says whether lite was kept while the full tier would have said something else.
    Against "at most ``rate`` of the audits do" it keeps e-processes prod (1 + b (x - rate)) for
    several bets b, and their mean, which is one as well: the chance that it ever reaches
    1 / ``alpha`` while the certificate holds is at most alpha (Ville), however long it watches.
    """

    def __init__(self, rate: float, *, alpha: float = 0.01) -> None:
        """``rate`` is what was certified, of the audited moments; both are in 0…1."""
        if not (0 < rate < 1 and 0 < alpha < 1):
            raise ConfigError(
                f"rate {rate:g}, alpha {alpha:g}", hint="both lie between 0 and 1"
            )
        self._rate, self._limit = rate, math.log(1 / alpha)
        self._bets = np.array(_BETS) / rate  # 1 / rate would lose everything on one good audit
        self._logs = np.zeros(len(self._bets))
        self.audits = 0
        self.disagreements = 0
        self.alarmed = False

    @property
    def evidence(self) -> float:
        """The mean of the e-processes, as its logarithm; 0 says nothing either way."""
        return float(np.logaddexp.reduce(self._logs) - math.log(len(self._logs)))

    def add(self, disagrees: bool) -> bool:
        """Count one audit; whether the alarm is on, which it then stays."""
        self.audits += 1
        self.disagreements += int(disagrees)
        self._logs += np.log1p(self._bets * (float(disagrees) - self._rate))
        self.alarmed = self.alarmed or self.evidence >= self._limit
        return self.alarmed


def check_levels(*epsilons: float, delta: float) -> None:
    """ConfigError where one of them is no probability, or is certain."""
    for name, value in (*(("epsilon", each) for each in epsilons), ("delta", delta)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} is {value:g}", hint="it lies between 0 and 1")


def _check(
    scores: np.ndarray,
    regrets: np.ndarray,
    thresholds: Sequence[float],
    epsilon: float,
    delta: float,
) -> None:
    check_levels(epsilon, delta=delta)
    if scores.ndim != 1 or scores.shape != regrets.shape or not len(scores):
        raise ConfigError(
            f"scores are {list(scores.shape)}, regrets {list(regrets.shape)}",
            hint="give one of each for every independent unit",
        )
    if not np.isfinite(scores).all():
        raise ConfigError("a score is NaN or infinite", hint="leave that unit out, or mend it")
    if not len(thresholds) or any(a < b for a, b in zip(thresholds, thresholds[1:])):
        raise ConfigError(
            "the thresholds are not in order", hint="fix them beforehand, the highest first"
        )
