"""The certificate, by simulation with known truth: it holds, and each usual mistake does not.

Every deployment draws data that certify, gets a threshold, and is judged by the true risk.
"""

import math

import numpy as np
import pytest

from mla_edge.certify import (
    Monitor,
    betting_p_value,
    binomial_cdf,
    certify_ladder,
    certify_policy,
    certify_threshold,
    fewest_sessions,
    highest_rate,
    last_passing,
    sessions_needed,
    units_needed,
)
from mla_edge.errors import ConfigError

DEPLOYMENTS = 1000
EPSILON, DELTA = 0.05, 0.1
THRESHOLDS = np.linspace(0.98, 0.0, 50)


def slack(delta, deployments=DEPLOYMENTS):
    """The share of violations that chance exceeds in 1 of 1000 tests, if delta is the truth."""
    return delta + 3.1 * math.sqrt(delta * (1 - delta) / deployments)


def true_risk(threshold):
    """Scores are uniform; at score s lite is wrong and full right with chance 0.4 (1 - s)^2."""
    return 0.4 * (1 - np.asarray(threshold)) ** 3 / 3


def losses_by_threshold(rng, units, thresholds=THRESHOLDS, risk=true_risk):
    """What a deployment's data show: the losses of each threshold, careful first."""
    edges = np.concatenate([[1.0], thresholds])
    shares = np.diff(risk(edges))
    shares = np.append(shares, 1 - shares.sum())
    return np.cumsum(rng.multinomial(units, shares, DEPLOYMENTS)[:, :-1], axis=1)


def violations(chosen, thresholds=THRESHOLDS):
    """The share of deployments whose true risk is over epsilon; None is always-full."""
    risks = [0.0 if i is None else float(true_risk(thresholds[i])) for i in chosen]
    return float(np.mean(np.array(risks) > EPSILON))


def p_values(counts, units, epsilon=EPSILON):
    known = {k: binomial_cdf(int(k), units, epsilon) for k in np.unique(counts)}
    return np.vectorize(known.get)(counts)


@pytest.mark.parametrize("units", [100, 300, 1000])
def test_the_certified_threshold_violates_no_more_than_delta(units):
    counts = losses_by_threshold(np.random.default_rng(units), units)
    chosen = [last_passing(row, DELTA) for row in p_values(counts, units)]
    assert violations(chosen) <= slack(DELTA)
    found = [i for i in chosen if i is not None]
    assert len(found) > 0.9 * DEPLOYMENTS  # it is no empty promise
    assert np.mean([true_risk(THRESHOLDS[i]) for i in found]) > 0.2 * EPSILON


def test_the_boldest_threshold_that_looks_good_violates(units=300):
    counts = losses_by_threshold(np.random.default_rng(1), units)
    chosen = [int(np.flatnonzero(row <= EPSILON * units)[-1]) for row in counts]
    assert 0.21 <= violations(chosen) <= 0.55


def test_returning_the_first_that_fails_violates(units=600):
    """As published code does; the steps of its grid decide how much it breaks."""
    coarse = np.array([0.9, 0.6, 0.25])  # true risks 0.0001, 0.009 and 0.056
    passed = p_values(losses_by_threshold(np.random.default_rng(2), units, coarse), units)
    passed = passed <= DELTA
    first_failing = [int(np.argmin(row)) if not row.all() else len(row) - 1 for row in passed]
    assert violations(first_failing, coarse) > 0.3
    last = [last_passing(1.0 - row, DELTA) for row in passed]
    assert violations(last, coarse) <= slack(DELTA)


def test_frames_taken_for_units_violate(scenes=100, frames=30):
    counts = losses_by_threshold(np.random.default_rng(3), scenes) * frames
    wrong = [last_passing(row, DELTA) for row in p_values(counts, scenes * frames)]
    assert violations(wrong) > 0.3
    right = [last_passing(row, DELTA) for row in p_values(counts // frames, scenes)]
    assert violations(right) <= slack(DELTA)


def test_looking_again_while_the_data_grows_violates(looks=20, more=20):
    """Of a threshold whose risk is epsilon: it passes at last, so its units are known again."""
    units = 100 + more * np.arange(looks)
    lost = np.random.default_rng(6).random((DEPLOYMENTS, units[-1])) < EPSILON
    counts = lost.cumsum(axis=1)[:, units - 1]
    most = [
        max(k for k in range(-1, 40) if binomial_cdf(k, n, EPSILON) <= DELTA) for n in units
    ]
    passed = counts <= most
    assert passed[:, 0].mean() <= slack(DELTA)
    assert passed.any(axis=1).mean() > 2 * DELTA


def test_risk_control_in_the_mean_is_no_certificate(units=300):
    """Conformal risk control: the boldest with (k + 1) / (n + 1) <= epsilon."""
    counts = losses_by_threshold(np.random.default_rng(4), units)
    allowed = (counts + 1) / (units + 1) <= EPSILON
    chosen = [int(np.flatnonzero(row)[-1]) if row.any() else None for row in allowed]
    assert 0.16 <= violations(chosen) <= 0.5
    risks = [0.0 if i is None else float(true_risk(THRESHOLDS[i])) for i in chosen]
    assert np.mean(risks) <= EPSILON  # what it does promise


def test_a_certificate_of_the_float_network_is_none_of_the_int8_one(units=1000, flips=0.03):
    """INT8 flips some answers that were kept and right: the risk is another one."""

    def int8_risk(threshold):
        return true_risk(threshold) + flips * (1 - np.asarray(threshold))

    def violated(risk):
        counts = losses_by_threshold(np.random.default_rng(5), units, risk=risk)
        chosen = [last_passing(row, DELTA) for row in p_values(counts, units)]
        risks = [int8_risk(THRESHOLDS[i]) for i in chosen if i is not None]
        return np.mean(np.array(risks) > EPSILON)

    assert violated(true_risk) > 0.3
    assert violated(int8_risk) <= slack(DELTA)  # certified as it is deployed


def test_rungs_that_do_not_share_the_budget_violate_together(units=400):
    """The risks of the thresholds are just above each epsilon."""
    epsilons = (0.01, 0.03, 0.06, 0.1)
    grid = np.array([1 - (3 * 1.02 * epsilon / 0.4) ** (1 / 3) for epsilon in epsilons])
    counts = losses_by_threshold(np.random.default_rng(13), units, grid)

    def broken(delta):
        """How often any rung is above its epsilon."""
        any_over = np.zeros(DEPLOYMENTS, bool)
        for epsilon in epsilons:
            passed = p_values(counts, units, epsilon)
            chosen = [last_passing(row, delta) for row in passed]
            any_over |= [i is not None and true_risk(grid[i]) > epsilon for i in chosen]
        return float(any_over.mean())

    assert broken(DELTA) > slack(DELTA)
    assert broken(DELTA / len(epsilons)) <= slack(DELTA)


def test_all_rungs_of_a_ladder_hold_together(units=400, deployments=400):
    rng = np.random.default_rng(6)
    epsilons = (0.02, 0.05, 0.08)
    broken = 0
    for _ in range(deployments):
        scores = rng.random(units)
        regrets = rng.random(units) < 0.4 * (1 - scores) ** 2
        rungs = certify_ladder(scores, regrets, THRESHOLDS, epsilons=epsilons, delta=DELTA)
        at = [math.inf if rung.threshold is None else rung.threshold for rung in rungs]
        assert at == sorted(at, reverse=True)  # bolder rungs are cheaper
        over = [t < math.inf and true_risk(t) > e for t, e in zip(at, epsilons)]
        broken += any(over)
    assert broken / deployments <= slack(DELTA, deployments)


def test_the_highest_rate_that_so_few_do_not_speak_against():
    assert highest_rate(0, 299, 0.05) == pytest.approx(1 - 0.05 ** (1 / 299), abs=1e-8)
    assert highest_rate(3, 100, 0.05) == pytest.approx(0.075714, abs=1e-5)  # of R's binom.test
    assert [highest_rate(k, n, 0.05) for k, n in ((0, 0), (5, 5))] == [1.0, 1.0]


def test_what_audits_are_watched_against_holds_though_the_threshold_was_chosen(
    units=400, deployments=300
):
    """The same units chose the threshold; that half of the differences are losses, too."""
    rng = np.random.default_rng(12)
    broken = 0
    for _ in range(deployments):
        scores = rng.random(units)
        differs = rng.random(units) < 0.4 * (1 - scores) ** 2
        regrets = differs & (rng.random(units) < 0.5)
        found = certify_threshold(scores, regrets, THRESHOLDS, epsilon=0.02, delta=DELTA)
        if found.threshold is not None:
            keeps = scores >= found.threshold
            bound = highest_rate(int((differs & keeps).sum()), int(keeps.sum()), DELTA)
            broken += 0.4 * (1 - found.threshold) ** 2 / 3 > bound
    assert broken / deployments <= slack(DELTA, deployments)


def test_whole_sessions_of_a_policy_with_a_memory_hold(sessions=200, ticks=50, deployments=400):
    """Sessions differ and their moments cling together; the chain's means rise over epsilon."""
    rng = np.random.default_rng(7)
    means = np.linspace(0.012, 0.092, 9)
    chosen, looks_good, counts = [], [], []
    for _ in range(deployments):
        shares = np.stack([rng.beta(mean * 4, (1 - mean) * 4, sessions) for mean in means])
        losses = np.round(shares * ticks) / ticks
        chosen.append(certify_policy(losses, epsilon=EPSILON, delta=DELTA))
        looks_good.append(int(np.flatnonzero(losses.mean(1) <= EPSILON)[-1]))
        counts.append(np.round(losses.sum(1) * ticks).astype(int))
    passed = p_values(np.array(counts), sessions * ticks)
    by_ticks = [last_passing(row, DELTA) for row in passed]

    def over(found):
        return np.mean([i is not None and means[i] > EPSILON for i in found])

    assert over(chosen) <= slack(DELTA, deployments)
    assert sum(i is not None for i in chosen) > 0.9 * deployments
    assert over(looks_good) > 0.3
    assert over(by_ticks) > 0.15  # 10,000 ticks that prove no more than 200 sessions


def test_the_p_value_of_sessions_is_one_under_the_null(deployments=1000, sessions=60):
    rng = np.random.default_rng(8)
    found = [
        betting_p_value((rng.random(sessions) < EPSILON).astype(float), EPSILON, DELTA)
        for _ in range(deployments)
    ]
    assert np.mean(np.array(found) <= DELTA) <= slack(DELTA, deployments)
    assert betting_p_value(np.zeros(300), EPSILON, DELTA) < 1e-3
    assert betting_p_value(np.ones(300), EPSILON, DELTA) == 1.0


def test_the_binomial_sum_is_exact():
    assert binomial_cdf(0, 299, 0.01) == pytest.approx(0.99**299, rel=1e-12)
    assert binomial_cdf(3, 10, 0.5) == pytest.approx(176 / 1024, rel=1e-12)
    assert binomial_cdf(9, 10, 0.3) == pytest.approx(1 - 0.3**10, rel=1e-12)
    assert [binomial_cdf(k, 5, 0.2) for k in (-1, 5, 7)] == [0.0, 1.0, 1.0]
    assert binomial_cdf(20_000, 1_000_000, 0.02) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("epsilon", "regret", "units"),
    [(0.01, 0.0, 299), (0.01, 0.0025, 773), (0.01, 0.005, 1941), (0.02, 0.005, 386)],
)
def test_how_many_units_a_certificate_needs(epsilon, regret, units):
    """Near the figures that a simulation of the betting test gave: 303, 785, 1964, 386."""
    assert units_needed(epsilon, 0.05, regret=regret) == units
    rng = np.random.default_rng(9)
    losses = rng.binomial(units, regret, 4000)
    passed = np.mean(p_value_of(losses, units, epsilon) <= 0.05)
    assert passed >= 0.8 - 0.02


def p_value_of(losses, units, epsilon):
    known = {k: binomial_cdf(int(k), units, epsilon) for k in np.unique(losses)}
    return np.vectorize(known.get)(losses)


def test_how_many_sessions_a_certificate_needs():
    fewest = fewest_sessions(0.05, 0.1)
    assert betting_p_value(np.zeros(fewest), 0.05, 0.1) <= 0.1
    assert betting_p_value(np.zeros(fewest - 1), 0.05, 0.1) > 0.1
    assert fewest_sessions(0.01, 0.05) == 305  # a simulation of the design says 303
    needed = sessions_needed(0.05, 0.1)
    assert fewest < needed < 2 * fewest
    rng = np.random.default_rng(14)
    losses = np.minimum(rng.exponential(0.0125, (500, needed)), 1)
    passed = np.mean([betting_p_value(row, 0.05, 0.1) <= 0.1 for row in losses])
    assert passed == pytest.approx(0.8, abs=0.07)
    as_wholes = np.repeat([0.0, 1.0], [79, 1])  # a session is lost as a whole, or not at all
    assert sessions_needed(0.05, 0.1, like=as_wholes) > 3 * needed
    assert sessions_needed(0.05, 0.1, like=np.full(3, 0.06)) == 64 * fewest  # none is


def test_too_few_units_certify_nothing():
    found = certify_threshold(
        np.ones(50), np.zeros(50, bool), THRESHOLDS, epsilon=0.01, delta=0.05
    )
    assert found.threshold is None
    assert (found.units, found.losses) == (50, 0)
    assert found.p_value == pytest.approx(0.99**50)


def test_a_loss_counts_only_where_lite_is_kept():
    scores = np.concatenate([np.full(290, 0.9), np.full(10, 0.2)])
    regrets = scores < 0.5
    found = certify_threshold(scores, regrets, (0.8, 0.5, 0.1), epsilon=0.02, delta=0.05)
    assert (found.threshold, found.losses) == (0.5, 0)


@pytest.mark.parametrize(
    ("p", "expected"),
    [([], None), ([0.2, 0.01], None), ([0.01, 0.2, 0.01], 0), ([0.01, 0.01], 1)],
)
def test_the_first_that_fails_ends_it(p, expected):
    assert last_passing(p, 0.05) == expected


def test_a_monitor_is_quiet_while_the_certificate_holds(rate=0.05, alpha=0.05, runs=400):
    rng = np.random.default_rng(10)
    alarms = 0
    for _ in range(runs):
        monitor = Monitor(rate, alpha=alpha)
        for disagrees in rng.random(400) < rate:
            monitor.add(bool(disagrees))
        alarms += monitor.alarmed
    assert alarms / runs <= slack(alpha, runs)


def test_a_monitor_alarms_when_the_world_changes_and_stays_so():
    rng = np.random.default_rng(11)
    delays = []
    for _ in range(50):
        monitor = Monitor(0.05, alpha=0.01)
        for disagrees in rng.random(200) < 0.04:
            monitor.add(bool(disagrees))
        before = monitor.audits
        while not monitor.add(bool(rng.random() < 0.3)):
            assert monitor.audits < 2000
        delays.append(monitor.audits - before)
        assert monitor.add(False)
        assert monitor.disagreements > 0
    assert np.median(delays) < 80


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0"),
        ({"delta": 1.0}, "delta is 1"),
        ({"thresholds": ()}, "not in order"),
        ({"thresholds": (0.1, 0.9)}, "not in order"),
        ({"scores": np.ones(3)}, r"scores are \[3\]"),
        ({"scores": np.array([1.0, np.nan])}, "a score is NaN"),
    ],
)
def test_what_cannot_be_certified_is_refused(how, message):
    whole = {
        "scores": np.ones(2),
        "regrets": np.zeros(2, bool),
        "thresholds": (0.9, 0.1),
        "epsilon": 0.1,
        "delta": 0.1,
        **how,
    }
    scores, regrets, thresholds = (
        whole.pop(name) for name in ("scores", "regrets", "thresholds")
    )
    with pytest.raises(ConfigError, match=message):
        certify_threshold(scores, regrets, thresholds, **whole)


@pytest.mark.parametrize("losses", [np.array([]), np.array([0.5, 1.2]), np.zeros((2, 2))])
def test_losses_that_are_none_are_refused(losses):
    with pytest.raises(ConfigError):
        betting_p_value(losses, 0.05, 0.05)
    with pytest.raises(ConfigError):
        certify_policy(losses[None] if losses.ndim < 2 else losses[0], epsilon=0.1, delta=0.1)


def test_no_number_of_units_certifies_a_regret_of_epsilon():
    with pytest.raises(ConfigError, match="cannot be certified at epsilon 0.01"):
        units_needed(0.01, 0.05, regret=0.01)
    with pytest.raises(ConfigError, match="rate 0, alpha"):
        Monitor(0.0)
