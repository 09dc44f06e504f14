from pathlib import Path

import numpy as np
import pytest

from mla_edge.exporter.contest import KNAPSACK, UNIFORM, Score, choose, two_sided


def score(wrong, ms=2.0, divergence=0.1, count=200):
    """Of an entrant that is wrong on the samples in ``wrong``."""
    right = np.ones(count, bool)
    right[list(wrong)] = False
    return Score(Path("graph.onnx"), ms, right, divergence, 0.9, {})


@pytest.mark.parametrize(
    ("ours", "other", "kept", "verdict"),
    [
        (score(range(2)), score(range(20)), KNAPSACK, "it helped: +9.00 points on 200"),
        (score(range(20)), score(range(2)), UNIFORM, "it did not help: -9.00 points"),
        (score(range(4)), score(range(6), divergence=0.2), KNAPSACK, "chance: +1.00 points"),
        (score(range(6)), score(range(4), divergence=0.2), KNAPSACK, "chance: -1.00 points"),
        (score([], divergence=0.2), score([], divergence=0.1), UNIFORM, "+0.00 points"),
        (score(range(20), ms=2.0), score([], ms=2.7), KNAPSACK, "it did not help"),
    ],
)
def test_the_better_network_is_kept_and_it_is_said_whether_the_table_helped(
    ours, other, kept, verdict
):
    best, said = choose({KNAPSACK: ours, UNIFORM: other}, 2.5)
    assert best == kept
    assert verdict in said
    assert said.endswith(f"{kept} is kept")


def test_where_no_uniform_network_is_fast_enough_there_is_no_contest():
    best, said = choose({KNAPSACK: score([])}, 2.5)
    assert best == KNAPSACK
    assert "no uniform pruning reaches" in said


@pytest.mark.parametrize(
    ("one", "other", "chance"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (1, 9, 22 / 1024)]
)
def test_the_test_of_pairs_is_exact(one, other, chance):
    assert two_sided(one, other) == pytest.approx(chance)
    assert two_sided(other, one) == pytest.approx(chance)
