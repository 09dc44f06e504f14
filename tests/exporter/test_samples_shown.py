"""Which samples a report shows."""

import numpy as np
import pytest

from mla_edge.exporter.samples_shown import DIFFERS, MOVED, USUAL, choose, probabilities


def sure(answers, confidence):
    """Probabilities of four classes, [samples, 4]."""
    rows = np.full((len(answers), 4), (1 - np.asarray(confidence)[:, None]) / 3)
    rows[np.arange(len(answers)), answers] = confidence
    return rows


def test_other_answers_come_first_then_what_moved_then_the_usual():
    count = 100
    labels = np.arange(count) % 4
    before = sure(labels, np.full(count, 0.9))
    confidence = np.full(count, 0.9)
    confidence[:50] -= np.linspace(0.05, 0, 50)
    confidence[[60, 61]] = 0.5
    answers = labels.copy()
    answers[[10, 20, 30, 40, 50]] += 1
    after = sure(answers % 4, confidence)
    chosen = choose(before, after, labels, labels >= 0)

    assert [why for _, why in chosen] == [DIFFERS] * 4 + [MOVED] * 2 + [USUAL] * 2
    assert {i for i, _ in chosen[:4]} < {10, 20, 30, 40, 50}
    assert {i for i, _ in chosen[4:6]} == {60, 61}
    assert len({i for i, _ in chosen}) == 8


def test_usual_ones_are_of_many_classes_and_of_those_preferred():
    labels = np.repeat([0, 1, 2, 3], 50)
    before = after = sure(labels, np.full(200, 0.9))
    preferred = np.arange(200) % 2 == 1
    usual = [i for i, why in choose(before, after, labels, preferred) if why == USUAL]
    assert len(usual) == 6
    assert all(preferred[i] for i in usual)
    assert len(set(labels[usual])) > 1
    none = choose(before, after, labels, np.zeros(200, bool))
    assert len(none) == 8


@pytest.mark.parametrize("count", [1, 3, 9, 32])
def test_few_samples_are_shown_once_each(count):
    labels = np.arange(count) % 4
    rows = sure(labels, np.linspace(0.5, 0.9, count))
    chosen = [i for i, _ in choose(rows, rows, labels, labels > 9)]
    assert len(chosen) == len(set(chosen)) <= 8
    assert len(chosen) >= min(count, 2)


def test_probabilities_add_up_and_do_not_overflow():
    found = probabilities(np.array([[1000.0, 999.0], [-1000.0, 0.0]], np.float32))
    assert found.sum(1) == pytest.approx([1, 1])
    assert found[0, 0] == pytest.approx(0.7311, abs=1e-4)
