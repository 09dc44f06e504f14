"""Sound from a microphone, through PortAudio."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from mla_edge.errors import CaptureError, MissingDependency
from mla_edge.preprocess import refit
from mla_edge.runtime.keeper import Keeper
from mla_edge.runtime.ring import SoundRing
from mla_edge.runtime.sound_search import LOOK_S, SoundSearch
from mla_edge.signals import Sound

try:
    import sounddevice
except ImportError as error:
    raise MissingDependency(
        "sounddevice is not installed", hint="pip install 'mla-edge[run]'"
    ) from error
except OSError as error:
    raise MissingDependency(
        f"sounddevice finds no PortAudio: {error}", hint="sudo apt-get install libportaudio2"
    ) from error
except Exception as error:
    # Importing it starts PortAudio; the class of that failure cannot be imported, then.
    if type(error).__name__ != "PortAudioError":
        raise
    raise CaptureError(
        f"the sound system does not start: {error}",
        hint="arecord -l must list a microphone; check ~/.asoundrc and /etc/asound.conf",
    ) from error

WATCH_S = 0.1
SILENCE_S = 0.5  # without a block for so long, the device is lost
FIRST_BLOCK_S = 2.0  # so long for the first
BLOCK_S = 0.02
LATENCY_S = 0.1  # how long the machine may be too busy to listen before samples are lost
_BAD_RATE, _UNAVAILABLE = -9997, -9985  # PortAudio's paInvalidSampleRate, paDeviceUnavailable


class LiveMicrophone:
    """The last window of a sound device; it is opened again when it is lost.

    PortAudio tells nobody that a device is gone: a watchdog waits for blocks. It also finds a
    device again only after a restart, which ends every other sounddevice stream of the process.
    """

    live = True  # its times are of now, however it is read

    def __init__(self, source: str, *, rate_hz: int, window_s: float) -> None:
        """Open ``source``: ``default``, an index, or a part of a name."""
        self.drops = 0  # how often the device overflowed
        self._source = source
        self._rate_hz = rate_hz
        self._window = round(window_s * rate_hz)
        self._ring: SoundRing | None = None  # while the device gives
        self._blocks = 0  # heard so far
        self._opened = False
        self._keeper = Keeper(
            f"microphone {source}",
            self._open,
            self._watch,
            self._stop,
            delays_s=(LOOK_S, LOOK_S),
            worth_trying=SoundSearch().due,
        )
        self._keeper.start()

    def read(self, timeout_s: float) -> Sound:
        """The last window; it waits only when there is none."""
        ring = self._ring
        if ring is None:
            with self._keeper.news:
                self._keeper.news.wait_for(
                    lambda: self._ring or self._keeper.finished, timeout_s
                )
            ring = self._ring
        if ring is None:
            raise self._keeper.failure(timeout_s)
        samples, time_s = ring.latest()
        return refit(Sound(samples, ring.rate_hz, time_s), self._rate_hz, self._window)

    def close(self) -> None:
        """Let go of the device within 2 s; safe to call twice."""
        self._keeper.close()
        self._ring = None

    def _open(self) -> Any:
        """A stream that runs, at the wanted rate or else at the device's own."""
        try:
            if self._opened:
                restart_portaudio()
            device = find_device(self._source)
            # From now on by its name: an index may be another device after a restart. Words
            # stay, for PortAudio's name holds the card's number, which may change.
            if self._source.isdigit():
                self._source = device["name"]
            try:
                stream = self._start(device["index"], self._rate_hz)
            except sounddevice.PortAudioError as error:
                if _code(error) != _BAD_RATE:
                    raise
                stream = self._start(device["index"], round(device["default_samplerate"]))
        except sounddevice.PortAudioError as error:
            raise explain(self._source, error) from error
        self._opened = True
        return stream

    def _stop(self, stream: Any) -> None:
        stream.close(ignore_errors=True)  # it fails when its device is gone
        self._ring = None

    def _start(self, index: int, rate_hz: int) -> Any:
        window = round(self._window / self._rate_hz * rate_hz)
        ring = SoundRing(rate_hz, window)

        def listen(block: np.ndarray, frames: int, times: Any, status: Any) -> None:
            now_s = time.monotonic()
            age_s = times.currentTime - times.inputBufferAdcTime - frames / rate_hz
            if not 0 <= age_s < LATENCY_S:  # not every sound system knows it
                age_s = 0.0
            if status.input_overflow:
                self.drops += 1
            ring.write(block[:, 0], now_s - age_s, after_gap=status.input_overflow)
            self._blocks += 1
            if self._ring is not ring:
                self._give(ring)

        stream = sounddevice.InputStream(
            device=index,
            channels=1,
            dtype="float32",
            samplerate=rate_hz,
            blocksize=round(BLOCK_S * rate_hz),
            latency=LATENCY_S,
            callback=listen,
        )
        try:
            stream.start()
        except sounddevice.PortAudioError:
            stream.close()
            raise
        return stream

    def _give(self, ring: SoundRing) -> None:
        with self._keeper.news:
            self._ring = ring
            self._keeper.recovered()
            self._keeper.news.notify_all()

    def _watch(self, stream: Any, closing: threading.Event) -> None:
        # It counts how often it looked, not the time: when the whole process was held up, the
        # device may be well.
        blocks, silent = -1, 0
        while not closing.wait(WATCH_S):
            silent = 0 if self._blocks != blocks else silent + 1
            blocks = self._blocks
            if silent * WATCH_S >= (SILENCE_S if self._ring else FIRST_BLOCK_S):
                self._ring = None
                raise CaptureError(
                    f"the microphone {self._source} stopped giving sound",
                    hint="check its cable, or the sound server",
                )


def find_device(source: str) -> Any:
    """PortAudio's description of the input device ``source``."""
    wanted = None if source == "default" else int(source) if source.isdigit() else source
    try:
        return sounddevice.query_devices(wanted, "input")
    except ValueError as error:  # no name matches, several do, or it is a loudspeaker
        why = " ".join(str(error).split())
        raise CaptureError(
            f"no microphone {source!r}: {why}", hint=list_microphones()
        ) from error


def list_microphones() -> str:
    """The input devices, for an error message."""
    devices = sounddevice.query_devices() if sounddevice._initialized else ()
    names = [
        f"{device['index']}: {device['name']}"
        for device in devices
        if device["max_input_channels"] > 0
    ]
    if not names:
        return "this machine has no microphone (arecord -l lists none); plug one in"
    return (
        f"there is: {'; '.join(names)}; one that another program uses may be missing here"
        " (fuser -v /dev/snd/* says which does)"
    )


def restart_portaudio() -> None:
    """Make PortAudio look for devices anew; it has no other way."""
    while sounddevice._initialized:
        sounddevice._terminate()
    sounddevice._initialize()


def explain(source: str, error: Exception) -> CaptureError:
    """What PortAudio's ``error`` means for who wants to use ``source``."""
    if _code(error) == _UNAVAILABLE:
        return CaptureError(
            f"the microphone {source} is in use by another program",
            hint="fuser -v /dev/snd/* says which; end it",
        )
    if "querying device" in str(error):
        return CaptureError(f"no microphone {source!r}", hint=list_microphones())
    return CaptureError(
        f"the microphone {source} does not start: {error}", hint=list_microphones()
    )


def _code(error: Exception) -> int:
    """PortAudio's number of an error; 0 where there is none."""
    return error.args[1] if len(error.args) > 1 else 0
