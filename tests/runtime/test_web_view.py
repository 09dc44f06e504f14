"""What a view knows of a run, and the picture of a sound."""

import json
from dataclasses import replace

import numpy as np
import pytest
from colours import INPUTS, frame, sample, sound
from web_client import until

import mla_edge
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.reloading import ReloadingModel
from mla_edge.runtime.routing import CascadeRouter
from mla_edge.runtime.sense import Fault
from mla_edge.runtime.web.events import Events, Place
from mla_edge.runtime.web.spectrogram import BANDS, COLUMNS, spectrogram
from mla_edge.runtime.web.view import FAULTS, ROWS, View
from mla_edge.signals import Frame, Prediction, TensorSpec
from mla_edge.testing import FakeClock, FakeEngine

TAKES = (
    *(TensorSpec(spec.name, "float32", spec.shape) for spec in INPUTS),
    TensorSpec("present", "float32", (1, 2)),
)


def decision(number=0, mode="image+audio", tier="lite", **changes):
    times = dict.fromkeys(mode.split("+"), float(number))
    return Prediction(
        "red", 0.9, tier, "lite-confident", mode, times, number + 0.02, 5.0, 20.0, **changes
    )


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def view(small_bundle, clock):
    with mla_edge.load(small_bundle.folder) as model:
        yield View(model, clock=clock)


def test_a_modality_is_off_waits_is_used_fails_and_is_back(view):
    def image():
        return view.states()["image"]

    assert image() == ("off", "", False)
    view.watch("camera", object())
    assert image() == ("waiting", "", False)
    view.add(decision())
    assert image() == ("ok", "", True)
    view.add_fault(Fault("image", "lost", 1.0, "the cable is out"))
    assert image() == ("lost", "the cable is out", False)
    view.add_fault(Fault("image", "back", 2.0))
    view.add(decision(2))
    assert image() == ("ok", "", True)
    view.add_fault(Fault("image", "frozen", 3.0, "the same", masked=False))
    assert image() == ("frozen", "the same", True)
    assert view.fault_counts == {("image", "lost"): 1, ("image", "frozen"): 1}


def test_what_is_kept_does_not_grow(view):
    for number in range(ROWS + 10):
        view.add(decision(number / 100))
    assert [row.number for row in view.rows(0)] == list(range(10, ROWS + 10))
    assert [row.number for row in view.rows(ROWS + 8)] == [ROWS + 8, ROWS + 9]
    assert view.rows(view.decisions) == []
    assert view.rate_hz() == pytest.approx(100)
    for number in range(FAULTS + 5):
        view.add_fault(Fault("image", "stale", number))
    assert [told.number for told in view.faults] == list(range(5, FAULTS + 5))


def test_a_row_that_is_overwritten_while_they_are_read_comes_once_and_in_order(small_bundle):
    told, view = [], None

    def clock():  # asked between a row and its being counted
        if view is not None:
            told.extend(view.rows(told[-1].number + 1 if told else 0))
        return 0.0

    with mla_edge.load(small_bundle.folder) as model:
        made = View(model, clock=clock)
        for number in range(ROWS):
            made.add(decision(number / 100))
        view = made
        for number in range(ROWS, ROWS + 3):
            made.add(decision(number / 100))
    numbers = [row.number for row in told]
    assert numbers == sorted(set(numbers))
    assert numbers == list(range(1, ROWS + 2))


def test_a_slow_rate_is_no_stall(small_bundle, clock):
    with mla_edge.load(small_bundle.folder) as model:
        views = View(model, clock=clock), View(model, rate_hz=0.1, clock=clock)
    for view in views:
        view.add(decision())
    clock.sleep(20)
    assert [view.health().ok for view in views] == [False, True]
    clock.sleep(20)
    assert views[1].health().reason.startswith("no decision for 40.0 s")


def test_however_many_look_a_decision_is_packed_once_a_period(view, clock, monkeypatch):
    packed = []
    monkeypatch.setattr(
        "mla_edge.runtime.web.events._picture", lambda *_: packed.append(1) or None
    )
    events = Events(view, clock)
    for number in range(50):
        view.add(decision(number / 50))
        for _ in range(4):
            events.tick(Place())
        clock.sleep(0.02)
    assert 9 <= len(packed) <= 13


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_a_picture_that_is_none_is_left_out(view, image):
    class Source:
        drops = 0

        def read(self, timeout_s):
            return Frame(image, 0.0)

    view.watch("camera", Source()).read(0.0)
    view.add(decision())
    text, _ = Events(view).tick(Place())
    assert '"picture": null' in text


def test_a_model_says_what_its_graph_shows_while_somebody_looks(small_bundle):
    given = {
        "logits": np.array([[9, 0, 0]], np.float32),
        "gate": np.array([[0.75, 0.25]], np.float32),
        "attention.image": np.full((1, 2, 2), 0.25, np.float32),
        "other": np.zeros((1, 3), np.float32),
    }
    engines = {tier.name: FakeEngine(TAKES, given) for tier in small_bundle.tiers}
    from mla_edge.preprocess import Preprocessor

    model = FusedModel(
        small_bundle, engines, CascadeRouter(small_bundle.policy), Preprocessor(INPUTS)
    )
    seen = sample(image=frame("red"), audio=sound("red"))
    assert model.infer(seen).shown is None
    view = View(model)
    view.look(True)
    prediction = model.infer(seen)
    assert set(prediction.shown) == {"gate", "attention.image"}
    given["gate"][:] = 0  # as an engine that runs again does
    assert prediction.shown["gate"].tolist() == [[0.75, 0.25]]

    class Camera:
        drops = 0

        def read(self, timeout_s):
            return frame("red")

    view.watch("camera", Camera()).read(0.0)
    view.add(prediction)
    text, _ = Events(view).tick(Place())
    assert '"gate": {"image": 0.75, "audio": 0.25}' in text
    assert '"attention": {"shape": [2, 2], "values": [1.0, 1.0, 1.0, 1.0]}' in text
    view.look(False)
    assert model.infer(seen).shown is None


@pytest.fixture
def other(small_bundle):
    """Makes a model of the same inputs that tells so many other things."""
    from mla_edge.preprocess import Preprocessor

    def make(count):
        labels = tuple(f"other {number}" for number in range(count))
        bundle = replace(small_bundle, name=f"other-{count}", labels=labels)
        logits = np.arange(count, dtype=np.float32)[None] * 9
        engines = {t.name: FakeEngine(TAKES, {"logits": logits}) for t in bundle.tiers}
        router = CascadeRouter(bundle.policy)
        return FusedModel(
            bundle, engines, router, Preprocessor(INPUTS), runs_on=f"{count} fakes"
        )

    return make


def test_after_a_reload_it_says_what_decides_now(other):
    from mla_edge.runtime.web.metrics import Metrics  # needs the Prometheus client

    few, many = other(3), other(7)
    models = [few, many]
    seen = sample(image=frame("red"), audio=sound("red"))
    with ReloadingModel(lambda: models.pop(0), lambda error: None) as model:
        view = View(model)
        events, metrics = Events(view, FakeClock()), Metrics(view)
        hello, place = events.hello(Place())
        assert json.loads(hello)["labels"] == list(few.bundle.labels)
        view.add(model.infer(seen))
        _, place = events.tick(place)
        assert events.hello(place) == ("", place)
        model.reload()
        until(lambda: model.infer(seen).label == "other 6")
        # The newest decision that the view knows is one of the old model.
        text, _ = Events(view).tick(Place())
        assert json.loads(text)["decision"]["best"][0][0] == "other 2"
        view.add(model.infer(seen))
        hello, place = events.hello(place)
        assert json.loads(hello)["bundle"] == "other-7"
        assert json.loads(hello)["labels"] == list(many.bundle.labels)
        assert json.loads(hello)["runs_on"] == "7 fakes"
        text, _ = Events(view).tick(place)
        assert json.loads(text)["decision"]["best"][0][0] == "other 6"
        assert len(json.loads(text)["rows"]) == 2  # from the beginning: a page forgets
        assert b'mla_edge_info{bundle="other-7",runs_on="7 fakes"' in metrics.render()


def test_a_tone_is_a_line_at_its_pitch():
    time_s = np.arange(8000) / 8000
    levels = spectrogram(np.sin(2 * np.pi * 1000 * time_s).astype(np.float32), 8000)
    assert levels.dtype == np.uint8
    assert levels.shape[0] == BANDS
    assert COLUMNS <= levels.shape[1] <= COLUMNS + 4
    mel = [2595 * np.log10(1 + hz / 700) for hz in (60, 1000, 4000)]
    expected = BANDS - 1 - BANDS * (mel[1] - mel[0]) / (mel[2] - mel[0])
    assert np.abs(levels.argmax(0) - expected).max() <= 1.5
    assert levels.max() >= 254
    assert np.median(levels) < 30


@pytest.mark.parametrize(
    ("count", "rate_hz"), [(8000, 8000), (10240, 16000), (100, 800), (7, 48000)]
)
def test_any_window_has_a_spectrogram_and_silence_is_black(count, rate_hz):
    levels = spectrogram(np.zeros(count, np.float32), rate_hz)
    assert levels.shape[0] == BANDS
    assert levels.shape[1] >= 1
    assert not levels.any()
