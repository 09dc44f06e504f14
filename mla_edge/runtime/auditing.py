"""Audits: now and then the full tier is asked all the same, to see whether routing still fits.

There are no labels at run time, so what an audit sees is whether full would have said something
else. How often it may is known from the certificate. What says that it does so more often is an
e-process (`certify.Monitor`), which may be looked at after every audit.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Callable, Mapping, Protocol, Sequence

from mla_edge.certify import Monitor
from mla_edge.errors import ConfigError

FALSE_ALARMS = 0.01
"""The chance that a rung whose certificate holds is ever left, however long it is watched."""

APART_S = 1.0
"""Between two audits, at least."""


class Rung(Protocol):
    """A threshold, and what was certified with it."""

    @property
    def epsilon(self) -> float:
        """The share of decisions that may be lost."""
        ...

    @property
    def threshold(self) -> float:
        """Of the score that lite must reach."""
        ...

    @property
    def differ_rate(self) -> float:
        """At most this share of what lite keeps would be answered otherwise by full."""
        ...


@dataclass(frozen=True)
class Alarm:
    """Audits of ``mode`` disagree more often than was certified."""

    mode: str
    audits: int
    disagreements: int
    rate: float  # of disagreements, that were to be expected at most
    epsilon: float | None  # of the rung that it goes on with; None: the full tier always

    def __str__(self) -> str:
        """What happened and what is done about it, in one sentence."""
        now = (
            "the full tier answers from now on"
            if self.epsilon is None
            else f"it goes on with the thresholds of epsilon {self.epsilon:.3g}"
        )
        return (
            f"routing in mode {self.mode} no longer fits its certificate: full disagreed in "
            f"{self.disagreements} of {self.audits} audits, {self.rate:.2%} were to be "
            f"expected at most; {now}"
        )


class Auditor:
    """Draws the decisions to audit, counts what comes of it, and leaves a rung on an alarm."""

    def __init__(
        self,
        rate: float,
        ladders: Mapping[str, Sequence[Rung]],
        retreat: Callable[[str, float | None], None],
        *,
        seed: int = 0,
    ) -> None:
        """Audit ``rate`` of what full did not answer; ConfigError: it is no share.

        ``ladders`` has the rungs of each mode that is certified, careful ones first; it begins
        on the last. ``retreat`` is told the threshold to go by in a mode from then on, or None.
        """
        check_rate(rate)
        self.rate = rate
        self.on_alarm: Callable[[Alarm], None] = _ignore
        self.alarms: dict[str, Alarm] = {}  # by mode: the last one
        self._draw = random.Random(seed)
        self._ladders = {mode: list(rungs) for mode, rungs in ladders.items() if rungs}
        self._monitors = {mode: _watch(rungs[-1]) for mode, rungs in self._ladders.items()}
        self._retreat = retreat
        self._last_s = -math.inf  # of the last audit
        self._counts: dict[str, list[int]] = {}  # by mode: audits, disagreements

    def draws(self, time_s: float) -> bool:
        """Whether the decision on what was captured at ``time_s`` is audited.

        None is within a second of the last one: moments of one scene are not independent, and
        the test counts on audits that are nearly so.
        """
        if abs(time_s - self._last_s) < APART_S or self._draw.random() >= self.rate:
            return False
        self._last_s = time_s
        return True

    def add(self, mode: str, disagrees: bool, *, covered: bool = True) -> None:
        """Count an audit of ``mode``; on an alarm go to the rung below.

        What the certificate does not cover, such as a reused decision, is counted only.
        """
        counts = self._counts.setdefault(mode, [0, 0])
        counts[0] += 1
        counts[1] += disagrees
        monitor = self._monitors.get(mode) if covered else None
        if monitor is None or not monitor.add(disagrees):
            return
        ladder = self._ladders[mode]
        left = ladder.pop()
        if ladder:
            self._monitors[mode] = _watch(ladder[-1])
        else:
            del self._monitors[mode]
        self._retreat(mode, ladder[-1].threshold if ladder else None)
        alarm = Alarm(
            mode,
            monitor.audits,
            monitor.disagreements,
            left.differ_rate,
            ladder[-1].epsilon if ladder else None,
        )
        self.alarms[mode] = alarm
        self.on_alarm(alarm)

    def counts(self) -> dict[str, tuple[int, int]]:
        """By mode: audits, and those in which full said something else."""
        return {mode: (counts[0], counts[1]) for mode, counts in self._counts.copy().items()}

    def to_dict(self) -> dict[str, dict[str, object]]:
        """By mode: ``audits``, ``disagreements``, whether they are ``monitored``, ``alarm``."""
        return {
            mode: {
                "audits": audits,
                "disagreements": disagreements,
                "monitored": mode in self._monitors or mode in self.alarms,
                "alarm": str(self.alarms[mode]) if mode in self.alarms else None,
            }
            for mode, (audits, disagreements) in sorted(self.counts().items())
        }


def check_rate(rate: float) -> None:
    """ConfigError for a share that is none."""
    if not 0 < rate <= 1:
        raise ConfigError(f"audit_rate is {rate:g}", hint="give a share above 0, at most 1")


def _watch(rung: Rung) -> Monitor:
    # A rate of 0 or 1 cannot be watched. 1 is that of certificates which did not note it yet:
    # they never raise an alarm.
    return Monitor(min(max(rung.differ_rate, 1e-6), 1 - 1e-6), alpha=FALSE_ALARMS)


def _ignore(alarm: Alarm) -> None:
    """Nobody wants to know."""
