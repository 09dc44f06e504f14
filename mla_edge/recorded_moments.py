"""What each recorded decision saw and heard, as the inputs of a network take it."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np

from mla_edge.errors import CaptureError, ConfigError
from mla_edge.history import History
from mla_edge.recording_reader import Health, RecordingReader, SeenFrame, ToldFault
from mla_edge.signals import (
    SENSES,
    Clip,
    Frame,
    InputSpec,
    Prediction,
    Sample,
    Signal,
    Sound,
    find_inputs,
)

_KEPT = 256
"""Signals that are kept to be looked for: a camera is that much ahead of the loop at most."""


class RecordedMoments:
    """The decisions of a recording, each with a way to what it was made of."""

    def __init__(self, path: Path, inputs: Sequence[InputSpec]) -> None:
        """Read the recording called ``path`` for ``inputs``; errors as RecordingReader."""
        self.inputs = find_inputs(inputs)
        known = RecordingReader(path).session.inputs
        ears = self.inputs.get("microphone")
        # As the run had them, if the input is the same; else as much as this one wants.
        window_s = ears.window_s if ears is not None and ears not in known else 0.0
        self.reader = RecordingReader(path, window_s=window_s)
        self.session = self.reader.session
        self._kinds = {spec.name: spec.kind for spec in known}

    def __iter__(self) -> Iterator[Moment | ToldFault | Health]:
        """Each decision as a Moment, good until the next one, and all else in its order."""
        eyes = _Eyes(self.inputs.get("camera"))
        sounds: deque[Sound] = deque(maxlen=_KEPT)
        for event in self.reader:
            if isinstance(event, SeenFrame):
                eyes.see(event)
            elif isinstance(event, Sound):
                sounds.append(event)
            elif isinstance(event, Prediction):
                yield Moment(event, self, eyes, sounds)
            else:
                yield event

    def source_of(self, name: str) -> str:
        """Whether the recorded input ``name`` is of a ``camera`` or a ``microphone``."""
        return "camera" if self._kinds.get(name) in SENSES["camera"] else "microphone"


class Moment:
    """One recorded decision."""

    def __init__(
        self,
        recorded: Prediction,
        moments: RecordedMoments,
        eyes: _Eyes,
        sounds: deque[Sound],
    ) -> None:
        """Look for what ``recorded`` was made of in ``eyes`` and ``sounds``."""
        self.recorded = recorded
        self._moments = moments
        self._eyes = eyes
        self._sounds = sounds

    def sample(self) -> Sample | None:
        """What it was made of; None where some of that is not in the file, or nothing is left.

        A modality that is no input of ours is left out, and a clip that is not whole.
        """
        inputs = self._moments.inputs
        signals: dict[str, Signal] = {}
        for name, time_s in self.recorded.capture_time_s.items():
            source = self._moments.source_of(name)
            if source not in inputs:
                continue
            found = self._find(source, time_s)
            if found is None:
                return None
            if not isinstance(found, Clip) or len(found.frames) == inputs[source].shape[1]:
                signals[inputs[source].name] = found
        return Sample(signals) if signals else None

    def _find(self, source: str, time_s: float) -> Signal | None:
        if source == "camera":
            return self._eyes.at(time_s)
        return next((s for s in reversed(self._sounds) if s.time_s == time_s), None)


class _Eyes:
    """The frames of the file, as the input ``spec`` takes them."""

    def __init__(self, spec: InputSpec | None) -> None:
        self._history = History(spec) if spec is not None and spec.kind == "clip" else None
        self._waiting: deque[SeenFrame] = deque()  # the loop may not have come to them yet
        self._newest: SeenFrame | None = None

    def see(self, frame: SeenFrame) -> None:
        self._waiting.append(frame)
        if len(self._waiting) > _KEPT:
            self._take()

    def at(self, time_s: float) -> Signal | None:
        """The frame of ``time_s``, or the clip that ends with it; None if it is not there."""
        while self._waiting and self._waiting[0].time_s <= time_s:
            self._take()
        if self._newest is None or self._newest.time_s != time_s:
            return None
        if self._history is None:
            return self._newest.to_frame()
        try:
            return self._history.clip()
        except CaptureError:  # its frames come too slowly: there is none, as in a run
            return Clip(np.zeros((0, 1, 1), np.uint8), 1.0, time_s)

    def _take(self) -> None:
        self._newest = self._waiting.popleft()
        if self._history is not None:
            self._history.add(self._newest.to_frame())


def read_moments(path: Path, inputs: Sequence[InputSpec], count: int) -> list[Sample]:
    """``count`` samples of the recording called ``path``, spread over it, without labels.

    Only moments in which all ``inputs`` were there. ConfigError: there is none, or an input is
    neither of a camera nor of a microphone. RecordingError: it cannot be read.
    """
    moments = RecordedMoments(path, inputs)
    others = [spec.name for spec in inputs if spec not in moments.inputs.values()]
    if others:
        raise ConfigError(
            f"{path}: a recording has nothing for the input {others[0]!r}",
            hint="give an .npz with an array for each input",
        )
    whole = [
        number
        for number, event in enumerate(moments)
        if isinstance(event, Moment)
        and {moments.source_of(name) for name in event.recorded.capture_time_s}
        >= set(moments.inputs)
    ]
    if not whole:
        raise ConfigError(
            f"{path}: there is no moment in which {' and '.join(moments.inputs)} were there",
            hint="record again, with both of them, or with another network",
        )
    spread = np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int)
    chosen = {whole[place] for place in spread}
    samples = []
    for number, event in enumerate(moments):
        found = event.sample() if number in chosen and isinstance(event, Moment) else None
        if found is not None and len(found.signals) == len(inputs):
            samples.append(Sample({name: _unlabelled(s) for name, s in found.signals.items()}))
    return samples


def _unlabelled(signal: Signal) -> Signal:
    if isinstance(signal, Frame):
        return Frame(signal.image, signal.time_s)
    if isinstance(signal, Clip):
        return Clip(signal.frames, signal.rate_hz, signal.time_s)
    assert isinstance(signal, Sound)
    return Sound(signal.samples, signal.rate_hz, signal.time_s)
