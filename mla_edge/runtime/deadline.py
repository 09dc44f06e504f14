"""A decision in time: the dear tier only where it will be ready before the deadline."""

from __future__ import annotations

import math
import time
from typing import Callable, Mapping

import numpy as np

from mla_edge.engines import Engine
from mla_edge.errors import ConfigError

_SURE = 3.0  # deviations: 0.1 % of the runs would take longer, were they normally distributed
_WARM_UP, _RUNS = 3, 9  # of each tier, to know what it takes here


class Slowdown:
    """How many times longer than usual things take now: a scalar Kalman filter.

    State, process noise and gain as in ALERT (Wan et al., USENIX ATC 2020, section 3.4): the
    noise grows with what the filter did not expect, so that it follows a sudden change. One
    filter serves all tiers, so what lite takes tells of full, which may not have run for long.
    """

    _NOISE, _LEAST_PROCESS, _FORGET = 1e-3, 1e-3, 0.3

    def __init__(self) -> None:
        """As usual, until something else is seen."""
        self.mean = 1.0
        self._variance = 0.01
        self._process = 0.1
        self._gain = 0.5
        self._surprise = 0.0

    @property
    def deviation(self) -> float:
        """Of what is measured next: of the state, and of one measurement around it."""
        return math.sqrt(self._variance + self._NOISE)

    def observe(self, ratio: float) -> None:
        """Take in one measurement: a duration, as a multiple of the usual one."""
        surprise = ratio - self.mean
        adapted = (self._gain * self._surprise) ** 2
        self._process = max(
            self._LEAST_PROCESS,
            self._FORGET * self._process + (1 - self._FORGET) * adapted,
        )
        predicted = (1 - self._gain) * self._variance + self._process
        self._gain = predicted / (predicted + self._NOISE)
        self.mean += self._gain * surprise
        self._variance = predicted
        self._surprise = surprise


class Deadline:
    """Says whether a tier will be ready so many milliseconds after the capture.

    ``usual_ms`` is what each tier takes on this machine when nothing slows it down.
    """

    def __init__(self, deadline_ms: float, usual_ms: Mapping[str, float]) -> None:
        """ConfigError for a deadline that is no time."""
        check_deadline(deadline_ms)
        self.ms = deadline_ms
        self.usual_ms = dict(usual_ms)
        self.slowdown = Slowdown()

    def expected_ms(self, tier: str) -> float:
        """What ``tier`` will hardly exceed now: μ + 3σ of the slowdown, times what is usual."""
        slow = self.slowdown.mean + _SURE * self.slowdown.deviation
        return slow * self.usual_ms[tier]

    def allows(self, tier: str, captured_s: float, now_s: float) -> bool:
        """Whether ``tier``, begun now, is in time for what was captured at ``captured_s``."""
        return (now_s - captured_s) * 1e3 + self.expected_ms(tier) <= self.ms

    def observe(self, tier: str, taken_ms: float) -> None:
        """What a run of ``tier`` took."""
        self.slowdown.observe(taken_ms / self.usual_ms[tier])


def check_deadline(deadline_ms: float) -> None:
    """ConfigError for a deadline that is no time."""
    if not 0 < deadline_ms < math.inf:
        raise ConfigError(f"deadline_ms is {deadline_ms:g}", hint="give a number above 0")


def measure_usual(
    engines: Mapping[str, Engine], clock: Callable[[], float] = time.monotonic
) -> dict[str, float]:
    """Median milliseconds of a run of each engine here, on zeros."""
    usual: dict[str, float] = {}
    for name, engine in engines.items():
        zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in engine.inputs}
        taken = []
        for _ in range(_WARM_UP + _RUNS):
            began = clock()
            engine.run(zeros)
            taken.append((clock() - began) * 1e3)
        usual[name] = float(np.median(taken[_WARM_UP:]))
    return usual
