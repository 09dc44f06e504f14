import json

import numpy as np
import pytest
from colours import DULL_RED, FULL, LITE, frame, make_bundle, sample
from typer.testing import CliRunner

import mla_edge
from mla_edge.cli import app
from mla_edge.engines import open_engine
from mla_edge.errors import ConfigError
from mla_edge.runtime.deadline import Deadline, Slowdown, measure_usual
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import DEADLINE, CascadeRouter
from mla_edge.signals import Sample
from mla_edge.testing import FakeClock


def test_the_filter_settles_on_a_steady_slowdown_and_grows_sure_of_it():
    slowdown = Slowdown()
    rng = np.random.default_rng(0)
    for _ in range(200):
        slowdown.observe(1.5 + 0.02 * rng.normal())
    assert slowdown.mean == pytest.approx(1.5, abs=0.03)
    assert slowdown.deviation < 0.08


def test_the_filter_follows_a_clock_that_is_throttled_within_a_few_runs():
    slowdown = Slowdown()
    rng = np.random.default_rng(1)
    for _ in range(100):
        slowdown.observe(1 + 0.02 * rng.normal())
    for _ in range(5):
        slowdown.observe(3 + 0.02 * rng.normal())
    assert slowdown.mean == pytest.approx(3, rel=0.1)
    for _ in range(30):
        slowdown.observe(1 + 0.02 * rng.normal())
    assert slowdown.mean == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("noise", [0.01, 0.1])
def test_what_is_expected_is_hardly_ever_exceeded(noise):
    slowdown, exceeded = Slowdown(), 0
    rng = np.random.default_rng(2)
    for number in range(2000):
        ratio = 1 + noise * abs(rng.normal()) + (number > 1000)
        exceeded += ratio > slowdown.mean + 3 * slowdown.deviation
        slowdown.observe(ratio)
    assert exceeded <= 40  # 2 %


def test_a_tier_is_allowed_while_it_is_ready_in_time():
    deadline = Deadline(50, {"lite": 2.0, "full": 20.0})
    for _ in range(20):
        deadline.observe("lite", 2.0)
    assert deadline.allows("full", captured_s=10.0, now_s=10.020)
    assert not deadline.allows("full", captured_s=10.0, now_s=10.032)
    for _ in range(5):
        deadline.observe("lite", 6.0)  # and so is full three times slower, though it never ran
    assert not deadline.allows("full", captured_s=10.0, now_s=10.0)


@pytest.mark.parametrize("deadline_ms", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_is_a_time(deadline_ms, small_bundle):
    with pytest.raises(ConfigError, match="deadline_ms is"):
        Deadline(deadline_ms, {})
    with pytest.raises(ConfigError, match="deadline_ms is"):
        mla_edge.load(small_bundle.folder, deadline_ms=deadline_ms)


CLOCK = FakeClock(100.0)


def infer(model, moment):
    return model.infer(moment, clock=CLOCK)


class Slow:
    """An engine that takes so much longer while it is told to."""

    def __init__(self, engine, usual_s, clock):
        self._engine, self.extra_s, self._usual_s = engine, 0.0, usual_s
        self._clock = clock
        self.inputs, self.outputs, self.close = engine.inputs, engine.outputs, engine.close
        self.runs = 0

    def run(self, inputs):
        self.runs += 1
        self._clock.sleep(self._usual_s + self.extra_s)
        return self._engine.run(inputs)


@pytest.fixture
def slow(small_bundle):
    """A model whose full tier takes 20 ms, lite 2 ms; certified, to see where that ends."""
    from mla_edge.preprocess import Preprocessor

    paths = {tier.name: small_bundle.graph(tier.name, cpu=True) for tier in (LITE, FULL)}
    engines = {
        name: Slow(open_engine(path, threads=1), usual_s, CLOCK)
        for (name, path), usual_s in zip(paths.items(), (0.002, 0.020))
    }
    with FusedModel(
        small_bundle,
        engines,
        CascadeRouter(small_bundle.policy),
        Preprocessor(small_bundle.inputs),
        certified={"image": "abc"},
        deadline=Deadline(60, measure_usual(engines, CLOCK)),
    ) as model:
        yield model, engines


def unsure():
    """What lite leaves to full, captured now."""
    return Sample({"image": frame(DULL_RED, time_s=CLOCK())})


def test_full_that_would_be_late_is_not_run_and_runs_again_when_it_is_fast(slow):
    model, engines = slow
    assert [infer(model, unsure()).tier for _ in range(5)] == ["full"] * 5
    for name, engine in engines.items():
        engine.extra_s = 3 * (0.002, 0.020)[name == "full"]  # throttled to a quarter
    throttled = [infer(model, unsure()) for _ in range(12)]
    runs = engines["full"].runs
    late = [p for p in throttled if p.age_ms > 60]
    assert len(late) <= 1  # what nobody could foresee
    assert {p.tier for p in throttled[2:]} == {"lite"}
    assert {p.reason for p in throttled[2:]} == {DEADLINE}
    assert {p.certificate for p in throttled[2:]} == {None}
    assert infer(model, unsure()).tier == "lite"
    assert engines["full"].runs == runs  # really not run
    for engine in engines.values():
        engine.extra_s = 0.0
    again = [infer(model, unsure()) for _ in range(15)]
    assert again[-1].tier == "full"
    assert again[-1].certificate == "abc"


def test_a_clock_that_jumps_while_it_decides_is_forgotten_soon(slow):
    model, engines = slow
    for _ in range(5):
        infer(model, unsure())
    engines["full"].extra_s = 3600.0
    infer(model, unsure())
    engines["full"].extra_s = 0.0
    tiers = [infer(model, unsure()).tier for _ in range(60)]
    assert "full" in tiers[:45]  # a second and a half of a camera
    assert tiers[-10:] == ["full"] * 10


def test_where_lite_would_be_skipped_it_answers_in_time(slow, monkeypatch):
    model, _ = slow
    monkeypatch.setattr(model._router, "skip", lambda mode: "full-only")
    assert infer(model, unsure()).reason == "full-only"
    old = Sample({"image": frame(DULL_RED, time_s=CLOCK() - 0.055)})
    prediction = infer(model, old)
    assert (prediction.tier, prediction.reason) == ("lite", DEADLINE)


def test_without_a_deadline_nothing_is_timed(small_bundle):
    with mla_edge.load(small_bundle.folder) as model:
        assert model.deadline is None
        assert model.infer(sample(image=frame(DULL_RED))).tier == "full"


def test_the_command_says_what_the_deadline_cost(here):
    words = ["run", "--camera", "sim://digits", "--mic", "none", "--duration", "0.5", "--json"]
    result = CliRunner().invoke(app, [*words, "--deadline-ms", "0.01"])
    summary = json.loads(result.stdout.splitlines()[-1])["summary"]
    assert summary["deadline"]["ms"] == 0.01
    assert summary["deadline"]["missed"]["share"] == 1.0  # nothing decides in 10 µs
    assert "full takes" in result.stderr
    without = CliRunner().invoke(app, words)
    assert json.loads(without.stdout.splitlines()[-1])["summary"]["deadline"] is None


def test_people_read_it_too(tmp_path, monkeypatch):
    make_bundle(tmp_path / "bundles" / "colours-host")
    monkeypatch.chdir(tmp_path)
    words = ["run", "--camera", "sim://digits", "--mic", "none", "--duration", "0.5"]
    result = CliRunner().invoke(app, [*words, "--deadline-ms", "1000"])
    assert "deadline    1000 ms: 0.0% late, 0.0% by lite for it" in result.stdout
