import dataclasses

import numpy as np
import pytest
from recorded_file import write as write_recording

from mla_edge._content import names
from mla_edge.errors import ConfigError
from mla_edge.exporter.calibration import (
    CalibrationSpec,
    in_mode,
    label_of,
    labelled,
    load_calibration,
    load_calibration_spec,
    modes,
    over_modes,
    to_examples,
)
from mla_edge.runtime.recording_parts import Room
from mla_edge.signals import InputSpec, Reading, Sample

SMALL = CalibrationSpec("small", calibrate=32, tune=32, test=36)


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", names("calibration"))
def test_every_set_that_ships_loads(name):
    assert load_calibration_spec(name).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('source = "random"\n', "ranges of noise"),
        ('source = "cloud"\n', "cloud"),
        ('source = "network"\ncalibrate = 31\n', "calibrate = 31, at least 32"),
        ('source = "network"\ntest = 5\n', "test = 5"),
        ('source = "network"\nsample = 5\n', "sample"),
        ('source = "network"\nseed = -1\n', "seed = -1"),
        ('source = "file"\npath = "none.npz"\n', "none.npz: no such file"),
    ],
)
def test_a_wrong_set_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_calibration_spec(write(tmp_path, text))


def test_samples_pass_through_the_preprocessing_of_the_runtime_and_are_copies(network):
    examples = to_examples(network.samples("test", 4, 0), network.inputs)
    images = [example.tensors["image"] for example in examples]
    assert {image.shape for image in images} == {(1, 3, 32, 32)}
    assert not np.array_equal(images[0], images[1])
    assert examples[0].tensors["present"].tolist() == [[1.0, 1.0]]


def test_the_hash_is_over_contents(network):
    first, again = (load_calibration(SMALL, network) for _ in range(2))
    other = load_calibration(
        CalibrationSpec("x", seed=1, calibrate=32, tune=32, test=36), network
    )
    assert first.sha256 == again.sha256 != other.sha256
    assert [len(s) for s in (first.calibrate, first.tune, first.test)] == [32, 32, 36]


def test_modes_are_every_set_of_up_to_four_inputs_and_fewer_of_more():
    def of(count):
        return modes([InputSpec(str(i), "tensor", (1, 2)) for i in range(count)])

    assert of(2) == [("0", "1"), ("0",), ("1",)]
    assert [len(of(count)) for count in (1, 3, 4, 5, 6)] == [1, 7, 15, 11, 13]


def test_a_mode_masks_what_is_not_in_it_and_never_fakes_it(network):
    examples = to_examples(network.samples("test", 6, 0), network.inputs)
    masked = in_mode(examples, network.inputs, ("audio",))
    assert len(masked) == 6
    assert not masked[0].tensors["image"].any()
    assert masked[0].tensors["present"].tolist() == [[0.0, 1.0]]
    assert examples[0].tensors["image"].any()
    assert set(masked[0].truths) == {"audio"}


def test_a_sample_without_a_modality_is_left_out_of_modes_that_need_it(network):
    whole = network.samples("test", 2, 0)
    half = Sample({"image": whole[0].signals["image"]})
    examples = to_examples([half, whole[1]], network.inputs)
    assert len(in_mode(examples, network.inputs, ("image", "audio"))) == 1
    assert len(in_mode(examples, network.inputs, ("image",))) == 2


def test_samples_are_spread_over_the_modes(network):
    examples = to_examples(network.samples("test", 9, 0), network.inputs)
    masks = [
        example.tensors["present"][0].tolist()
        for example in over_modes(examples, network.inputs)
    ]
    assert masks == [[1, 1], [1, 0], [0, 1]] * 3


def test_labels_are_indices_and_an_unknown_truth_is_left_out_or_refused(network):
    examples = to_examples(network.samples("test", 4, 0), network.inputs)
    assert [label_of(example, network.labels) for example in examples] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="'low', which is no label"):
        label_of(examples[0], ("a", "b"))
    silent = [type(examples[0])(examples[0].tensors, {"image": None, "audio": None})]
    tensors, labels = labelled([*examples, *silent], network.labels)
    assert len(tensors) == len(labels) == 4


def test_samples_without_any_truth_are_refused(network):
    def untold(split, count, seed):
        return [
            Sample(
                {name: dataclasses.replace(s, truth=None) for name, s in sample.signals.items()}
            )
            for sample in network.samples(split, count, seed)
        ]

    with pytest.raises(ConfigError, match="carry no truth"):
        load_calibration(SMALL, dataclasses.replace(network, samples=untold))


def test_recorded_samples_come_from_an_npz(tmp_path, network):
    random = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(
        path,
        image=random.integers(0, 255, (40, 48, 64, 3), dtype=np.uint8),
        audio=random.normal(0, 0.1, (40, 3200)).astype(np.float32),
        audio_rate_hz=16000,
    )
    spec = load_calibration_spec(str(path))
    made = load_calibration(spec, network)
    assert spec.source == "file"
    assert len(made.calibrate) == 40
    assert made.calibrate[0].tensors["audio"].shape == (1, 1600)


def test_recorded_samples_come_from_what_record_wrote(tmp_path, network):
    """By the name of the recording, though it has several files."""
    write_recording(tmp_path / "mine.mcap", 300, room=Room(rotate_mb=1))
    assert not (tmp_path / "mine.mcap").exists()
    text = 'source = "file"\npath = "mine.mcap"\ncalibrate = 40\n'
    sets = []
    for name in (str(tmp_path / "mine.mcap"), write(tmp_path, text)):
        spec = load_calibration_spec(name)
        assert spec.source == "file"
        sets.append(load_calibration(spec, network).calibrate)
    assert [len(examples) for examples in sets] == [256, 40]
    last = sets[0][-1]
    assert last.tensors["image"].max() == last.tensors["image"].min() == 299 % 256
    assert last.tensors["audio"].std() == pytest.approx(0.1, rel=0.2)
    assert last.tensors["present"].tolist() == [[1.0, 1.0]]
    assert last.truths == {"image": None, "audio": None}


def test_a_recording_that_is_too_short_is_refused(tmp_path, network):
    spec = load_calibration_spec(str(write_recording(tmp_path / "mine.mcap", 31)))
    with pytest.raises(ConfigError, match="mine.mcap: holds 31 moments .* at least 32"):
        load_calibration(spec, network)


def test_nan_in_a_sample_is_refused_by_number_and_name():
    inputs = (InputSpec("imu", "tensor", (1, 3)),)
    good, bad = np.zeros((1, 3)), np.full((1, 3), np.nan)
    with pytest.raises(ConfigError, match=r"sample 1: imu: .*NaN"):
        to_examples([Sample({"imu": Reading(v, 0.0)}) for v in (good, bad)], inputs)


def drawn_by(network, samples):
    return dataclasses.replace(network, samples=samples)


@pytest.mark.parametrize("split", ["calibrate", "tune", "test"])
def test_a_split_of_another_size_than_asked_for_is_refused_by_name(network, split):
    def samples(wanted, count, seed):
        return network.samples(wanted, 1 if wanted == split else count, seed)

    with pytest.raises(
        ConfigError, match=rf"samples\('{split}', 3\d, 0\) gave 1 samples of the 3\d"
    ):
        load_calibration(SMALL, drawn_by(network, samples))


def test_a_gate_on_few_labels_is_refused(network):
    def samples(split, count, seed):
        made = network.samples(split, count, seed)
        return [
            Sample(
                {n: dataclasses.replace(s, truth=None) for n, s in sample.signals.items()}
                if split == "test" and number > 30
                else sample.signals
            )
            for number, sample in enumerate(made)
        ]

    with pytest.raises(ConfigError, match="'test' samples have 31 different ones with a label"):
        load_calibration(SMALL, drawn_by(network, samples))


def test_a_gate_on_one_sample_over_and_over_is_refused(network):
    def samples(split, count, seed):
        return network.samples(split, 1, seed) * count

    with pytest.raises(ConfigError, match="at least 32"):
        load_calibration(SMALL, drawn_by(network, samples))


@pytest.mark.parametrize(
    "pair", [("calibrate", "tune"), ("calibrate", "test"), ("tune", "test")]
)
def test_equal_samples_in_two_splits_are_refused_by_name(network, pair):
    def samples(split, count, seed):
        return network.samples("same" if split in pair else split, count, seed)

    # One split is longer than the other here: it holds the other's samples, and more.
    with pytest.raises(ConfigError, match=f"'{pair[0]}' and '{pair[1]}' samples are the same"):
        load_calibration(SMALL, drawn_by(network, samples))
