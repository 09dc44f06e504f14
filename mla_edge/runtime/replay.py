"""Decides again on what was recorded: the same signals, clock and latencies, at any speed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Callable, Generator, Mapping

from mla_edge.errors import CaptureError, RecordingError
from mla_edge.recording_reader import Health, RecordingReader, SeenFrame, ToldFault
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.sense import Fault
from mla_edge.runtime.session import KINDS, find_inputs
from mla_edge.runtime.summary import Spread
from mla_edge.signals import Frame, InputSpec, Prediction, Sample, Signal, Sound

if TYPE_CHECKING:
    from pathlib import Path

_KEPT = 256
"""Signals that are kept to be looked for: a camera is that much ahead of the loop at most."""


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


class Replay:
    """A model on a recording; each decision has the recorded time and latency."""

    def __init__(self, model: FusedModel, path: Path) -> None:
        """Read the recording called ``path``; RecordingError says what is wrong with it."""
        inputs = find_inputs(model.bundle)
        known = RecordingReader(path).session.inputs
        ears = inputs.get("microphone")
        # As the run had them, if the input is the same; else as much as this one wants.
        window_s = ears.window_s if ears is not None and ears not in known else 0.0
        self.reader = RecordingReader(path, window_s=window_s)
        self.session = self.reader.session
        self.is_same_bundle = self.session.bundle_sha256 == model.bundle.sha256()
        self.comparison = Comparison()
        self.latency_here_ms = Spread()  # what a decision took now
        self._drops: Mapping[str, int] = {}
        self.duration_s = 0.0
        self._model = model
        self._kinds = {spec.name: spec.kind for spec in known}
        self._inputs = inputs
        self._eyes = _Eyes(inputs.get("camera"))
        self._sounds: deque[Sound] = deque(maxlen=_KEPT)

    def run(
        self, on_fault: Callable[[Fault], None] | None = None
    ) -> Generator[Prediction, None, None]:
        """Each decision that can be made again, in order; RecordingError: there is none."""
        first_s = None
        for event in self.reader:
            if isinstance(event, SeenFrame):
                self._eyes.see(event)
            elif isinstance(event, Sound):
                self._sounds.append(event)
            elif isinstance(event, Prediction):
                first_s = event.decision_time_s if first_s is None else first_s
                self.duration_s = event.decision_time_s - first_s
                replayed = self._decide(event)
                if replayed is not None:
                    yield replayed
            elif isinstance(event, ToldFault) and on_fault is not None:
                on_fault(Fault(event.modality, event.what, event.time_s, event.why))
            elif isinstance(event, Health):
                self._drops = event.values["drops"]
        if not self.comparison.decisions:
            problems = "; ".join(self.reader.problems) or "it is of a run that made none"
            raise RecordingError(
                f"{self.reader.path}: holds no decision that can be made again ({problems})",
                hint="record again: mla-edge record",
            )

    @property
    def drops(self) -> dict[str, int]:
        """What the sources of the recorded run threw away, by input, as far as it was noted."""
        return {
            spec.name: self._drops[source]
            for spec in self.session.inputs
            for source, kinds in KINDS.items()
            if spec.kind in kinds and source in self._drops
        }

    def _decide(self, recorded: Prediction) -> Prediction | None:
        signals: dict[str, Signal] = {}
        for name, time_s in recorded.capture_time_s.items():
            source = "camera" if self._kinds.get(name) in KINDS["camera"] else "microphone"
            is_there, signal = self._find(source, time_s)
            if not is_there:
                self.comparison.impossible += 1
                return None
            if signal is not None:
                signals[self._inputs[source].name] = signal
        if not signals:
            self.comparison.impossible += 1
            return None
        made = self._model.infer(Sample(signals), clock=lambda: recorded.decision_time_s)
        self.latency_here_ms.add(made.latency_ms)
        replayed = replace(made, latency_ms=recorded.latency_ms)
        self.comparison.add(recorded, replayed, self.duration_s)
        return replayed

    def _find(self, source: str, time_s: float) -> tuple[bool, Signal | None]:
        """Whether what was captured then is in the file; and that, unless it is masked."""
        if source not in self._inputs:
            return True, None
        if source == "camera":
            return self._eyes.at(time_s)
        for sound in reversed(self._sounds):
            if sound.time_s == time_s:
                return True, sound
        return False, None


class _Eyes:
    """The frames of the file, as the input ``spec`` takes them."""

    def __init__(self, spec: InputSpec | None) -> None:
        self._history = None
        if spec is not None and spec.kind == "clip":
            from mla_edge.runtime.history import History

            self._history = History(spec)
        self._waiting: deque[SeenFrame] = deque()  # the loop may not have come to them yet
        self._newest: Frame | None = None

    def see(self, frame: SeenFrame) -> None:
        self._waiting.append(frame)
        if len(self._waiting) > _KEPT:
            self._take(self._waiting.popleft())

    def at(self, time_s: float) -> tuple[bool, Signal | None]:
        """Whether the frame of ``time_s`` is there; and it, or the clip that ends with it.

        A clip that is not whole is masked, as it is in a run.
        """
        frame = None
        while self._waiting and self._waiting[0].time_s <= time_s:
            frame = self._waiting.popleft()
            if self._history is not None:
                self._take(frame)
        if frame is not None and self._history is None:  # those before it are not unpacked
            self._take(frame)
        if self._newest is None or self._newest.time_s != time_s:
            return False, None
        if self._history is None:
            return True, self._newest
        try:
            clip = self._history.clip()
        except CaptureError:  # its frames come too slowly
            return True, None
        return True, clip if len(clip.frames) == self._history.length else None

    def _take(self, frame: SeenFrame) -> None:
        self._newest = frame.to_frame()
        if self._history is not None:
            self._history.add(self._newest)
