"""A network camera whose every picture says when it was taken: MJPEG over HTTP, 640 x 480.

    python benchmarks/stamped_camera.py PORT [--fps 30]

The time, microseconds of CLOCK_MONOTONIC, is drawn as 48 black or white squares that survive
JPEG; ``read_stamp`` reads it back. ``stall`` and ``go`` on stdin stop and go on with all
connections. Killing the process is what unplugging is.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

WIDTH, HEIGHT, FPS = 640, 480, 30.0
SQUARE, BITS = 16, 48
_PER_ROW = WIDTH // SQUARE - 16  # 24 squares, two rows


def draw_stamp(picture: np.ndarray, time_s: float) -> None:
    """Write a time into the upper left corner of a picture [480, 640, 3]."""
    value = int(time_s * 1e6)
    for bit in range(BITS):
        row, column = divmod(bit, _PER_ROW)
        y, x = row * SQUARE, column * SQUARE
        picture[y : y + SQUARE, x : x + SQUARE] = 255 * (value >> bit & 1)


def read_stamp(picture: np.ndarray) -> float:
    """The time that a picture [480, 640, 3] was stamped with, in seconds."""
    rows = BITS // _PER_ROW
    stamp = picture[: rows * SQUARE, : _PER_ROW * SQUARE]
    squares = stamp.reshape(rows, SQUARE, _PER_ROW, SQUARE, 3)[:, 5:11, :, 5:11]
    bits = squares.mean(axis=(1, 3, 4)).ravel() > 127
    packed = np.packbits(bits, bitorder="little").tobytes()
    return int.from_bytes(packed, "little") / 1e6


class Pictures:
    """The newest picture as JPEG, made at a fixed rate by one thread."""

    def __init__(self, fps: float) -> None:
        """Begin at once."""
        self.moving = threading.Event()
        self.moving.set()
        self.news = threading.Condition()
        self.jpeg, self.number = b"", 0
        self._period_s = 1 / fps
        threading.Thread(target=self._make, daemon=True).start()

    def _make(self) -> None:
        noise = np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
        due_s, number = time.monotonic(), 0
        while True:
            due_s += self._period_s
            time.sleep(max(0.0, due_s - time.monotonic()))
            self.moving.wait()
            due_s = max(due_s, time.monotonic() - self._period_s)
            number += 1
            picture = noise + 40
            x = number * 7 % (WIDTH - 80)
            picture[200:280, x : x + 80] = (40, 200, 90)
            draw_stamp(picture, time.monotonic())
            _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
            with self.news:
                self.jpeg, self.number = jpeg.tobytes(), number
                self.news.notify_all()


def serve(port: int, fps: float) -> None:
    """Serve until killed, or until stdin ends."""
    pictures = Pictures(fps)

    class Handler(BaseHTTPRequestHandler):
        """Every GET gets the pictures from now on."""

        def do_GET(self) -> None:
            """A part for each picture; a slow reader gets them all, later, as of real ones."""
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            seen = pictures.number
            while True:
                with pictures.news:
                    while pictures.number == seen:
                        pictures.news.wait()
                    jpeg, seen = pictures.jpeg, pictures.number
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}"
                try:
                    self.wfile.write(head.encode() + b"\r\n\r\n" + jpeg + b"\r\n")
                except OSError:
                    return

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        if line.strip() == "stall":
            pictures.moving.clear()
        elif line.strip() == "go":
            pictures.moving.set()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("port", type=int)
    parser.add_argument("--fps", type=float, default=FPS)
    args = parser.parse_args()
    serve(args.port, args.fps)


if __name__ == "__main__":
    main()
