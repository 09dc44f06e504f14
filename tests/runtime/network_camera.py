"""A network camera on loopback that fails as it is told to."""

import contextlib
import socket
import threading

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")

FPS = 25


def grey(number):
    return np.full((48, 64, 3), number, np.uint8)


def encoded(picture):
    return cv2.imencode(".jpg", picture)[1].tobytes()


class NetworkCamera:
    """An MJPEG camera on loopback; frame ``i`` is of grey ``4 * (i % 50)``."""

    def __init__(self, port=0, fps=FPS):
        self.stalled = threading.Event()
        self.clients = 0
        self.jpeg = lambda number: encoded(grey(4 * (number % 50)))
        self._fps = fps
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(0.02)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/video.mjpg"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while not self._stop.is_set():
            with contextlib.suppress(socket.timeout):
                client, _ = self._listener.accept()
                self.clients += 1
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client):
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(
                b"HTTP/1.0 200 OK\r\n"
                b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
            )
            number = 0
            while not self._stop.wait(1 / self._fps):
                if self.stalled.is_set():
                    continue
                jpeg = self.jpeg(number)
                client.sendall(
                    b"--frame\r\nContent-Type: image/jpeg\r\n"
                    b"Content-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
                )
                number += 1

    def close(self):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()
