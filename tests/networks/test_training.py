import errno
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_folder import make_data_folder
from safetensors import safe_open

from mla_edge.errors import ConfigError
from mla_edge.networks import digits_data, train, training
from mla_edge.networks.digits import digits, make_lite
from mla_edge.networks.digits_data import (
    RATE_HZ,
    DigitsData,
    DigitsMaker,
    move_formants,
    place,
    sample_source,
)
from mla_edge.networks.digits_training import DigitsBatches, digits_course
from mla_edge.networks.losses import aligned
from mla_edge.networks.plan import Plan, Stage
from mla_edge.networks.sound_wear import add_noise, speed
from mla_edge.networks.training import Trainer, fused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder in the real format, with small drawn digits and tones as words."""
    return make_data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def data(folder):
    return DigitsData.load(folder)


def test_splits_are_by_take_and_by_picture(data):
    counts = {split: len(clips[3]) for split, clips in data.recordings.items()}
    assert counts == {"train": 4, "tune": 6, "test": 10}  # takes 8-9, 5-7, 0-4 of two people
    counts = {split: len(labels) for split, (_, labels) in data.pictures.items()}
    assert counts == {"train": 1000, "tune": 10, "test": 60}
    assert [len(data.noises[s]) for s in ("train", "tune", "test")] == [12, 2, 2]


def test_one_speaker_can_be_left_out(folder):
    alone = DigitsData.load(folder, speakers=("ann",))
    assert len(alone.recordings["test"][0]) == 5


def test_a_missing_or_cut_file_is_named(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"mnist\.npz: no such file"):
        DigitsData.load(tmp_path)
    for name in digits_data.FILES:
        (tmp_path / name).write_bytes((folder / name).read_bytes()[:500])
    with pytest.raises(ConfigError, match=r"mnist\.npz: cannot be read"):
        DigitsData.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("mnist.npz", {"train_labels": None}, "no array 'train_labels'"),
        ("mnist.npz", {"train_images": np.zeros((9, 28), np.uint8)}, "'train_images' is uint8"),
        ("mnist.npz", {"test_labels": np.full(70, 10)}, r"'test_labels' is int64 \[70\]"),
        ("mnist.npz", {"test_labels": np.uint8(1)}, "'test_labels' is 1, not a digit for each"),
        ("spoken_digits.npz", {"samples": np.zeros(9)}, r"'samples' is float64 \[9\]"),
        ("spoken_digits.npz", {"offsets": np.arange(201) * 9000}, "'offsets' is int64"),
        ("spoken_digits.npz", {"labels": np.full(200, "one")}, "'labels' is <U3"),
        ("spoken_digits.npz", {"takes": np.zeros(3, int)}, r"'takes' is int64 \[3\]"),
        ("spoken_digits.npz", {"rate_hz": 16000}, "'rate_hz' is 16000, not 8000"),
        ("spoken_digits.npz", {"rate_hz": None}, "no array 'rate_hz'"),
        ("noise.npz", {"samples": np.zeros(9, np.int16)}, r"'samples' is int16 \[9\]"),
    ],
)
def test_a_wrong_array_is_named_with_its_file(folder, tmp_path, file, changes, message):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with np.load(tmp_path / file) as archive:
        arrays = {**archive, **changes}
    np.savez(tmp_path / file, **{n: v for n, v in arrays.items() if v is not None})
    with pytest.raises(ConfigError, match=f"{file}: {message}"):
        DigitsData.load(tmp_path)


def test_one_array_in_place_of_a_file_of_them_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    np.save(tmp_path / "noise.npy", np.zeros(9))
    (tmp_path / "noise.npy").rename(tmp_path / "noise.npz")
    with pytest.raises(ConfigError, match=r"noise\.npz: cannot be read"):
        DigitsData.load(tmp_path)


def test_speed_changes_length_and_pitch():
    tone = np.sin(np.arange(4000) * 0.1).astype(np.float32)
    fast = speed(tone, 2.0)
    assert len(fast) == 2000
    assert np.allclose(fast[:500], tone[::2][:500], atol=1e-5)


def vowel(formant_hz, pitch_hz=125):
    """A second of a throat with one resonance."""
    harmonics = np.arange(1, 30) * pitch_hz
    loudness = 1 / (1 + ((harmonics - formant_hz) / 150) ** 2)
    time_s = np.arange(RATE_HZ) / RATE_HZ
    waves = np.sin(2 * np.pi * np.outer(harmonics, time_s)) * loudness[:, None]
    return (waves.sum(0) * 0.1).astype(np.float32)


@pytest.mark.parametrize(("factor", "loudest_hz"), [(0.8, 1000), (1.0, 1250), (1.2, 1500)])
def test_formants_move_and_pitch_stays(factor, loudest_hz):
    word = vowel(1250)
    moved = move_formants(word, factor)
    assert moved.shape == word.shape
    assert moved.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(moved))  # a bin is 1 Hz
    assert abs(int(spectrum.argmax()) - loudest_hz) <= 125
    between_harmonics = spectrum[:3750].reshape(-1, 125)[:, 40:85]
    assert between_harmonics.max() < 0.05 * spectrum.max()
    if factor == 1.0:
        assert np.allclose(moved, word, atol=1e-5)


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 20.0])
def test_noise_is_added_at_the_level_asked_for(snr_db):
    rng = np.random.default_rng(0)
    word = rng.normal(0, 0.1, 3000).astype(np.float32)
    sound = place(word, rng)
    noise = rng.normal(0, 1, 8000).astype(np.float32)
    added = add_noise(sound, noise, snr_db) - sound
    ratio = np.mean(np.square(word)) / np.mean(np.square(added))
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.1)


def test_worn_samples_have_the_form_the_network_takes(data):
    maker, rng = DigitsMaker(data, "train"), np.random.default_rng(0)
    for digit in (*range(10), None):
        picture, sound = maker.worn_picture(rng, digit), maker.worn_sound(rng, digit)
        assert picture.shape == (128, 128, 3)
        assert picture.dtype == np.uint8
        assert sound.shape == (8000,)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert np.abs(sound).max() <= 1


def test_samples_of_a_folder_carry_their_truth(folder):
    samples = sample_source(folder)("tune", 33, 0)
    assert {s.truth for s in samples} == {*"0123456789", "none"}
    modes = {tuple(sorted(s.signals)) for s in samples}
    assert modes == {("audio",), ("image",), ("audio", "image")}
    again = sample_source(folder)("tune", 33, 0)
    for one, other in zip(samples, again):
        if "image" in one.signals:
            assert np.array_equal(one.signals["image"].image, other.signals["image"].image)


def test_contrastive_loss_is_least_when_classes_agree():
    labels = torch.tensor([0, 0, 1, 1])
    near = torch.eye(2).repeat_interleave(2, 0)
    assert aligned(near, near, labels) < aligned(near, near.flip(0), labels)


def test_what_is_absent_has_no_part_in_a_batch(data):
    plan = replace(small_plan(), batch=6)
    batch = DigitsBatches(DigitsMaker(data, "train"), "joint", plan)[0]
    batch["present"] = torch.tensor([[1.0, 1], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]])
    other = {**batch, "image": batch["image"].clone(), "audio": batch["audio"].clone()}
    other["image"][[2, 5]] = 255
    other["audio"][[1, 4]] = 0.9
    torch.manual_seed(0)
    network = make_lite().train()
    means = [
        layer.running_mean for layer in network.modules() if hasattr(layer, "running_mean")
    ]
    with torch.no_grad():
        one = fused(network, batch).logits
        after_one = [mean.clone() for mean in means]
        fused(network, other)
        other_again = fused(network, other).logits
    assert len(means) > 10
    assert all(mean.abs().sum() > 0 for mean in after_one)
    assert torch.equal(one, other_again)  # batch statistics, which absent samples do not enter


def small_plan():
    names = ("image", "audio", "align", "joint", "refine", "lite", "polish", "student")
    return Plan(tuple(Stage(name, 20, 1e-3) for name in names), seed=3, batch=2)


def new_trainer(data, plan, checkpoint):
    return Trainer(digits_course(data, plan), checkpoint)


def test_an_interrupted_training_goes_on_and_writes_weights(
    folder, data, one_thread, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train, "scaled", lambda plan, effort: small_plan())
    out = tmp_path / "weights" / "digits.safetensors"
    out.parent.mkdir()
    first = new_trainer(data, small_plan(), out.with_suffix(".checkpoint"))
    first.run(("image", "audio", "align"))
    assert (
        train.main(["digits", "--data", str(folder), "--out", str(out), "--threads", "1"]) == 0
    )
    said = capsys.readouterr().err
    assert said.count("image 20/20") == 1  # the second run did not repeat what was done
    assert "lite 20/20" in said
    assert "student 20/20" in said
    network = digits(weights=out)
    assert network.tiers[1].module(
        torch.zeros(1, 3, 128, 128), torch.zeros(1, 8000), torch.ones(1, 2)
    ).shape == (1, 11)
    with safe_open(out, "pt") as file:
        about = file.metadata()
    joint = json.loads(about["plan"])["stages"][3]
    assert joint == {"name": "joint", "steps": 20, "rate": 1e-3}
    assert set(json.loads(about["data"])) == set(digits_data.FILES)


def test_one_interrupted_inside_a_stage_ends_with_the_same_weights(
    data, one_thread, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "SAVE_EVERY", 8)
    path = tmp_path / "x.checkpoint"
    whole = new_trainer(data, small_plan(), None)
    whole.run(("audio",))

    cut = new_trainer(data, small_plan(), path)
    batches = cut._batches("audio", 0)
    monkeypatch.setattr(
        cut, "_batches", lambda stage, first: (next(batches) for _ in range(13))
    )
    cut._run_stage("audio")  # its batches end after 13 of 20 steps
    rest = new_trainer(data, small_plan(), path)
    assert rest.done == []
    assert rest._resume["step"] == 8
    rest.run(("audio",))
    one, other = (t.full.encoders["audio"].state_dict() for t in (whole, rest))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "-1"), ("--threads", "0"), ("--effort", "0")]
)
def test_numbers_that_make_no_training_are_refused(tmp_path, capsys, option, value):
    words = ["digits", "--data", str(tmp_path), "--out", str(tmp_path / "x.safetensors")]
    with pytest.raises(SystemExit) as ended:
        train.main([*words, option, value])
    assert ended.value.code == 2
    assert f"{option}: {value}: give" in capsys.readouterr().err


def test_training_is_seeded(data, one_thread):
    def weights():
        trainer = new_trainer(data, small_plan(), None)
        trainer.run(("audio",))
        return trainer.full.encoders["audio"].state_dict()

    one, other = weights(), weights()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_command_names_a_missing_folder(tmp_path, capsys):
    code = train.main(
        ["digits", "--data", str(tmp_path), "--out", str(tmp_path / "x.safetensors")]
    )
    assert code == 2
    assert "no such file" in capsys.readouterr().err


def command(folder, out):
    return train.main(["digits", "--data", str(folder), "--out", str(out)])


def test_an_output_that_cannot_be_written_is_told_before_the_training(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert command(folder, tmp_path / "file" / "x.safetensors") == 2
    assert "x.safetensors: cannot be written: " in capsys.readouterr().err
    assert command(folder, tmp_path) == 2
    assert "is a folder\n  give another file with --out" in capsys.readouterr().err


@pytest.mark.parametrize("kept_bytes", [0, 700, 40_000])
def test_a_damaged_checkpoint_is_named_and_left(folder, tmp_path, capsys, kept_bytes):
    out = tmp_path / "x.safetensors"
    checkpoint = out.with_suffix(".checkpoint")
    torch.save({"weights": torch.zeros(99_999)}, checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:kept_bytes])
    assert command(folder, out) == 2
    said = capsys.readouterr().err
    assert "x.checkpoint: not a checkpoint, or damaged" in said
    assert "remove it to train from the beginning" in said
    assert checkpoint.stat().st_size == kept_bytes


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(
    data, one_thread, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = new_trainer(data, small_plan(), tmp_path / "x.checkpoint")
    trainer._save(None)
    written = (tmp_path / "x.checkpoint").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match=r"x\.checkpoint: cannot be written: No space left"):
        trainer._save(None)
    assert [path.name for path in tmp_path.iterdir()] == ["x.checkpoint"]
    assert (tmp_path / "x.checkpoint").read_bytes() == written


def test_something_else_under_the_name_of_a_checkpoint_is_refused(data, tmp_path):
    path = tmp_path / "x.checkpoint"
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(ConfigError, match=r"x\.checkpoint: not a checkpoint"):
        new_trainer(data, small_plan(), path)


def test_a_checkpoint_of_another_plan_is_kept_under_another_name(
    data, one_thread, tmp_path, capsys
):
    path = tmp_path / "x.checkpoint"
    plans = [small_plan(), replace(small_plan(), seed=4), replace(small_plan(), seed=5)]
    first = new_trainer(data, plans[0], path)
    first._save(None)
    written = path.read_bytes()
    assert capsys.readouterr().err == ""
    for number, plan in enumerate(plans[1:], 1):
        other = new_trainer(data, plan, path)
        assert other.done == []
        kept = tmp_path / f"x.other-{number}.checkpoint"
        assert f"{path} is of another plan; it is now {kept}" in capsys.readouterr().err
        other._save(None)
    assert (tmp_path / "x.other-1.checkpoint").read_bytes() == written
