import dataclasses
from pathlib import Path

import pytest

from mla_edge._content import content_dir, names
from mla_edge.errors import ConfigError
from mla_edge.exporter.recipe import (
    DistillationRecipe,
    QatRecipe,
    Recipe,
    TierRecipe,
    check_tiers,
    choose_precision,
    load_recipe,
)
from mla_edge.profiles import load_profile


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text('title = "mine"\nprecision = "int8"\ncalibration = "default"\n' + text)
    return str(path)


@pytest.mark.parametrize("name", names("export"))
def test_every_recipe_that_ships_loads(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.calibration in names("calibration")


def test_a_tier_that_is_not_named_is_not_pruned(tmp_path):
    recipe = load_recipe(
        write(tmp_path, "[tiers.full]\nprune = 0.25\nkeep_float = ['/head/*']\n")
    )
    assert recipe.tier("full").prune == 0.25
    assert recipe.tier("full").keep_float == ("/head/*",)
    assert recipe.tier("lite").prune == recipe.tier("lite").prune_heads == 0.0
    assert recipe.tier("full").shares == "25% of channels"
    assert recipe.tier("lite").shares == ""


def test_the_residual_streams_have_a_share_of_their_own(tmp_path):
    text = "[tiers.full]\nprune_heads = 0.1\nprune_residual = 0.5\n"
    tier = load_recipe(write(tmp_path, text)).tier("full")
    assert tier.prune_residual == 0.5
    assert tier.shares == "10% of heads, 50% of the residual streams"


def test_a_section_keeps_what_it_does_not_say(tmp_path):
    recipe = load_recipe(write(tmp_path, "[qat]\nwhen = 'always'\nlearning_rate = 1\n"))
    assert recipe.qat == QatRecipe(when="always", learning_rate=1.0)
    assert recipe.distillation == DistillationRecipe()
    assert load_recipe("default").qat == QatRecipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prun = 1\n", "prun"),
        ("[tiers.full]\nprunes = 0.5\n", "prunes"),
        ("[distillation]\nstep = 5\n", "step"),
        ("[tiers.full]\nprune = 1.5\n", "prune is 1.5"),
        ("[tiers.full]\nprune = 'half'\n", "must be a number"),
        ("[tiers.full]\nprune = true\n", "must be a number"),
        ("[tiers.full]\nkeep_float = [1]\n", "'keep_float' must be a list of strings"),
        ("[tiers.full]\nkeep_float = 'head'\n", "'keep_float' must be list"),
        ("[distillation]\nsteps = 0\n", "steps is 0"),
        ("[distillation]\nbatch = -1\n", "batch is -1"),
        ("[distillation]\nsamples = 0\n", "samples is 0"),
        ("[distillation]\nlearning_rate = 0.0\n", "learning_rate is 0"),
        ("[distillation]\nlearning_rate = nan\n", "learning_rate is nan"),
        ("[distillation]\ntime_limit_s = -2\n", "time_limit_s is -2"),
        ("[distillation]\nwhen = 'always'\n", "unknown when"),
        ("[qat]\nstep = 5\n", "step"),
        ("[qat]\nsteps = 0\n", "steps is 0"),
        ("[qat]\nlearning_rate = inf\n", "learning_rate is inf"),
        ("[qat]\nwhen = 'sometimes'\n", "when is 'sometimes'"),
        ("[qat]\nwhen = 1\n", "'when' must be str"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(write(tmp_path, text))
    assert "mine.toml" in str(caught.value)


def test_a_tier_that_the_network_has_not_is_refused_with_the_nearest(tmp_path):
    path = write(tmp_path, "[tiers.full]\nprune = 0.1\n[tiers.onyl]\nprune = 0.5\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: \[tiers\.onyl\]") as caught:
        check_tiers(load_recipe(path), path, ["full", "only"])
    assert caught.value.hint == "did you mean only? its tiers: full, only"
    assert check_tiers(load_recipe(path), path, ["full", "onyl"]) == ""


@pytest.mark.parametrize("ref", ["default", str(content_dir("export") / "default.toml")])
def test_a_recipe_that_ships_serves_a_network_of_other_tiers_and_says_so(ref):
    said = check_tiers(load_recipe(ref), ref, ["only"])
    assert said == "no tier here is called full: nothing done to those"
    assert check_tiers(load_recipe(ref), ref, ["lite", "full"]) == ""


def test_an_unknown_precision_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('title = "x"\nprecision = "int4"\ncalibration = "default"\n')
    with pytest.raises(ConfigError, match="int4") as caught:
        load_recipe(str(path))
    assert "int8, fp16, fp32" in caught.value.hint


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        load_recipe("defualt")
    assert "default" in caught.value.hint


@pytest.mark.parametrize(
    ("wanted", "offered", "got"),
    [
        ("int8", ("fp32", "fp16", "int8"), "int8"),
        ("int8", ("fp32", "fp16"), "fp16"),
        ("int8", ("fp32",), "fp32"),
        ("fp16", ("fp32", "int8"), "fp32"),
        ("fp32", ("fp32", "fp16", "int8"), "fp32"),
    ],
)
def test_a_board_gets_the_next_larger_precision_that_it_has(wanted, offered, got):
    board = dataclasses.replace(load_profile("agx-xavier"), precisions=offered)
    assert choose_precision(Recipe("x", precision=wanted), board) == got


def test_a_sparse_tier_is_no_student_and_learns_with_its_zeros():
    sparse = TierRecipe(student=True, prune=0.5, sparsity="2:4")
    assert sparse.plan("full", True, Path("data")) == [
        "full: prune 50% of channels",
        "full: 2:4 sparsity",
        "full: distil on data, with the zeros held",
    ]
    assert TierRecipe(student=True).plan("full", True, None) == ["full: its student"]
    assert TierRecipe(student=True).plan("full", False, Path("data")) == []
