"""Where frames and sound come from: the protocols, and the factories that open a source."""

from __future__ import annotations

from contextlib import closing
from typing import ContextManager, Protocol

from mla_edge.signals import Frame, Sound


class Camera(Protocol):
    """Gives the newest frame; its reader thread keeps one frame and drops older ones."""

    drops: int

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


class Microphone(Protocol):
    """Gives the newest window of sound."""

    drops: int

    def read(self, timeout_s: float) -> Sound:
        """The last window of sound, newest sample last; errors as ``Camera.read``."""
        ...

    def close(self) -> None:
        """Let go of the device; safe to call twice."""
        ...


def open_camera(source: str, *, as_fast_as_possible: bool = False) -> ContextManager[Camera]:
    """Open a camera.

    ``source`` is an index (``0``), a device (``/dev/video0``), ``csi://0``, ``rtsp://…``,
    ``http://…``, a video or picture file, or ``sim://digits?seed=1&noise_db=0``.
    """
    raise NotImplementedError


def open_microphone(
    source: str, *, rate_hz: int, window_s: float, as_fast_as_possible: bool = False
) -> ContextManager[Microphone]:
    """Open a microphone that gives ``window_s`` seconds at ``rate_hz``.

    ``source`` is ``default``, a device name or index, a WAV file, or ``sim://digits``.
    """
    raise NotImplementedError
