"""What flows: sensor signals in, tensors through the engines, predictions out.

Times are seconds on CLOCK_MONOTONIC (``time.monotonic``), whatever the source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Mapping, Sequence, Union

import numpy as np

Tensors = Dict[str, np.ndarray]

PRESENT = "present"
"""Name of the mask input: float32 [1, modalities], 1 where there, in input order."""

GATE = "gate"
"""Name of an output of a graph, where it has one: the weight of each modality, in input order,
float32 [1, modalities]; 0 where it is masked."""


SCORE = "score"
"""Name of an output of a cheap tier's graph, where it has one: the estimated probability that
its answer is wrong while the last tier's would be right, float32 [1, 1]."""


def solo_of(tier: str, name: str) -> str:
    """What the graph is called that is ``tier`` for the input ``name`` alone."""
    return f"{tier}.{name}"


def attention_of(name: str) -> str:
    """Name of an output of a graph, where it has one: how much of what it made of the input
    ``name`` comes from where, float32 [1, rows, columns]; over time, a row or more of columns.
    """
    return f"attention.{name}"


NOTHING = "none"
"""Truth of a scene in which no class is shown and nothing is said."""


@dataclass(frozen=True)
class Ahead:
    """What was made of the picture ``of`` before anybody decides on it.

    ``planes`` is what an image input takes, uint8 [3, height, width]; ``sparse`` has some of
    its pixels, to tell it from others, and ``dark`` is whether nearly all of those are.
    """

    of: np.ndarray
    planes: np.ndarray
    sparse: bytes
    dark: bool


@dataclass(frozen=True)
class Frame:
    """A picture: RGB, uint8, height × width × 3, and the moment it was captured.

    ``ahead`` is what the camera's thread made of it, where it was asked to.
    """

    image: np.ndarray
    time_s: float
    truth: str | None = None  # only a simulator knows it
    ahead: Ahead | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Clip:
    """The newest pictures of a camera, oldest first; ``time_s`` is the last one's moment.

    ``frames`` is uint8, frames × height × width in grey, or frames × height × width × 3 in
    RGB, ``rate_hz`` of them a second.
    """

    frames: np.ndarray
    rate_hz: float
    time_s: float
    truth: str | None = None  # only a simulator knows it


@dataclass(frozen=True)
class Sound:
    """The newest stretch of sound: mono float32 in [-1, 1]; ``time_s`` is its last sample's.

    ``heard`` is what it was resampled from, where it was: windows that overlap do so sample by
    sample only there.
    """

    samples: np.ndarray
    rate_hz: int
    time_s: float
    truth: str | None = None  # only a simulator knows it
    heard: Sound | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Reading:
    """One value of a sensor that is neither picture nor sound: text, IMU, depth."""

    values: np.ndarray
    time_s: float
    truth: str | None = None


Signal = Union[Frame, Clip, Sound, Reading]


def values_of(signal: Signal) -> np.ndarray:
    """The array that ``signal`` holds."""
    if isinstance(signal, Frame):
        return signal.image
    if isinstance(signal, Clip):
        return signal.frames
    return signal.samples if isinstance(signal, Sound) else signal.values


@dataclass(frozen=True)
class Sample:
    """What one inference sees: the signal of each modality that is there, by input name."""

    signals: Mapping[str, Signal]

    @property
    def truth(self) -> str | None:
        """The class that is shown or said, ``NOTHING``, or None where it is not known."""
        known = {signal.truth for signal in self.signals.values()}
        classes = known - {NOTHING, None}
        if classes:
            return classes.pop() if len(classes) == 1 else None
        return NOTHING if known == {NOTHING} else None


@dataclass(frozen=True)
class InputSpec:
    """One modality of a network: what its tensor holds and how much history it wants.

    ``kind`` is ``image`` (float32 [1, 3, height, width], RGB in 0…255), ``clip`` (float32
    [1, frames, height, width], grey in 0…255 at ``rate_hz`` frames a second, newest last),
    ``audio`` (float32 [1, samples] in [-1, 1] at ``rate_hz``) or ``tensor`` (float32 [1, …],
    taken as it is).
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    rate_hz: int | None = None

    @property
    def window_s(self) -> float:
        """How much time a clip or the sound takes, in seconds; 0 for kinds without a rate."""
        count = {"clip": self.shape[1:2], "audio": self.shape[-1:]}.get(self.kind)
        return count[0] / self.rate_hz if count and self.rate_hz else 0.0


SENSES = {"camera": ("image", "clip"), "microphone": ("audio",)}
"""What senses which kinds of input."""


def find_inputs(inputs: Sequence[InputSpec]) -> dict[str, InputSpec]:
    """The inputs that a ``camera`` and a ``microphone`` sense; of several, the first."""
    found: dict[str, InputSpec] = {}
    for source, kinds in SENSES.items():
        for spec in inputs:
            if spec.kind in kinds:
                found.setdefault(source, spec)
    return found


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a graph; all of ours are static in shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Tier:
    """One graph of a network, cheapest first; a later one may take an earlier one's outputs."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """What one inference says, and of what moment it says it."""

    label: str
    confidence: float
    tier: str
    reason: str
    mode: str  # the modalities that were there, joined by "+"; "none" without any
    capture_time_s: Mapping[str, float]
    decision_time_s: float
    latency_ms: float
    age_ms: float  # decision time minus the oldest capture time used
    truth: str | None = None
    certificate: str | None = None  # its id, where one covers how this was decided
    # How old the data is that was decided on, where nothing has changed since; 0: it was now.
    reused_ms: float = 0.0
    # The inputs whose signal an earlier decision of the run used too: there was no newer one.
    repeated: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()  # why less is kept: "deadline", "alarm", "heat", "power"
    probabilities: np.ndarray | None = field(default=None, repr=False, compare=False)
    # What else the graph gives, GATE and attention, by name; None where nobody asked for it.
    shown: Mapping[str, np.ndarray] | None = field(default=None, repr=False, compare=False)

    @property
    def ages_ms(self) -> dict[str, float]:
        """Decision time minus the capture time of each modality used."""
        return {
            name: (self.decision_time_s - time_s) * 1e3
            for name, time_s in self.capture_time_s.items()
        }

    @property
    def skew_ms(self) -> float:
        """How far apart the modalities used were captured; 0 with one of them."""
        times_s = self.capture_time_s.values()
        return (max(times_s) - min(times_s)) * 1e3 if times_s else 0.0
