"""One modality of the loop: its source, its newest signal, and whether it can be used."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Iterator, Protocol

import numpy as np

from mla_edge.errors import CaptureEnded, CaptureError, CaptureTimeout
from mla_edge.runtime.capture import Prepare, Prepares, Watched
from mla_edge.runtime.vitals import SUSPECT, Vitals
from mla_edge.signals import Signal, values_of

if TYPE_CHECKING:
    from mla_edge.history import History

WAITING = "waiting"  # it has given nothing yet, and still may in time
FILLING = "filling"  # it gives, but the history that the input holds is not there yet
OK = "ok"
STALE = "stale"
LOST = "lost"
ENDED = "ended"
BACK = "back"

JITTER_S = 0.002
"""How much a stamp may be off, so that a step of 50 ms is not missed by a hair."""


@dataclass(frozen=True)
class Fault:
    """A change in what a modality gives: ``lost``, ``stale``, ``ended``, or ``back`` again.

    Or one of ``vitals.SUSPECT``: it gives, but nothing that a working sensor would.
    """

    modality: str
    what: str
    time_s: float
    why: str = ""
    masked: bool = True  # whether it was, or had been, left out


class Source(Protocol):
    """What cameras and microphones have in common."""

    @property
    def drops(self) -> int:
        """As of a camera."""
        ...

    def read(self, timeout_s: float) -> Signal:
        """The newest signal; CaptureTimeout, CaptureEnded or another CaptureError."""
        ...


class Sense:
    """Reads a source without trusting it, and tells each change of its state once."""

    def __init__(  # noqa: PLR0913 - what it watches, and by which rules
        self,
        modality: str,
        source: Source,
        *,
        step_s: float,
        start_s: float,
        on_fault: Callable[[Fault], None],
        history: History | None = None,
        vitals: Vitals | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        """Watch ``modality``; news less than ``step_s`` after the last used is not due yet.

        ``history`` makes clips of the source's frames, ``prepare`` is what is made of them
        before they are read. What ``vitals`` finds is told, and left out where they say so.
        """
        self.modality = modality
        self.newest: Signal | None = None
        self.state = WAITING
        self._source = source
        self._step_s = step_s
        self._start_s = start_s
        self._on_fault = on_fault
        self._history = history
        self._used_s = float("-inf")
        self.repeated = False  # whether what was used last had been used before
        self._failure: CaptureError | None = None
        self._silent = False
        self._told = False  # that it is left out
        self._vitals = vitals
        self._prepare = prepare
        self._warned = ""  # of what it is suspected, though it is used

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Meanwhile the camera's own thread does its part, where it can.

        The history sees every frame, not only those that were newest at a poll; and frames come
        prepared.
        """
        history, source = self._history, self._source
        with ExitStack() as stack:
            if history is not None and isinstance(source, Watched):
                stack.callback(source.watch, None)
                source.watch(history.add)
            if self._prepare is not None and isinstance(source, Prepares):
                stack.callback(source.prepare_by, None)
                source.prepare_by(self._prepare)
            yield

    def poll(self, timeout_s: float) -> bool:
        """Take what the source has or gives within ``timeout_s``; whether it was news."""
        if self.state == ENDED:
            return False
        try:
            signal = self._read(timeout_s)
        except CaptureTimeout:
            return False
        except CaptureError as error:
            self._failure = error
            return False
        if self.newest is not None and signal.time_s <= self.newest.time_s:
            return False
        self.newest = signal
        if self._vitals is not None:
            self._vitals.look(signal)
        self._failure = None
        self._silent = False
        return True

    def judge(self, now_s: float, max_age_s: float) -> None:
        """Settle the state from the last poll and the age of the newest signal."""
        age_s = now_s - (self._start_s if self.newest is None else self.newest.time_s)
        shortage = self._shortage()
        if self._failure is not None:
            ended = isinstance(self._failure, CaptureEnded)
            why = f"{self._failure}; {shortage}" if shortage else str(self._failure)
            self._turn(ENDED if ended else LOST, now_s, why)
        elif self._silent:
            self._turn(STALE, now_s, "nothing came")
        elif age_s > max_age_s:
            self._turn(STALE, now_s, f"nothing new for {age_s * 1e3:.0f} ms")
        elif shortage:
            self._turn(FILLING, now_s, f"after a gap, {shortage}")
        elif self.newest is not None:
            self._settle(now_s)

    def give_up(self) -> None:
        """Call it stale, whatever its age, until there is news: it was waited for in vain."""
        self._silent = True

    @property
    def due(self) -> bool:
        """Whether there is enough news for a decision."""
        if self.state not in (OK, FILLING) or self.newest is None:
            return False
        step_s = self.newest.time_s - self._used_s
        return step_s > 0 and step_s >= self._step_s - JITTER_S

    def use(self) -> Signal | None:
        """The newest signal if it can be used, which is noted; None masks the modality."""
        self.repeated = False
        if self.state not in (OK, FILLING) or self.newest is None:
            return None
        before_s, self._used_s = self._used_s, self.newest.time_s
        if self.state == FILLING:
            return None
        self.repeated = self._used_s == before_s
        return self.newest

    def _read(self, timeout_s: float) -> Signal:
        signal = self._source.read(timeout_s)
        if not _is_finite(signal):
            raise CaptureError("its values are not finite (NaN or infinite)")
        if self._history is None:
            return signal
        self._history.add(signal)  # a camera that is watched has done so already
        return self._history.clip()

    def _shortage(self) -> str:
        """What the newest clip lacks; empty where it lacks nothing."""
        if self._history is None or self.newest is None:
            return ""
        there, wanted = len(values_of(self.newest)), self._history.length
        return f"only {there} of a clip's {wanted} frames are there" if there < wanted else ""

    def _settle(self, now_s: float) -> None:
        """It gives: say whether what it gives can be true."""
        vitals = self._vitals
        finding = vitals.finding if vitals is not None else ""
        if vitals is not None and finding and vitals.masks:
            self._turn(finding, now_s, SUSPECT[finding])
            return
        self._turn(OK, now_s, "")
        if finding != self._warned:
            what, why = (finding, SUSPECT[finding]) if finding else (BACK, "")
            self._on_fault(Fault(self.modality, what, now_s, why, masked=False))
            self._warned = finding

    def _turn(self, state: str, now_s: float, why: str) -> None:
        before, self.state = self.state, state
        if state == before or (state == FILLING and before != OK):
            return
        if state == OK:
            if self._told:
                self._on_fault(Fault(self.modality, BACK, now_s, why))
        else:
            what = STALE if state == FILLING else state
            self._on_fault(Fault(self.modality, what, now_s, why))
            self._warned = ""  # once it is back, it is told anew what it is suspected of
        self._told = state != OK


def _is_finite(signal: Signal) -> bool:
    """Whether a network can take ``signal``; a broken driver or sensor may give NaN."""
    values = values_of(signal)
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
