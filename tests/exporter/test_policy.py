import numpy as np
import pytest

from mla_edge.certify import binomial_cdf
from mla_edge.exporter.policy import (
    ALWAYS,
    NEVER,
    choose_mode,
    choose_threshold,
    confidence,
    fit_temperature,
    make_policy,
    route,
    samples_needed,
)

COSTS = {"lite": 1.0, "full": 10.0}


def cascade(random, count, *, lite_skill=2.0, full_skill=6.0, classes=5):
    """Logits of two tiers on the same scenes, and the labels; lite is right less often."""
    labels = random.integers(0, classes, count)
    hard = random.uniform(0.2, 1.0, (count, 1))
    truth = np.eye(classes)[labels]

    def answers(skill):
        return truth * skill * 2 * hard + random.normal(0, 1, (count, classes))

    return {"lite": answers(lite_skill), "full": answers(full_skill)}, labels


def test_the_temperature_that_made_the_labels_is_found():
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20000, 4))
    odds = np.exp(logits / 2.5)
    chances = odds / odds.sum(1, keepdims=True)
    labels = (chances.cumsum(1) < random.random((20000, 1))).sum(1)
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)


def test_the_binomial_is_exact():
    assert binomial_cdf(0, 10, 0.1) == pytest.approx(0.9**10)
    assert binomial_cdf(2, 3, 0.5) == pytest.approx(7 / 8)
    assert binomial_cdf(3, 3, 0.5) == pytest.approx(1.0)


def test_the_binomial_of_many_trials_does_not_overflow():
    assert binomial_cdf(300, 2000, 0.15) == pytest.approx(0.5154, abs=1e-3)
    assert binomial_cdf(300, 2000, 0.01) == pytest.approx(1.0)
    assert binomial_cdf(0, 2000, 0.01) == pytest.approx(0.99**2000)


def test_too_few_samples_allow_no_threshold():
    needed = samples_needed(0.01)
    assert binomial_cdf(0, needed, 0.01) <= 0.1 < binomial_cdf(0, needed - 1, 0.01)
    logits, labels = cascade(np.random.default_rng(0), needed - 1, lite_skill=50)
    threshold, why = choose_threshold(logits, labels, 1.0, 0.01)
    assert threshold == NEVER
    assert str(needed) in why


def test_a_good_lite_is_kept_and_a_bad_one_is_not():
    random = np.random.default_rng(0)
    good, labels = cascade(random, 1000, lite_skill=8, full_skill=8)
    kept = choose_mode("image", good, labels, COSTS, 10.0)
    assert kept.kept > 0.5
    assert kept.cost_ms < 6
    assert kept.routed_accuracy >= kept.tier_accuracy["full"] - 0.01
    bad = {**good, "lite": random.normal(0, 9, good["lite"].shape)}
    never = choose_mode("image", bad, labels, COSTS, 10.0)
    assert never.threshold == NEVER
    assert never.kept == 0.0
    assert never.cost_ms == 10.0


def test_easy_samples_make_no_bold_threshold():
    """Lite is right and sure in all of them, so asking for nearly as much costs nothing."""
    labels = np.arange(400) % 4
    logits = np.eye(4)[labels] * 8.0
    threshold, why = choose_threshold({"lite": logits, "full": logits}, labels, 1.0, 0.01)
    assert why == "no threshold spoils too many answers"
    assert 0.99 < threshold < confidence(logits, 1.0).min()


def test_a_lite_that_costs_more_than_it_saves_is_not_used():
    logits, labels = cascade(np.random.default_rng(1), 1000, lite_skill=4, full_skill=6)
    cheap = choose_mode("image", logits, labels, COSTS, 10.0)
    dear = choose_mode("image", logits, labels, {"lite": 9.5, "full": 10.0}, 10.0)
    assert 0 < cheap.kept < 0.95
    assert dear.threshold == NEVER
    assert "does not pay" in dear.why
    assert dear.break_even == pytest.approx(0.95)


def test_a_last_tier_that_goes_on_from_lite_makes_any_kept_answer_pay():
    logits, labels = cascade(np.random.default_rng(1), 1000, lite_skill=4, full_skill=6)
    chained = choose_mode("image", logits, labels, {"lite": 9.5, "full": 10.0}, 19.5)
    assert chained.break_even == 0.0
    assert chained.threshold <= 1.0
    assert chained.cost_ms < 19.5


def test_one_tier_always_answers():
    logits, labels = cascade(np.random.default_rng(2), 50)
    only = choose_mode("audio", {"only": logits["full"]}, labels, {"only": 3.0}, 3.0)
    assert only.threshold == ALWAYS
    assert only.cost_ms == 3.0
    assert only.kept == 0.0


def test_routing_follows_the_threshold_over_three_tiers():
    sure, unsure = np.array([9.0, 0.0]), np.array([0.1, 0.0])
    logits = {
        "a": np.stack([sure, unsure, unsure]),
        "b": np.stack([sure, sure, unsure]),
        "c": np.stack([sure, sure, sure]),
    }
    assert route(logits, 1.0, 0.9).tolist() == [0, 1, 2]
    assert route(logits, 1.0, NEVER).tolist() == [2, 2, 2]
    assert confidence(np.array([[1000.0, 0.0]]), 1.0).tolist() == [1.0]


def test_over_many_deployments_the_loss_is_seldom_above_what_was_promised():
    """Choosing the boldest threshold whose *measured* loss is within the limit fails this."""
    random = np.random.default_rng(0)
    broken = naive_broken = 0
    trials = 150
    future, truth = cascade(random, 40000, lite_skill=2.5)

    def loss(threshold):
        chosen = route(future, 1.0, threshold)
        right = np.stack([rows.argmax(1) == truth for rows in future.values()])
        routed = right[chosen, np.arange(len(truth))]
        return float((~routed & right[1]).mean())

    losses = {}
    for _ in range(trials):
        logits, labels = cascade(random, 500, lite_skill=2.5)
        threshold, _ = choose_threshold(logits, labels, 1.0, 0.01)
        naive = naive_threshold(logits, labels)
        for value in (threshold, naive):
            losses.setdefault(value, loss(value))
        broken += losses[threshold] > 0.01
        naive_broken += losses[naive] > 0.01
    assert broken / trials <= 0.1
    assert naive_broken / trials > 0.2


def naive_threshold(logits, labels):
    right = np.stack([rows.argmax(1) == labels for rows in logits.values()])
    for threshold in np.linspace(0.3, 1.0, 71):
        chosen = route(logits, 1.0, threshold)
        if (~right[chosen, np.arange(len(labels))] & right[1]).mean() <= 0.01:
            return threshold
    return NEVER


def test_the_policy_carries_every_mode():
    logits, labels = cascade(np.random.default_rng(3), 600)
    found = [
        choose_mode(mode, logits, labels, COSTS, 10.0) for mode in ("image+audio", "image")
    ]
    policy = make_policy(found, COSTS, "here")
    assert set(policy.modes) == {"image+audio", "image"}
    assert policy.modes["image"].temperature == found[1].temperature
    assert policy.cost_ms == COSTS
