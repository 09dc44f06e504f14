"""The ways to choose between lite and full, each as a router that the runtime asks.

One model decides for all of them, so that they share engines and caches; ``Switch`` is its
router and passes on to whose turn it is. What a router does not ask for is not run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Mapping, Sequence

import numpy as np

from mla_edge.bundle import NEVER, ModePolicy, RouterPolicy
from mla_edge.exporter.policy import ALWAYS
from mla_edge.recordings import Recording
from mla_edge.runtime.loading import Parts
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import FULL_ONLY, CascadeRouter, Router, Verdict

TURN = 50  # decisions of one, before it is the next one's turn
FULL, LITE = "always full", "always lite"


class Switch:
    """The router of the model: passes on to ``router``."""

    def __init__(self) -> None:
        """Nobody's turn yet."""
        self.router: Router = CascadeRouter(RouterPolicy({}))

    def instrument(self, parts: Parts) -> Parts:
        """Take the router's place."""
        self.router = parts.router
        return replace(parts, router=self)

    def skip(self, mode: str) -> str | None:
        """What ``router`` says."""
        return self.router.skip(mode)

    def judge(self, mode: str, *answer: Any) -> Verdict:
        """What ``router`` says."""
        return self.router.judge(mode, *answer)

    def solo(self, mode: str) -> str | None:
        """What ``router`` says."""
        return self.router.solo(mode)

    def judge_solo(self, mode: str, logits: np.ndarray) -> Verdict:
        """What ``router`` says."""
        return self.router.judge_solo(mode, logits)

    def reset(self) -> None:
        """What came before has nothing to do with what comes next."""
        self.router.reset()


class Thresholds(CascadeRouter):
    """Keeps lite where the score of one mode reaches a threshold."""

    def __init__(self, mode: str, chosen: ModePolicy, threshold: float) -> None:
        """Score as ``chosen`` does."""
        super().__init__(RouterPolicy({mode: replace(chosen, threshold=threshold)}))


def plain(chosen: ModePolicy) -> ModePolicy:
    """Routing by the confidence of lite alone, whatever ``chosen`` does."""
    return ModePolicy(chosen.temperature, chosen.threshold)


class Beforehand(Thresholds):
    """Full alone for a share of the moments, lite alone for the others, whatever they show."""

    def __init__(
        self, mode: str, chosen: ModePolicy, share: float, rng: np.random.Generator | None
    ) -> None:
        """By chance with ``rng``, otherwise in turns."""
        super().__init__(mode, plain(chosen), ALWAYS)
        self._share, self._rng, self._owed = share, rng, 0.0

    def skip(self, mode: str) -> str | None:
        """``full-only`` when it is full's turn."""
        if self._rng is not None:
            return FULL_ONLY if self._rng.random() < self._share else None
        self._owed += self._share
        if self._owed < 1:
            return None
        self._owed -= 1
        return FULL_ONLY


class Oracle(Thresholds):
    """Knows the truth: asks full after lite only where full is right and lite is not."""

    def __init__(self, mode: str, chosen: ModePolicy, regrets: np.ndarray) -> None:
        """``regrets`` [rows] are those moments."""
        super().__init__(mode, plain(chosen), 1.0)
        self._regrets = regrets
        self.row = 0  # that is being decided

    def judge(self, mode: str, *answer: Any) -> Verdict:
        """Keep lite where full does not help."""
        verdict = super().judge(mode, *answer)
        return replace(verdict, keep=not self._regrets[self.row])


@dataclass(frozen=True)
class Measured:
    """What came of one way to choose."""

    right: np.ndarray  # [rows], the first time
    share_of_full: float
    cpu_ms: float  # of a decision, by the operating system

    @property
    def accuracy(self) -> float:
        """Of the rows."""
        return float(self.right.mean())

    def to_dict(self, full_ms: float) -> dict[str, float]:
        """With what is saved of full alone."""
        return {
            "accuracy": self.accuracy,
            "share_of_full": self.share_of_full,
            "cpu_ms": self.cpu_ms,
            "less_cpu_than_full": 1 - self.cpu_ms / full_ms,
        }


def measure(
    model: FusedModel,
    switch: Switch,
    routers: Mapping[str, Router],
    data: Recording,
    rows: Sequence[int],
    least: int,
) -> dict[str, Measured]:
    """Each router on ``rows``, again and again until each has made ``least`` decisions.

    They take turns, so that all see the same machine.
    """
    seconds, full = dict.fromkeys(routers, 0.0), dict.fromkeys(routers, 0)
    right: dict[str, list[bool]] = {name: [] for name in routers}
    repeats = -(-least // len(rows))
    plan = [row for _ in range(repeats) for row in rows]
    for router in routers.values():  # warm
        switch.router = router
        model.infer(data.samples[rows[0]])
    for first in range(0, len(plan), TURN):
        turn = plan[first : first + TURN]
        for name, router in routers.items():
            switch.router = router
            knows = router if isinstance(router, Oracle) else None
            said = []
            began = time.process_time()
            for row in turn:
                if knows is not None:
                    knows.row = row
                model.reset()
                said.append(model.infer(data.samples[row]))
            seconds[name] += time.process_time() - began
            right[name] += [p.label == data.labels[row] for p, row in zip(said, turn)]
            full[name] += sum(p.tier == "full" for p in said)
    count = len(plan)
    return {
        name: Measured(
            np.array(right[name]).reshape(repeats, len(rows))[0],
            full[name] / count,
            1e3 * seconds[name] / count,
        )
        for name in routers
    }


def always(mode: str, chosen: ModePolicy) -> dict[str, Router]:
    """Both tiers alone."""
    return {
        FULL: Thresholds(mode, plain(chosen), NEVER),
        LITE: Thresholds(mode, plain(chosen), ALWAYS),
    }


def static_mix(measured: Mapping[str, Measured], cost_ms: float) -> float:
    """Accuracy of lite and full in turns, at ``cost_ms``: the best that does not look.

    The bundle has no other network, so all that is fixed beforehand is a mixture of the two.
    """
    lite, full = measured[LITE], measured[FULL]
    share = (cost_ms - lite.cpu_ms) / (full.cpu_ms - lite.cpu_ms)
    share = min(max(share, 0.0), 1.0)
    return lite.accuracy + share * (full.accuracy - lite.accuracy)
