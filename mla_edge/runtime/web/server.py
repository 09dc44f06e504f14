"""Serves the view of a run on this machine alone: a page, its events, health and metrics."""

from __future__ import annotations

import errno
import json
import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Iterator
from urllib.parse import urlsplit

from mla_edge.errors import ConfigError
from mla_edge.runtime.web.events import PERIOD_S, Events, Place
from mla_edge.runtime.web.metrics import CONTENT_TYPE, Metrics
from mla_edge.runtime.web.view import View

HOST, PORT = "127.0.0.1", 8765
MOST_VIEWERS = 8
MOST_CONNECTIONS = 24  # those that look, and what else is asked for meanwhile
PATIENCE_S = 5.0
"""A client that takes nothing, or asks nothing, for so long is dropped."""

SEND_BUFFER = 256 * 1024  # bytes; a larger one would hide for long that nobody reads
_CLOSING_S = 1.0  # that a message to a client may take once the run has ended

# Another site that a browser has open must not get at the pictures by a name that leads here.
_NAMES = ("localhost", HOST, "::1")
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_PAGE = {
    "/": "page.html",
    "/page.css": "page.css",
    "/page.js": "page.js",
    "/traces.js": "traces.js",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


class WebServer:
    """Serves ``view`` until it is closed, on threads of its own."""

    def __init__(self, view: View, port: int = PORT) -> None:
        """Listen on ``port`` of 127.0.0.1, 0 for any that is free; ``port`` says which.

        ConfigError: it is taken, or may not be used. MissingDependency: prometheus-client.
        """
        try:
            self._server = _Server(view, port)
        except OSError as error:
            raise _refused(port, error) from error
        self.port = int(self._server.server_address[1])
        self.url = f"http://{HOST}:{self.port}/"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="mla-edge web", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Tell those who look that the run has ended, and stop; safe to call twice."""
        self._server.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    def __enter__(self) -> WebServer:
        """Use it in a ``with``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.close()


def _refused(port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"--web: something else listens on port {port} of {HOST}, perhaps another run",
            hint=f"take another one: --web {port + 1 if port < 65535 else PORT}",
        )
    return ConfigError(
        f"--web: port {port} of {HOST} cannot be used: {error.strerror or error}",
        hint=f"take one above 1023, such as --web {PORT}",
    )


class _Server(HTTPServer):
    """A thread for each connection, as many as there may be; the standard one has no limit."""

    request_queue_size = MOST_CONNECTIONS

    def __init__(self, view: View, port: int) -> None:
        self.view = view
        self.events = Events(view)
        self.metrics = Metrics(view)
        self.ending = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._viewers = 0
        super().__init__((HOST, port), _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service who we are, which may take seconds.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self._serve,
            args=(request, client_address),
            name="mla-edge web client",
            daemon=True,
        )
        with self._lock:
            has_room = len(self._open) < MOST_CONNECTIONS
            if has_room:
                self._open[request] = thread
        if has_room:
            thread.start()
        else:
            self.shutdown_request(request)

    def hang_up(self) -> None:
        """End every connection; those that look have a moment for the last words."""
        with self._lock:
            left = list(self._open.items())
        for _, thread in left:
            thread.join(_CLOSING_S / len(left))
        for connection, thread in left:
            with suppress(OSError):  # it has gone by itself
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    @contextmanager
    def seat(self) -> Iterator[bool]:
        """Whether there is one more for somebody who looks; it is theirs meanwhile."""
        with self._lock:
            is_free = self._viewers < MOST_VIEWERS
            self._viewers += is_free
            self.view.look(self._viewers > 0)
        try:
            yield is_free
        finally:
            with self._lock:
                self._viewers -= is_free
                self.view.look(self._viewers > 0)

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError:  # the client left, or takes nothing any more
            pass
        finally:
            with self._lock:
                self._open.pop(request, None)
            self.shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = PATIENCE_S
    server_version = "mla-edge"
    sys_version = ""

    def do_GET(self) -> None:
        if not self._is_local():
            self._send(403, "text/plain", b"this page is for localhost only\n")
            return
        path = urlsplit(self.path).path
        if path == "/events":
            self._stream()
        elif path == "/healthz":
            self._send_health()
        elif path == "/metrics":
            self._send(200, CONTENT_TYPE, self.server.metrics.render())
        elif path in _PAGE:
            file = Path(__file__).with_name(_PAGE[path])
            self._send(200, f"{_TYPES[file.suffix]}; charset=utf-8", file.read_bytes())
        else:
            self._send(404, "text/plain", b"there are /, /healthz, /metrics and /events\n")

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """The library never prints."""

    def _is_local(self) -> bool:
        """Whether the browser was told to come here, by its user and by no other site."""
        hosts = [f"//{self.headers.get('Host', '')}"]
        if "Origin" in self.headers:
            hosts.append(self.headers["Origin"])
        try:
            return all(urlsplit(host).hostname in _NAMES for host in hosts)
        except ValueError:
            return False

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self._send_headers(kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, kind: str) -> None:
        headers = {
            "Content-Type": kind,
            "Cache-Control": "no-store",
            "Content-Security-Policy": _POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in headers.items():
            self.send_header(name, value)

    def _send_health(self) -> None:
        view = self.server.view
        found = view.health()
        states = {name: state for name, (state, _, _) in view.states().items()}
        told = {
            "ok": found.ok,
            "reason": found.reason,
            "last_decision_s": None if found.age_s is None else round(found.age_s, 3),
            "decisions": view.decisions,
            "rate_hz": round(view.rate_hz(), 2),
            "modalities": states,
        }
        body = json.dumps(told).encode() + b"\n"
        self._send(200 if found.ok else 503, "application/json", body)

    def _stream(self) -> None:
        if self.command == "HEAD":
            self._send(200, "text/event-stream", b"")
            return
        with self.server.seat() as is_free:
            if not is_free:
                text = f"{MOST_VIEWERS} browsers look already; close one of them\n"
                self._send(503, "text/plain", text.encode())
                return
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            self.send_response(200)
            self._send_headers("text/event-stream")
            self.end_headers()
            events, place = self.server.events, Place()
            while not self.server.ending.is_set():
                text, place = events.hello(place)
                if text:  # at first, and after each reload
                    self._tell("hello", text, retry=True)
                text, place = events.tick(place)
                self._tell("tick", text)
                self.server.ending.wait(PERIOD_S)
            self._tell("end", "{}")

    def _tell(self, event: str, text: str, *, retry: bool = False) -> None:
        wait = "retry: 1000\n" if retry else ""
        self.wfile.write(f"{wait}event: {event}\ndata: {text}\n\n".encode())
