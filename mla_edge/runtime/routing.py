"""Choose the tier that answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mla_edge.bundle import RouterPolicy

SINGLE_TIER = "single-tier"
LITE_CONFIDENT = "lite-confident"
ESCALATED = "escalated"
UNKNOWN_MODE = "unknown-mode"
FULL_ONLY = "full-only"
DEADLINE = "deadline"
HEAT = "heat"
POWER = "power"

HELD_BACK = (DEADLINE, HEAT, POWER)
"""The last tier was wanted and not asked: no certificate covers such a decision."""


@dataclass(frozen=True)
class Verdict:
    """What a router says of a cheap tier's answer: is it kept, and how sure is it."""

    keep: bool
    probabilities: np.ndarray  # [classes]


class Router(Protocol):
    """Decides, in each mode (``image+audio``, ``image``, …), which tier's answer counts."""

    def skip(self, mode: str) -> str | None:
        """Why the last tier answers in ``mode`` without asking a cheaper one; None: ask it."""
        ...

    def judge(self, mode: str, logits: np.ndarray) -> Verdict:
        """Whether a tier that is not the last is sure enough; logits [classes]."""
        ...


class CascadeRouter:
    """Keeps a cheap answer whose temperature-scaled confidence reaches the mode's threshold."""

    def __init__(self, policy: RouterPolicy) -> None:
        """Follow ``policy``."""
        self._modes = policy.modes

    def skip(self, mode: str) -> str | None:
        """``unknown-mode`` without a threshold for it, ``full-only`` if none can reach it."""
        policy = self._modes.get(mode)
        if policy is None:
            return UNKNOWN_MODE
        return FULL_ONLY if policy.threshold > 1.0 else None

    def judge(self, mode: str, logits: np.ndarray) -> Verdict:
        """Compare the confidence of ``logits`` [classes] with the threshold of ``mode``.

        In a mode without a policy it is never enough, and its temperature is 1.
        """
        policy = self._modes.get(mode)
        if policy is None:
            return Verdict(False, softmax(logits))
        probabilities = softmax(logits, policy.temperature)
        return Verdict(bool(probabilities.max() >= policy.threshold), probabilities)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """The probabilities of ``logits`` [classes]; a higher temperature makes them more even."""
    scaled = logits.astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())
