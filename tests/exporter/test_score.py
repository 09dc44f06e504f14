"""The learned score: how it is measured, fitted, judged, put into a graph and shipped."""

import json
from contextlib import closing

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mla_edge.bundle import CONFIDENCE, LEARNED
from mla_edge.engines import open_engine
from mla_edge.errors import ExportError
from mla_edge.exporter.operators import check_operators
from mla_edge.exporter.policy import choose_mode, make_policy
from mla_edge.exporter.score import (
    Rows,
    ScoreHead,
    fit_score,
    grid_of,
    judge_score,
    normalised_score,
)
from mla_edge.exporter.score_graph import POOLED, add_pooled, add_score
from mla_edge.signals import PRESENT, SCORE

CLASSES, FEATURES = 4, 3


def made(rng, count, present=(1.0, 1.0)):
    """A mode in which a feature, and no confidence, tells that lite is wrong."""
    labels = rng.integers(CLASSES, size=count)
    spoiled = rng.random(count) < 0.2
    pooled = rng.normal(size=(count, FEATURES)).astype(np.float32)
    pooled[:, 0] += 4 * spoiled
    said = np.where(spoiled, (labels + 1) % CLASSES, labels)
    lite = rng.normal(size=(count, CLASSES)).astype(np.float32) * 0.3
    lite[np.arange(count), said] += rng.uniform(2, 5, count).astype(np.float32)
    full = np.zeros((count, CLASSES), np.float32)
    full[np.arange(count), labels] = 6
    mask = np.tile(np.array(present, np.float32), (count, 1))
    return Rows(mask, pooled, lite, full, labels)


@pytest.fixture(scope="module")
def head():
    return fit_score({"a+b": made(np.random.default_rng(0), 1500)})


def graph(rng, *, bias):
    """Logits from pooled features of a module called norm; two inputs and a mask."""
    weight = rng.normal(size=(2, FEATURES)).astype(np.float32)
    out = rng.normal(size=(FEATURES, CLASSES)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["inner"], "/norm/MatMul"),
        helper.make_node("Tanh", ["inner"], ["features"], "/norm/Tanh"),
        helper.make_node("Gemm", ["features", "out", "bias"], ["plain"], "/head/Gemm"),
        helper.make_node("ReduceSum", ["present", "axes"], ["there"], "/sum", keepdims=1),
        helper.make_node("Mul", ["plain", "there"], ["logits"], "/mul"),
    ]
    arrays = {"weight": weight, "out": out, "bias": bias, "axes": np.array([1], np.int64)}

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [value("x", (1, 2)), value(PRESENT, (1, 2))],
            [value("logits", (1, CLASSES))],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 16)],
        ir_version=8,
    )
    return model.SerializeToString()


def test_the_oracle_scores_one_and_chance_nothing():
    rng = np.random.default_rng(0)
    full, lite = rng.random(4000) < 0.95, rng.random(4000) < 0.8
    assert normalised_score(lite.astype(float) - full, lite, full) == pytest.approx(1)
    assert abs(normalised_score(rng.random(4000), lite, full)) < 0.1
    assert normalised_score(rng.random(4000), full, full) is None


def test_a_head_finds_what_confidence_does_not_see(head):
    other = made(np.random.default_rng(1), 1500)
    judged = judge_score(head, other)
    assert judged.score == LEARNED
    assert judged.learned > 0.8 > 0.3 > judged.confidence
    right = other.lite.argmax(1) == other.labels
    assert head.apply(other).mean() == pytest.approx(1 - right.mean(), abs=0.03)
    assert list(judged.thresholds) == sorted(judged.thresholds, reverse=True)
    assert judged.thresholds[-1] >= 0 and judged.thresholds[0] <= 1


def test_a_score_that_is_not_better_does_not_route(head):
    rng = np.random.default_rng(2)
    other = made(rng, 1500)
    blind = Rows(
        other.present, rng.permutation(other.pooled), other.lite, other.full, other.labels
    )
    judged = judge_score(head, blind)
    assert (judged.score, judged.thresholds) == (CONFIDENCE, ())


def test_of_too_few_spoiled_answers_nothing_is_said(head):
    judged = judge_score(head, made(np.random.default_rng(3), 20))
    assert judged.spoiled < 8
    assert judged.score == CONFIDENCE


def test_the_graph_gives_what_was_fitted(head, tmp_path):
    rng = np.random.default_rng(4)
    plain = graph(rng, bias=rng.normal(size=CLASSES).astype(np.float32))
    path, fits = tmp_path / "scored.onnx", tmp_path / "pooled.onnx"
    path.write_bytes(add_score(plain, head, "norm"))
    fits.write_bytes(add_pooled(plain, "norm"))
    check_operators(path, "8.5")
    with closing(open_engine(path)) as engine, closing(open_engine(fits)) as other:
        for mask in ((1, 1), (1, 0)):
            feed = {
                "x": rng.normal(size=(1, 2)).astype(np.float32),
                PRESENT: np.array([mask], np.float32),
            }
            found, seen = dict(engine.run(feed)), dict(other.run(feed))
            rows = Rows(
                feed[PRESENT], seen[POOLED], seen["logits"], seen["logits"], np.zeros(1)
            )
            assert found[SCORE].shape == (1, 1)
            assert found[SCORE][0, 0] == pytest.approx(head.apply(rows)[0], abs=1e-5)
            assert np.array_equal(found["logits"], seen["logits"])


def test_a_head_of_another_size_is_refused(head):
    plain = graph(np.random.default_rng(5), bias=np.zeros(CLASSES, np.float32))
    with pytest.raises(ExportError, match="the head does not fit the graph"):
        add_score(plain, head, "")  # without the features that it was fitted to


def test_a_head_comes_back_from_its_file(head):
    again = ScoreHead.from_json(json.loads(json.dumps(head.to_json())))
    rows = made(np.random.default_rng(6), 50)
    assert np.allclose(again.apply(rows), head.apply(rows))


def test_the_grid_keeps_evenly_more_and_at_last_all():
    keep = np.random.default_rng(7).random(1000) ** 0.1
    grid = grid_of(keep)
    assert np.mean(keep >= grid[0]) < 0.02
    assert np.mean(keep >= grid[-1]) == 1


def test_a_mode_routes_by_the_score_that_it_is_given():
    rng = np.random.default_rng(8)
    rows = made(rng, 2000)
    logits = {"lite": rows.lite, "full": rows.full}
    safe = np.where(rows.lite.argmax(1) == rows.labels, 0.99, 0.5)
    costs = {"lite": 1.0, "full": 10.0}
    chosen = choose_mode(
        "a", logits, rows.labels, costs, 10.0, safe=safe, thresholds=(0.999, 0.99, 0.5)
    )
    assert chosen.threshold == 0.99
    assert chosen.routed_accuracy == 1.0
    assert make_policy([chosen], costs, "here").modes["a"].score == CONFIDENCE
