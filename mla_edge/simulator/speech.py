"""Spoken digits, rendered beforehand by ``scripts/render_speech.py`` with many voices."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Mapping

import numpy as np

from mla_edge.errors import ConfigError

RATE_HZ = 8000
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "calibrate", "test")
MU = 255.0


def encode_mu_law(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as 8 bit codes; ITU-T G.711's curve, without its table."""
    curved = np.sign(samples) * np.log1p(MU * np.abs(samples)) / np.log1p(MU)
    codes: np.ndarray = np.round((curved + 1) * 127.5).astype(np.uint8)
    return codes


def decode_mu_law(codes: np.ndarray) -> np.ndarray:
    """The inverse of ``encode_mu_law``, float32."""
    curved = codes.astype(np.float32) / 127.5 - 1
    samples = np.sign(curved) * np.expm1(np.abs(curved) * np.log1p(MU)) / MU
    decoded: np.ndarray = samples.astype(np.float32)
    return decoded


def resample(samples: np.ndarray, rate_hz: int, wanted_hz: int) -> np.ndarray:
    """Bring a whole clip to another rate by cutting or extending its spectrum, float32.

    The clip must begin and end in silence, or be a loop of whole seconds.
    """
    length = len(samples)
    seconds = -(-length // rate_hz)
    spectrum = np.fft.rfft(samples, seconds * rate_hz)
    kept = min(rate_hz, wanted_hz) * seconds // 2 + 1
    spectrum = np.pad(spectrum[:kept], (0, max(0, wanted_hz * seconds // 2 + 1 - kept)))
    if wanted_hz < rate_hz:  # a short slope instead of a cliff, which would ring
        slope = max(1, kept // 20)
        spectrum[-slope:] *= np.cos(np.linspace(0, np.pi / 2, slope)) ** 2
    whole = np.fft.irfft(spectrum, seconds * wanted_hz) * (wanted_hz / rate_hz)
    brought: np.ndarray = whole[: -(-length * wanted_hz // rate_hz)].astype(np.float32)
    return brought


class SpeechBank:
    """Clips of single words; the voices of one split never speak in another."""

    def __init__(self, path: Path) -> None:
        """Read a bank; it stays coded in memory."""
        with np.load(path) as bank:
            self._codes: np.ndarray = bank["codes"]
            self._ends: np.ndarray = bank["ends"]
            self.digits: np.ndarray = bank["digits"]
            self.voices: np.ndarray = bank["voices"]
            self.voice_names = [str(name) for name in bank["voice_names"]]
            self.voice_splits = [str(split) for split in bank["voice_splits"]]
            self.about: Mapping[str, object] = json.loads(str(bank["about"]))
        self._indices = {
            (digit, split): np.flatnonzero(
                (self.digits == digit) & (np.array(self.voice_splits)[self.voices] == split)
            )
            for digit in range(len(WORDS))
            for split in SPLITS
        }

    @staticmethod
    def load() -> SpeechBank:
        """The bank that ships with the package, read once per process."""
        return _shipped_bank()

    def __len__(self) -> int:
        """How many clips there are."""
        return len(self._ends)

    def indices(self, digit: int, split: str) -> np.ndarray:
        """Which clips say ``digit`` in a voice of ``split``: train, calibrate or test."""
        if (digit, split) not in self._indices:
            raise ConfigError(
                f"the speech bank has no digit {digit!r} in the split {split!r}",
                hint=f"ask for 0…9 in one of: {', '.join(SPLITS)}",
            )
        return self._indices[digit, split]

    def clip(self, digit: int, index: int) -> np.ndarray:
        """Clip ``index`` (from ``indices``), float32 in [-1, 1] at RATE_HZ, peak about 0.95."""
        if self.digits[index] != digit:
            raise ConfigError(
                f"clip {index} says {self.digits[index]}, not {digit}",
                hint="take the index from SpeechBank.indices(digit, split)",
            )
        start = self._ends[index - 1] if index else 0
        return decode_mu_law(self._codes[start : self._ends[index]])


@lru_cache(maxsize=1)
def _shipped_bank() -> SpeechBank:
    return SpeechBank(Path(__file__).with_name("speech_bank.npz"))
