"""Keeps a device open on a thread of its own, and reopens it with back-off when it is lost."""

from __future__ import annotations

import atexit
import threading
from typing import Callable, Generic, TypeVar

from mla_edge.errors import CaptureEnded, CaptureError, CaptureTimeout

JOIN_S = 1.5  # how long close() waits for a stalled device; its daemon thread may outlive it
EXIT_S = 2.0  # how much longer the end of the program does

Device = TypeVar("Device")


class Keeper(Generic[Device]):
    """Runs ``pump(device, closing)`` on a thread, over and over until closed.

    ``pump`` returns when ``closing`` is set, raises CaptureError when the device is lost, and
    CaptureEnded when there is no more. A lost device is opened again after the first of
    ``delays_s``, then twice as long, up to the second; only when that is ``worth_trying``.
    """

    def __init__(
        self,
        name: str,
        open_device: Callable[[], Device],
        pump: Callable[[Device, threading.Event], None],
        close_device: Callable[[Device], None],
        *,
        delays_s: tuple[float, float],
        worth_trying: Callable[[], bool] = lambda: True,
    ) -> None:
        """Nothing is opened before ``start``."""
        self.news = threading.Condition()  # notified when something came, or nothing ever will
        self.finished = False
        self._name = name
        self._open_device = open_device
        self._pump = pump
        self._close_device = close_device
        self._delays_s = delays_s
        self._worth_trying = worth_trying
        self._fault: CaptureError | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the device, here, so that a first failure is the caller's; then pump it."""
        device = self._open_device()
        self._thread = threading.Thread(
            target=self._keep, args=(device,), name=f"mla-edge {self._name}", daemon=True
        )
        atexit.register(self._exit)
        self._thread.start()

    def recovered(self) -> None:
        """Say that the device gives again; ``pump`` calls it with each item."""
        self._fault = None

    def failure(self, timeout_s: float) -> CaptureError:
        """What to raise when nothing came within ``timeout_s``."""
        fault = self._fault
        if self._closing.is_set():
            return CaptureError(f"{self._name} is closed")
        if isinstance(fault, CaptureEnded):
            return CaptureEnded(str(fault))
        if fault is not None:
            return CaptureError(f"{fault}; trying to reopen it", hint=fault.hint)
        if self.finished:
            return CaptureError(f"the thread of {self._name} stopped", hint="open it again")
        return CaptureTimeout(f"{self._name} gave nothing in {timeout_s:g} s")

    def close(self) -> None:
        """Stop the thread and let go of the device; safe to call twice."""
        self._closing.set()
        self._finish()  # wakes up a read that waits in another thread
        if self._thread is not None:
            self._thread.join(JOIN_S)

    def _exit(self) -> None:
        """Close at the end of the program, and wait until the thread is out of the device.

        Python ends a daemon thread where it comes back from a library; in C++ that aborts the
        whole program.
        """
        self.close()
        if self._thread is not None:
            self._thread.join(EXIT_S)

    def _finish(self) -> None:
        with self.news:
            self.finished = True
            self.news.notify_all()

    def _keep(self, device: Device) -> None:
        kept: Device | None = device
        try:
            while kept is not None and self._use(kept):
                kept = self._reopen()
        finally:
            self._finish()
            atexit.unregister(self._exit)

    def _use(self, device: Device) -> bool:
        """Pump ``device`` until it fails; whether to open it again."""
        try:
            self._pump(device, self._closing)
        except CaptureEnded as error:
            self._fault = error
        except CaptureError as error:
            self._fault = error
            return True
        finally:
            self._close_device(device)
        return False

    def _reopen(self) -> Device | None:
        """The device, opened again; None when ``close`` was called first."""
        delay_s, longest_s = self._delays_s
        while not self._closing.wait(delay_s):
            if self._worth_trying():
                try:
                    return self._open_device()
                except CaptureError as error:
                    self._fault = error
            delay_s = min(2 * delay_s, longest_s)
        return None
