"""Real digits for ``digits``: handwriting on drawn cards, recordings in noise, by take."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mla_edge.bundle import sha256_of
from mla_edge.networks.digits_files import FILES, RATE_HZ, read_file
from mla_edge.networks.network import SampleSource
from mla_edge.networks.sound_wear import add_noise, speed
from mla_edge.signals import NOTHING, Frame, Sample, Signal, Sound
from mla_edge.simulator.glyphs import glyph, pick_style
from mla_edge.simulator.samples import labelled_samples
from mla_edge.simulator.scene import compose, degrade
from mla_edge.simulator.speech import SpeechBank

WINDOW = 8000
SIZE = 128
TEST_TAKES = range(5)  # the usual split of this corpus
TUNE_TAKES = range(5, 8)
_RENDERED = 0.45  # of the words trained on: few people, so more of the simulator's many voices
_TUNE_EVERY = 7  # of the file's test pictures, which training never sees


@dataclass(frozen=True)
class DigitsData:
    """The arrays of a data folder; every split is disjoint by picture, take and noise clip."""

    pictures: dict[str, tuple[np.ndarray, np.ndarray]]  # split -> [n, 28, 28], [n]
    recordings: dict[str, dict[int, list[np.ndarray]]]  # split -> digit -> float32 clips
    noises: dict[str, list[np.ndarray]]  # split -> float32 clips at 8 kHz
    hashes: dict[str, str]  # file -> sha256

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, speakers: tuple[str, ...] | None = None
    ) -> DigitsData:
        """Read the folder; ``speakers`` limits the recordings to those people.

        Split of recordings: takes 0-4 test, 5-7 tune, the rest train. Split of pictures: the
        file's own training pictures; of its test pictures every seventh tunes.
        """
        root = Path(folder)
        mnist, spoken, noise = (read_file(root / name) for name in FILES)
        images, labels = mnist["test_images"], mnist["test_labels"]
        tunes = np.arange(len(labels)) % _TUNE_EVERY == 0  # the file may be sorted by class
        pictures = {
            "train": (mnist["train_images"], mnist["train_labels"]),
            "tune": (images[tunes], labels[tunes]),
            "test": (images[~tunes], labels[~tunes]),
        }
        recordings: dict[str, dict[int, list[np.ndarray]]] = {
            split: {digit: [] for digit in range(10)} for split in ("train", "tune", "test")
        }
        for i, (label, speaker, take) in enumerate(
            zip(spoken["labels"], spoken["speakers"], spoken["takes"])
        ):
            if speakers is not None and str(speaker) not in speakers:
                continue
            split = "test" if take in TEST_TAKES else "tune" if take in TUNE_TAKES else "train"
            start, end = spoken["offsets"][i : i + 2]
            clip = spoken["samples"][start:end].astype(np.float32) / 32768
            recordings[split][int(label)].append(clip)
        noises: dict[str, list[np.ndarray]] = {"train": [], "tune": [], "test": []}
        for i, samples in enumerate(noise["samples"]):
            halved = samples[: len(samples) // 2 * 2].reshape(-1, 2).mean(1) / 32768
            split = {0: "tune", 1: "test"}.get(i % 8, "train")
            noises[split].append(halved.astype(np.float32))
        hashes = {name: sha256_of(root / name) for name in FILES}
        return cls(pictures, recordings, noises, hashes)


class DigitsMaker:
    """Draws and speaks digits of one split, with all the wear a robot meets.

    ``calibrate`` is made of training data: quantization may see it, tests may not.
    """

    def __init__(self, data: DigitsData, split: str, *, synthetic: float = 0.25) -> None:
        """A share ``synthetic`` comes from the simulator's own glyphs and voices.

        Of the words of ``train`` it is 45 %.
        """
        real = "train" if split == "calibrate" else split
        self._pictures, labels = data.pictures[real]
        self._by_digit = [np.flatnonzero(labels == d) for d in range(10)]
        self._recordings = data.recordings[real]
        self._noises = data.noises[real]
        self._synthetic_split = {"train": "train", "test": "test"}.get(split, "calibrate")
        self._synthetic = synthetic
        self._rendered = _RENDERED if split == "train" else synthetic
        self._bank = SpeechBank.load()

    def picture(
        self, rng: np.random.Generator, digit: int | None, *, level: float = 1.0
    ) -> np.ndarray:
        """A scene [128, 128, 3] uint8 with ``digit`` on a card, or with no digit."""
        return compose(rng, self.ink(rng, digit), SIZE, SIZE, level=level)

    def ink(self, rng: np.random.Generator, digit: int | None) -> np.ndarray | None:
        """An alpha bitmap of ``digit``, float32 in 0…1."""
        if digit is None:
            return None
        if rng.random() < self._synthetic:
            return glyph(digit, pick_style(self._synthetic_split, rng), rng)
        return self._pictures[self.pick_picture(rng, digit)].astype(np.float32) / 255

    def pick_picture(self, rng: np.random.Generator, digit: int) -> int:
        """A handwritten ``digit`` by its number in the split."""
        return int(rng.choice(self._by_digit[digit]))

    def worn_picture(self, rng: np.random.Generator, digit: int | None) -> np.ndarray:
        """As ``picture``, sometimes blurred or half covered."""
        return wear(self.picture(rng, digit, level=float(rng.uniform(0.1, 1))), rng)

    def word(self, rng: np.random.Generator, digit: int) -> np.ndarray:
        """A recording of ``digit``, as it is, float32 in [-1, 1] at 8 kHz."""
        clips = self._recordings[digit]
        if not clips or rng.random() < self._rendered:
            indices = self._bank.indices(digit, self._synthetic_split)
            return self._bank.clip(digit, int(rng.choice(indices)))
        return clips[self.pick_take(rng, digit)]

    def pick_take(self, rng: np.random.Generator, digit: int) -> int:
        """A recording of ``digit`` by its number among those."""
        return int(rng.integers(len(self._recordings[digit])))

    def noise(self, rng: np.random.Generator) -> np.ndarray:
        """One second of a recorded, white, pink-like or babble noise, not scaled."""
        kind = rng.random()
        if kind < 0.55 and self._noises:
            clip = self._noises[rng.integers(len(self._noises))]
            factor = float(rng.uniform(0.75, 1.35))  # another dog, another bell
            length = int(WINDOW * factor) + 2
            start = rng.integers(max(1, len(clip) - length))
            part = speed(clip[start : start + length], factor)[:WINDOW]
            if np.abs(part).max(initial=0) > 1e-3 and len(part) == WINDOW:
                return part
        if kind < 0.8:
            white = rng.standard_normal(WINDOW).astype(np.float32)
            return _shaped(white, rng.uniform(0, 1.2), rng)
        babble = np.zeros(WINDOW, np.float32)
        for _ in range(int(rng.integers(3, 7))):
            word = self.word(rng, int(rng.integers(10)))[::-1][:WINDOW]  # backwards: no digit
            start = rng.integers(WINDOW - len(word) + 1)
            babble[start : start + len(word)] += word
        return babble

    def worn_sound(self, rng: np.random.Generator, digit: int | None) -> np.ndarray:
        """One second, float32 [8000], of ``digit`` said somewhere in it, or of nothing said."""
        sound = np.zeros(WINDOW, np.float32)
        if digit is not None:
            word = self.word(rng, digit)
            word = _voice(speed(word, float(rng.uniform(0.8, 1.25))), rng)
            if len(word) > WINDOW:
                word = speed(word, len(word) / WINDOW)[:WINDOW]
            sound = place(word, rng)
        elif rng.random() < 0.2:  # the edge of a word is not yet a word
            word = speed(self.word(rng, int(rng.integers(10))), float(rng.uniform(0.8, 1.25)))
            cut = int(len(word) * rng.uniform(0.02, 0.15))
            if rng.random() < 0.5:
                sound[WINDOW - cut :] = word[:cut]
            else:
                sound[:cut] = word[len(word) - cut :]
        snr_db = rng.uniform(-10, 30) if rng.random() < 0.7 else rng.uniform(30, 50)
        sound = add_noise(sound, self.noise(rng), float(snr_db))
        level = 10 ** (rng.uniform(-38, -8) / 20)
        sound *= level / (np.sqrt(np.mean(np.square(sound))) + 1e-6)
        if digit is None and rng.random() < 0.15:
            sound *= 1e-3  # a muted or dead-quiet microphone
        return np.clip(sound, -1, 1)


def wear(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``picture`` as a robot meets it: as it is, sometimes blurred or half covered."""
    kind = rng.random()
    if kind < 0.12:
        return degrade(picture, rng, blur_px=float(rng.uniform(0.5, 3)))
    if kind < 0.24:
        return degrade(picture, rng, occlude=float(rng.uniform(0.1, 0.55)))
    return picture


def place(word: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``word`` (cut to a second) somewhere in a second of silence."""
    word = word[:WINDOW]
    sound = np.zeros(WINDOW, np.float32)
    start = rng.integers(WINDOW - len(word) + 1)
    sound[start : start + len(word)] = word
    return sound


def _shaped(white: np.ndarray, tilt: float, rng: np.random.Generator) -> np.ndarray:
    """``white`` with a spectrum falling as frequency^-tilt and a random resonance."""
    spectrum = np.fft.rfft(white)
    bins = np.arange(1, len(spectrum) + 1)
    gain = bins**-tilt
    if rng.random() < 0.3:
        centre, width = rng.uniform(100, 3000), rng.uniform(50, 800)
        gain = gain * (1 + 20 * np.exp(-(((bins - centre) / width) ** 2)))
    return np.fft.irfft(spectrum * gain, len(white)).astype(np.float32)


def move_formants(word: np.ndarray, factor: float) -> np.ndarray:
    """``word`` from a throat ``1 / factor`` times as long: formants move, pitch and tempo stay.

    The spectral envelope of each 32 ms (the low part of its cepstrum) is stretched, after
    Jaitly & Hinton 2013, who stretch the whole spectrum.
    """
    frame, hop, smooth = 256, 64, 24
    padded = np.pad(word, (frame, frame + -len(word) % hop))
    window = np.hanning(frame + 1)[:-1]
    parts = np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop] * window
    spectra = np.fft.rfft(parts)
    cepstra = np.fft.irfft(np.log(np.abs(spectra) + 1e-4))
    cepstra[:, smooth : 1 - smooth] = 0
    envelopes = np.fft.rfft(cepstra).real  # natural logarithms
    bins = envelopes.shape[1]
    at = np.minimum(np.arange(bins) / factor, bins - 1.001)
    left = at.astype(int)
    share = at - left
    stretched = envelopes[:, left] * (1 - share) + envelopes[:, left + 1] * share
    gains = np.exp(np.clip(stretched - envelopes, -2.5, 2.5))
    parts = np.fft.irfft(spectra * gains) * window
    out = np.zeros(len(padded))
    for i in range(frame // hop):  # windows that do not overlap, all at once
        turn = parts[i :: frame // hop].ravel()
        out[i * hop : i * hop + len(turn)] += turn
    return (out[frame : frame + len(word)] / 1.5).astype(np.float32)


def _voice(word: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``word`` through another vocal tract, microphone and room."""
    if rng.random() < 0.7:
        word = move_formants(word, float(np.exp(rng.uniform(-0.2, 0.2))))
    size = len(word)
    spectrum = np.fft.rfft(word)
    position = np.linspace(0, 1, len(spectrum))
    if rng.random() < 0.7:  # a smooth random equalizer of ±9 dB
        gains_db = np.interp(position, np.linspace(0, 1, 6), rng.uniform(-9, 9, 6))
        spectrum *= 10 ** (gains_db / 20)
    if rng.random() < 0.3:  # a telephone, or a small loudspeaker
        low, high = rng.uniform(0, 0.08), rng.uniform(0.6, 1)
        spectrum *= 1 / (1 + np.exp(-(position - low) * 200) ** 1)
        spectrum *= 1 / (1 + np.exp((position - high) * 60))
    out = np.fft.irfft(spectrum, size).astype(np.float32)
    if rng.random() < 0.3:  # a room: exponentially decaying noise
        length = int(rng.uniform(0.02, 0.25) * RATE_HZ)
        tail = rng.standard_normal(length) * np.exp(-5 * np.arange(length) / length)
        tail *= rng.uniform(0.1, 0.5) / (np.linalg.norm(tail) + 1e-6)
        wide = size + length
        wet = np.fft.irfft(np.fft.rfft(out, wide) * np.fft.rfft(tail, wide), wide)
        out = (np.pad(out, (0, length)) + wet)[: max(size, int(size * 1.1))].astype(np.float32)
    return out


def sample_source(folder: str | os.PathLike[str] | None) -> SampleSource:
    """Labelled samples of the folder's digits; of the simulator's where there is no folder."""
    if folder is None:
        return _simulated
    return samples_of(DigitsData.load(folder))


def samples_of(data: DigitsData) -> SampleSource:
    """Labelled samples of ``data``."""

    def samples(split: str, count: int, seed: int) -> list[Sample]:
        return _draw(DigitsMaker(data, split), split, count, seed)

    return samples


def drawn_by(
    data: DigitsData, split: str, count: int, seed: int
) -> tuple[set[int], set[tuple[int, int]]]:
    """What ``samples_of`` makes those samples of: pictures by number, takes by digit and that.

    Takes that are heard backwards in babble among them.
    """
    maker = _Noting(data, split)
    _draw(maker, split, count, seed)
    return maker.pictures, maker.takes


class _Noting(DigitsMaker):
    """Draws the same, and keeps which pictures and takes it drew."""

    def __init__(self, data: DigitsData, split: str) -> None:
        super().__init__(data, split)
        self.pictures: set[int] = set()
        self.takes: set[tuple[int, int]] = set()

    def pick_picture(self, rng: np.random.Generator, digit: int) -> int:
        picked = super().pick_picture(rng, digit)
        self.pictures.add(picked)
        return picked

    def pick_take(self, rng: np.random.Generator, digit: int) -> int:
        picked = super().pick_take(rng, digit)
        self.takes.add((digit, picked))
        return picked


def _draw(maker: DigitsMaker, split: str, count: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng([seed, *split.encode()])
    return [_sample(maker, rng, i) for i in range(count)]


def _simulated(split: str, count: int, seed: int) -> list[Sample]:
    """The simulator's samples; it keeps no voices for ``tune``, so other calibration scenes."""
    if split == "tune":
        return labelled_samples("calibrate", count, seed + 1_000_003)
    return labelled_samples(split, count, seed)


def _sample(maker: DigitsMaker, rng: np.random.Generator, index: int) -> Sample:
    """One moment: class ``index`` modulo 11, both modalities or one of them."""
    digit = index % 11 if index % 11 < 10 else None
    truth = NOTHING if digit is None else str(digit)
    there = rng.choice(3, p=(0.6, 0.2, 0.2))  # both, image only, audio only
    signals: dict[str, Signal] = {}
    if there != 2:
        signals["image"] = Frame(maker.worn_picture(rng, digit), 0.0, truth)
    if there != 1:
        signals["audio"] = Sound(maker.worn_sound(rng, digit), RATE_HZ, 0.0, truth)
    return Sample(signals)
