"""What both tiers say of recorded moments, whatever the router would keep."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

import numpy as np

from mla_edge.bundle import RouterPolicy
from mla_edge.certify import THRESHOLDS
from mla_edge.recordings import Recording
from mla_edge.runtime.loading import Parts
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import CascadeRouter, Router, Verdict
from mla_edge.signals import Sample

Progress = Callable[[str, int, int], None]  # mode, done, of how many


@dataclass(frozen=True)
class Alone:
    """What an input that is asked alone said of some moments: arrays [units]."""

    scores: np.ndarray  # 0 under its own threshold
    right: np.ndarray
    differs: np.ndarray  # from what full said


@dataclass(frozen=True)
class Heard:
    """What both tiers said of some moments: arrays [units]."""

    scores: np.ndarray  # how safe it is to keep lite's answer
    lite_right: np.ndarray
    full_right: np.ndarray
    differs: np.ndarray  # whether they said different things
    alone: Alone | None = None  # where an input is asked alone first

    def above(self, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where something cheap is kept at ``threshold``, loses, and differs from full.

        Where lite or what is asked alone would: which of them answers depends on what the
        router remembers, and so the count is right for all that it may do.
        """
        kept = self.scores >= threshold
        lost, differs = kept & self.regrets, kept & self.differs
        if self.alone is not None:
            also = self.alone.scores >= threshold
            lost |= also & self.full_right & ~self.alone.right
            differs |= also & self.alone.differs
            kept |= also
        return kept, lost, differs

    def losing_scores(self) -> np.ndarray:
        """The highest threshold at which each unit loses, as ``above`` counts, [units].

        0 where none does.
        """
        scores = np.where(self.regrets, self.scores, 0.0)
        if self.alone is None:
            return scores
        lost = self.full_right & ~self.alone.right
        return np.maximum(scores, np.where(lost, self.alone.scores, 0.0))

    @property
    def regrets(self) -> np.ndarray:
        """Where only the full tier was right."""
        return np.asarray(self.full_right & ~self.lite_right)


class Listener:
    """A router that keeps no answer of lite, but writes down how sure it was, and of what."""

    def __init__(self, policy: RouterPolicy) -> None:
        """Score by ``policy``, until there is a router to listen to."""
        self.best = -1  # class that lite gave last
        self.score = 0.0  # and how safe it is to keep that
        self.solo_best = -1  # the same of what was asked alone; -1: nothing was
        self.solo_score = 0.0
        self._policy = policy
        self._inner: Router = CascadeRouter(policy)

    def hear(self, parts: Parts) -> Parts:
        """Take the router's place, and ask it: an ``Instrument``."""
        self._policy, self._inner = parts.policy, parts.router
        return dataclasses.replace(parts, router=self)

    def temperature(self, mode: str) -> float:
        """What lite's logits are divided by in ``mode``."""
        return self._policy.modes[mode].temperature

    @property
    def cost_ms(self) -> Mapping[str, float]:
        """What each tier costs, by the policy."""
        return self._policy.cost_ms

    def skip(self, mode: str) -> str | None:
        """Nothing is skipped."""
        return None

    def reset(self) -> None:
        """Forget what was heard before."""
        self.solo_best, self.solo_score = -1, 0.0
        self._inner.reset()

    def solo(self, mode: str) -> str | None:
        """As the router says."""
        return self._inner.solo(mode)

    def judge_solo(self, mode: str, logits: np.ndarray) -> Verdict:
        """Write down what the router says of ``logits`` [classes], and ask lite too."""
        verdict = self._inner.judge_solo(mode, logits)
        solo = self._policy.modes[mode].solo
        is_enough = solo is not None and verdict.score >= solo.threshold
        self.solo_best = int(verdict.probabilities.argmax())
        self.solo_score = verdict.score if is_enough else 0.0
        return dataclasses.replace(verdict, keep=False)

    def thresholds(self, mode: str) -> Sequence[float]:
        """Those that were fixed for ``mode`` before, from careful to bold."""
        return self._policy.modes[mode].thresholds or THRESHOLDS

    def judge(
        self, mode: str, logits: np.ndarray, learned: np.ndarray | None = None
    ) -> Verdict:
        """Write down what the router says of ``logits`` [classes], and ask full too."""
        verdict = self._inner.judge(mode, logits, learned)
        self.best = int(verdict.probabilities.argmax())
        self.score = verdict.score
        return dataclasses.replace(verdict, keep=False)


def hear(  # noqa: PLR0913 - who listens to whom, on what
    model: FusedModel,
    listener: Listener,
    data: Recording,
    rows: Sequence[int],
    mode: str,
    on_progress: Progress,
) -> Heard:
    """What the tiers of ``model``, opened with ``listener``, say of ``rows`` in ``mode``."""
    names, labels = mode.split("+"), model.bundle.labels
    scores = np.zeros(len(rows))
    lite_right, full_right = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    differs = np.zeros(len(rows), bool)
    asked = False
    alone = Alone(*(np.zeros(len(rows), kind) for kind in (float, bool, bool)))
    for number, row in enumerate(rows):
        model.reset()
        signals, truth = data.samples[row].signals, data.labels[row]
        full = model.infer(Sample({name: signals[name] for name in names})).label
        lite = labels[listener.best]
        full_right[number], lite_right[number] = full == truth, lite == truth
        differs[number] = lite != full
        scores[number] = listener.score
        if listener.solo_best >= 0:
            asked = True
            first = labels[listener.solo_best]
            alone.right[number], alone.differs[number] = first == truth, first != full
            alone.scores[number] = listener.solo_score
        on_progress(mode, number + 1, len(rows))
    return Heard(scores, lite_right, full_right, differs, alone if asked else None)
