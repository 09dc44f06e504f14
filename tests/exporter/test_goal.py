import math
from pathlib import Path

import pytest

from mla_edge.errors import ConfigError
from mla_edge.exporter.goal import LatencyGoal, make_goal
from mla_edge.profiles import load_profile

TIERS = ("lite", "full")
HOST = load_profile("host")


def test_no_goal_is_none():
    assert make_goal(None, None, "", TIERS, HOST) is None


def test_a_goal_is_for_the_last_tier_unless_another_is_named():
    assert make_goal(None, 1.5, "", TIERS, HOST).tier == "full"
    assert make_goal(None, 1.5, "lite", TIERS, HOST).tier == "lite"


def test_the_target_follows_from_what_the_whole_takes():
    assert make_goal(None, 1.6, "", TIERS, HOST).target_ms(4.0) == pytest.approx(2.5)
    assert make_goal(2.5, None, "", TIERS, HOST).target_ms(4.0) == 2.5


def test_it_says_what_was_asked_for_and_what_will_be_done():
    goal = LatencyGoal("full", speedup=1.5)
    assert str(goal) == "1.5 times faster"
    assert str(LatencyGoal("full", latency_ms=2.5)) == "2.5 ms"
    assert "distilled" not in " ".join(goal.steps(None))
    assert "both distilled on data" in " ".join(goal.steps(Path("data")))


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ((2.5, 1.5, ""), "are two goals", "one of them"),
        ((0.0, None, ""), "--target-latency-ms 0 is no latency", "more than 0"),
        ((math.nan, None, ""), "is no latency", "more than 0"),
        ((None, 1.0, ""), "--target-speedup 1 is not faster", "more than 1"),
        ((None, math.inf, ""), "is not faster", "more than 1"),
        ((None, 1.5, "ful"), "no such tier", "lite, full"),
        ((None, None, "full"), "how fast", "--target-speedup"),
    ],
)
def test_a_goal_that_is_none_is_refused(given, message, hint):
    with pytest.raises(ConfigError, match=message) as caught:
        make_goal(*given, TIERS, HOST)
    assert hint in caught.value.hint


def test_milliseconds_of_a_board_cannot_be_a_goal_and_its_speedup_can():
    board = load_profile("agx-xavier")
    with pytest.raises(ConfigError, match="no Jetson AGX Xavier takes part") as caught:
        make_goal(2.5, None, "", TIERS, board)
    assert "--target-speedup" in caught.value.hint
    assert make_goal(None, 1.5, "", TIERS, board)
