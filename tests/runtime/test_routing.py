import inspect

import numpy as np
import pytest

from mla_edge.bundle import LEARNED, ModePolicy, RouterPolicy
from mla_edge.certify import THRESHOLDS
from mla_edge.runtime.certification import Listener
from mla_edge.runtime.routing import CascadeRouter, Router, softmax

POLICY = RouterPolicy(
    {"image": ModePolicy(2.0, 0.6), "audio": ModePolicy(1.0, 1.01)}, cost_ms={}, measured_on=""
)


def test_the_temperature_makes_lite_less_sure():
    router = CascadeRouter(POLICY)
    verdict = router.judge("image", np.array([1.0, 0.0], np.float32))
    assert verdict.probabilities[0] == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert verdict.keep
    assert not router.judge("image", np.array([0.7, 0.0], np.float32)).keep


def test_a_confidence_at_the_threshold_is_kept():
    policy = RouterPolicy({"image": ModePolicy(1.0, 0.5)}, {}, "")
    assert CascadeRouter(policy).judge("image", np.zeros(2, np.float32)).keep


def test_a_learned_score_takes_the_place_of_the_confidence_where_the_policy_says_so():
    sure, unsure = np.array([9.0, 0.0], np.float32), np.array([0.1, 0.0], np.float32)
    policy = RouterPolicy(
        {"image": ModePolicy(1.0, 0.95, LEARNED), "audio": ModePolicy(1.0, 0.95)}
    )
    router = CascadeRouter(policy)
    safe, spoiled = np.array([[0.04]], np.float32), np.array([[0.06]], np.float32)
    assert router.judge("image", unsure, safe).keep
    assert not router.judge("image", sure, spoiled).keep
    assert not router.judge("image", sure, np.array([[np.nan]], np.float32)).keep
    assert router.judge("audio", sure, spoiled).keep  # by confidence, whatever the graph gives


@pytest.mark.parametrize(
    ("mode", "why"), [("image", None), ("audio", "full-only"), ("smell", "unknown-mode")]
)
def test_skipping_lite(mode, why):
    assert CascadeRouter(POLICY).skip(mode) == why


def test_softmax_takes_any_logits():
    assert softmax(np.array([1e4, 0, -1e4], np.float32)).tolist() == [1, 0, 0]


def test_the_cascade_is_a_router():
    for name in ("skip", "judge"):
        ours = inspect.signature(getattr(CascadeRouter, name))
        assert ours == inspect.signature(getattr(Router, name))


def test_a_certification_listens_to_the_score_that_routes():
    policy = RouterPolicy(
        {"image": ModePolicy(1.0, 0.9, LEARNED, (0.9, 0.5)), "audio": ModePolicy(1.0, 0.9)}
    )
    listener = Listener(policy)
    listener.judge("image", np.zeros(2, np.float32), np.array([[0.25]], np.float32))
    assert (listener.score, listener.confidence) == (0.75, 0.5)
    assert listener.thresholds("image") == (0.9, 0.5)
    assert listener.thresholds("audio") == THRESHOLDS
