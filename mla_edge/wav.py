"""Sound as files hold it: WAV."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mla_edge.errors import CaptureError

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # WAVE_FORMAT_…, the last with the format further on
_FIX = "ffmpeg -i FILE -c:a pcm_s16le sound.wav makes one that can be read"


@dataclass(frozen=True)
class WavFormat:
    """How a file's samples are stored, and where."""

    rate_hz: int
    channels: int
    bits: int
    is_float: bool
    start: int  # offset of the first sample, in bytes
    frames: int  # samples of each channel

    @property
    def frame_bytes(self) -> int:
        """The size of one sample of every channel."""
        return self.channels * self.bits // 8


class WavFile:
    """A WAV file, read piece by piece: PCM of 8, 16, 24 or 32 bits, or 32-bit float."""

    def __init__(self, path: Path) -> None:
        """Open ``path``; CaptureError says what is wrong with it."""
        self.path = path
        try:
            self._file = path.open("rb")
        except FileNotFoundError as error:
            raise CaptureError(
                f"no such file: {path}",
                hint="a microphone is 'default', an index or a name (python -m sounddevice),"
                " a WAV file, or sim://digits",
            ) from error
        except OSError as error:
            raise CaptureError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self.format = _read_format(self._file, path)
        except BaseException:
            self._file.close()
            raise

    def samples(self, start: int, stop: int) -> np.ndarray:
        """Mono float32 samples in [-1, 1), the mean of the channels, of ``start`` to ``stop``.

        What lies before the file is zero.
        """
        form = self.format
        first = max(start, 0)
        self._file.seek(form.start + first * form.frame_bytes)
        data = self._file.read(max(stop - first, 0) * form.frame_bytes)
        sound = _decode(data[: len(data) // form.frame_bytes * form.frame_bytes], form)
        mono = sound.reshape(-1, form.channels).mean(axis=1, dtype=np.float32)
        return np.concatenate((np.zeros(first - start, np.float32), mono))

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()


def _read_format(file: BinaryIO, path: Path) -> WavFormat:
    """Walk the RIFF chunks up to the samples."""
    riff, _, wave = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    if riff != b"RIFF" or wave != b"WAVE":
        raise CaptureError(f"{path} is not a WAV file", hint=_FIX)
    described, size = _find_data(file, path)
    if len(described) < 16:
        raise CaptureError(f"the WAV file {path} does not say its format", hint=_FIX)
    code, channels, rate_hz, _, _, bits = struct.unpack_from("<HHIIHH", described)
    if code == _EXTENSIBLE and len(described) >= 26:
        (code,) = struct.unpack_from("<H", described, 24)
    if (code, bits) not in [(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32)]:
        raise CaptureError(
            f"{path} holds sound of format {code:#x} with {bits} bits; only PCM of 8, 16, 24"
            " or 32 bits and 32-bit float can be read",
            hint=_FIX,
        )
    if not channels or not rate_hz:
        raise CaptureError(f"{path} says {channels} channels at {rate_hz} Hz", hint=_FIX)
    start = file.tell()
    # A recorder that was interrupted, or wrote to a pipe, leaves a size that is wrong.
    size = min(size or 0xFFFFFFFF, path.stat().st_size - start)
    frames = size // (channels * bits // 8)
    if not frames:
        raise CaptureError(f"{path} holds no sound", hint=_FIX)
    return WavFormat(rate_hz, channels, bits, code == _FLOAT, start, frames)


def _find_data(file: BinaryIO, path: Path) -> tuple[bytes, int]:
    """The format chunk, and the size of the data chunk, at whose samples ``file`` then is."""
    described = b""
    while True:
        header = file.read(8)
        if len(header) < 8:
            raise CaptureError(f"the WAV file {path} is cut off", hint=_FIX)
        name, size = struct.unpack("<4sI", header)
        if name == b"data":
            return described, size
        chunk = file.read(size + size % 2)
        if name == b"fmt ":
            described = chunk


def _decode(data: bytes, form: WavFormat) -> np.ndarray:
    """The stored samples as float32 in [-1, 1)."""
    if form.is_float:
        return np.frombuffer(data, "<f4").astype(np.float32)
    if form.bits == 8:  # the only unsigned one
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if form.bits == 24:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4").reshape(-1).astype(np.float32) / np.float32(2**31)
    scale = np.float32(2 ** (form.bits - 1))
    return np.frombuffer(data, f"<i{form.bits // 8}").astype(np.float32) / scale
