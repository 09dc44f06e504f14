"""A clip that trained or tuned weights tests them in no folder, and none changes its split."""

import hashlib
import json

import numpy as np
import pytest
import torch

from mla_edge.networks.checkpoint import read_about, save_weights
from mla_edge.networks.commands import WEIGHTS
from mla_edge.networks.commands_splits import split_clips, split_for

# Names of the corpus's form: as many as train ours, in an order that is not the alphabet's.
NAMES = tuple(
    sorted((f"{a}{b}{c}{d}{e}{f}" for a in "blps" for b in "bgrw" for c in "abiw"
            for d in "afkpu" for e in "159" for f in "np"),
           key=lambda name: hashlib.sha256(name.encode()).digest())
)  # fmt: skip
CORPUS, STRANGERS = NAMES[:850], NAMES[850:]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Weights as a training of these 850 clips leaves them, without how many they were."""
    return write(tmp_path_factory.mktemp("weights"), CORPUS)


def write(folder, names, **about):
    path = folder / "commands.safetensors"
    header = {"clips": json.dumps(sorted(seen(names))), **about}
    save_weights({"full": torch.nn.Linear(1, 1)}, path, header)
    return path


def seen(names):
    splits = split_clips(names)
    return {names[i] for split in ("train", "tune") for i in splits[split]}


def named(splits, names):
    return {split: {names[i] for i in clips} for split, clips in splits.items()}


def test_the_folder_of_the_training_is_split_as_the_training_did(corpus):
    for names in (CORPUS, CORPUS[::-1]):
        assert named(split_for(corpus, names), names) == named(split_clips(names), names)


@pytest.mark.parametrize(
    "names",
    [CORPUS[:-1], CORPUS[:400], CORPUS[300:], (*CORPUS, "zz999"), CORPUS[400:] + STRANGERS],
    ids=["one less", "400", "the rest", "one more", "with strangers"],
)
def test_in_any_other_folder_each_clip_stays_what_it_was(corpus, names):
    was = named(split_clips(CORPUS), CORPUS)
    found = named(split_for(corpus, names), names)
    assert sum(map(len, found.values())) == len(names)
    assert found["test"].isdisjoint(seen(CORPUS))
    for split, clips in found.items():
        assert clips & set(CORPUS) == was[split] & set(names)


def test_half_of_the_strangers_test_in_whatever_folder(corpus):
    found = named(split_for(corpus, STRANGERS), STRANGERS)
    assert 0.5 <= len(found["test"]) / len(STRANGERS) <= 0.75
    assert min(len(found["train"]), len(found["tune"])) > 0.1 * len(STRANGERS)
    few = STRANGERS[::3]
    for split, clips in named(split_for(corpus, few), few).items():
        assert clips == found[split] & set(few)


def test_the_shipped_weights_hold_back_one_clip_in_eight_and_a_half():
    clips = json.loads(read_about(WEIGHTS)["clips"])
    splits = named(split_for(WEIGHTS, clips), clips)
    assert [len(splits[split]) for split in ("test", "tune", "train")] == [0, 100, 650]


def test_what_an_earlier_training_had_tests_nothing_either(tmp_path):
    before = {"clips": json.dumps(list(STRANGERS)), "started_from": json.dumps({})}
    about = {"started_from": json.dumps({"started_from": json.dumps(before)})}
    weights = write(tmp_path, CORPUS, **about)
    assert len(split_for(weights, STRANGERS)["train"]) == len(STRANGERS)
    both = CORPUS + STRANGERS
    assert named(split_for(weights, both), both)["test"].isdisjoint(STRANGERS)


def test_names_that_two_clips_had_are_of_training(tmp_path):
    names = [*CORPUS[:399], CORPUS[0], *CORPUS[:200]]
    weights = write(tmp_path, names, clip_count=str(len(names)))
    found = named(split_for(weights, CORPUS), CORPUS)
    assert found["test"].isdisjoint(seen(names))
    assert seen(names) <= found["train"]


def test_weights_that_tell_of_no_clips_are_split_by_the_folder(tmp_path):
    path = tmp_path / "own.safetensors"
    save_weights({"full": torch.nn.Linear(1, 1)}, path, {})
    for split, clips in split_for(path, NAMES).items():
        np.testing.assert_array_equal(clips, split_clips(NAMES)[split])
