"""Memory that is used again as soon as nobody holds what was in it, and not before."""

import random
import threading
import time

import numpy as np
import pytest

from mla_edge.runtime.buffers import Buffers
from mla_edge.signals import Ahead

SHAPE = (4, 6, 3)


def at(array):
    return array.__array_interface__["data"][0]


def test_what_is_let_go_is_given_again():
    buffers = Buffers(1)
    first = buffers.take(SHAPE)
    place = at(first)
    assert first.shape == SHAPE
    assert first.dtype == np.uint8
    del first
    assert at(buffers.take(SHAPE)) == place


@pytest.mark.parametrize(
    "keep", [lambda a: a, lambda a: a[1:], lambda a: a[1:].T[0], memoryview], ids=range(4)
)
def test_what_somebody_holds_is_given_to_nobody_else(keep):
    buffers = Buffers(2)
    kept = keep(buffers.take(SHAPE))
    before = bytes(np.ascontiguousarray(kept))
    for value in range(1, 9):
        buffers.take(SHAPE).fill(value)
    assert bytes(np.ascontiguousarray(kept)) == before


def test_beyond_them_memory_is_new_and_not_kept():
    buffers = Buffers(2)
    held = [buffers.take(SHAPE) for _ in range(5)]
    assert len({at(array) for array in held}) == 5
    assert [array.base is None for array in held] == [False, False, True, True, True]
    pooled = {at(array) for array in held[:2]}
    held.clear()
    assert {at(buffers.take(SHAPE)) for _ in range(9)} <= pooled


def test_another_shape_has_memory_of_its_own():
    buffers = Buffers(1)
    held = buffers.take(SHAPE)
    held.fill(7)
    buffers.take((2, 2)).fill(1)
    assert (held == 7).all()
    assert buffers.take(SHAPE).shape == SHAPE


def test_threads_never_get_the_same():
    buffers = Buffers(3)
    wrong = []

    def work(value):
        for _ in range(2000):
            mine = buffers.take(SHAPE)
            mine.fill(value)
            time.sleep(0)
            if (mine != value).any():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_camera_needs_no_more_than_it_has_whoever_is_held_up():
    """The loop holds the last frame until it has the next one."""
    pytest.importorskip("cv2")
    from mla_edge.errors import CaptureEnded, CaptureTimeout
    from mla_edge.runtime.camera import LiveCamera

    draw = random.Random(0)

    def held_up():
        time.sleep(draw.choice((0, 0, 0, 1e-3, 4e-3)))

    class Feed:
        given, spared = 0, 0

        def grab(self):
            held_up()
            if self.given == 300:
                raise CaptureEnded("no more")
            self.given += 1
            return time.monotonic()

        def retrieve(self, spare):
            self.spared += spare is not None and spare.base is not None
            picture = np.empty((6, 8, 3), np.uint8) if spare is None else spare
            picture.fill(self.given % 251)
            held_up()
            return picture

        def release(self):
            pass

    def prepare(picture):
        held_up()
        return Ahead(picture, np.zeros((3, 1, 1), np.uint8), b"", False)

    feed = Feed()
    camera = LiveCamera("test", lambda: feed)
    camera.prepare_by(prepare)
    last, value, read, beyond = None, None, 0, 0
    while True:
        try:
            frame = camera.read(1.0)
        except CaptureEnded:
            break
        except CaptureTimeout:
            continue
        read += 1
        beyond += frame.image.base is None
        assert last is None or last.image[0, 0, 0] == value
        assert len(np.unique(frame.image)) == 1
        last, value = frame, frame.image[0, 0, 0]
        held_up()
        assert (last.image == value).all()
    camera.close()
    assert read > 50
    assert beyond == 0
    assert feed.spared == feed.given - 1
