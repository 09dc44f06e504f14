"""``sim://digits``: a world in which digits are shown on moving cards and spoken."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Callable
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from mla_edge.errors import ConfigError
from mla_edge.signals import NOTHING
from mla_edge.simulator import noise
from mla_edge.simulator.glyphs import MARKS, glyph, mark, pick_style
from mla_edge.simulator.samples import ROOM_RMS, SPEECH_RMS
from mla_edge.simulator.scene import (
    Card,
    Occluder,
    Pose,
    blur,
    digit_extent,
    draw_card,
    hide,
    light_map,
    make_card,
    occluder,
    to_bytes,
)
from mla_edge.simulator.schedule import MIN_GAP_S, Event, Schedule
from mla_edge.simulator.speech import RATE_HZ, SPLITS, SpeechBank, resample
from mla_edge.simulator.textures import background, grain

BOTH, CAMERA, MIC = "both", "camera", "mic"


@dataclass(frozen=True)
class DigitsOptions:
    """What can be set after ``sim://digits?``."""

    seed: int = 0
    size: tuple[int, int] = (320, 240)  # width × height
    fps: float = 30.0
    noise_db: float | None = None  # speech over noise; None is a quiet room
    blur: float = 0.0  # deviation in pixels
    occlude: float = 0.0  # share of the picture's width or height
    only: str = BOTH
    gap_s: float = MIN_GAP_S
    decoys: float = 0.3  # share of the pauses in which a blank card or a sign is held up
    split: str = "test"
    level: float = 0.6  # difficulty of the pictures, 0…1
    duration: float | None = None  # seconds; None never ends

    @classmethod
    def parse(cls, source: str) -> DigitsOptions:
        """Read ``sim://digits?key=value&…``.

        Raises ConfigError for another scheme or name, an unknown or repeated key and a value
        that is out of range.
        """
        parts = urlsplit(source)
        if (parts.scheme, parts.netloc + parts.path) != ("sim", "digits"):
            raise ConfigError(
                f"there is no simulator {source}", hint="write sim://digits?seed=1"
            )
        values: dict[str, object] = {}
        for key, text in parse_qsl(parts.query, keep_blank_values=True):
            if key not in _READERS:
                near = get_close_matches(key, _READERS, 3, 0.5) or sorted(_READERS)
                raise ConfigError(
                    f"sim://digits has no option {key!r}", hint=f"nearest: {', '.join(near)}"
                )
            if key in values:
                raise ConfigError(f"{source} sets {key} twice", hint="set it once")
            values[key] = _READERS[key](key, text)
        return cls(**values)  # type: ignore[arg-type]


def _refuse(key: str, text: str, wanted: str) -> ConfigError:
    return ConfigError(
        f"sim://digits cannot take {key}={text}: it wants {wanted}",
        hint=f"for example sim://digits?{key}={_EXAMPLES[key]}",
    )


def _number(low: float, high: float) -> Callable[[str, str], object]:
    def read(key: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise _refuse(key, text, f"a number from {low:g} to {high:g}")
        return value

    return read


def _choice(*names: str) -> Callable[[str, str], object]:
    def read(key: str, text: str) -> str:
        if text not in names:
            near = get_close_matches(text, names, 1, 0.4)
            wanted = f"one of {', '.join(names)}" + (f" (nearest: {near[0]})" if near else "")
            raise _refuse(key, text, wanted)
        return text

    return read


def _seed(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _refuse(key, text, "a whole number from 0 on, of 18 digits at most")
    return int(text)


def _size(key: str, text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not all(side.isascii() and side.isdigit() for side in (width, height)):
        raise _refuse(key, text, "WIDTHxHEIGHT")
    if not all(64 <= int(side) <= 4096 for side in (width, height)):
        raise _refuse(key, text, "sides from 64 to 4096")
    return int(width), int(height)


_READERS: dict[str, Callable[[str, str], object]] = {
    "seed": _seed,
    "size": _size,
    "fps": _number(0.1, 240),
    "noise_db": _number(-40, 80),
    "blur": _number(0, 50),
    "occlude": _number(0, 1),
    "only": _choice(BOTH, CAMERA, MIC),
    "gap_s": _number(MIN_GAP_S, 60),
    "decoys": _number(0, 1),
    "split": _choice(*SPLITS),
    "level": _number(0, 1),
    "duration": _number(0.001, 1e9),
}
_EXAMPLES = {
    "seed": "1",
    "size": "320x240",
    "fps": "30",
    "noise_db": "10",
    "blur": "1.5",
    "occlude": "0.5",
    "only": CAMERA,
    "gap_s": "2",
    "decoys": "0",
    "split": "test",
    "level": "0.6",
    "duration": "10",
}


@dataclass(frozen=True)
class _Scene:
    """What stays the same from one gap's begin to the end of its digit."""

    lit: np.ndarray  # background, float32 [height, width, 3]
    light: np.ndarray
    digit: Card
    decoy: Card | None  # a card without a digit, held up when none is shown
    phases: np.ndarray  # of the card's movement
    size: float  # of the digit, over the shorter side
    tilt: tuple[float, float]
    grain: float  # deviation of the sensor noise
    block: Occluder | None


class DigitsWorld:
    """Pictures and sound of any moment, with their truth.

    The same options give the same bytes, in whatever order moments are asked for. A camera and
    a microphone may ask from two threads.
    """

    def __init__(self, options: DigitsOptions) -> None:
        """Nothing is drawn yet."""
        self.options = options
        self.schedule = Schedule(options.seed, options.split, options.gap_s)
        self._scenes: OrderedDict[int, _Scene] = OrderedDict()

    def frame(self, time_s: float) -> tuple[np.ndarray, str]:
        """The newest frame at ``time_s``, uint8 RGB [height, width, 3], and its truth.

        The truth is the digit if its card is in view, else NOTHING.
        """
        options = self.options
        number = max(0, int(np.floor(time_s * options.fps + 1e-6)))
        now_s = number / options.fps
        event = self.schedule.at(now_s)
        scene = self._scene(event)
        shown = self.is_shown(event) and now_s >= event.start_s
        card = scene.digit if shown else scene.decoy
        image = scene.lit.copy("K")
        if card is not None:
            draw_card(image, card, self._pose(card, scene, now_s), scene.light)
        image = blur(image, options.blur)
        if scene.block is not None:
            hide(image, scene.block)
        rng = np.random.default_rng([options.seed, 2, number])
        image += grain(rng, image.shape) * np.float32(scene.grain)
        return to_bytes(image), str(event.digit) if shown else NOTHING

    def sound(self, time_s: float, samples: int, rate_hz: int) -> tuple[np.ndarray, str | None]:
        """The ``samples`` before ``time_s``, float32 in [-1, 1], and their truth.

        That is a digit if one whole word lies inside, NOTHING if no part of a word does, and
        None, unknown, for anything else.
        """
        end = int(np.floor(time_s * rate_hz + 1e-6))
        begin = end - samples
        window = noise.cut("room", begin, samples, rate_hz) * np.float32(ROOM_RMS)
        heard: list[str | None] = []
        for event in self.schedule.between(begin / rate_hz, end / rate_hz):
            rng = np.random.default_rng([self.options.seed, 3, event.number])
            level = SPEECH_RMS * 10 ** (rng.uniform(-5, 5) / 20)
            if self.options.noise_db is not None:
                first = max(begin, round(event.gap_s * rate_hz)) if event.number else begin
                last = min(end, round(event.end_s * rate_hz))
                kind = ("white", "babble", "hum")[rng.integers(3)]
                loud = np.float32(level * 10 ** (-self.options.noise_db / 20))
                crowd = noise.cut(kind, first, max(0, last - first), rate_hz)
                window[first - begin : last - begin] += crowd * loud
            if self.is_said(event):
                word = _word(event.digit, event.clip, rate_hz) * np.float32(level)
                start = round(event.word_s * rate_hz)
                stop = start + len(word)
                first, last = max(begin, start), min(end, stop)
                if first < last:
                    window[first - begin : last - begin] += word[first - start : last - start]
                    whole = begin <= start and stop <= end
                    heard.append(str(event.digit) if whole else None)
        truth = heard[0] if len(heard) == 1 else None if heard else NOTHING
        clipped: np.ndarray = np.clip(window, -1, 1)
        return clipped, truth

    def is_shown(self, event: Event) -> bool:
        """Whether the camera sees the digit of ``event``."""
        return event.shown if self.options.only == BOTH else self.options.only == CAMERA

    def is_said(self, event: Event) -> bool:
        """Whether the microphone hears the digit of ``event``."""
        return event.said if self.options.only == BOTH else self.options.only == MIC

    def _scene(self, event: Event) -> _Scene:
        scene = self._scenes.get(event.number)
        if scene is None:
            scene = self._draw_scene(event)
            self._scenes[event.number] = scene
            if len(self._scenes) > 2:
                self._scenes.popitem(last=False)
        return scene

    def _draw_scene(self, event: Event) -> _Scene:
        options = self.options
        rng = np.random.default_rng([options.seed, 1, event.number])
        (width, height), level = options.size, options.level
        light = light_map(rng, height, width, level)
        ink = glyph(event.digit, pick_style(options.split, rng), rng)
        kind = rng.random()
        is_sign = kind < options.decoys / 2
        sign = mark(int(rng.integers(len(MARKS))), rng) if is_sign else None
        low, high = 0.6 - 0.25 * level, 0.75 + 0.1 * level
        return _Scene(
            lit=background(rng, height, width, level) * light,
            light=light,
            digit=make_card(rng, ink, level),
            decoy=make_card(rng, sign, level) if kind < options.decoys else None,
            phases=rng.uniform(0, 2 * np.pi, 6),
            size=rng.uniform(low, high),
            tilt=(rng.uniform(0, 0.25) * level, rng.uniform(0, 0.25) * level),
            grain=abs(rng.normal(0, 5 * level)) + 1,
            block=occluder(rng, height, width, options.occlude) if options.occlude else None,
        )

    def _pose(self, card: Card, scene: _Scene, now_s: float) -> Pose:
        """Where the card is; slow swings that keep the digit in the middle square."""
        width, height = self.options.size
        side = min(width, height)
        speeds = np.array([1.1, 1.4, 0.9, 0.7, 1.3, 1.7])
        x, y, turn, tilt_x, tilt_y, near = np.sin(speeds * now_s + scene.phases)
        pose = Pose(
            x=0.0,
            y=0.0,
            height=side * scene.size * (1 + 0.08 * near),
            angle=float(np.radians(20) * self.options.level * turn),
            tilt_x=scene.tilt[0] * tilt_x,
            tilt_y=scene.tilt[1] * tilt_y,
        )
        across, down = digit_extent(card, pose)
        fit = min(1.0, side / 2 / max(across, down))
        return pose._replace(
            height=pose.height * fit,
            x=width / 2 + x * (side / 2 - across * fit),
            y=height / 2 + y * (side / 2 - down * fit),
        )


@lru_cache(maxsize=8)
def _word(digit: int, index: int, rate_hz: int) -> np.ndarray:
    """A clip at RMS 1."""
    clip = SpeechBank.load().clip(digit, index)
    if rate_hz != RATE_HZ:
        clip = resample(clip, RATE_HZ, rate_hz)
    levelled: np.ndarray = clip / np.sqrt(np.mean(clip**2))
    return levelled
