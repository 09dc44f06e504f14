from dataclasses import replace

import numpy as np
import pytest
from colours import DULL_RED, INPUTS, MODES, frame, make_bundle, sample, sound

import mla_edge
from mla_edge.bundle import Bundle, ModePolicy, RouterPolicy, Solo
from mla_edge.errors import BundleError
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.auditing import Auditor
from mla_edge.runtime.listening import Alone, Heard
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import ALONE, CascadeRouter
from mla_edge.signals import TensorSpec
from mla_edge.testing import FakeEngine

BOTH = "image+audio"
POLICY = RouterPolicy(
    {
        **{mode: ModePolicy(1.0, 0.8) for mode in MODES},
        BOTH: ModePolicy(1.0, 0.8, solo=Solo("audio", 1.0, 0.9)),
    }
)


class Counting(FakeEngine):
    """Gives the class and margin that it is set to."""

    def __init__(self, names):
        shapes = {spec.name: spec.shape for spec in INPUTS}
        shapes["present"] = (1, len(INPUTS))
        specs = [TensorSpec(name, "float32", shapes[name]) for name in names]
        self.logits = np.zeros((1, 3), np.float32)
        super().__init__(specs, {"logits": self.logits})

    def says(self, label, margin):
        self.logits[:] = 0
        self.logits[0, label] = margin


@pytest.fixture
def asked(tmp_path):
    """A model that asks sound alone first, and its engines."""
    bundle = make_bundle(tmp_path / "b", policy=POLICY)
    names = [*(spec.name for spec in INPUTS), "present"]
    engines = {
        "lite": Counting(names),
        "full": Counting(names),
        "lite.audio": Counting(["audio"]),
    }
    router = CascadeRouter(POLICY, dwell=2)
    auditor = Auditor(1.0, {}, router.retreat)
    model = FusedModel(bundle, engines, router, Preprocessor(INPUTS), auditor=auditor)
    with model:
        yield model, engines


def both():
    return sample(image=frame("red"), audio=sound("green"))


def calls(engines):
    return [len(engine.calls) for engine in engines.values()]


def test_where_sound_is_sure_the_picture_is_not_looked_at(asked):
    model, engines = asked
    engines["lite.audio"].says(1, margin=8)
    made = model.infer(both())
    assert (made.label, made.tier, made.reason, made.mode) == ("green", "lite", ALONE, BOTH)
    assert calls(engines) == [0, 0, 1]
    model.settle()  # the audit looks at both
    assert calls(engines) == [0, 1, 1]
    assert engines["full"].calls[0]["present"].tolist() == [[1, 1]]


def test_who_looks_sees_that_nothing_else_was_looked_at(asked):
    model, engines = asked
    engines["lite.audio"].says(1, margin=8)
    assert model.infer(both()).shown is None
    model.shows = True
    assert model.infer(both()).shown["gate"].tolist() == [[0, 1]]


def test_who_begins_to_look_in_the_middle_of_a_decision_breaks_nothing(asked, monkeypatch):
    model, engines = asked
    engines["lite.audio"].says(1, margin=8)
    route = model._route

    def look(*given):
        found = route(*given)
        model.shows = True  # as the web view's thread does
        return found

    monkeypatch.setattr(model, "_route", look)
    assert model.infer(both()).shown == {}


def test_where_it_is_not_lite_is_asked_with_both(asked):
    model, engines = asked
    engines["lite.audio"].says(1, margin=2)  # 79 %
    engines["lite"].says(0, margin=8)
    made = model.infer(both())
    assert (made.label, made.reason) == ("red", "lite-confident")
    assert calls(engines) == [1, 0, 1]
    seen = engines["lite"].calls[0]
    assert seen["present"].tolist() == [[1, 1]]
    assert seen["image"].any()
    assert seen["audio"].any()


def test_after_an_escalation_nothing_is_asked_alone_until_it_is_over(asked):
    model, engines = asked
    engines["lite.audio"].says(1, margin=2)
    engines["lite"].says(0, margin=0.5)
    assert model.infer(both()).reason == "escalated"
    engines["lite.audio"].says(1, margin=8)
    engines["lite"].says(0, margin=8)
    assert [model.infer(both()).reason for _ in range(3)] == ["dwell", "lite-confident", ALONE]


def test_in_another_mode_nothing_is_asked_alone(asked):
    model, engines = asked
    engines["lite.audio"].says(1, margin=8)
    engines["lite"].says(0, margin=8)
    assert model.infer(sample(audio=sound("green"))).reason == "lite-confident"
    assert calls(engines) == [1, 0, 0]


def test_without_an_engine_for_it_nothing_is_asked_alone(tmp_path):
    """TensorRT has none: engines are built of the tiers."""
    bundle = make_bundle(tmp_path / "b", policy=POLICY)
    names = [*(spec.name for spec in INPUTS), "present"]
    engines = {"lite": Counting(names), "full": Counting(names)}
    engines["lite"].says(0, margin=8)
    with FusedModel(bundle, engines, CascadeRouter(POLICY), Preprocessor(INPUTS)) as model:
        assert model.infer(both()).reason == "lite-confident"


def test_the_policy_is_kept_in_the_bundle_and_a_graph_that_is_missing_is_said(tmp_path):
    bundle = make_bundle(tmp_path / "b", policy=POLICY)
    again = Bundle.read(bundle.folder)
    assert again.policy.modes[BOTH].solo == Solo("audio", 1.0, 0.9)
    assert again.solos == {"lite.audio": "audio"}
    with pytest.raises(BundleError, match="lite.audio"):
        mla_edge.load(bundle.folder)


def test_an_input_that_there_is_not_is_refused(tmp_path):
    wrong = ModePolicy(1.0, 0.8, solo=Solo("smell", 1.0, 0.9))
    bundle = make_bundle(tmp_path / "b", policy=RouterPolicy({BOTH: wrong}))
    with pytest.raises(BundleError, match="smell"):
        Bundle.read(bundle.folder)


def test_what_is_counted_covers_whichever_of_the_two_answers():
    heard = Heard(
        scores=np.array([0.9, 0.7, 0.9, 0.2]),
        lite_right=np.array([True, False, False, True]),
        full_right=np.array([True, True, False, True]),
        differs=np.array([False, True, False, False]),
    )
    assert heard.losing_scores().tolist() == [0, 0.7, 0, 0]
    alone = Alone(
        scores=np.array([0.95, 0.0, 0.95, 0.0]),
        right=np.array([False, True, False, False]),
        differs=np.array([True, False, True, True]),
    )
    heard = replace(heard, alone=alone)
    assert heard.losing_scores().tolist() == [0.95, 0.7, 0, 0]
    kept, lost, differs = heard.above(0.8)
    assert kept.tolist() == [True, False, True, False]
    assert lost.tolist() == [True, False, False, False]
    assert differs.tolist() == [True, False, True, False]


def test_dull_light_is_no_reason_to_look(asked):
    model, engines = asked
    engines["lite.audio"].says(2, margin=8)
    made = model.infer(sample(image=frame(DULL_RED), audio=sound("green")))
    assert made.capture_time_s.keys() == {"image", "audio"}
    assert calls(engines) == [0, 0, 1]
