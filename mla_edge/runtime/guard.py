"""Keeps a board from its throttle points and within a power budget: by asking lite more often.

Once a second, on a thread of its own, it reads temperatures and power, and moves along rungs:
on the first the policy stands as it is, on each further one the last tier is asked for a tenth
less of what the cheaper ones are not sure enough of, on the last one never. What it holds back
is outside the certificate, and has ``heat`` or ``power`` as its reason.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Protocol

from mla_edge import health
from mla_edge.errors import ConfigError
from mla_edge.runtime.lever import Lever, Trend
from mla_edge.runtime.routing import HEAT, POWER

PERIOD_S = 1.0
"""Between two readings: a rail of an INA3221 takes some milliseconds of its thread."""

RUNGS = 10
MARGIN_C = 6.0
"""So far below its throttle point the hottest zone is kept."""

AHEAD_S = 10.0
"""A heat sink is slow: what counts is the temperature after so long, if this goes on."""

DWELL_S = 30.0
"""So long after a move the last tier is not asked for more again."""

BLIND_S = 30.0
"""After so long without a reading the policy is taken up again: the board guards itself."""

MEAN_S = 10.0
"""Time constant of the mean power that is held against the budget."""

_FULL_BUDGET = 0.97  # what the mean is steered to: with the band just within the budget
_TREND, _TREND_LEAST = 16, 5  # readings
_NOTCH = 0.75  # of a rung, before it is left: less than one, more than a half
_NEWS = 100  # that nobody reads are forgotten


class Restraint(Protocol):
    """What is asked before the last tier is run."""

    def refusal(self) -> str:
        """The reason why it is not to be run for this decision; empty: it is.

        ``dwell``: it is, unless the cheaper tier is sure enough and only waited for.
        """
        ...


@dataclass(frozen=True)
class Rung:
    """How much of what comes to it the last tier is asked for, and why no more."""

    number: int = 0  # 0 is the policy as it stands, RUNGS is never
    reason: str = ""

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return 1 - self.number / RUNGS


@dataclass(frozen=True)
class Seen:
    """One reading; what is missing is empty or None."""

    temperatures_c: dict[str, float]
    power_w: float | None
    throttled_by: tuple[str, ...] = ()


class Guard:
    """Watches a board, and holds the last tier back; most callers want ``open_guard``."""

    def __init__(
        self,
        *,
        power_budget_w: float | None = None,
        heat: bool = True,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """On the first rung; nothing is read regularly before ``start``.

        ConfigError: the budget is no power, or the board has no rail to hold it against.
        """
        self.budget_w = power_budget_w
        self.rung = Rung()
        self.seen = Seen({}, None)  # the newest reading
        self.points_c = health.throttle_points_c(root) if heat else {}
        self._root, self._clock = root, clock
        self.watches = bool(health.temperatures_c(root)) or health.power_w(root) is not None
        if power_budget_w is not None:
            _check_budget(power_budget_w, health.power_w(root))
        self._heat = Lever(gain=0.04, gain_per_s=0.004, band=2.0, most=5.0)  # of degrees
        self._power = Lever(gain=0.5, gain_per_s=0.08, band=0.03, most=0.2)  # of the budget
        self._trends: dict[str, Trend] = {}
        self._mean_w: float | None = None
        self._last_s: float | None = None  # when it was read
        self._moved_s = -math.inf
        self._hot_s = self._drawn_s = -math.inf  # when temperature and power were last known
        self._credit = 0.0  # of the last tier, in decisions
        self._news: deque[str] = deque(maxlen=_NEWS)
        self._told: set[str] = set()
        self._over_currents = self._count_over_currents()
        self._held: Counter[str] = Counter()  # decisions, by reason
        self._figures = _Figures()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def refusal(self) -> str:
        """Why the last tier is not to be run for this decision; empty: it is. Takes no time."""
        rung = self.rung
        if not rung.number:
            return ""
        self._credit += rung.share
        if self._credit >= 1 - 1e-9:
            self._credit -= 1
            return ""
        self._held[rung.reason] += 1
        return rung.reason

    def step(self) -> None:
        """Read the board once, and move; whatever cannot be read is left out."""
        self.take(self._read())

    def take(self, seen: Seen) -> None:
        """Move by a reading of this moment."""
        now_s = self._clock()
        passed_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._last_s = now_s
        self.seen = seen
        self._figures.add(seen, self.rung, passed_s)
        if seen.throttled_by:
            self._tell_once(f"the board throttles: {', '.join(seen.throttled_by)}")
        heat, why_heat = self._judge_heat(now_s, passed_s)
        power, why_power = self._judge_power(now_s, passed_s)
        is_heat = heat > power or (heat == power and self.rung.reason != POWER)
        self._move(
            max(heat, power),
            HEAT if is_heat else POWER,
            why_heat if is_heat else why_power,
            now_s,
        )

    def news(self) -> list[str]:
        """What happened since this was last asked: each switch, and why."""
        told = []
        while self._news:
            told.append(self._news.popleft())
        return told

    def in_words(self) -> str:
        """How hot it is now, what it draws, and how the last tier is held back."""
        seen, rung = self.seen, self.rung
        parts = []
        if seen.temperatures_c:
            name = max(seen.temperatures_c, key=seen.temperatures_c.__getitem__)
            parts.append(f"{name} {seen.temperatures_c[name]:.1f} °C")
        if seen.power_w is not None:
            parts.append(f"{seen.power_w:.1f} W")
        if rung.number:
            parts.append(f"{rung.reason}: {_in_words(rung)}")
        return ", ".join(parts)

    def to_dict(self, *, decisions: int, seconds: float) -> dict[str, Any] | None:
        """The figures of a run as JSON takes them; None where nothing can be read here."""
        if not self.watches:
            return None
        now, before = self._count_over_currents(), self._over_currents
        return {
            **self._figures.to_dict(decisions=decisions, seconds=seconds),
            "power_budget_w": self.budget_w,
            "over_currents": None if now is None or before is None else now - before,
            "held_back": {reason: self._held[reason] for reason in (HEAT, POWER)},
        }

    def start(self) -> None:
        """Read once a second from now on, where there is something to read."""
        if self.watches and self._thread is None:
            # A daemon: a file of a sensor that hangs must not keep the program from ending.
            self._thread = threading.Thread(
                target=self._watch, name="mla-edge-guard", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Read no more; safe to call twice."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(PERIOD_S)

    def __enter__(self) -> Guard:
        """Use it in a ``with``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Read no more."""
        self.close()

    def _watch(self) -> None:
        self.step()
        while not self._stop.wait(PERIOD_S):
            self.step()

    def _read(self) -> Seen:
        try:
            return Seen(
                health.temperatures_c(self._root),
                health.power_w(self._root),
                tuple(health.throttled_by(self._root)),
            )
        except OSError:  # a folder that vanished while it was listed
            return Seen({}, None)

    def _count_over_currents(self) -> int | None:
        try:
            return health.over_currents(self._root)
        except OSError:
            return None

    def _judge_heat(self, now_s: float, passed_s: float) -> tuple[float, str]:
        """Where the lever for heat is now, and why."""
        nearest = None
        for name, point_c in self.points_c.items():
            degrees = self.seen.temperatures_c.get(name)
            if degrees is not None:
                trend = self._trends.setdefault(name, Trend(_TREND, _TREND_LEAST))
                trend.add(degrees, now_s)
                soon_c = trend.at(now_s + AHEAD_S)
                # A zone that throttles already comes before one that is about to.
                urgency = (degrees >= point_c, soon_c - point_c)
                if nearest is None or urgency > nearest[0]:
                    nearest = (urgency, name, degrees, soon_c, point_c)
        if nearest is None:
            return self._blind(self._heat, self._hot_s, now_s, passed_s, "temperature")
        self._hot_s = now_s
        _, name, degrees, soon_c, point_c = nearest
        why = f"{name} {degrees:.1f} °C, soon {soon_c:.1f} °C, throttles at {point_c:g} °C"
        if degrees >= point_c:
            return self._heat.pull(), why
        return self._heat.move(soon_c - (point_c - MARGIN_C), passed_s), why

    def _judge_power(self, now_s: float, passed_s: float) -> tuple[float, str]:
        """Where the lever for power is now, and why."""
        if self.budget_w is None:
            return 0.0, ""
        watts = self.seen.power_w
        if watts is None:
            return self._blind(self._power, self._drawn_s, now_s, passed_s, "power")
        self._drawn_s = now_s
        newer = 1.0 if self._mean_w is None else 1 - math.exp(-passed_s / MEAN_S)
        mean_w = watts if self._mean_w is None else self._mean_w
        self._mean_w = mean_w = mean_w + newer * (watts - mean_w)
        at = self._power.move(mean_w / self.budget_w - _FULL_BUDGET, passed_s)
        if self.rung.number == RUNGS and mean_w > self.budget_w and at >= 1:
            self._tell_once(f"the cheap tier alone exceeds the budget of {self.budget_w:g} W")
        return at, f"mean {mean_w:.1f} W, budget {self.budget_w:g} W"

    def _blind(
        self, lever: Lever, last_s: float, now_s: float, passed_s: float, what: str
    ) -> tuple[float, str]:
        why = f"the {what} cannot be read"
        if lever.at and now_s - last_s > BLIND_S:
            return lever.let_go(passed_s), why
        return lever.at, why

    def _move(self, pulled: float, reason: str, why: str, now_s: float) -> None:
        """Up at once; down one rung at a time, and not soon after the last move."""
        wanted, before = pulled * RUNGS, self.rung.number
        is_end = wanted in (0.0, float(RUNGS))
        if abs(wanted - before) < (0.5 if is_end else _NOTCH):
            return
        number = round(wanted)
        if number < before:
            if now_s - self._moved_s < DWELL_S:
                return
            number = before - 1
        self._moved_s = now_s
        self.rung = Rung(number, reason if number else "")
        self._figures.switches += 1
        self._news.append(f"{reason}: {_in_words(self.rung)} ({why})")

    def _tell_once(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            self._news.append(words)


class _Figures:
    """What a run came to."""

    def __init__(self) -> None:
        self.switches = 0
        self._hottest_c: dict[str, float] = {}
        self._watts: list[float] = [0, 0.0, 0.0]  # how many, their sum, the most
        self._throttled_s = 0.0
        self._rungs_s: dict[int, float] = {}

    def add(self, seen: Seen, rung: Rung, passed_s: float) -> None:
        """Count a reading, ``passed_s`` after the last one, all that time on ``rung``."""
        for name, degrees in seen.temperatures_c.items():
            self._hottest_c[name] = max(degrees, self._hottest_c.get(name, -math.inf))
        if seen.power_w is not None:
            count, total, most = self._watts
            self._watts = [count + 1, total + seen.power_w, max(most, seen.power_w)]
        if seen.throttled_by:
            self._throttled_s += passed_s
        self._rungs_s[rung.number] = self._rungs_s.get(rung.number, 0.0) + passed_s

    def to_dict(self, *, decisions: int, seconds: float) -> dict[str, Any]:
        """Degrees Celsius, watts, joules, seconds."""
        # Copies: the guard's thread may be counting.
        hottest_c, rungs_s = self._hottest_c.copy(), self._rungs_s.copy()
        count, total, most = self._watts
        mean_w = total / count if count else None
        joules = mean_w * seconds / decisions if mean_w is not None and decisions else None
        return {
            "hottest_c": {name: round(hottest_c[name], 1) for name in hottest_c},
            "power_w": None
            if mean_w is None
            else {"mean": round(mean_w, 3), "max": round(most, 3)},
            "joules_per_decision": None if joules is None else round(joules, 5),
            "throttled_s": round(self._throttled_s, 1),
            "rungs_s": {
                f"{Rung(number).share:g}": round(rungs_s[number], 1)
                for number in sorted(rungs_s)
            },
            "switches": self.switches,
        }


def open_guard(
    *, power_budget_w: float | None = None, heat: bool = True, root: Path = Path("/")
) -> Guard:
    """A guard that watches this board from now on; give it to ``load``, and close it last.

    It holds the last tier back so that each thermal zone with a throttle point (a trip point of
    the type passive or hot) stays some degrees below it, unless ``heat`` is off, and the mean
    power of the board within ``power_budget_w`` watts. Where nothing can be read it does
    nothing. ``root`` is where the files of the board are.

    ConfigError: the budget is no power, or no power can be read here.
    """
    guard = Guard(power_budget_w=power_budget_w, heat=heat, root=root)
    guard.start()
    return guard


def _in_words(rung: Rung) -> str:
    if not rung.number:
        return "the last tier is asked as the policy says again"
    if rung.number == RUNGS:
        return "the last tier is not asked any more"
    return f"the last tier is asked for {rung.share:.0%} of what is left to it"


def _check_budget(budget_w: float, power_w: float | None) -> None:
    if not 0 < budget_w < math.inf:
        raise ConfigError(f"the power budget is {budget_w:g} W", hint="give a number above 0")
    if power_w is None:
        raise ConfigError(
            f"this machine has no power rail that can be read, so no budget of {budget_w:g} W "
            "can be kept (/sys/class/hwmon has no ina3221)",
            hint="leave the power budget away",
        )
