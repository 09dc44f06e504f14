"""The loops that everybody writes, and what the loop of ``loop.py`` shares with them.

It needs OpenCV and numpy only, so that ``mediapipe_loop.py`` can use it where mla-edge is not.
"""

from __future__ import annotations

import hashlib
import threading
import time
from typing import TextIO

import cv2
import numpy as np
from stamped_camera import read_stamp

LOST, BACK, REPEATED = "lost", "back", "repeated"
SIZE = (128, 128)
_ROUNDS = (5000, 500, 50)  # of hashing at once, some 2.5, 0.25 and 0.025 ms
_ROUND_S = 1e-6  # at the most, to begin with


class Log:
    """Writes a line a decision: when it was made, and when its picture was taken."""

    def __init__(self, out: TextIO) -> None:
        """To ``out``."""
        self._out = out

    def decision(self, captured_s: float) -> None:
        """A decision was made now."""
        self._out.write(f"{time.monotonic():.6f} {captured_s:.6f}\n")

    def told(self, what: str) -> None:
        """The program was told that the camera is lost, stale or back, or a picture old."""
        self._out.write(f"{time.monotonic():.6f} {what}\n")


def think(network_ms: float) -> None:
    """A network that takes so much time of one core.

    As a real one's, it is of the processor, so that what else runs makes it later and not
    cheaper; and it leaves the interpreter to other threads, as ONNX Runtime and TFLite do. They
    want it back once a run, this some 80 times in 45 ms, to look at the time.
    """
    now_s = time.thread_time()
    end_s = now_s + network_ms / 1e3
    for rounds in _ROUNDS:
        longest_s = rounds * _ROUND_S if rounds != _ROUNDS[-1] else 0.0
        while now_s + longest_s < end_s:
            began_s = now_s
            hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
            now_s = time.thread_time()
            if longest_s:
                longest_s = max(longest_s, now_s - began_s)


def to_tensor(picture: np.ndarray) -> np.ndarray:
    """What the network takes, as everybody makes it; float32 [1, 3, 128, 128], RGB."""
    small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), SIZE)
    return small.transpose(2, 0, 1)[None].astype(np.float32)


def plain(url: str, network_ms: float, log: Log) -> None:
    """Read, decide, and again; opened anew by nobody."""
    capture = cv2.VideoCapture(url)
    while True:
        there, picture = capture.read()
        if not there:
            log.told(LOST)
            time.sleep(0.1)
            continue
        to_tensor(picture)
        think(network_ms)
        log.decision(read_stamp(picture))


def thread(url: str, network_ms: float, log: Log) -> None:
    """The recipe of many a page: a thread that reads, a variable with the newest picture."""
    capture = cv2.VideoCapture(url)
    newest: list[np.ndarray] = []

    def read() -> None:
        while True:
            there, picture = capture.read()
            if there:
                newest[:] = [picture]
            else:
                time.sleep(0.01)

    threading.Thread(target=read, daemon=True).start()
    while True:
        if not newest:
            time.sleep(0.005)
            continue
        picture = newest[0]
        to_tensor(picture)
        think(network_ms)
        log.decision(read_stamp(picture))
