"""Being stopped: Ctrl-C, and a service manager's SIGTERM."""

import signal
from contextlib import contextmanager
from typing import Any, Dict, Iterator


class Interrupts:
    """Both signals as KeyboardInterrupt, and none of them lost.

    Python drops an exception that is raised in a destructor or in a callback of C code. So what
    has arrived is remembered, and raised again at the next ``check``.
    """

    def __init__(self) -> None:
        """Nothing has arrived yet."""
        self._held = False
        self._arrived = False
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        """Take both signals over."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._arrive)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep them until the end of this block, such as the output of one line."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if one has arrived."""
        if self._arrived:
            raise KeyboardInterrupt

    def _arrive(self, number: int, frame: Any) -> None:
        self._arrived = True
        if not self._held:
            raise KeyboardInterrupt
