"""A run with its web server around it, and a browser of few words."""

import http.client
import json
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass

import mla_edge
from mla_edge.runtime.capture import open_camera, open_microphone
from mla_edge.runtime.web.server import WebServer
from mla_edge.runtime.web.view import View


@dataclass
class Running:
    """A run that goes on on a thread of its own."""

    model: object
    view: View
    server: WebServer
    times_s: list

    def get(self, path, **headers):
        """Status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        with closing(connection):
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    @contextmanager
    def events(self):
        """The events of ``/events`` as they come: name and message."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        with closing(connection):
            connection.request("GET", "/events")
            with connection.getresponse() as answer:  # which keeps the connection open
                assert answer.status == 200, answer.read()
                yield events_of(answer)


def events_of(answer):
    name = ""
    for line in answer:
        word, _, rest = line.decode().rstrip("\n").partition(": ")
        if word == "event":
            name = rest
        elif word == "data":
            yield name, json.loads(rest)


def until(condition, seconds=10.0):
    """Wait for it to come true."""
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "it never came true"
        time.sleep(0.01)


@contextmanager
def running(folder, camera=None, microphone=None, *, duration_s=20, load=mla_edge.load):
    """A run of the bundle in ``folder``, on the simulator unless told otherwise, and served."""
    ended = threading.Event()
    with load(folder) as model:
        view = View(model)
        shown = Running(model, view, WebServer(view, 0), [])
        opened = _opened(camera, microphone)
        with shown.server, opened[0] as eyes, opened[1] as ears:

            def work():
                watched = view.watch("camera", eyes), view.watch("microphone", ears)
                made = mla_edge.run(
                    model, *watched, on_fault=view.add_fault, duration_s=duration_s
                )
                with closing(made):
                    for prediction in made:
                        view.add(prediction)
                        shown.times_s.append(time.monotonic())
                        if ended.is_set():
                            return

            thread = threading.Thread(target=work)
            thread.start()
            try:
                yield shown
            finally:
                ended.set()
                thread.join()


def _opened(camera, microphone):
    eyes = closing(camera) if camera else open_camera("sim://digits?size=96x64")
    if microphone:
        return eyes, closing(microphone)
    return eyes, open_microphone("sim://digits", rate_hz=800, window_s=1.0)
