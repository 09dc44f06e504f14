"""Moments that training never saw, by independent unit: a picture, a take of a speaker, a clip.

``make`` of a world gives labelled moments of one mode. Sound has noise at a level drawn from
-10 to 30 dB, or at the level that is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Protocol, Sequence

import numpy as np
from commands import unseen_clips

from mla_edge.networks.commands import FPS
from mla_edge.networks.commands import RATE_HZ as COMMANDS_RATE_HZ
from mla_edge.networks.commands_data import CommandsData, CommandsMaker, Moment
from mla_edge.networks.digits import RATE_HZ
from mla_edge.networks.digits_data import (
    SIZE,
    DigitsData,
    DigitsMaker,
    drawn_by,
    place,
    wear,
)
from mla_edge.networks.sound_wear import add_noise
from mla_edge.networks.unseen import SHIPPED_BY
from mla_edge.recordings import Recording
from mla_edge.signals import Clip, Frame, Sample, Signal, Sound
from mla_edge.simulator.scene import compose

LEVELS_DB = (-10.0, -5.0, 0.0, 5.0, 10.0, 20.0, 30.0)
NOISY_DB = (-10.0, 30.0)


class World(Protocol):
    """Where moments come from."""

    @property
    def modes(self) -> tuple[str, ...]:
        """Those that there are moments for."""
        ...

    def unit(self, mode: str) -> str:
        """What is independent in ``mode``."""
        ...

    def make(
        self, mode: str, rng: np.random.Generator, *, rows: int, snr_db: float | None = None
    ) -> Recording:
        """Moments of every unit, ``rows`` of each thing that is said in it."""
        ...


def open_world(network: str, data: Path, limit: int | None = None) -> World:
    """The moments of ``network`` in the folder ``data``; ``limit`` units at most."""
    worlds: dict[str, Callable[[Path, int | None], World]] = {
        "digits": DigitsWorld,
        "commands": CommandsWorld,
    }
    return worlds[network](data, limit)


class DigitsWorld:
    """Handwriting on cards and words in noise, of test and of tune.

    No training saw them, and no choice of the INT8 ranges that ship: as in ``mla-edge
    certify``, what those were chosen by is left out.
    """

    modes = ("image", "audio", "image+audio")

    def __init__(self, folder: Path, limit: int | None) -> None:
        """Read ``folder``."""
        data = DigitsData.load(folder)
        self._maker = DigitsMaker(data, "test")
        self._pictures: dict[int, list[np.ndarray]] = {digit: [] for digit in range(10)}
        self._takes: dict[int, list[np.ndarray]] = {digit: [] for digit in range(10)}
        seen, heard = drawn_by(data, *SHIPPED_BY)
        for split in ("tune", "test"):
            chose = split == SHIPPED_BY[0]
            for number, (ink, digit) in enumerate(zip(*data.pictures[split])):
                if not (chose and number in seen):
                    self._pictures[int(digit)].append(ink.astype(np.float32) / 255)
            for digit, takes in self._takes.items():
                takes += [
                    take
                    for number, take in enumerate(data.recordings[split][digit])
                    if not (chose and (digit, number) in heard)
                ]
        self._limit = limit

    def unit(self, mode: str) -> str:
        """A take where one is heard."""
        return "takes" if "audio" in mode else "pictures"

    def make(
        self, mode: str, rng: np.random.Generator, *, rows: int, snr_db: float | None = None
    ) -> Recording:
        """A picture is one moment; a take is heard ``rows`` times, each with other pictures."""
        heard = "audio" in mode
        samples, labels, units = [], [], []
        for digit in range(10):
            pictures, takes = self._pictures[digit], self._takes[digit]
            count = len(takes if heard else pictures)
            if self._limit is not None:
                count = min(count, -(-self._limit // 10))
            for turn in range(count * (rows if heard else 1)):
                number = turn // rows if heard else turn
                signals: dict[str, Signal] = {}
                if "image" in mode:
                    signals["image"] = Frame(self._picture(pictures, turn, rng), 0.0)
                if heard:
                    signals["audio"] = Sound(
                        self._sound(takes[number], rng, snr_db), RATE_HZ, 0.0
                    )
                samples.append(Sample(signals))
                labels.append(str(digit))
                units.append(10 * number + digit)
        return _recording(samples, labels, units, rng)

    def _picture(
        self, pictures: Sequence[np.ndarray], turn: int, rng: np.random.Generator
    ) -> np.ndarray:
        ink, level = pictures[turn % len(pictures)], float(rng.uniform(0.1, 1))
        return wear(compose(rng, ink, SIZE, SIZE, level=level), rng)

    def _sound(
        self, take: np.ndarray, rng: np.random.Generator, snr_db: float | None
    ) -> np.ndarray:
        return _noisy(place(take, rng), self._maker.noise(rng), rng, snr_db)


class CommandsWorld:
    """The words of the clips that the shipped weights never met, seen and heard as they are."""

    modes = ("mouth", "audio", "mouth+audio")

    def __init__(self, folder: Path, limit: int | None) -> None:
        """Read ``folder``."""
        data = CommandsData.load(folder)
        self._maker = CommandsMaker(data, "test", unseen_clips(data)[:limit])

    def unit(self, mode: str) -> str:
        """A clip has six words."""
        return "clips"

    def make(
        self, mode: str, rng: np.random.Generator, *, rows: int, snr_db: float | None = None
    ) -> Recording:
        """The window around the middle of every word; ``rows`` times where it is heard."""
        maker, heard = self._maker, "audio" in mode
        samples, labels, units = [], [], []
        for clip, word in maker.words:
            moment = Moment(clip, (word.start_s + word.end_s) / 2, word.word)
            for _ in range(rows if heard else 1):
                signals: dict[str, Signal] = {}
                if "mouth" in mode:
                    signals["mouth"] = Clip(maker.mouth(moment), FPS, 0.0)
                if heard:
                    sound = _noisy(maker.sound(moment), maker.noise(rng), rng, snr_db)
                    signals["audio"] = Sound(sound, COMMANDS_RATE_HZ, 0.0)
                samples.append(Sample(signals))
                labels.append(word.word)
                units.append(clip)
        return _recording(samples, labels, units, rng)


def _noisy(
    sound: np.ndarray, noise: np.ndarray, rng: np.random.Generator, snr_db: float | None
) -> np.ndarray:
    level = float(rng.uniform(*NOISY_DB)) if snr_db is None else snr_db
    noisy = add_noise(sound, noise, level)
    return np.asarray(noisy / max(1.0, float(np.abs(noisy).max())), np.float32)


def _recording(
    samples: list[Sample], labels: list[str], units: list[int], rng: np.random.Generator
) -> Recording:
    """In an order by chance: a test by bets looks at the units one after the other."""
    order = rng.permutation(len(samples))
    return Recording(
        tuple(samples[i] for i in order),
        tuple(labels[i] for i in order),
        np.array(units)[order],
        told_units=True,
        sha256="",
    )
