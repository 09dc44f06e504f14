"""Real clips for ``commands``: windows of mouth and sound, worn as a robot meets them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mla_edge._arrays import read_arrays
from mla_edge.bundle import sha256_of
from mla_edge.errors import ConfigError
from mla_edge.networks.commands import FPS, FRAMES, HEIGHT, RATE_HZ, SAMPLES, WIDTH
from mla_edge.networks.commands_files import (
    FILES,
    NOISE,
    SILENT,
    Clips,
    Word,
    read_clips,
)
from mla_edge.networks.commands_splits import Splits, split_clips, split_for
from mla_edge.networks.network import SampleSource
from mla_edge.networks.sound_wear import add_noise
from mla_edge.signals import NOTHING, Clip, Sample, Signal, Sound

_SILENT = 0.08  # of the samples, without a word


@dataclass(frozen=True)
class CommandsData:
    """The clips of a data folder, split by clip, and noise, split by its own clips."""

    clips: Clips
    splits: Splits
    noises: dict[str, np.ndarray]  # split -> float32 [n, length] at 16 kHz
    hashes: dict[str, str]  # file -> sha256

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, weights: Path | None = None
    ) -> CommandsData:
        """Read the folder, to train on, or for a network with ``weights`` that are trained.

        The split depends on the clips' names, and on what trained those weights.
        """
        root = Path(folder)
        clips = read_clips(root)
        noise = read_arrays(root / NOISE, ConfigError, "copy it again")["samples"] / 32768
        place = np.arange(len(noise)) % 8
        noises = {
            "tune": noise[place == 0],
            "test": noise[place == 1],
            "train": noise[place > 1],
        }
        hashes = {name: sha256_of(root / name) for name in FILES}
        names = clips.names
        return cls(
            clips,
            split_clips(names) if weights is None else split_for(weights, names),
            {split: values.astype(np.float32) for split, values in noises.items()},
            hashes,
        )


@dataclass(frozen=True)
class Moment:
    """A window's centre in a clip, and the word that is said there (or NOTHING)."""

    clip: int
    centre_s: float
    word: str


class CommandsMaker:
    """Windows of the clips of one split.

    ``calibrate`` is made of training clips: quantization may see them, tests may not.
    """

    def __init__(
        self, data: CommandsData, split: str, chosen: np.ndarray | None = None
    ) -> None:
        """``split`` is train, calibrate, tune or test; ``chosen`` are other clips."""
        real = "train" if split == "calibrate" else split
        cv2.setNumThreads(1)  # OpenCV's own threads do not survive a fork into a loader
        self.clips = data.clips
        chosen = data.splits[real] if chosen is None else chosen
        self._noises = data.noises[real]
        spans = [(int(clip), word) for clip in chosen for word in data.clips.words[clip]]
        self.words = [(clip, word) for clip, word in spans if word.word not in SILENT]
        self.silences = [(clip, word) for clip, word in spans if word.word in SILENT]
        if not self.words:
            raise ConfigError(
                f"none of these clips is there to {real}",
                hint="add clips that the weights have not met (docs/how-to/train.md)",
            )
        names = [word.word for _, word in self.words]
        counts = {name: names.count(name) for name in set(names)}
        # Letters are rare, and the hardest: they come more often than they are said.
        chances = np.array([counts[name] ** -0.5 for name in names])
        self._chances = np.cumsum(chances / chances.sum())

    def any_word(self, rng: np.random.Generator) -> Moment:
        """Somewhere in a word, mostly near its middle."""
        place = min(int(np.searchsorted(self._chances, rng.random())), len(self.words) - 1)
        clip, word = self.words[place]
        return Moment(clip, _inside(rng, word), word.word)

    def any_silence(self, rng: np.random.Generator) -> Moment:
        """Somewhere in a stretch without a word."""
        clip, word = self.silences[rng.integers(len(self.silences))]
        return Moment(clip, float(rng.uniform(word.start_s, word.end_s)), NOTHING)

    def mouth(self, moment: Moment, *, pace: float = 1.0) -> np.ndarray:
        """The 16 frames around ``moment``, uint8 [16, 60, 72]; the clip's edges are repeated.

        Seen ``pace`` times as fast as they were.
        """
        frames = self.clips.frames[moment.clip]
        first = moment.centre_s * FPS - 0.5 - (FRAMES - 1) / 2 * pace
        at = np.round(first + np.arange(FRAMES) * pace).astype(int)
        return frames[at.clip(0, len(frames) - 1)]

    def sound(self, moment: Moment, *, pace: float = 1.0) -> np.ndarray:
        """The 0.64 s around ``moment``, float32 [10240] in [-1, 1]; silent outside the clip."""
        sound = self.clips.sounds[moment.clip]
        first = moment.centre_s * RATE_HZ - SAMPLES / 2 * pace
        if pace == 1.0:
            at = np.round(first).astype(int) + np.arange(SAMPLES)
            there = (at >= 0) & (at < len(sound))
            window = np.where(there, sound[at.clip(0, len(sound) - 1)], 0)
            return (window / 32768).astype(np.float32)
        begin = max(0, int(first))
        part = sound[begin : int(first + SAMPLES * pace) + 2].astype(np.float32) / 32768
        places = (first - begin) + np.arange(SAMPLES, dtype=np.float32) * pace
        return np.interp(places, np.arange(len(part)), part, left=0, right=0).astype(np.float32)

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        """A window of recorded noise of this split, float32 [10240]."""
        while True:
            clip = self._noises[rng.integers(len(self._noises))]
            start = rng.integers(len(clip) - SAMPLES + 1)
            part: np.ndarray = clip[start : start + SAMPLES]
            if np.abs(part).max() > 1e-3:
                return part

    def worn_mouth(self, rng: np.random.Generator, moment: Moment, pace: float) -> np.ndarray:
        """As ``mouth``: moved, turned, mirrored, in another light, sometimes partly covered."""
        frames = self.mouth(moment, pace=pace).astype(np.float32)
        turn, scale = rng.uniform(-6, 6), rng.uniform(0.88, 1.15)
        matrix = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT * 0.57), turn, scale)
        matrix[0, 2] += rng.uniform(-5, 5)
        matrix[1, 2] += rng.uniform(-4, 4)
        if rng.random() < 0.5:
            frames = frames[:, :, ::-1]
        # Four channels at a time are what the warp takes.
        stacked = np.ascontiguousarray(frames.transpose(1, 2, 0))
        warped = [
            cv2.warpAffine(
                np.ascontiguousarray(stacked[..., i : i + 4]),
                matrix,
                (WIDTH, HEIGHT),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for i in range(0, FRAMES, 4)
        ]
        worn = np.concatenate(warped, 2).transpose(2, 0, 1)
        worn = (worn - 128) * rng.uniform(0.7, 1.3) + 128 + rng.uniform(-30, 30)
        worn += rng.standard_normal(worn.shape, np.float32) * rng.uniform(0, 6)
        if rng.random() < 0.15:
            top, left = int(rng.integers(HEIGHT - 12)), int(rng.integers(WIDTH - 16))
            worn[:, top : top + 12, left : left + 16] = rng.uniform(0, 255)
        if rng.random() < 0.3:  # a frame that was dropped shows the one before
            lost = int(rng.integers(1, FRAMES))
            worn[lost] = worn[lost - 1]
        return worn.clip(0, 255).astype(np.uint8)

    def worn_sound(self, rng: np.random.Generator, moment: Moment, pace: float) -> np.ndarray:
        """As ``sound``: in another room and microphone, mostly in noise of −12 to 30 dB."""
        sound = self.sound(moment, pace=pace)
        if rng.random() < 0.6:  # a smooth random equalizer of ±8 dB
            spectrum = np.fft.rfft(sound)
            position = np.linspace(0, 1, len(spectrum))
            gains_db = np.interp(position, np.linspace(0, 1, 7), rng.uniform(-8, 8, 7))
            sound = np.fft.irfft(spectrum * 10 ** (gains_db / 20), SAMPLES).astype(np.float32)
        if rng.random() < 0.8:
            sound = add_noise(sound, self.noise(rng), float(rng.uniform(-12, 30)))
        level = 10 ** (rng.uniform(-35, -12) / 20)
        sound = sound * (level / (np.sqrt(np.mean(np.square(sound))) + 1e-5))
        return np.clip(sound, -1, 1).astype(np.float32)


def _inside(rng: np.random.Generator, word: Word) -> float:
    middle, length = (word.start_s + word.end_s) / 2, word.end_s - word.start_s
    off = rng.normal(0, 0.02 + 0.2 * length)
    return float(middle + np.clip(off, -0.48 * length, 0.48 * length))


def sample_source(
    folder: str | os.PathLike[str], *, weights: Path | None = None
) -> SampleSource:
    """Labelled samples of the folder's clips, both modalities or one of them.

    For a network with ``weights``: see ``CommandsData.load``.
    """
    data = CommandsData.load(folder, weights=weights)

    def samples(split: str, count: int, seed: int) -> list[Sample]:
        maker = CommandsMaker(data, split)
        rng = np.random.default_rng([seed, *split.encode()])
        return [_sample(maker, rng) for _ in range(count)]

    return samples


def _sample(maker: CommandsMaker, rng: np.random.Generator) -> Sample:
    silent = rng.random() < _SILENT
    moment = maker.any_silence(rng) if silent else maker.any_word(rng)
    there = rng.choice(3, p=(0.6, 0.2, 0.2))  # both, mouth only, audio only
    signals: dict[str, Signal] = {}
    if there != 2:
        frames = maker.worn_mouth(rng, moment, 1.0)
        signals["mouth"] = Clip(frames, FPS, 0.0, moment.word)
    if there != 1:
        sound = maker.worn_sound(rng, moment, 1.0)
        signals["audio"] = Sound(sound, RATE_HZ, 0.0, moment.word)
    return Sample(signals)
