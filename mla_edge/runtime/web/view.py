"""What a run is at: its newest decision and what that was made of, counts, states, faults.

The run's thread writes, any number of others read, and none of them waits: each of what is
shared is replaced as a whole, never changed.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Callable, Mapping, NamedTuple

from mla_edge.bundle import Bundle
from mla_edge.runtime.guard import Guard
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.reloading import ReloadingModel
from mla_edge.runtime.sense import BACK, ENDED, FILLING, OK, WAITING, Fault, Source
from mla_edge.runtime.tap import tap
from mla_edge.signals import Frame, Prediction, Signal, Sound, find_inputs

ROWS = 2048
"""So many of the last decisions are kept for the traces: over a minute at 30 a second."""

FAULTS = 50
"""So many of the last faults are kept."""

STALLED_S = 2.0
"""A run that has not decided for so long has stalled, unless its rate is lower still."""

RATE_S = 3.0  # the rate is that of so long
OFF = "off"  # a modality that this run has no source for

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Row(NamedTuple):
    """A decision in the traces."""

    number: int
    time_s: float
    latency_ms: float
    age_ms: float
    tier: str


@dataclass(frozen=True)
class Moment:
    """A decision, which bundle made it, and what was newest when it did."""

    prediction: Prediction
    bundle: Bundle
    frame: Frame | None
    sound: Sound | None


@dataclass(frozen=True)
class Told:
    """A fault, and the hour of the day."""

    number: int
    fault: Fault
    clock: str


@dataclass(frozen=True)
class Health:
    """Whether decisions are coming, why not, and how long ago the last one was."""

    ok: bool
    reason: str
    age_s: float | None  # None before the first


class Buckets:
    """How many values were at most each of BOUNDS_S, and their sum."""

    def __init__(self) -> None:
        """Without any."""
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def add(self, value_s: float) -> None:
        """Count ``value_s``."""
        self.counts[bisect_left(BOUNDS_S, value_s)] += 1
        self.sum_s += value_s


class View:
    """Give it a run's sources to ``watch``, and tell it each decision and fault."""

    def __init__(
        self,
        model: FusedModel | ReloadingModel,
        *,
        rate_hz: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing seen yet of a run of ``model``; ``rate_hz`` is its pace, where it has one."""
        self._model = model
        self.decisions = 0
        self.newest: Moment | None = None
        self.faults: tuple[Told, ...] = ()
        self.counts: dict[tuple[str, str, str], int] = {}  # by tier, mode and reason
        self.fault_counts: dict[tuple[str, str], int] = {}  # by modality and what
        self.latency, self.age = Buckets(), Buckets()
        self.start_s: float | None = None  # of the first decision, on the run's clock
        self._stalled_s = max(STALLED_S, 3 / rate_hz) if rate_hz else STALLED_S
        self._clock = clock
        self._opened_s = clock()
        self._last_s = self._opened_s  # of a decision, on our clock: the run's may be of files
        self._rows: list[Row | None] = [None] * ROWS
        self._signals: dict[str, Signal] = {}
        self._sources: dict[str, Source] = {}
        self._specs = find_inputs(model.bundle.inputs)

    @property
    def model(self) -> FusedModel:
        """The model that decides, which a reload replaces by another."""
        model = self._model
        return model.model if isinstance(model, ReloadingModel) else model

    @property
    def guard(self) -> Guard | None:
        """What may hold its last tier back."""
        guard = self._model.guard
        return guard if isinstance(guard, Guard) else None

    def look(self, somebody: bool) -> None:
        """Say whether somebody looks; without, decisions come without GATE and attention."""
        self._model.shows = somebody

    def watch(self, sensor: str, source: Any) -> Any:
        """``source``, the ``camera`` or ``microphone``, with what it gives being seen.

        What it gives must not be written into afterwards.
        """
        self._sources[sensor] = source

        def see(signal: Signal, _: Source) -> None:
            self._signals[sensor] = signal

        return tap(source, see)

    def add(self, prediction: Prediction) -> None:
        """Take a decision into account, before the next one is made."""
        frame, sound = self._signals.get("camera"), self._signals.get("microphone")
        row = Row(
            self.decisions,
            prediction.decision_time_s,
            prediction.latency_ms,
            prediction.age_ms,
            prediction.tier,
        )
        if self.start_s is None:
            self.start_s = prediction.decision_time_s
        self._rows[row.number % ROWS] = row
        self.newest = Moment(
            prediction,
            self.model.bundle,
            frame if isinstance(frame, Frame) else None,
            sound if isinstance(sound, Sound) else None,
        )
        key = (prediction.tier, prediction.mode, prediction.reason)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.latency.add(prediction.latency_ms / 1e3)
        self.age.add(prediction.age_ms / 1e3)
        self._last_s = self._clock()
        self.decisions += 1

    def add_fault(self, fault: Fault) -> None:
        """Take a fault into account; that a modality ended or is back is not counted as one."""
        number = self.faults[-1].number + 1 if self.faults else 0
        told = Told(number, fault, datetime.now().strftime("%H:%M:%S"))
        self.faults = (*self.faults[1 - FAULTS :], told)
        if fault.what not in (BACK, ENDED):
            key = (fault.modality, fault.what)
            self.fault_counts[key] = self.fault_counts.get(key, 0) + 1

    def rows(self, first: int) -> list[Row]:
        """The decisions from number ``first`` on that are still kept."""
        kept = []
        end = self.decisions
        for number in range(max(first, end - ROWS), end):
            row = self._rows[number % ROWS]
            if row is not None and row.number == number:  # else a later one took its place
                kept.append(row)
        return kept

    def rate_hz(self) -> float:
        """Decisions a second, over the last three."""
        newest = oldest = self._rows[(self.decisions - 1) % ROWS]
        if newest is None or oldest is None:
            return 0.0
        for number in range(newest.number - 1, max(newest.number - ROWS, -1), -1):
            row = self._rows[number % ROWS]
            if row is None or row.number != number or row.time_s < newest.time_s - RATE_S:
                break
            oldest = row
        span_s = newest.time_s - oldest.time_s
        return (newest.number - oldest.number) / span_s if span_s > 0 else 0.0

    def states(self) -> dict[str, tuple[str, str, bool]]:
        """Of each input that is sensed: its state, why, and whether it is used."""
        newest = self.newest
        used = newest.prediction.capture_time_s if newest is not None else {}
        found = {}
        for sensor, spec in self._specs.items():
            state, why = (WAITING if sensor in self._sources else OFF), ""
            told = [t.fault for t in self.faults if t.fault.modality == spec.name]
            is_used = spec.name in used
            if told and told[-1].what != BACK:
                state, why = told[-1].what, told[-1].why
                is_used = is_used and not told[-1].masked  # the last decision was before it
            elif is_used:
                state = OK
            elif told or sensor in self._signals:
                state = FILLING
            found[spec.name] = (state, why, is_used)
        return found

    def drops(self) -> Mapping[str, int]:
        """How much each source threw away, by modality."""
        return {self._specs[name].name: int(s.drops) for name, s in self._sources.items()}

    def health(self) -> Health:
        """Whether decisions are coming."""
        passed_s = self._clock() - self._last_s
        is_new = not self.decisions
        ok = not is_new and passed_s <= self._stalled_s
        if ok:
            return Health(True, "", passed_s)
        waits = [
            f"{name} is {state}{f': {why}' if why else ''}"
            for name, (state, why, _) in self.states().items()
            if state not in (OK, OFF)
        ]
        reason = "no decision yet" if is_new else f"no decision for {passed_s:.1f} s"
        return Health(False, "; ".join([reason, *waits]), None if is_new else passed_s)
