"""Choose the tier that answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mla_edge.bundle import LEARNED, ModePolicy, RouterPolicy
from mla_edge.errors import ConfigError

SINGLE_TIER = "single-tier"
LITE_CONFIDENT = "lite-confident"
ALONE = "one-modality"  # lite was sure of one input, and did not look at the others
ESCALATED = "escalated"
UNKNOWN_MODE = "unknown-mode"
FULL_ONLY = "full-only"
DEADLINE = "deadline"
DWELL = "dwell"  # lite is sure again, but not for long enough
LITE_SKIPPED = "lite-skipped"  # it was not sure time and again: it is not asked for a while
UNCHANGED = "unchanged"  # nothing has changed since the last inference, whose answer it is
ALARM = "alarm"  # audits say that the certificate no longer holds
HEAT = "heat"
POWER = "power"

HELD_BACK = (DEADLINE, HEAT, POWER)
"""The last tier was wanted and not asked: no certificate covers such a decision."""

DWELL_TICKS = 2
"""After full was needed, so many ticks in a row must be sure before lite answers again."""

_BARELY = 3  # times as many, if they are sure enough to be kept, but not by far
_SKIP_AFTER, _SKIPS = 6, 5  # ticks without a sure answer, and those that lite then misses


@dataclass(frozen=True)
class Verdict:
    """What a router says of a cheap tier's answer: is it kept, and how sure is it."""

    keep: bool
    probabilities: np.ndarray  # [classes]
    why: str = ""  # it is not kept
    score: float = 0.0  # how safe it is to keep it, in 0…1


class Router(Protocol):
    """Decides, in each mode (``image+audio``, ``image``, …), which tier's answer counts."""

    def skip(self, mode: str) -> str | None:
        """Why the last tier answers in ``mode`` without asking a cheaper one; None: ask it."""
        ...

    def solo(self, mode: str) -> str | None:
        """The input that is asked alone first in ``mode``, where lite is not skipped."""
        ...

    def judge_solo(self, mode: str, logits: np.ndarray) -> Verdict:
        """Whether what was asked alone is sure enough; logits [classes]."""
        ...

    def judge(
        self, mode: str, logits: np.ndarray, learned: np.ndarray | None = None
    ) -> Verdict:
        """Whether a tier that is not the last is sure enough; logits [classes].

        ``learned`` is what its graph gives as ``score``, [1, 1], where it gives one.
        """
        ...

    def reset(self) -> None:
        """Forget the moments before."""
        ...


class CascadeRouter:
    """Keeps a cheap answer whose score reaches the mode's threshold.

    With ``dwell`` it has a memory for the ticks of a stream: it goes on to the next tier at
    once, and comes back slowly, by a higher threshold. Where lite is unsure again and again it
    is skipped for some ticks. Both only ask the next tier more often than the thresholds do,
    so what is certified of the thresholds holds.
    """

    def __init__(self, policy: RouterPolicy, *, dwell: int = 0) -> None:
        """Follow ``policy``; without ``dwell`` (in ticks) each moment is judged by itself."""
        self._modes = dict(policy.modes)
        self._dwell = dwell
        self._states: dict[str, _State] = {}
        self._alarmed: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Forget the moments before: what comes next has nothing to do with them."""
        self._states = {mode: _State(self._dwell) for mode in self._modes}

    def retreat(self, mode: str, threshold: float | None) -> None:
        """From now on go by a more careful ``threshold`` in ``mode``; None: never keep lite."""
        if threshold is None:
            self._alarmed.add(mode)
        else:
            self._modes[mode] = dataclasses.replace(self._modes[mode], threshold=threshold)

    def skip(self, mode: str) -> str | None:
        """Why lite is not asked: ``unknown-mode`` without a threshold, ``full-only`` if none
        can reach it, ``alarm``, or ``lite-skipped`` for now.
        """
        policy = self._modes.get(mode)
        if policy is None:
            return UNKNOWN_MODE
        if mode in self._alarmed:
            return ALARM
        if policy.threshold > 1.0:
            return FULL_ONLY
        return LITE_SKIPPED if self._states[mode].skip() else None

    def solo(self, mode: str) -> str | None:
        """As the policy says; nothing is asked alone while the mode is escalated."""
        policy = self._modes.get(mode)
        if policy is None or policy.solo is None or self._states[mode].escalated:
            return None
        return policy.solo.input

    def judge_solo(self, mode: str, logits: np.ndarray) -> Verdict:
        """Compare the confidence of ``logits`` [classes] with both thresholds."""
        policy = self._modes[mode]
        if policy.solo is None:
            raise ConfigError(f"nothing is asked alone in mode {mode}", hint="ask `solo` first")
        probabilities = softmax(logits, policy.solo.temperature)
        score = float(probabilities.max())
        wanted = max(policy.threshold, policy.solo.threshold)
        return Verdict(score >= wanted, probabilities, score=score)

    def judge(
        self, mode: str, logits: np.ndarray, learned: np.ndarray | None = None
    ) -> Verdict:
        """Compare the score of an answer, logits [classes], with the threshold of ``mode``.

        In a mode without a policy it is never enough, and its temperature is 1.
        """
        policy = self._modes.get(mode)
        if policy is None:
            return Verdict(False, softmax(logits), UNKNOWN_MODE)
        probabilities = softmax(logits, policy.temperature)
        score = keep_score(policy, probabilities, learned)
        why = self._states[mode].judge(score, policy.threshold)
        return Verdict(not why, probabilities, why, score)


class _State:
    """What one mode remembers of the ticks before."""

    def __init__(self, dwell: int) -> None:
        self._dwell = dwell
        self.escalated = False
        self._calm = 0  # how sure lite has been since, in ticks that were barely so
        self._unsure = 0  # ticks in a row
        self._skips = 0  # ticks that lite is still to miss

    def skip(self) -> bool:
        """Whether lite misses this tick."""
        self._skips -= self._skips > 0
        return self._skips > 0

    def judge(self, score: float, threshold: float) -> str:
        """Why lite is not kept; empty: it is."""
        if not score >= threshold:  # nor is one that is not a number
            self.escalated, self._calm = True, 0
            self._unsure += 1
            if self._dwell and self._unsure >= _SKIP_AFTER:
                self._skips = _SKIPS + 1
            return ESCALATED
        self._unsure = 0
        if self.escalated and self._dwell:
            very_sure = score >= (1 + threshold) / 2
            self._calm += _BARELY if very_sure else 1
            if self._calm < self._dwell * _BARELY:
                return DWELL
        self.escalated = False
        return ""


def keep_score(
    policy: ModePolicy, probabilities: np.ndarray, learned: np.ndarray | None
) -> float:
    """How safe it is to keep an answer, in 0…1, by the score that ``policy`` names.

    ``probabilities`` [classes] are at its temperature; ``learned`` [1, 1] is the graph's
    estimate that full would be right and this answer is not.
    """
    if policy.score == LEARNED and learned is not None:
        return 1.0 - float(learned.flat[0])
    return float(probabilities.max())


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The probabilities of ``logits`` [classes]; a higher temperature makes them more even."""
    weights: np.ndarray = np.subtract(logits, logits.max(), dtype=np.float64)
    weights /= temperature
    np.exp(weights, out=weights)
    weights /= weights.sum()
    return weights
