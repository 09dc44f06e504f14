"""Render the digits zero to nine with espeak-ng into the simulator's speech bank.

    apt-get install espeak-ng
    python scripts/render_speech.py mla_edge/simulator/speech_bank.npz

The same version of espeak-ng gives the same bytes. Each voice is one espeak variant in one
accent; its pace, pitch and intonation differ from word to word. Needs numpy only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np

from mla_edge.simulator.speech import RATE_HZ, WORDS, encode_mu_law, resample

ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-029",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
)

# Variants that sound alike share a line, and a line shares a split.
VARIANTS = {
    "train": (
        ("m1",), ("m2",), ("m4",), ("m5",), ("m7",), ("f1",), ("f2",), ("f4",), ("Alex",),
        ("Alicia",), ("Andy",), ("Annie",), ("AnxiousAndy",), ("Diogo",), ("Gene", "Gene2"),
        ("Hugo",), ("Jacky",), ("Lee",), ("Mario",), ("Michael",), ("Mr serious",), ("adam",),
        ("anika",), ("aunty",), ("belinda",), ("boris",), ("caleb",), ("croak",), ("ed",),
        ("edward", "edward2"), ("grandma",), ("gustave",),
        ("john",), ("klatt", "klatt2", "klatt4"), ("max",), ("michel",), ("norbert",),
        ("pablo",), ("quincy",), ("robert",), ("shelby",), ("victor",), ("whisper",),
    ),
    "calibrate": (("m3",), ("f3",), ("Andrea",), ("david",), ("steph", "steph2"), ("paul",)),
    "test": (
        ("m6",), ("m8",), ("f5",), ("Denis",), ("Henrique",), ("Mike",),
        ("Nguyen",), ("antonio",), ("benjamin",), ("grandpa",), ("linda",), ("miguel",),
        ("pedro",), ("sandro",), ("travis",),
    ),
}  # fmt: skip

SILENCE = 0.006
"""Below this share of the peak a clip's ends are cut off."""


def speak(word: str, voice: str, pace_wpm: int, pitch: int) -> np.ndarray:
    """One word as espeak-ng says it, float32 at RATE_HZ, ends trimmed, peak 0.95."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "word.wav")
        command = ["espeak-ng", "-v", voice, "-s", str(pace_wpm), "-p", str(pitch)]
        subprocess.run([*command, "-w", str(path), word], check=True, capture_output=True)
        with wave.open(str(path)) as file:
            rate = file.getframerate()
            raw = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    quiet = np.pad(raw.astype(np.float64) / 32768, rate // 4)  # room for ringing at the ends
    return trim(resample(quiet, rate, RATE_HZ))


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut the silence at both ends and bring the peak to 0.95."""
    frame = RATE_HZ // 100
    peaks = np.abs(samples[: len(samples) // frame * frame]).reshape(-1, frame).max(axis=1)
    loud = np.flatnonzero(peaks > SILENCE * peaks.max())
    cut = samples[max(0, loud[0] - 1) * frame : (loud[-1] + 2) * frame]
    fade = np.linspace(0, 1, frame)
    cut[:frame] *= fade
    cut[-frame:] *= fade[::-1]
    return (cut * (0.95 / np.abs(cut).max())).astype(np.float32)


def render(path: Path) -> None:
    """Render every voice and write the bank."""
    version = subprocess.run(["espeak-ng", "--version"], check=True, capture_output=True)
    rng = np.random.default_rng(8000)
    names, splits, clips, digits, voices = [], [], [], [], []
    for split, lines in VARIANTS.items():
        for variant in (name for line in lines for name in line):
            voice = f"{ACCENTS[len(names) % len(ACCENTS)]}+{variant}"
            for digit, word in enumerate(WORDS):
                pace, pitch = int(rng.integers(150, 215)), int(rng.integers(25, 76))
                spoken = word + str(rng.choice(["", ".", ",", "?", "!"]))
                clips.append(encode_mu_law(speak(spoken, voice, pace, pitch)))
                digits.append(digit)
                voices.append(len(names))
            names.append(voice)
            splits.append(split)
    np.savez_compressed(
        path,
        codes=np.concatenate(clips),
        ends=np.cumsum([len(clip) for clip in clips]).astype(np.int32),
        digits=np.array(digits, np.uint8),
        voices=np.array(voices, np.uint8),
        voice_names=np.array(names),
        voice_splits=np.array(splits),
        about=np.array(
            json.dumps(
                {
                    "source": "rendered by scripts/render_speech.py",
                    "synthesiser": version.stdout.decode().split("  Data")[0].strip(),
                    "rate_hz": RATE_HZ,
                    "coding": "mu-law, 8 bit",
                }
            )
        ),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bank", type=Path, help="the .npz file to write")
    render(parser.parse_args().bank)
