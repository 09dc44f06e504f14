"""The files of a data folder for ``commands``: one talker's clips, camera and microphone.

A data folder holds ``grid.json`` (``clips``: a ``name`` and ``words`` of ``word``, ``start_s``,
``end_s`` each; ``frames_per_clip``, ``samples_per_clip``, ``fps``, ``rate_hz``),
``grid_mouth_72x60_25fps.mp4`` (the clips' grey frames, one clip after the other),
``grid_16k.flac`` (their sound, the same) and ``noise.npz`` (``samples`` [n, length] int16 at
16 kHz). The sound is read by soundfile, the frames by OpenCV.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mla_edge.errors import ConfigError, MissingDependency
from mla_edge.networks.commands import FPS, HEIGHT, RATE_HZ, WIDTH

try:
    import cv2
    import soundfile
except (ImportError, OSError) as error:  # OSError: the library of soundfile is missing
    raise MissingDependency(
        f"the data of commands cannot be read: {error}", hint="pip install 'mla-edge[train]'"
    ) from error

INDEX, VIDEO, SOUND, NOISE = (
    "grid.json", "grid_mouth_72x60_25fps.mp4", "grid_16k.flac", "noise.npz",
)  # fmt: skip
FILES = (INDEX, VIDEO, SOUND, NOISE)
SILENT = ("sil", "sp")  # what the index calls a stretch without a word


@dataclass(frozen=True)
class Word:
    """A word of a clip, or a silence of it, and its time in the clip."""

    word: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Clips:
    """Every clip of a folder."""

    names: tuple[str, ...]
    words: tuple[tuple[Word, ...], ...]
    frames: np.ndarray  # uint8 [clips, frames, height, width]
    sounds: np.ndarray  # int16 [clips, samples]


def read_clips(folder: Path) -> Clips:
    """The clips of ``folder``; ConfigError names the file that is missing or does not fit."""
    for name in (INDEX, VIDEO, SOUND):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder / name}: no such file",
                hint=f"the data folder holds {', '.join(FILES)}",
            )
    names, words, frames_per_clip, samples_per_clip = _read_index(folder / INDEX)
    frames = _read_frames(folder / VIDEO)
    sound = _read_sound(folder / SOUND)
    for name, found, each in (
        (VIDEO, len(frames), frames_per_clip), (SOUND, len(sound), samples_per_clip)
    ):  # fmt: skip
        if found != len(names) * each:
            raise ConfigError(
                f"{folder / name}: {found} values, {len(names)} clips of {each} in {INDEX}",
                hint="copy both files again, of the same set",
            )
    return Clips(
        tuple(names),
        tuple(words),
        frames.reshape(len(names), frames_per_clip, HEIGHT, WIDTH),
        sound.reshape(len(names), samples_per_clip),
    )


def _read_index(path: Path) -> tuple[list[str], list[tuple[Word, ...]], int, int]:
    try:
        index: Any = json.loads(path.read_text())
        names = [str(clip["name"]) for clip in index["clips"]]
        words = [
            tuple(
                Word(str(w["word"]), float(w["start_s"]), float(w["end_s"])) for w in c["words"]
            )
            for c in index["clips"]
        ]
        rates = int(index["fps"]), int(index["rate_hz"])
        frames, samples = int(index["frames_per_clip"]), int(index["samples_per_clip"])
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ConfigError(
            f"{path}: not the index of clips: {type(error).__name__}: {error}",
            hint="its form is in mla_edge/networks/commands_files.py",
        ) from error
    if rates != (FPS, RATE_HZ) or not names or frames * RATE_HZ != samples * FPS:
        raise ConfigError(
            f"{path}: {len(names)} clips of {frames} frames at {rates[0]} fps and {samples} "
            f"samples at {rates[1]} Hz",
            hint=f"make it of clips at {FPS} fps and {RATE_HZ} Hz, as long in both",
        )
    return names, words, frames, samples


def _read_frames(path: Path) -> np.ndarray:
    video = cv2.VideoCapture(str(path))
    found = []
    while True:
        there, frame = video.read()
        if not there:
            break
        if frame.shape != (HEIGHT, WIDTH, 3):
            raise ConfigError(
                f"{path}: frames of {frame.shape[1]}×{frame.shape[0]}",
                hint=f"make them {WIDTH}×{HEIGHT}",
            )
        found.append(frame[..., 0].copy())  # grey: the three channels are equal
    video.release()
    if not found:
        raise ConfigError(f"{path}: no video that OpenCV can read", hint="copy it again")
    return np.stack(found)


def _read_sound(path: Path) -> np.ndarray:
    try:
        sound, rate_hz = soundfile.read(path, dtype="int16")
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="copy it again") from error
    if rate_hz != RATE_HZ or sound.ndim != 1:
        raise ConfigError(
            f"{path}: {sound.ndim} channel(s) at {rate_hz} Hz",
            hint=f"make it mono, {RATE_HZ} Hz",
        )
    return np.asarray(sound)
