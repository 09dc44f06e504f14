import inspect

import numpy as np
import pytest

from mla_edge.bundle import LEARNED, ModePolicy, RouterPolicy
from mla_edge.certify import THRESHOLDS
from mla_edge.runtime.listening import Listener
from mla_edge.runtime.routing import (
    ALARM,
    DWELL,
    ESCALATED,
    LITE_SKIPPED,
    CascadeRouter,
    Router,
    softmax,
)

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
    for name in ("skip", "judge", "reset"):
        ours = inspect.signature(getattr(CascadeRouter, name))
        assert ours == inspect.signature(getattr(Router, name))


def judge(router, confidence, mode="image"):
    """What becomes of a tick at which lite is so sure: skipped, kept, or why it is not."""
    skipped = router.skip(mode)
    if skipped is not None:
        return skipped
    logit = np.log(confidence / (1 - confidence))
    verdict = router.judge(mode, np.array([logit, 0.0], np.float32))
    return "kept" if verdict.keep else verdict.why


def steady(dwell=2, threshold=0.8):
    return CascadeRouter(RouterPolicy({"image": ModePolicy(1.0, threshold)}), dwell=dwell)


def test_it_goes_to_full_at_once_and_comes_back_slowly():
    router = steady()
    ticks = [0.85, 0.7, 0.95, 0.95, 0.81]
    assert [judge(router, c) for c in ticks] == ["kept", ESCALATED, DWELL, "kept", "kept"]


def test_barely_sure_ticks_come_back_more_slowly():
    router = steady()
    assert judge(router, 0.7) == ESCALATED
    assert [judge(router, 0.81) for _ in range(6)] == [DWELL] * 5 + ["kept"]


def test_an_unsure_tick_begins_the_wait_anew():
    router = steady()
    ticks = [0.7, 0.95, 0.7, 0.95, 0.95]
    assert [judge(router, c) for c in ticks] == [ESCALATED, DWELL, ESCALATED, DWELL, "kept"]


def test_lite_that_is_never_sure_is_skipped_and_tried_again():
    router = steady()
    seen = [judge(router, 0.6) for _ in range(18)]
    assert seen == [ESCALATED] * 6 + ([LITE_SKIPPED] * 5 + [ESCALATED]) * 2
    assert [judge(router, 0.99) for _ in range(7)] == [LITE_SKIPPED] * 5 + [DWELL, "kept"]


def test_a_flicker_around_the_threshold_changes_the_tier_less_often():
    rng = np.random.default_rng(0)
    ticks = np.clip(0.8 + 0.05 * rng.standard_normal(500), 0.55, 0.98)
    changes = {}
    for dwell in (0, 2):
        router = steady(dwell)
        kept = [judge(router, float(c)) == "kept" for c in ticks]
        changes[dwell] = sum(a != b for a, b in zip(kept, kept[1:]))
    assert changes[2] < changes[0] / 3


def test_a_memory_only_asks_full_more_often():
    """So what is certified of the threshold holds for the policy that has a memory."""
    rng = np.random.default_rng(1)
    router = steady()
    for confidence in rng.uniform(0.5, 1, 2000):
        assert judge(router, float(confidence)) != "kept" or confidence >= 0.8


def test_without_a_dwell_each_moment_is_judged_by_itself():
    router = steady(dwell=0)
    assert [judge(router, 0.6) for _ in range(20)] == [ESCALATED] * 20
    assert judge(router, 0.81) == "kept"


def test_forgetting():
    router = steady()
    judge(router, 0.6)
    router.reset()
    assert judge(router, 0.81) == "kept"


def test_retreating_to_a_more_careful_rung_and_from_the_last():
    router = steady()
    router.retreat("image", 0.9)
    assert judge(router, 0.85) == ESCALATED
    router.retreat("image", None)
    assert judge(router, 0.99) == ALARM


def test_a_certification_listens_to_the_score_that_routes():
    policy = RouterPolicy(
        {"image": ModePolicy(1.0, 0.9, LEARNED, (0.9, 0.5)), "audio": ModePolicy(1.0, 0.9)}
    )
    listener = Listener(policy)
    listener.judge("image", np.zeros(2, np.float32), np.array([[0.25]], np.float32))
    assert listener.score == 0.75
    assert listener.thresholds("image") == (0.9, 0.5)
    assert listener.thresholds("audio") == THRESHOLDS
