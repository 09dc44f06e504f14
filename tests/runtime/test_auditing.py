from dataclasses import replace

import numpy as np
import pytest
from colours import DULL_RED, INPUTS, frame, make_bundle, sample, sound

import mla_edge
from mla_edge.bundle import ModePolicy, RouterPolicy
from mla_edge.certificate import Rung
from mla_edge.errors import ConfigError
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.auditing import Auditor
from mla_edge.runtime.change import Memory
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import ALARM, UNCHANGED, CascadeRouter
from mla_edge.signals import TensorSpec
from mla_edge.testing import FakeEngine

CAREFUL, BOLD = (
    Rung(epsilon, threshold, losses=1, p_value=0.01, kept=0.5, differ_rate=rate)
    for epsilon, threshold, rate in ((0.005, 0.97, 0.01), (0.01, 0.9, 0.02))
)


def listened(rungs=(CAREFUL, BOLD), rate=1.0):
    retreats, alarms = [], []
    auditor = Auditor(rate, {"image": rungs}, lambda mode, at: retreats.append((mode, at)))
    auditor.on_alarm = alarms.append
    return auditor, retreats, alarms


def audit(auditor, rate, count, seed=0):
    rng = np.random.default_rng(seed)
    for disagrees in rng.random(count) < rate:
        auditor.add("image", bool(disagrees))


def test_what_was_certified_raises_no_alarm():
    for seed in range(20):
        auditor, retreats, alarms = listened()
        audit(auditor, BOLD.differ_rate, 2000, seed)
        assert (retreats, alarms) == ([], [])


def test_an_alarm_goes_down_the_ladder_and_says_so():
    auditor, retreats, alarms = listened()
    audit(auditor, 0.2, 200)
    assert retreats == [("image", CAREFUL.threshold), ("image", None)]
    assert [alarm.epsilon for alarm in alarms] == [CAREFUL.epsilon, None]
    assert "it goes on with the thresholds of epsilon 0.005" in str(alarms[0])
    assert "the full tier answers from now on" in str(alarms[1])
    told = auditor.to_dict()["image"]
    assert (told["audits"], told["monitored"]) == (200, True)
    assert told["alarm"] == str(alarms[1])


def test_without_a_certificate_audits_are_counted_and_no_more():
    auditor, retreats, _ = listened(rungs=())
    audit(auditor, 0.5, 500)
    assert retreats == []
    assert auditor.to_dict()["image"]["monitored"] is False
    assert auditor.counts()["image"][0] == 500


def test_so_many_are_drawn():
    auditor, _, _ = listened(rate=0.1)
    assert 0.08 < np.mean([auditor.draws(2.0 * tick) for tick in range(5000)]) < 0.12


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(rate, small_bundle):
    with pytest.raises(ConfigError, match="audit_rate is"):
        mla_edge.load(small_bundle.folder, audit_rate=rate)


def test_no_two_are_of_one_second():
    auditor, _, _ = listened(rate=1.0)
    drawn = [tick / 30 for tick in range(300) if auditor.draws(tick / 30)]
    assert len(drawn) == 10
    assert min(np.diff(drawn)) >= 0.999


def engine(label):
    """Says the colour ``label`` of three, whatever it sees."""
    logits = np.full((1, 3), -4.0, np.float32)
    logits[0, label] = 4.0
    specs = [TensorSpec(spec.name, "float32", spec.shape) for spec in INPUTS]
    specs.append(TensorSpec("present", "float32", (1, len(INPUTS))))
    return FakeEngine(specs, {"logits": logits})


@pytest.fixture
def audited(tmp_path):
    """A model whose tiers disagree always, audited at every decision."""
    policy = RouterPolicy({"image": ModePolicy(1.0, 0.5)}, {}, "")
    bundle = make_bundle(tmp_path / "b", policy=policy)
    engines = {"lite": engine(0), "full": engine(1)}
    router = CascadeRouter(policy)
    auditor = Auditor(1.0, {"image": [replace(BOLD, threshold=0.5)]}, router.retreat)
    with FusedModel(
        bundle, engines, router, Preprocessor(INPUTS), auditor=auditor, certified={"image": "a"}
    ) as model:
        yield model, engines


def test_an_audit_is_done_after_the_decision_was_given(audited):
    model, engines = audited
    first = model.infer(sample(image=frame("red", 1.0)))
    assert (first.tier, len(engines["full"].calls)) == ("lite", 0)
    model.settle()
    assert len(engines["full"].calls) == 1
    assert model.auditor.counts() == {"image": (1, 1)}
    model.settle()
    model.infer(sample(image=frame("red", 1.5)))  # too soon for another
    model.infer(sample(image=frame("red", 2.5)))
    model.infer(sample(image=frame("red", 3.0)))  # does the audit that nobody gave time
    assert model.auditor.counts() == {"image": (2, 2)}


def test_after_an_alarm_full_answers_and_each_decision_says_why(audited):
    model, engines = audited
    made = []
    for second in range(0, 80, 2):
        made.append(model.infer(sample(image=frame("red", second))))
        model.settle()
    assert (made[0].reason, made[0].degraded, made[0].certificate) == (
        "lite-confident",
        (),
        "a",
    )
    last = made[-1]
    assert (last.tier, last.reason, last.degraded) == ("full", ALARM, (ALARM,))
    for each in made:  # what an alarm was raised of is not certified any more
        assert each.certificate == (None if ALARM in each.degraded else "a")
    lite = len(engines["lite"].calls)
    model.infer(sample(image=frame("red")))
    assert len(engines["lite"].calls) == lite


def test_audits_of_reused_decisions_are_counted_and_raise_no_alarm(audited):
    """No certificate of a mode covers them, so it cannot be doubted by them."""
    model, engines = audited
    model._memory = Memory(1e6)
    made = []
    for second in range(0, 80, 2):
        made.append(model.infer(sample(image=frame("red", second))))
        model.settle()
    assert [each.reason for each in made] == ["lite-confident", *[UNCHANGED] * 39]
    assert len(engines["full"].calls) == 40
    assert model.auditor.counts() == {"image": (40, 40)}
    assert not model.auditor.alarms


def test_after_an_alarm_nothing_is_covered_by_what_was_certified_of_sessions(tmp_path):
    policy = RouterPolicy({mode: ModePolicy(1.0, 0.5) for mode in ("image", "audio")}, {}, "")
    bundle = make_bundle(tmp_path / "b", policy=policy)
    router = CascadeRouter(policy)
    auditor = Auditor(1.0, {"image": [CAREFUL, replace(BOLD, threshold=0.5)]}, router.retreat)
    engines = {"lite": engine(0), "full": engine(1)}
    certified = {"certified": {"image": "a"}, "certified_sessions": "a"}
    prepare = Preprocessor(INPUTS)
    with FusedModel(bundle, engines, router, prepare, auditor=auditor, **certified) as model:

        def covers():
            shown = (sample(image=frame("red", 1.0)), sample(audio=sound("red", 1.0)))
            return [model.infer(each).certificate for each in shown]

        assert covers() == ["a", "a"]
        while not auditor.alarms:
            auditor.add("image", True)
        assert auditor.alarms["image"].epsilon == CAREFUL.epsilon  # it is on a rung still
        assert covers() == [None, None]


def test_what_nothing_has_changed_of_is_not_inferred_again_until_it_is_old(small_bundle):
    with mla_edge.load(small_bundle.folder, reuse_ms=100, audit_rate=1.0) as model:
        first = model.infer(sample(image=frame("blue", 1.0)), clock=lambda: 1.01)
        model.settle()
        again = model.infer(sample(image=frame("blue", 1.05)), clock=lambda: 1.06)
        model.settle()
        red = model.infer(sample(image=frame("red", 1.08)), clock=lambda: 1.09)
        late = model.infer(sample(image=frame("red", 1.2)), clock=lambda: 1.21)
    assert (first.reason, first.reused_ms) == ("lite-confident", 0)
    assert (again.label, again.reason, again.tier) == ("blue", UNCHANGED, "lite")
    assert again.reused_ms == pytest.approx(50)
    assert again.age_ms == pytest.approx(10)
    assert again.capture_time_s == {"image": 1.05}
    assert (red.label, red.reason, late.reason) == ("red", "lite-confident", "lite-confident")
    assert model.auditor.counts() == {"image": (1, 0)}


def test_an_unsure_decision_is_made_anew(small_bundle):
    with mla_edge.load(small_bundle.folder, reuse_ms=100) as model:
        for time_s in (1.0, 1.05):
            made = model.infer(
                sample(image=frame(DULL_RED, time_s), audio=sound("green", time_s)),
                clock=lambda: 1.06,
            )
    assert made.reason != UNCHANGED or made.confidence >= 0.9
