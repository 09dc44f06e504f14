"""The scores that ship fit their networks, and say which score routes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mla_edge._content import content_dir
from mla_edge.bundle import LEARNED, ModePolicy, RouterPolicy
from mla_edge.errors import ConfigError
from mla_edge.exporter import shipped_score
from mla_edge.exporter.goal import LatencyGoal
from mla_edge.exporter.recipe import load_recipe
from mla_edge.exporter.shipped_score import attach_score, find_score, tiers_of, write_score
from mla_edge.exporter.steps import Steps
from mla_edge.networks import load_network
from mla_edge.signals import SCORE


@pytest.fixture(scope="module")
def job():
    return make_job("commands", "default")


def make_job(network, recipe, goal=None):
    network = load_network(network) if isinstance(network, str) else network
    return SimpleNamespace(network=network, recipe=load_recipe(recipe), goal=goal)


def test_the_score_of_commands_is_for_its_weights(job):
    score = find_score(job)
    assert score.is_used
    assert score.modes["mouth+audio"].score == LEARNED
    assert score.modes["audio"].thresholds == ()
    inputs = len(job.network.labels) + 2 + 2 * 64
    assert score.head.inner.shape[0] == inputs


def test_in_digits_confidence_routes():
    assert not find_score(make_job("digits", "default")).is_used


@pytest.fixture
def notes(job):
    """Gives what the step says of a job with changes, where no score is attached."""

    def of(**changes):
        said = []
        changed = SimpleNamespace(**{**vars(job), **changes}, steps=Steps(said.append))
        results = [SimpleNamespace(name=name, shares=None) for name in ("lite", "full")]
        assert attach_score(changed, results) == (results, None)
        assert find_score(changed) is None
        return [(event.step, event.tier, event.note) for event in said if event.note]

    return of


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"sparsity": "2:4"}, "the score that ships knows no {tier} with 2:4 sparsity"),
        ({"widths": {"a": 16}}, "is for other weights, or for another recipe of a tier"),
        ({"prune": 0.5}, "is for other weights, or for another recipe of a tier"),
    ],
    ids=["sparsity", "widths", "prune"],
)
@pytest.mark.parametrize("tier", ["lite", "full"])
def test_a_score_is_not_for_tiers_that_are_made_otherwise(job, notes, tier, how, why):
    made = replace(job.recipe.tier(tier), **how)
    (note,) = notes(recipe=replace(job.recipe, tiers={**job.recipe.tiers, tier: made}))
    assert note[:2] == ("score", "lite")
    assert note[2].startswith("none: ")
    assert why.format(tier=tier) in note[2]


@pytest.mark.parametrize("tier", ["lite", "full"])
def test_a_score_is_not_for_tiers_with_a_goal(notes, tier):
    (note,) = notes(goal=LatencyGoal(tier, speedup=1.5))
    assert (
        note[2] == f"none: the goal gives {tier} other widths than the score that ships knows"
    )


def test_a_score_that_would_not_route_is_not_missed():
    said = []
    job = make_job("digits", "default", LatencyGoal("full", speedup=1.5))
    job.steps = Steps(said.append)
    assert attach_score(job, [SimpleNamespace(name="lite", shares=None)])[1] is None
    assert said == []


def test_a_score_is_not_for_a_tier_whose_share_was_rolled_back(job):
    said = []
    undone = {"rolled_back": [{"what": "15% of the inner channels"}]}
    results = [
        SimpleNamespace(name=name, shares=shares)
        for name, shares in (("lite", None), ("full", undone))
    ]
    asked = SimpleNamespace(**vars(job), steps=Steps(said.append))
    assert find_score(asked).is_used
    assert attach_score(asked, results) == (results, None)
    assert said[-1].note == "none: a share of full was rolled back, so it has other widths"


def test_a_score_comes_back_from_its_file(job, tmp_path, monkeypatch):
    score = find_score(job)
    write_score(tmp_path, job, score)
    monkeypatch.setattr(shipped_score, "content_dir", lambda kind: tmp_path)
    assert find_score(job).modes == score.modes
    path = tmp_path / "commands-score.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "another"}))
    assert find_score(job) is None
    path.write_text("[]")
    with pytest.raises(ConfigError, match="not a file of a learned score"):
        find_score(job)
    assert content_dir("calibration") != tmp_path


def test_only_a_policy_that_takes_the_score_lists_it(job):
    by = {
        name: RouterPolicy({"a": ModePolicy(1.0, 0.9, name)})
        for name in ("confidence", LEARNED)
    }
    assert SCORE not in tiers_of(job.network, by["confidence"])[0].outputs
    assert tiers_of(job.network, by[LEARNED])[0].outputs == ("logits", SCORE)
