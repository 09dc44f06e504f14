"""Choose when the cheap tier's answer is good enough: a temperature and a threshold per mode.

The rule is chosen on the ``tune`` samples with the graphs that run on a processor. A threshold
is taken only if the *count* of answers it would spoil (the cheap tier is kept and wrong, the
last tier is right) is too small to come from a loss of ``max_loss`` or more, at 90 %
confidence. A fixed grid of thresholds is tried from careful to bold until one fails, so looking
at many does not spend the confidence (fixed-sequence testing, Bauer 1991). Of those that
passed, the most careful one that keeps nearly as many samples as the boldest is used: where the
samples are easier than life, boldness buys nothing and risks much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Mapping, Sequence

import numpy as np

from mla_edge.bundle import CONFIDENCE, NEVER, ModePolicy, RouterPolicy
from mla_edge.certify import THRESHOLDS, binomial_cdf, fewest_units

ALWAYS = 0.0  # keep the only tier's answer
MAX_LOSS = 0.01
DOUBT = 0.1
_SPARED = 0.02  # of the samples that could be kept, given up for a more careful threshold
# Those nearer to 1 are for certificates: where nearly all samples are easy, the share that is
# given up would all go to a threshold that life does not ask for.
_GRID = tuple(threshold for threshold in THRESHOLDS if threshold <= 0.9999)


@dataclass(frozen=True)
class ModeRouting:
    """What routing does in one mode, on the tune samples."""

    mode: str
    samples: int
    temperature: float
    threshold: float
    kept: float  # share of answers that do not need the last tier
    break_even: float  # share above which routing is cheaper than the last tier alone
    cost_ms: float  # mean per decision, routed
    full_cost_ms: float
    tier_accuracy: Mapping[str, float]
    routed_accuracy: float
    why: str
    score: str = CONFIDENCE
    thresholds: tuple[float, ...] = ()  # of a learned score, from careful to bold
    normalised: Mapping[str, float | None] = field(default_factory=dict)  # of both scores


def choose_mode(  # noqa: PLR0913 - what was measured in a mode, and what is allowed
    mode: str,
    logits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    cost_ms: Mapping[str, float],
    full_cost_ms: float,
    *,
    max_loss: float = MAX_LOSS,
    safe: np.ndarray | None = None,
    thresholds: Sequence[float] = _GRID,
) -> ModeRouting:
    """The policy of one mode from its tune samples: logits by tier (cheapest first) and labels.

    ``full_cost_ms`` is what an answer of the last tier costs when no other was asked; more than
    its own cost if it takes what earlier ones give. ``safe`` [samples] is how safe it is to
    keep the first of two tiers by a learned score, which then takes the place of confidence,
    with its own ``thresholds``.
    """
    tiers = list(logits)
    temperature = fit_temperature(logits[tiers[0]], labels)
    break_even = (sum(cost_ms.values()) - full_cost_ms) / cost_ms[tiers[-1]]
    if len(tiers) == 1:
        threshold, why = ALWAYS, "there is one tier"
    else:
        threshold, why = choose_threshold(
            logits, labels, temperature, max_loss, safe=safe, thresholds=thresholds
        )
    chosen = route(logits, temperature, threshold, safe)
    cost = float(np.cumsum([cost_ms[tier] for tier in tiers])[chosen].mean())
    if threshold > 1.0:
        cost = full_cost_ms
    elif cost >= full_cost_ms and len(tiers) > 1:
        share = float(np.mean(chosen < len(tiers) - 1))
        why = f"routing does not pay: {share:.0%} could be kept, {break_even:.0%} is break-even"
        threshold, cost = NEVER, full_cost_ms
        chosen = route(logits, temperature, threshold, safe)
    right = np.stack([logits[t].argmax(1) == labels for t in tiers])
    return ModeRouting(
        mode=mode,
        samples=len(labels),
        temperature=temperature,
        threshold=threshold,
        kept=float(np.mean(chosen < len(tiers) - 1)),
        break_even=break_even,
        cost_ms=cost,
        full_cost_ms=full_cost_ms,
        tier_accuracy={t: float(r.mean()) for t, r in zip(tiers, right)},
        routed_accuracy=float(right[chosen, np.arange(len(labels))].mean()),
        why=why,
    )


def make_policy(
    routings: Sequence[ModeRouting], cost_ms: Mapping[str, float], measured_on: str
) -> RouterPolicy:
    """The bundle's policy from the choice in every mode."""
    modes = {
        r.mode: ModePolicy(r.temperature, r.threshold, r.score, tuple(r.thresholds))
        for r in routings
    }
    return RouterPolicy(modes, dict(cost_ms), measured_on)


def route(
    logits: Mapping[str, np.ndarray],
    temperature: float,
    threshold: float,
    safe: np.ndarray | None = None,
) -> np.ndarray:
    """For each sample the index of the tier that answers: the first that is sure enough.

    ``safe`` [samples] says so of the first tier where a learned score does.
    """
    rows = list(logits.values())
    chosen = np.full(len(rows[0]), len(rows) - 1)
    for index in range(len(rows) - 2, -1, -1):
        sure = confidence(rows[index], temperature)
        if safe is not None and index == 0:
            sure = safe
        chosen[sure >= threshold] = index
    return chosen


def choose_threshold(
    logits: Mapping[str, np.ndarray],
    labels: np.ndarray,
    temperature: float,
    max_loss: float,
    *,
    safe: np.ndarray | None = None,
    thresholds: Sequence[float] = _GRID,
) -> tuple[float, str]:
    """The threshold to use, and why none bolder than those tried is allowed."""
    count = len(labels)
    enough = samples_needed(max_loss)
    if count < enough:
        return NEVER, f"{count} samples are too few to allow any loss; {enough} are needed"
    right = np.stack([rows.argmax(1) == labels for rows in logits.values()])
    passed: dict[float, float] = {}  # threshold -> share of the samples it keeps
    why = "no threshold spoils too many answers"
    for threshold in thresholds:
        chosen = route(logits, temperature, threshold, safe)
        answers = right[chosen, np.arange(count)]
        spoiled = int(np.sum(~answers & right[-1]))
        if binomial_cdf(spoiled, count, max_loss) > DOUBT:
            if not passed:
                return NEVER, f"even the surest {threshold:.2%} spoil {spoiled} of {count}"
            why = f"a bolder threshold would spoil {spoiled} of {count} answers"
            break
        passed[threshold] = float(np.mean(chosen < len(right) - 1))
    most = max(passed.values())
    return max(t for t, kept in passed.items() if kept >= most - _SPARED), why


def samples_needed(max_loss: float) -> int:
    """The fewest samples that can allow a threshold at all: none of them spoiled."""
    return fewest_units(max_loss, DOUBT)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the greatest likelihood (Guo et al. 2017), within 0.1 and 10."""

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        total = np.log(np.exp(scaled).sum(axis=1))
        return float(np.mean(total - scaled[np.arange(len(labels)), labels]))

    low, high = math.log(0.1), math.log(10.0)
    golden = (math.sqrt(5.0) - 1.0) / 2.0
    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2.0)


def confidence(logits: np.ndarray, temperature: float) -> np.ndarray:
    """The greatest probability of each row at ``temperature``."""
    scaled = logits.astype(np.float64) / temperature
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    best: np.ndarray = odds.max(axis=1) / odds.sum(axis=1)
    return best
