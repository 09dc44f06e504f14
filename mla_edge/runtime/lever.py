"""A slow hand on a lever: pulled while something is too much, let go of afterwards."""

from __future__ import annotations

from collections import deque

_LONGEST_S = 5.0
"""Between two moves no more time counts: a machine may have slept."""


class Lever:
    """A PI controller from 0 (let go) to 1 (pulled), which is in no hurry to be let go.

    Within ``band`` around no error it stays where it is, so that it comes to rest between two
    notches. The proportional part pulls at once and never lets go; that is left to the integral
    part, which does not wind up beyond either end.
    """

    def __init__(self, *, gain: float, gain_per_s: float, band: float, most: float) -> None:
        """``gain`` is for each unit of error beyond ``band``, of which ``most`` counts."""
        self.at = 0.0
        self._gain, self._gain_per_s = gain, gain_per_s
        self._band, self._most = band, most
        self._sum = 0.0

    def move(self, error: float, passed_s: float) -> float:
        """Where it is after ``passed_s`` seconds of ``error``; above 0 means too much."""
        beyond = min(max(abs(error) - self._band, 0.0), self._most)
        beyond = beyond if error > 0 else -beyond
        if beyond <= 0 or self.at < 1:
            self._sum += self._gain_per_s * beyond * min(passed_s, _LONGEST_S)
            self._sum = min(max(self._sum, 0.0), 1.0)
        self.at = min(self._sum + self._gain * max(beyond, 0.0), 1.0)
        return self.at

    def pull(self) -> float:
        """All the way, at once."""
        self.at = self._sum = 1.0
        return self.at

    def let_go(self, passed_s: float) -> float:
        """As fast as it ever is: nothing is known of the error."""
        return self.move(-(self._band + self._most), passed_s)


class Trend:
    """Where a value will be soon: the straight line through its last readings."""

    def __init__(self, readings: int, least: int) -> None:
        """Look at so many ``readings``, with fewer than ``least`` only at the last one."""
        self._seen: deque[tuple[float, float]] = deque(maxlen=readings)
        self._least = least

    def add(self, value: float, now_s: float) -> None:
        """Take in a reading."""
        self._seen.append((now_s, value))

    def at(self, moment_s: float) -> float:
        """What is to be expected then; ValueError without any reading."""
        if not self._seen:
            raise ValueError("there is no reading")
        count = len(self._seen)
        time_s = sum(when for when, _ in self._seen) / count
        mean = sum(value for _, value in self._seen) / count
        spread = sum((when - time_s) ** 2 for when, _ in self._seen)
        if count < self._least or spread <= 0:
            return self._seen[-1][1]
        slope = sum((when - time_s) * (value - mean) for when, value in self._seen) / spread
        return mean + slope * (moment_s - time_s)
