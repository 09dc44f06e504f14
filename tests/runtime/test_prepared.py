"""What a camera's own thread makes of a picture, while the loop is busy with the one before."""

import threading
import time

import numpy as np
import pytest

import mla_edge
from mla_edge.errors import CaptureEnded
from mla_edge.preprocess import PictureShrinker, Preprocessor
from mla_edge.runtime.bench import Stages, TimedSource
from mla_edge.runtime.capture import Prepares
from mla_edge.runtime.tap import tap
from mla_edge.runtime.vitals import look_at_picture
from mla_edge.signals import Ahead, Frame, InputSpec, Sample

pytest.importorskip("cv2")

from mla_edge.runtime.camera import LiveCamera

SPEC = InputSpec("image", "image", (1, 3, 32, 32))


class Feed:
    """Gives pictures of noise when it is told to, a list of them."""

    def __init__(self, pictures):
        self.pictures = list(pictures)
        self.more = threading.Semaphore(0)

    def grab(self):
        self.more.acquire()
        if not self.pictures:
            raise CaptureEnded("no more")
        return time.monotonic()

    def retrieve(self, spare):
        return self.pictures.pop(0)

    def release(self):
        pass

    def end(self):
        self.pictures.clear()
        for _ in range(9):
            self.more.release()


@pytest.fixture
def feed():
    rng = np.random.default_rng(0)
    feed = Feed(rng.integers(0, 256, (3, 120, 160, 3), np.uint8))
    yield feed
    feed.end()


def prepare(picture):
    planes = np.empty(SPEC.shape[1:], np.uint8)
    PictureShrinker(SPEC)(picture, planes)
    return Ahead(picture, planes, *look_at_picture(picture))


def until(condition):
    end_s = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_a_picture_that_nobody_waits_for_is_prepared(feed):
    bgr = feed.pictures[0].copy()
    made = []
    camera = LiveCamera("test", lambda: feed)
    camera.prepare_by(lambda picture: made.append(prepare(picture)) or made[-1])
    feed.more.release()
    until(lambda: made)
    until(lambda: camera._newest.frame is not None)
    frame = camera.read(1)
    assert frame.ahead is made[0]
    assert frame.ahead.of is frame.image
    assert (frame.image == bgr[:, :, ::-1]).all()
    feed.end()
    camera.close()


def test_a_picture_that_is_waited_for_is_given_at_once_as_it_is(feed):
    made = []
    camera = LiveCamera("test", lambda: feed)
    camera.prepare_by(lambda picture: made.append(prepare(picture)) or made[-1])

    def release_once_it_waits():
        until(lambda: camera._awaited)
        feed.more.release()

    threading.Thread(target=release_once_it_waits).start()
    assert camera.read(5).ahead is None
    feed.more.release()
    until(lambda: made)
    assert len(made) == 1
    feed.end()
    camera.close()


def test_a_reader_does_not_wait_for_what_is_being_prepared(feed):
    begun, go_on = threading.Event(), threading.Event()

    def slowly(picture):
        begun.set()
        assert go_on.wait(5)
        return prepare(picture)

    camera = LiveCamera("test", lambda: feed)
    camera.prepare_by(slowly)
    feed.more.release()
    assert begun.wait(5)
    first = camera.read(0)  # as it is
    assert first.ahead is None
    go_on.set()
    feed.more.release()
    second = camera.read(5)
    assert second.time_s > first.time_s
    assert camera.drops == 0
    feed.end()
    camera.close()


def test_what_was_prepared_is_taken_and_is_the_same_to_the_bit():
    image = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    preprocess = Preprocessor([SPEC])
    wanted = preprocess(Sample({"image": Frame(image, 0.0)}))["image"].copy()
    preprocess(Sample({"image": Frame(np.zeros_like(image), 0.0)}))
    ahead = prepare(image)
    tensor = preprocess(Sample({"image": Frame(image, 0.0, ahead=ahead)}))["image"]
    assert np.array_equal(tensor, wanted)
    marked = Ahead(image, np.full_like(ahead.planes, 7), ahead.sparse, ahead.dark)
    tensor = preprocess(Sample({"image": Frame(image, 0.0, ahead=marked)}))["image"]
    assert (tensor == 7).all()  # so it really was not made again


def test_what_was_made_of_another_picture_or_for_another_input_is_not_taken():
    image = np.full((120, 160, 3), 90, np.uint8)
    other = prepare(np.full((120, 160, 3), 7, np.uint8))
    preprocess = Preprocessor([SPEC])
    tensor = preprocess(Sample({"image": Frame(image, 0.0, ahead=other)}))["image"]
    assert (tensor == 90).all()
    wide = Ahead(image, np.zeros((3, 16, 32), np.uint8), b"", False)
    tensor = preprocess(Sample({"image": Frame(image, 0.0, ahead=wide)}))["image"]
    assert (tensor == 90).all()


class Preparing:
    """A camera that prepares all of its pictures, where it is asked to."""

    drops = 0

    def __init__(self, images):
        self.images = images
        self.prepare = None
        self.asked = []
        self.given = []

    def prepare_by(self, prepare):
        self.prepare = prepare
        self.asked.append(prepare is not None)

    def watch(self, see):
        raise AssertionError("no clip is made here")

    def read(self, timeout_s):
        if len(self.given) == len(self.images):
            raise CaptureEnded("no more")
        image = self.images[len(self.given)].copy()
        ahead = self.prepare(image) if self.prepare is not None else None
        self.given.append(Frame(image, time.monotonic(), ahead=ahead))
        return self.given[-1]

    def close(self):
        pass


@pytest.fixture
def images():
    return np.random.default_rng(2).integers(0, 256, (6, 48, 64, 3), np.uint8)


def decisions(model, camera, **options):
    return [p.probabilities.tolist() for p in mla_edge.run(model, camera, None, **options)]


def test_a_run_has_pictures_prepared_and_decides_the_same(small_bundle, images):
    with mla_edge.load(small_bundle.folder, threads=1) as model:
        camera = Preparing(images)
        prepared = decisions(model, camera)
        assert camera.asked == [True, False]
        assert all(frame.ahead is not None for frame in camera.given)
        assert not camera.given[0].image.flags.writeable  # it would no longer be what was made
        plain = Preparing(images)
        plain.prepare_by = lambda prepare: None
        assert decisions(model, plain) == prepared
        assert len(prepared) == len(images)


def test_on_a_schedule_nothing_is_prepared_that_may_never_be_used(small_bundle, images):
    with mla_edge.load(small_bundle.folder, threads=1) as model:
        camera = Preparing(images)
        decisions(model, camera, rate_hz=50.0, duration_s=0.2)
        assert camera.asked == []
        assert camera.given


def test_who_looks_on_lets_the_camera_prepare(images):
    seen = []
    for wrapped in (
        tap(Preparing(images), lambda frame, source: seen.append(frame)),
        TimedSource(Preparing(images), Stages()),
    ):
        assert isinstance(wrapped, Prepares)
        wrapped.prepare_by(prepare)
        assert wrapped.read(0).ahead is not None
    assert len(seen) == 1
