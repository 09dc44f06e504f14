"""A run that a service manager looks after: told that it is alive, and asked to reload."""

import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Callable, Optional

from mla_edge.cli.outputs import say

if TYPE_CHECKING:
    from mla_edge.errors import MlaEdgeError
    from mla_edge.runtime.model import FusedModel


class Attended:
    """A model that SIGHUP loads anew, and a beat for the watchdog of systemd.

    SIGHUP is taken only where no terminal is behind stdin: there it means that the terminal is
    gone, and ends the run as ever.
    """

    def __init__(self, load: "Callable[[], FusedModel]", *, reloads: bool) -> None:
        """``load`` opens the model now, and another at each reload, if there are any."""
        from mla_edge.runtime.reloading import ReloadingModel
        from mla_edge.runtime.service import Service

        self._hung_up = False
        self._is_ready = False
        self._stack = ExitStack()
        self._service = self._stack.enter_context(Service())
        self.model = self._stack.enter_context(ReloadingModel(load, self._reloaded))
        if reloads and _is_service():
            before = signal.signal(signal.SIGHUP, self._hang_up)
            self._stack.callback(signal.signal, signal.SIGHUP, before)

    @property
    def deadline_ms(self) -> Optional[float]:
        """The deadline that the model was loaded with."""
        deadline = self.model.model.deadline
        return None if deadline is None else deadline.ms

    def attend(self) -> bool:
        """At every turn of the loop; never True: the run goes on."""
        if not self._is_ready:
            self._is_ready = True
            self._service.ready(self._status())
        self._service.beat()
        if self._hung_up:
            self._hung_up = False
            self._service.reloading()
            self.model.reload()
        self.model.renew()  # while nothing comes in there is no decision that would do so
        return False

    def stopping(self) -> None:
        """The run has ended."""
        self._service.stopping()

    def __enter__(self) -> "Attended":
        """Free it all at the end."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Free the model, and give the signal back."""
        self._stack.close()

    def _hang_up(self, number: int, frame: Any) -> None:
        self._hung_up = True

    def _reloaded(self, error: "Optional[MlaEdgeError]") -> None:
        if error is None:
            bundle = self.model.bundle
            say(f"reloaded {bundle.folder}, made {bundle.created}")
        else:
            say(f"not reloaded: {error}\n  {error.hint}")
        self._service.ready(self._status())

    def _status(self) -> str:
        bundle = self.model.bundle
        return (
            f"deciding with {bundle.name}, made {bundle.created}, on {self.model.model.runs_on}"
        )


def _is_service() -> bool:
    is_default = signal.getsignal(signal.SIGHUP) == signal.SIG_DFL  # nohup ignores it
    return is_default and not (sys.stdin is not None and sys.stdin.isatty())
