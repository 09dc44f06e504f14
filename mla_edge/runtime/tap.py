"""A source whose signals somebody else sees as well."""

from __future__ import annotations

from typing import Any, Callable

from mla_edge.runtime.capture import Prepares, Watched
from mla_edge.runtime.sense import Source
from mla_edge.signals import Frame, Signal

See = Callable[[Signal, Source], None]


def tap(source: Any, see: See, *, every_frame: bool = False) -> Any:
    """``source``, a camera or microphone, that shows ``see`` all that is read from it.

    With ``every_frame`` a camera that shows each of its frames to the run, those that are never
    read too, shows them to ``see`` as well, as copies.
    """
    return (
        _WatchedTap(source, see, every_frame)
        if isinstance(source, Watched)
        else _Tap(source, see)
    )


class _Tap:
    def __init__(self, source: Any, see: See) -> None:
        self._source = source
        self._see = see
        if isinstance(source, Prepares):
            self.prepare_by = source.prepare_by

    @property
    def drops(self) -> int:
        return int(self._source.drops)

    @property
    def still(self) -> bool:
        return bool(getattr(self._source, "still", False))  # as the loop asks a camera

    @property
    def live(self) -> bool:
        return bool(getattr(self._source, "live", False))

    def read(self, timeout_s: float) -> Any:
        signal = self._source.read(timeout_s)
        self._see(signal, self._source)
        return signal

    def close(self) -> None:
        self._source.close()


class _WatchedTap(_Tap):
    def __init__(self, source: Any, see: See, every_frame: bool) -> None:
        super().__init__(source, see)
        self._every_frame = every_frame

    def watch(self, see: Callable[[Frame], object] | None) -> None:
        if see is None or not self._every_frame:
            self._source.watch(see)
            return

        def both(frame: Frame) -> None:
            # The picture is only valid during this call.
            self._see(Frame(frame.image.copy(), frame.time_s, frame.truth), self._source)
            see(frame)

        self._source.watch(both)
