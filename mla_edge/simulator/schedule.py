"""What happens when: digits shown and said, with nothing in between."""

from __future__ import annotations

import threading
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from mla_edge.simulator.speech import RATE_HZ, SpeechBank

MIN_GAP_S = 1.3
"""Longer than a second, so that no window of one second holds two words."""

_REST_S = 0.1  # between the card's coming or going and the word


@dataclass(frozen=True)
class Event:
    """A gap in which nothing happens, then a digit for a while."""

    number: int
    gap_s: float  # when the gap begins; the scene is new
    start_s: float  # when the digit comes
    end_s: float
    digit: int
    shown: bool
    said: bool
    word_s: float  # when the word begins
    clip: int  # which one of the speech bank


class Schedule:
    """The endless list of events of a seed, the same in whatever order it is asked.

    A digit is shown for 1.5 to 3 s and said once meanwhile; of the digits 15 % are only shown
    and 15 % only said.
    """

    def __init__(self, seed: int, split: str, gap_s: float = MIN_GAP_S) -> None:
        """Gaps last ``gap_s`` to ``gap_s`` + 1 s; voices come from ``split``."""
        self._seed, self._split, self._gap_s = seed, split, gap_s
        self._events: list[Event] = []
        self._gaps: list[float] = []
        self._lock = threading.Lock()

    def at(self, time_s: float) -> Event:
        """The event in whose gap or duration ``time_s`` lies; the first one before zero."""
        with self._lock:
            while not self._events or self._events[-1].end_s <= time_s:
                self._events.append(self._draw())
                self._gaps.append(self._events[-1].gap_s)
            return self._events[max(0, bisect_right(self._gaps, time_s) - 1)]

    def between(self, begin_s: float, end_s: float) -> list[Event]:
        """The events that overlap a stretch of time, in order."""
        last = self.at(end_s)
        first = self.at(begin_s)
        with self._lock:
            return self._events[first.number : last.number + 1]

    def _draw(self) -> Event:
        number = len(self._events)
        gap_s = self._events[-1].end_s if self._events else 0.0
        rng = np.random.default_rng([self._seed, 0, number])
        start_s = gap_s + rng.uniform(self._gap_s, self._gap_s + 1)
        length_s = rng.uniform(1.5, 3.0)
        digit, kind = int(rng.integers(10)), rng.random()
        bank = SpeechBank.load()
        clip = int(rng.choice(bank.indices(digit, self._split)))
        word_length_s = len(bank.clip(digit, clip)) / RATE_HZ
        word_s = start_s + rng.uniform(_REST_S, length_s - _REST_S - word_length_s)
        shown, said = kind < 0.85, kind < 0.7 or kind >= 0.85
        end_s = start_s + length_s
        return Event(number, gap_s, start_s, end_s, digit, shown, said, word_s, clip)
