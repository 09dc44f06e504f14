import json

import numpy as np
import pytest
import torch
from clips_folder import WORDS, make_clips_folder

from mla_edge.errors import ConfigError
from mla_edge.networks import commands_files, load_network, train
from mla_edge.networks.checkpoint import read_about, save_weights
from mla_edge.networks.commands import (
    INPUTS,
    LABELS,
    commands,
    make_full,
    make_lite,
    make_student,
)
from mla_edge.networks.commands_data import CommandsData, CommandsMaker, Moment
from mla_edge.networks.commands_splits import split_clips
from mla_edge.networks.commands_training import PLAN, CommandsBatches, commands_course
from mla_edge.networks.encoders import ClipFront
from mla_edge.networks.network import student_of
from mla_edge.networks.plan import Plan, Stage
from mla_edge.preprocess import Preprocessor
from mla_edge.signals import NOTHING


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_clips_folder(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def data(folder):
    return CommandsData.load(folder)


def test_the_words_are_the_corpus_and_none():
    assert len(LABELS) == len(set(LABELS)) == 52
    assert LABELS[-1] == NOTHING


def test_clips_are_split_whole_and_by_name_alone():
    names = tuple(f"clip{i:03}" for i in range(850))
    splits = split_clips(names)
    assert {split: len(clips) for split, clips in splits.items()} == {
        "test": 100, "tune": 100, "train": 650
    }  # fmt: skip
    assert sorted(i for clips in splits.values() for i in clips) == list(range(850))
    turned = split_clips(names[::-1])
    for split, clips in splits.items():
        named = {names[i] for i in clips}
        assert named == {names[::-1][i] for i in turned[split]}


def test_a_window_is_centred_on_its_moment_in_both_modalities(data):
    maker = CommandsMaker(data, "test")
    clip, word = next((c, w) for c, w in maker.words if w.word == WORDS[2])
    moment = Moment(clip, (word.start_s + word.end_s) / 2, word.word)
    mouth, sound = maker.mouth(moment), maker.sound(moment)
    assert mouth.shape == (16, 60, 72)
    bar = mouth[:, 32, 35] > 180  # row of the third word's bar
    assert bar[4:11].all()
    assert not bar[[0, 1, 2, 13, 14, 15]].any()
    loud = np.abs(sound.reshape(64, 160)).max(1) > 0.01  # of each 10 ms
    assert loud[18:46].all()
    assert not loud[[14, 15, 48, 49]].any()


def test_pace_makes_a_window_hold_more_time(data):
    maker = CommandsMaker(data, "train")
    clip, word = maker.words[1]
    moment = Moment(clip, (word.start_s + word.end_s) / 2, word.word)
    still = (np.abs(maker.sound(moment)) > 0.01).mean()
    fast = maker.sound(moment, pace=1.15)
    assert fast.shape == (10240,)
    assert (np.abs(fast[3000:7000]) > 0.01).mean() < 0.99 * still + 0.5
    assert maker.mouth(moment, pace=1.15).shape == (16, 60, 72)


def test_windows_at_the_edges_of_a_clip_are_whole(data):
    maker = CommandsMaker(data, "test")
    for centre_s in (0.0, 2.99):
        moment = Moment(0, centre_s, NOTHING)
        for pace in (1.0, 0.9, 1.1):
            assert maker.mouth(moment, pace=pace).shape == (16, 60, 72)
            assert maker.sound(moment, pace=pace).shape == (10240,)
    assert not maker.sound(Moment(0, 0.0, NOTHING))[:5000].any()


def test_batches_are_seeded_and_mask_what_is_dropped(data):
    maker = CommandsMaker(data, "train")
    plan = Plan(tuple(Stage(s.name, 1, s.rate) for s in PLAN.stages), batch=20)
    one, other = (CommandsBatches(maker, "joint", plan)[3] for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    present = one["present"].numpy()
    assert {tuple(row) for row in present} == {(1, 1), (1, 0), (0, 1)}
    for i, (seen, heard) in enumerate(present):
        assert bool(one["mouth"][i].any()) == bool(seen)
        assert bool(one["audio"][i].any()) == bool(heard)
    assert not CommandsBatches(maker, "mouth", plan)[0]["audio"].any()


def test_each_frame_meets_its_neighbours_in_time():
    clip = torch.arange(4.0)[None, :, None, None].expand(1, 4, 6, 8) * 64 + 127.5
    out = ClipFront(4, taps=3, crop=(slice(1, 5), slice(2, 6)))(clip)
    assert out.shape == (4, 3, 4, 4)
    assert out[:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]
    whole = ClipFront(4, taps=4, crop=(slice(1, 5), slice(2, 6)))(clip)
    assert whole.shape == (1, 4, 4, 4)


@pytest.mark.parametrize("make", [make_full, make_lite])
def test_the_tiers_take_what_preprocessing_gives(data, folder, make):
    network = make().eval()
    samples = commands_samples(folder, 8)
    preprocess = Preprocessor(INPUTS)
    for sample in samples:
        tensors = preprocess(sample)
        inputs = [torch.from_numpy(tensors[name]) for name in ("mouth", "audio", "present")]
        with torch.no_grad():
            logits = network(*inputs)
        assert logits.shape == (1, 52)
        assert torch.isfinite(logits).all()


def commands_samples(folder, count):
    from mla_edge.networks.commands_data import sample_source

    return sample_source(folder)("tune", count, 0)


def test_samples_carry_their_truth_and_lack_modalities(folder):
    samples = commands_samples(folder, 60)
    assert {s.truth for s in samples} == {*WORDS, NOTHING}
    assert {tuple(sorted(s.signals)) for s in samples} == {
        ("mouth",), ("audio",), ("audio", "mouth")
    }  # fmt: skip


def test_a_short_training_writes_weights_that_load(
    folder, data, one_thread, tmp_path, monkeypatch, capsys
):
    plan = Plan(tuple(Stage(s.name, 20, s.rate) for s in PLAN.stages), batch=2)
    monkeypatch.setattr(train, "scaled", lambda *_: plan)
    out = tmp_path / "commands.safetensors"
    words = ["commands", "--data", str(folder), "--out", str(out), "--threads", "1"]
    assert train.main(words) == 0
    assert "lite 20/20" in capsys.readouterr().err
    network = commands(data=folder, weights=out)
    assert [part.tier.name for part in network.tiers] == ["lite", "full"]
    about = read_about(out)
    seen = set(json.loads(about["clips"]))
    assert len(seen) == 15
    held = {data.clips.names[i] for i in data.splits["test"]}
    assert held.isdisjoint(seen)
    assert about["clip_count"] == "17"
    own = CommandsData.load(folder, weights=out)
    assert {split: list(clips) for split, clips in own.splits.items()} == {
        split: list(clips) for split, clips in data.splits.items()
    }
    assert set(json.loads(about["data"])) == set(commands_files.FILES)


def test_what_trained_the_weights_is_no_sample_to_test(folder, tmp_path):
    """The 15 clips of a training, of whose folder only they are left."""
    data = CommandsData.load(folder)
    weights, few = tmp_path / "commands.safetensors", tmp_path / "few"
    seen = [i for split in ("train", "tune") for i in data.splits[split]]
    about = {"clips": json.dumps([data.clips.names[i] for i in seen])}
    networks = {"full": make_full(), "lite": make_lite(), student_of("full"): make_student()}
    save_weights(networks, weights, about)
    few.mkdir()
    make_clips_folder(few, names=[data.clips.names[i] for i in seen])
    network = commands(data=few, weights=weights)
    assert network.samples("tune", 4, 0)
    with pytest.raises(ConfigError, match="none of these clips is there to test") as caught:
        network.samples("test", 4, 0)
    assert "the weights have not met" in caught.value.hint


def test_without_a_folder_its_samples_are_refused():
    network = load_network("commands")
    with pytest.raises(ConfigError, match="no calibrate samples of its own"):
        network.samples("calibrate", 4, 0)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("grid.json", None, r"grid\.json: no such file"),
        ("grid_16k.flac", None, r"grid_16k\.flac: no such file"),
        ("grid.json", b"{}", r"grid\.json: not the index of clips: KeyError"),
        ("grid_16k.flac", b"fLaC", r"grid_16k\.flac: cannot be read"),
        ("grid_mouth_72x60_25fps.mp4", b"x", "no video that OpenCV can read"),
    ],
)
def test_a_missing_or_damaged_file_is_named(folder, tmp_path, name, spoil, message):
    for path in folder.iterdir():
        if path.name != name:
            (tmp_path / path.name).symlink_to(path)
        elif spoil is not None:
            (tmp_path / name).write_bytes(spoil)
    with pytest.raises(ConfigError, match=message):
        CommandsData.load(tmp_path)


def test_an_index_of_fewer_clips_is_refused(folder, tmp_path):
    for path in folder.iterdir():
        if path.name != "grid.json":
            (tmp_path / path.name).symlink_to(path)
    index = json.loads((folder / "grid.json").read_text())
    index["clips"].pop()
    (tmp_path / "grid.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="1275 values, 16 clips of 75"):
        CommandsData.load(tmp_path)


def test_the_course_trains_both_modalities_on_the_training_clips(data):
    course = commands_course(data)
    assert course.plan.names[:2] == ("mouth", "audio")
    assert set(course.make_full().names) == {"mouth", "audio"}
