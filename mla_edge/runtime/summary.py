"""What a run came to: decisions, tiers, latency, age, accuracy, drops and faults."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, Mapping

import numpy as np

from mla_edge.runtime.routing import DEADLINE
from mla_edge.runtime.sense import BACK, ENDED, Fault
from mla_edge.signals import Prediction

LONGEST = 1_000_000
"""Percentiles are over so many decisions at most, the newest: nine hours at 30 a second."""


class Summary:
    """Counts predictions and faults as they come; its memory does not grow for ever."""

    def __init__(self, deadline_ms: float | None = None) -> None:
        """Start with nothing; with ``deadline_ms`` decisions may be late."""
        self.decisions = 0
        self._deadline_ms = deadline_ms
        self._late = 0
        self._degraded = 0
        self._tiers: Counter[str] = Counter()
        self._modes: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._faults: dict[str, Counter[str]] = {}
        self._latency_ms = Spread()
        self._age_ms = Spread()
        self._skew_ms = Spread()  # where more than one modality was used
        self._certified = 0
        self._judged = 0
        self._right = 0

    def add(self, prediction: Prediction) -> None:
        """Count ``prediction``; where the truth is known, its label is right or wrong."""
        self.decisions += 1
        self._tiers[prediction.tier] += 1
        self._modes[prediction.mode] += 1
        self._reasons[prediction.reason] += 1
        self._latency_ms.add(prediction.latency_ms)
        self._age_ms.add(prediction.age_ms)
        if len(prediction.capture_time_s) > 1:
            self._skew_ms.add(prediction.skew_ms)
        if self._deadline_ms is not None:
            self._late += prediction.age_ms > self._deadline_ms
            self._degraded += prediction.reason == DEADLINE
        self._certified += prediction.certificate is not None
        if prediction.truth is not None:
            self._judged += 1
            self._right += prediction.label == prediction.truth

    def add_fault(self, fault: Fault) -> None:
        """Count ``fault``; that a modality ended or is back is not one."""
        if fault.what not in (BACK, ENDED):
            self._faults.setdefault(fault.modality, Counter())[fault.what] += 1

    def to_dict(self, *, seconds: float, drops: Mapping[str, int]) -> dict[str, Any]:
        """The figures as JSON takes them; what there is nothing to say of is None.

        ``seconds`` is how long the run took, ``drops`` how much each source threw away.
        """
        return {
            "decisions": self.decisions,
            "seconds": round(seconds, 3),
            "rate_hz": round(self.decisions / seconds, 3) if seconds > 0 else None,
            "tiers": self._shares(self._tiers),
            "modes": self._shares(self._modes),
            "reasons": self._shares(self._reasons),
            "certified": self._part(self._certified),
            "deadline": self._deadline(),
            "latency_ms": self._latency_ms.to_dict(),
            "age_ms": self._age_ms.to_dict(),
            "skew_ms": self._skew_ms.to_dict(),
            "accuracy": round(self._right / self._judged, 5) if self._judged else None,
            "judged": self._judged,
            "drops": dict(drops),
            "faults": {name: dict(counts) for name, counts in self._faults.items()},
        }

    def _deadline(self) -> dict[str, Any] | None:
        """How many were later than the deadline, and answered by a cheap tier to keep it."""
        if self._deadline_ms is None:
            return None
        parts = {"missed": self._part(self._late), "degraded": self._part(self._degraded)}
        return {"ms": self._deadline_ms, **parts}

    def _shares(self, counts: Mapping[str, int]) -> dict[str, dict[str, float]]:
        return {name: self._part(count) for name, count in sorted(counts.items())}

    def _part(self, count: int) -> dict[str, float]:
        share = count / self.decisions if self.decisions else 0.0
        return {"decisions": count, "share": round(share, 5)}


class Spread:
    """The percentiles of many numbers, and the largest of them all."""

    def __init__(self) -> None:
        """Without any."""
        self._values: deque[float] = deque(maxlen=LONGEST)
        self._max = float("-inf")

    def add(self, value: float) -> None:
        """Count ``value``."""
        self._values.append(value)
        self._max = max(self._max, value)

    def to_dict(self) -> dict[str, float | None]:
        """``p50``, ``p99`` and ``max``, to three decimals; None without any."""
        if not self._values:
            return {"p50": None, "p99": None, "max": None}
        p50, p99 = np.percentile(np.fromiter(self._values, np.float64), [50, 99])
        return {
            "p50": round(float(p50), 3),
            "p99": round(float(p99), 3),
            "max": round(self._max, 3),
        }
