"""Where frames and sound come from: the protocols, and the factories that open a source."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Callable, ContextManager, Protocol, runtime_checkable

import numpy as np

from mla_edge.errors import ConfigError
from mla_edge.recordings import is_session
from mla_edge.signals import Ahead, Frame, Sound

SIMULATED = "sim://"
WAV_SUFFIXES = (".wav", ".wave")
MEDIA_START_S = 0.0
"""As fast as possible, files share a clock of their own, which begins here."""


class Camera(Protocol):
    """Gives the newest frame; its reader thread keeps one frame and drops older ones."""

    @property
    def drops(self) -> int:
        """How much was captured that nobody read, or lost on the way."""
        ...

    def read(self, timeout_s: float) -> Frame:
        """The newest frame not read before.

        Raises CaptureTimeout if none comes in time, CaptureEnded when a file has no more, and
        CaptureError while the device is lost; the adapter keeps trying to reopen it, so a later
        call may succeed.
        """
        ...

    def close(self) -> None:
        """Let go of the device; safe to call twice."""
        ...


@runtime_checkable
class Watched(Protocol):
    """A camera that shows every frame, those that ``read`` drops too, to who needs them all."""

    def watch(self, see: Callable[[Frame], object] | None) -> None:
        """Call ``see`` with every frame from now on, before it can be read; None ends it.

        The camera's own thread calls it. The picture is only valid during the call.
        """
        ...


Prepare = Callable[[np.ndarray], Ahead]


@runtime_checkable
class Prepares(Protocol):
    """A camera whose own thread can prepare pictures, so that no decision waits for it."""

    def prepare_by(self, prepare: Prepare | None) -> None:
        """Give frames the ``ahead`` that this makes of their picture; None ends it.

        Those that a read waits for are given as they are: there is no time to gain.
        """
        ...


class Microphone(Protocol):
    """Gives the newest window of sound."""

    @property
    def drops(self) -> int:
        """How much was captured that nobody read, or lost on the way."""
        ...

    def read(self, timeout_s: float) -> Sound:
        """The last window of sound, newest sample last; errors as ``Camera.read``."""
        ...

    def close(self) -> None:
        """Let go of the device; safe to call twice."""
        ...


def open_camera(source: str, *, as_fast_as_possible: bool = False) -> ContextManager[Camera]:
    """Open a camera.

    ``source`` is an index (``0``), a device (``/dev/video0``), ``csi://0``, ``rtsp://…``,
    ``http://…``, a video or picture file, an ``.mcap`` that ``mla-edge record`` wrote, or
    ``sim://digits?seed=1&noise_db=0``.

    A video plays at its own pace and a picture is repeated at 30 fps; their times begin when
    they are opened. ``as_fast_as_possible`` gives every frame of a file or simulator, one a
    read, and their times begin at 0; a device is not changed by it.

    CaptureError: it does not open. ConfigError: ``source`` makes no sense.
    """
    if source.startswith(SIMULATED):
        from mla_edge.simulator.digits import DigitsOptions
        from mla_edge.simulator.sources import SimCamera

        options = DigitsOptions.parse(source)
        return closing(SimCamera(options, as_fast_as_possible=as_fast_as_possible))
    from mla_edge.runtime.camera import open_source

    return closing(open_source(source, as_fast_as_possible=as_fast_as_possible))


def open_microphone(
    source: str, *, rate_hz: int, window_s: float, as_fast_as_possible: bool = False
) -> ContextManager[Microphone]:
    """Open a microphone that gives ``window_s`` seconds at ``rate_hz``.

    ``source`` is ``default``, a device name or index, a WAV file, an ``.mcap`` that ``mla-edge
    record`` wrote, or ``sim://digits``.

    A file plays in real time from when it is opened. ``as_fast_as_possible`` moves a file or
    simulator on at each read, a WAV file by 50 ms, and its times begin at 0; a device is not
    changed by it. Errors as ``open_camera``.
    """
    if source.startswith(SIMULATED):
        from mla_edge.simulator.digits import DigitsOptions
        from mla_edge.simulator.sources import SimMicrophone

        return closing(
            SimMicrophone(
                DigitsOptions.parse(source),
                rate_hz=rate_hz,
                window_s=window_s,
                as_fast_as_possible=as_fast_as_possible,
            )
        )
    start_s = MEDIA_START_S if as_fast_as_possible else None
    if is_session(Path(source)):
        from mla_edge.runtime.recorded_sources import RecordedMicrophone

        return closing(
            RecordedMicrophone(
                Path(source), rate_hz=rate_hz, window_s=window_s, start_s=start_s
            )
        )
    if source.lower().endswith(WAV_SUFFIXES) or Path(source).is_file():
        from mla_edge.runtime.wav import WavMicrophone

        return closing(
            WavMicrophone(Path(source), rate_hz=rate_hz, window_s=window_s, start_s=start_s)
        )
    if "://" in source:
        raise ConfigError(
            f"a microphone cannot be opened by {source.partition('://')[0]}://",
            hint="'default', a device name or index, a WAV file, or sim://digits",
        )
    from mla_edge.runtime.microphone import LiveMicrophone

    return closing(LiveMicrophone(source, rate_hz=rate_hz, window_s=window_s))


def check_pace(camera: object | None, microphone: object | None) -> None:
    """ConfigError where one is a device and one a file, to be as fast as possible together.

    What is ``live`` gives times of now, however it is read, and files begin at 0.
    """
    sources = {"camera": camera, "microphone": microphone}
    live = {
        name: bool(getattr(source, "live", False))
        for name, source in sources.items()
        if source is not None
    }
    if len(set(live.values())) > 1:
        device = next(name for name, is_live in live.items() if is_live)
        other = next(name for name, is_live in live.items() if not is_live)
        raise ConfigError(
            f"the {device} is live and the {other} is not, so they have no clock in common as "
            "fast as possible: the whole file would be read at the first decision",
            hint="play the file at its own pace, without --as-fast-as-possible (bench: "
            "--flat-out), or take files or simulators for both",
        )
