"""What a service manager is told: systemd's notification protocol, sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Mapping

from mla_edge.errors import ConfigError


class Service:
    """Tells systemd that we are ready, alive, reloading, stopping; without it does nothing.

    A beat costs a clock and a comparison; at most four in the time of the watchdog are sent.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``; ConfigError."""
        self._socket: socket.socket | None = None
        self._every_s = 0.0
        self._next_s = 0.0
        address = environment.get("NOTIFY_SOCKET", "")
        if not address:
            return
        if address[0] not in "@/":
            raise ConfigError(
                f"NOTIFY_SOCKET is {address!r}, no path and no abstract name",
                hint="unset it; systemd sets it for services with Type=notify",
            )
        if environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid()):
            self._every_s = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 / 4
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._address = "\0" + address[1:] if address[0] == "@" else address

    @property
    def there(self) -> bool:
        """Whether there is a service manager."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        """Started, or done with a reload; ``status`` is what ``systemctl status`` shows."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; ``ready`` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def beat(self) -> None:
        """The loop is alive. Call it at every turn."""
        if self._every_s and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + self._every_s
            self._send("WATCHDOG=1")

    def __enter__(self) -> Service:
        """Use it in a ``with``."""
        return self

    def __exit__(self, *error: object) -> None:
        """Free the socket."""
        self.close()

    def close(self) -> None:
        """Free the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        with suppress(OSError):  # the manager is gone or restarts; deciding goes on
            self._socket.sendto(text.encode(), self._address)
