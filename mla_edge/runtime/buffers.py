"""Memory for pictures: all that a camera may need at once is there from its first one on."""

from __future__ import annotations

import sys
import threading

import numpy as np

_holder = [np.empty(0)]
_HELD_BY_NONE = sys.getrefcount(_holder[0])  # of what is in a list, and nowhere else


class Buffers:
    """Gives memory of one shape, again as soon as nobody holds what was in it.

    What a camera holds at once differs by moments: a thread that the system stops at the wrong
    place needs one more. Allocated only then, memory would grow by a picture after minutes or
    hours, and could not be told from a leak. Any thread may ask.
    """

    def __init__(self, count: int) -> None:
        """Of ``count`` arrays, allocated when their shape is known."""
        self._count = count
        self._shape: tuple[int, ...] = ()
        self._wholes: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A uint8 array of ``shape``, its values whatever was there before.

        It is taken back when neither it nor a part of it is referred to any more. Where all
        are held, because somebody keeps them, it is new memory, which is not taken back.
        """
        with self._lock:
            if shape != self._shape:
                # Written to, for the system gives memory only then.
                self._wholes = [np.full(shape, 0, np.uint8) for _ in range(self._count)]
                self._shape = shape
            for place in range(self._count):
                if sys.getrefcount(self._wholes[place]) == _HELD_BY_NONE:
                    return self._wholes[place][:]  # which refers to it
        return np.empty(shape, np.uint8)
