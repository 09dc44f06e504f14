import itertools

import numpy as np
import pytest

from mla_edge.exporter import knapsack
from mla_edge.exporter.knapsack import Option, choose_widths


def totals(groups, chosen):
    """Cost and loss of a choice."""
    picked = [
        next(option for option in rows if option.width == chosen[name])
        for name, rows in groups.items()
    ]
    return sum(o.cost_ms for o in picked), sum(o.loss for o in picked)


def best_loss(groups, budget_ms):
    """By trying every choice; None where none fits."""
    losses = [
        sum(option.loss for option in picked)
        for picked in itertools.product(*groups.values())
        if sum(option.cost_ms for option in picked) <= budget_ms
    ]
    return min(losses, default=None)


def make(random, count, cost):
    return {
        f"group{number}": [
            Option(width, cost(random), float(random.uniform(0, 5)))
            for width in range(16, 16 * int(random.integers(2, 6)), 16)
        ]
        for number in range(count)
    }


@pytest.mark.parametrize("seed", range(30))
def test_it_is_as_good_as_trying_every_choice(seed):
    random = np.random.default_rng(seed)
    groups = make(random, 5, lambda r: float(r.integers(0, 20)))
    for budget_ms in (0.0, 8.0, 20.0, 40.0, 100.0):
        expected = best_loss(groups, budget_ms)
        chosen = choose_widths(groups, budget_ms)
        assert (chosen is None) == (expected is None)
        if chosen is not None:
            cost_ms, loss = totals(groups, chosen)
            assert cost_ms <= budget_ms
            assert loss == pytest.approx(expected)


@pytest.mark.parametrize("bins", [10_000, 40])
def test_bins_never_break_the_budget_and_lose_no_more_than_one_bin_a_group(monkeypatch, bins):
    monkeypatch.setattr(knapsack, "_BINS", bins)
    for seed in range(20):
        random = np.random.default_rng(seed)
        groups = make(random, 6, lambda r: float(r.uniform(0.001, 0.3)))
        for budget_ms in (0.3, 0.6, 0.9):
            chosen = choose_widths(groups, budget_ms)
            assert (chosen is None) == (best_loss(groups, budget_ms) is None)
            if chosen is None:
                continue
            cost_ms, loss = totals(groups, chosen)
            assert cost_ms <= budget_ms
            spared = 0.0 if bins == 10_000 else budget_ms * len(groups) / bins
            expected = best_loss(groups, budget_ms - spared)
            assert expected is None or loss <= expected + 1e-9


def test_many_groups_take_a_moment():
    random = np.random.default_rng(0)
    groups = {
        f"group{number}": [
            Option(width, width * 1e-3 * random.uniform(0.5, 1.5), (256 - width) ** 2 * 1e-4)
            for width in range(16, 272, 16)
        ]
        for number in range(60)
    }
    chosen = choose_widths(groups, 8.0)
    assert 7.99 < totals(groups, chosen)[0] <= 8.0


def test_a_width_that_loses_and_saves_nothing_is_never_taken():
    groups = {"flat": [Option(64, 1.0, 0.0), Option(32, 1.2, 0.5), Option(16, 1.0, 0.9)]}
    assert choose_widths(groups, 5.0) == {"flat": 64}
    assert choose_widths(groups, 1.0) == {"flat": 64}


def test_the_budget_goes_where_a_millisecond_keeps_most():
    groups = {
        "needed": [Option(64, 2.0, 0.0), Option(32, 1.0, 9.0)],
        "idle": [Option(64, 2.0, 0.0), Option(32, 1.0, 0.1)],
    }
    assert choose_widths(groups, 3.0) == {"needed": 64, "idle": 32}


def test_what_just_fits_is_found():
    groups = {f"g{n}": [Option(16, 0.1, 0.0)] for n in range(7)}
    assert choose_widths(groups, sum([0.1] * 7)) == dict.fromkeys(groups, 16)
    assert choose_widths(groups, 0.69) is None
    assert choose_widths({}, 1.0) == {}


@pytest.mark.parametrize("rows", [[], [Option(16, -1.0, 0.0)], [Option(16, 1.0, float("nan"))]])
def test_nonsense_is_refused(rows):
    with pytest.raises(ValueError, match="broken"):
        choose_widths({"broken": rows}, 1.0)
