"""Decides again on what was recorded: the same signals, clock and latencies, at any speed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Callable, Generator, Mapping

from mla_edge.errors import RecordingError
from mla_edge.recorded_moments import Moment, RecordedMoments
from mla_edge.recording_reader import Health
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import DWELL, HELD_BACK, LITE_CONFIDENT
from mla_edge.runtime.sense import Fault
from mla_edge.runtime.summary import Spread
from mla_edge.signals import Prediction, Sample, find_inputs

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Comparison:
    """How the decisions of a replay are to those that were recorded; each is counted once."""

    decisions: int = 0
    label: int = 0  # that are another label
    routing: int = 0  # the same, but by another tier, or for another reason
    confidence: int = 0  # the same, but not as sure
    first_s: float | None = None  # from the first decision to the first that is another
    impossible: int = 0  # recorded, but what they used is not in the file

    @property
    def different(self) -> int:
        """Decisions that are others in any way; times and certificates do not count."""
        return self.label + self.routing + self.confidence

    def add(self, recorded: Prediction, replayed: Prediction, moment_s: float) -> None:
        """Count a pair, ``moment_s`` after the first one."""
        self.decisions += 1
        if recorded.label != replayed.label:
            self.label += 1
        elif any(getattr(recorded, name) != getattr(replayed, name) for name in _ROUTING):
            self.routing += 1
        elif recorded.confidence != replayed.confidence:
            self.confidence += 1
        if self.different and self.first_s is None:
            self.first_s = moment_s


_ROUTING = ("tier", "reason", "mode")


class _AsRecorded:
    """Holds the last tier back where it was: time, heat and power are not those of now."""

    def __init__(self, *, in_dwells: bool) -> None:
        self.reason = ""  # of the recorded decision
        self._in_dwells = in_dwells

    def refusal(self) -> str:
        if self.reason in HELD_BACK:
            return self.reason
        # In a dwell lite's answer is as good, so that it was held back there is not recorded.
        return DWELL if self.reason == LITE_CONFIDENT and self._in_dwells else ""


class Replay:
    """A model on a recording; each decision has the recorded time and latency."""

    def __init__(
        self,
        model: FusedModel,
        path: Path,
        *,
        holds_back: bool = True,
        in_dwells: bool = True,
    ) -> None:
        """Read the recording called ``path``; RecordingError says what is wrong with it.

        ``holds_back`` the last tier, where a deadline, heat or power did so; else it is asked
        there too. ``in_dwells``: also where lite was only waited for, if the bundle is the
        recorded one and so its policy was in the same dwells.
        """
        self._model = model
        self._moments = RecordedMoments(path, model.bundle.inputs)
        self.reader = self._moments.reader
        self.session = self._moments.session
        self.is_same_bundle = self.session.bundle_sha256 == model.bundle.sha256()
        self._held = _AsRecorded(in_dwells=in_dwells and self.is_same_bundle)
        model.guard = self._held if holds_back else None
        model.deadline = None
        self.comparison = Comparison()
        self.latency_here_ms = Spread()  # what a decision took now
        self.duration_s = 0.0  # from the first decision to the newest
        self._drops: Mapping[str, int] = {}

    def run(
        self, on_fault: Callable[[Fault], None] | None = None
    ) -> Generator[Prediction, None, None]:
        """Each decision that can be made again, in order; RecordingError: there is none."""
        first_s = None
        for event in self._moments:
            if isinstance(event, Moment):
                moment_s = event.recorded.decision_time_s
                first_s = moment_s if first_s is None else first_s
                self.duration_s = moment_s - first_s
                sample = event.sample()
                if sample is None:
                    self.comparison.impossible += 1
                else:
                    yield self._decide(event.recorded, sample)
                    self._model.settle()
            elif isinstance(event, Health):
                self._drops = event.values["drops"]
            elif on_fault is not None:
                on_fault(Fault(**vars(event)))
        if not self.comparison.decisions:
            problems = "; ".join(self.reader.problems) or "it is of a run that made none"
            raise RecordingError(
                f"{self.reader.path}: holds no decision that can be made again ({problems})",
                hint="record again: mla-edge record",
            )

    @property
    def drops(self) -> dict[str, int]:
        """What the sources of the recorded run threw away, by input, as far as it was noted."""
        inputs = find_inputs(self.session.inputs)
        return {
            inputs[source].name: count
            for source, count in self._drops.items()
            if source in inputs
        }

    def _decide(self, recorded: Prediction, sample: Sample) -> Prediction:
        self._held.reason = recorded.reason
        made = self._model.infer(sample, clock=lambda: recorded.decision_time_s)
        self.latency_here_ms.add(made.latency_ms)
        replayed = replace(made, latency_ms=recorded.latency_ms, repeated=recorded.repeated)
        self.comparison.add(recorded, replayed, self.duration_s)
        return replayed
