"""Notices pictures and sound that no working sensor gives."""

from __future__ import annotations

from collections import deque

import numpy as np

from mla_edge.signals import Clip, Frame, Signal, Sound

FROZEN, REPEATING, BLACK = "frozen", "repeating", "black"
SILENT, CLIPPING = "silent", "clipping"
SUSPECT = {
    FROZEN: "its pictures are the same, bit for bit",
    REPEATING: "it gives the same again and again, bit for bit",
    BLACK: "its pictures are black",
    SILENT: "its sound is nothing but zeros",
    CLIPPING: "its sound is louder than it can say",
}
"""What may be wrong with a sensor that gives, and how that is told."""

PATIENCE_S = 2.0
"""So long it must last: a scene may be dark for a moment, and a word too loud."""

STRIDE = 16  # pixels looked at, across and down
DARK = 6  # of 255; a covered sensor is below it in nearly every pixel, noise included
DARK_SHARE = 0.99
LIMIT = 0.999  # of full scale
LIMIT_SHARE = 0.02  # of the samples; a loud word has fewer
STUCK = {FROZEN, REPEATING}
BUFFERS = 8  # pictures that a driver may give in turn; OpenCV asks V4L2 for 4
REPEATS = 3  # in a window of sound, at least
ANCHOR = 8  # samples in a row that noise hardly ever makes twice
MOST_PLACES = 16  # where they are found, the window is compared as a whole


class Vitals:
    """Looks at the signals of one source; a look takes some microseconds.

    A sensor's noise makes every picture another one, and no sound all zeros: so a picture that
    repeats bit for bit is of a driver that gives its buffers again, as is sound that does, and
    zeros are of a microphone that is muted or gone.
    """

    def __init__(self, *, masks: bool = False) -> None:
        """Nothing seen yet; ``masks`` is whether a finding leaves the source out."""
        self.masks = masks
        self.finding = ""  # of SUSPECT, once it has lasted
        self._kind = ""
        self._since_s = 0.0
        self._before: deque[bytes] = deque(maxlen=BUFFERS)  # different ones, newest last
        self._in_a_row = 0  # how often the newest came, of those that came before

    def look(self, signal: Signal) -> None:
        """Take ``signal`` into account, and settle ``finding``."""
        kind = self._kind_of(signal)
        if kind != self._kind and not {kind, self._kind} <= STUCK:
            self._since_s = signal.time_s
        self._kind = kind
        lasted_s = signal.time_s - self._since_s
        self.finding = kind if kind and lasted_s >= PATIENCE_S else ""

    def _kind_of(self, signal: Signal) -> str:
        if isinstance(signal, Sound):
            return _kind_of_sound((signal.heard or signal).samples)
        if not isinstance(signal, (Frame, Clip)):
            return ""
        key, is_dark = _look_at(signal)
        is_known = key in self._before
        is_same = is_known and key == self._before[-1]
        if not is_same:
            self._before.append(key)
        if is_dark:
            return BLACK
        if not is_known:
            return ""
        if self._kind not in STUCK:
            self._in_a_row = BUFFERS  # the first that comes again may be the one where it froze
        else:
            self._in_a_row = self._in_a_row + 1 if is_same else 1
        return FROZEN if self._in_a_row >= BUFFERS else REPEATING


def look_at_picture(picture: np.ndarray) -> tuple[bytes, bool]:
    """Some pixels of ``picture``, uint8 RGB, and whether nearly all of them are dark."""
    return _look(picture[::STRIDE, ::STRIDE])


def _look_at(signal: Frame | Clip) -> tuple[bytes, bool]:
    if isinstance(signal, Clip):
        return _look(signal.frames[-1, ::4, ::4])  # it is small already
    ahead = signal.ahead
    if ahead is not None and ahead.of is signal.image:
        return ahead.sparse, ahead.dark
    return look_at_picture(signal.image)


def _look(seen: np.ndarray) -> tuple[bytes, bool]:
    return seen.tobytes(), int(np.count_nonzero(seen < DARK)) >= DARK_SHARE * seen.size


def _kind_of_sound(samples: np.ndarray) -> str:
    loudest = max(samples.max(initial=0.0), -samples.min(initial=0.0))
    if loudest == 0.0:
        return SILENT
    if loudest >= LIMIT:
        loud = np.count_nonzero(np.abs(samples) >= LIMIT)
        if loud >= LIMIT_SHARE * samples.size:
            return CLIPPING
    return REPEATING if _repeats(samples) else ""


def _repeats(samples: np.ndarray) -> bool:
    """Whether the window is one stretch of sound over and over, as of a stuck buffer."""
    longest = len(samples) // REPEATS
    if longest <= ANCHOR:
        return False
    # Where the most distinct place of the newest part has been before: of noise, nowhere.
    newest = samples[-longest:]
    jumps = newest[1:] - newest[:-1]
    at = len(samples) - longest + int(np.abs(jumps, out=jumps).argmax())
    lags = 1 + np.flatnonzero(samples[at - longest : at][::-1] == samples[at])
    for back in range(1, ANCHOR):
        lags = lags[samples[at - lags - back] == samples[at - back]]
    return any(np.array_equal(samples[lag:], samples[:-lag]) for lag in lags[:MOST_PLACES])
