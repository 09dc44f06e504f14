"""The scores that ship fit their networks, and say which score routes."""

import json
from types import SimpleNamespace

import pytest

from mla_edge._content import content_dir
from mla_edge.bundle import LEARNED, ModePolicy, RouterPolicy
from mla_edge.errors import ConfigError
from mla_edge.exporter import shipped_score
from mla_edge.exporter.recipe import load_recipe
from mla_edge.exporter.shipped_score import find_score, tiers_of, write_score
from mla_edge.networks import load_network
from mla_edge.signals import SCORE


@pytest.fixture(scope="module")
def job():
    return SimpleNamespace(network=load_network("commands"), recipe=load_recipe("default"))


def test_the_score_of_commands_is_for_its_weights(job):
    score = find_score(job)
    assert score.is_used
    assert score.modes["mouth+audio"].score == LEARNED
    assert score.modes["audio"].thresholds == ()
    inputs = len(job.network.labels) + 2 + 2 * 64
    assert score.head.inner.shape[0] == inputs


def test_in_digits_confidence_routes():
    job = SimpleNamespace(network=load_network("digits"), recipe=load_recipe("default"))
    assert not find_score(job).is_used


def test_a_score_is_not_for_another_pruning(job):
    other = SimpleNamespace(network=job.network, recipe=load_recipe("fp32"))
    same = other.recipe.tier("full").student == job.recipe.tier("full").student
    assert (find_score(other) is not None) == same


def test_a_score_comes_back_from_its_file(job, tmp_path, monkeypatch):
    score = find_score(job)
    write_score(tmp_path, job, score)
    monkeypatch.setattr(shipped_score, "content_dir", lambda kind: tmp_path)
    assert find_score(job).modes == score.modes
    (tmp_path / "commands-score.json").write_text(json.dumps({"key": 1}))
    assert find_score(job) is None
    (tmp_path / "commands-score.json").write_text("[]")
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
