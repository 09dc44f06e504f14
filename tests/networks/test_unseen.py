"""What certifies a built-in network: what no step of its making has seen, each of it once."""

import json
from dataclasses import replace

import numpy as np
import pytest
from clips_folder import make_clips_folder
from data_folder import make_data_folder

from mla_edge._content import content_dir
from mla_edge.bundle import Bundle, RouterPolicy
from mla_edge.errors import BundleError, ConfigError
from mla_edge.exporter.calibration import load_calibration_spec
from mla_edge.exporter.post_training import TUNE_SAMPLES
from mla_edge.networks import commands, digits, unseen
from mla_edge.networks.checkpoint import read_about
from mla_edge.networks.commands_data import CommandsData
from mla_edge.networks.digits_data import DigitsData, drawn_by, sample_source
from mla_edge.networks.unseen import unseen_moments
from mla_edge.preprocess import Preprocessor
from mla_edge.signals import values_of


@pytest.fixture
def exported(tmp_path):
    """What an export leaves of itself, without its graphs."""

    def make(name, network, *, data, report=None):
        folder = tmp_path / "bundle"
        folder.mkdir(exist_ok=True)
        report = {"calibration": {"data": data}} if report is None else report
        (folder / "report.json").write_text(json.dumps(report))
        return Bundle(
            folder=folder,
            name=f"{name}-host",
            network=name,
            profile="host",
            labels=network.LABELS,
            inputs=network.INPUTS,
            tiers=(),
            policy=RouterPolicy({}),
            created="",
            provenance={},
            files={"report.json": ""},
        )

    return make


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """70 pictures of which every seventh tunes; two people, 5 takes to test and 3 to tune."""
    return make_data_folder(tmp_path_factory.mktemp("data"))


def test_after_an_export_on_data_only_what_tests_is_left(drawn, exported):
    found = unseen_moments(drawn, exported("digits", digits, data=True))
    there = [set(sample.signals) for sample in found.samples]
    assert sum("image" in names for names in there) == 60
    assert sum("audio" in names for names in there) == 100
    assert found.told_units
    assert len(set(found.units)) == len(found.samples)
    assert all(sample.truth == label for sample, label in zip(found.samples, found.labels))
    for sample in found.samples[:4]:  # what the runtime takes
        Preprocessor(digits.INPUTS)(sample)
    seen = [s.signals["image"].image for s in found.samples if "image" in s.signals]
    assert len({picture.tobytes() for picture in seen}) == 60


def test_an_export_without_data_has_not_seen_what_tunes_either(drawn, exported, monkeypatch):
    """But for what the samples that chose the shipped ranges are made of."""
    bundle = exported("digits", digits, data=False)
    monkeypatch.setattr(unseen, "SHIPPED_BY", ("tune", 12, 0))
    found = unseen_moments(drawn, bundle)
    assert sum("image" in sample.signals for sample in found.samples) == 70 - 6
    assert sum("audio" in sample.signals for sample in found.samples) == 160 - 18
    again = unseen_moments(drawn, bundle)
    assert again.sha256 == found.sha256
    for one, other in zip(found.samples, again.samples):  # another draw is no other data
        for name, signal in one.signals.items():
            np.testing.assert_array_equal(values_of(signal), values_of(other.signals[name]))
    tested = unseen_moments(drawn, exported("digits", digits, data=True))
    assert len(found.origins) == len(found.samples)
    assert set(tested.origins) <= set(found.origins)  # drawn anew, they are no other data


def test_what_samples_are_made_of_does_not_change(drawn):
    """Other draws would leave out other units than those that chose the ranges that ship."""
    pictures, takes = drawn_by(DigitsData.load(drawn), "tune", 12, 0)
    assert pictures == {0, 1, 2, 6, 7, 9}
    assert sorted(takes) == [
        (0, 4), (1, 0), (1, 5), (2, 1), (2, 3), (2, 5), (3, 2), (3, 3), (3, 5),
        (4, 3), (6, 0), (7, 1), (7, 3), (7, 4), (8, 2), (8, 3), (8, 4), (8, 5),
    ]  # fmt: skip


def test_what_chose_the_shipped_ranges_is_what_an_export_draws(drawn):
    """The first tune samples of the set that the recipe names, which the files count."""
    counts = {
        attempt["samples"]
        for path in content_dir("calibration").glob("digits-[fl]*.json")
        for entry in json.loads(path.read_text())["entries"]
        for attempts in entry["ranges"]["tried"].values()
        for attempt in attempts
    }
    spec = load_calibration_spec("default")
    assert (counts, TUNE_SAMPLES) == ({unseen.SHIPPED_BY[1]}, unseen.SHIPPED_BY[1])
    assert ("tune", spec.seed) == (unseen.SHIPPED_BY[0], unseen.SHIPPED_BY[2])
    source = sample_source(drawn)  # more samples begin with the same ones
    few, more = source("tune", 4, spec.seed), source("tune", 6, spec.seed)
    for one, other in zip(few, more):
        for name, signal in one.signals.items():
            np.testing.assert_array_equal(values_of(signal), values_of(other.signals[name]))


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips that the shipped weights know, and nine that they never met."""
    known = json.loads(read_about(commands.WEIGHTS)["clips"])[:3]
    folder = tmp_path_factory.mktemp("clips")
    names = [*known, *(f"new{i}" for i in range(9))]
    return make_clips_folder(folder, names)


def test_of_commands_each_clip_that_is_new_to_the_weights_may_be_a_unit(clips, exported):
    found = unseen_moments(clips, exported("commands", commands, data=True))
    data = CommandsData.load(clips, weights=commands.WEIGHTS)
    assert len(found.samples) == len(data.splits["test"])
    assert 0 < len(found.samples) < 9
    assert len(found.origins) == len(found.samples)
    assert data.splits["test"].min() >= 3
    assert set(found.labels) <= set(commands.LABELS)
    for sample in found.samples:
        assert set(sample.signals) == {"mouth", "audio"}
        Preprocessor(commands.INPUTS)(sample)


def test_weights_of_ones_own_may_have_been_trained_on_anything(clips, exported):
    bundle = exported("commands", commands, data=True)
    own = replace(bundle, provenance={"network_ref": "mine.py:make"})
    with pytest.raises(ConfigError, match="what trained them is not known") as caught:
        unseen_moments(clips, own)
    assert "labels.csv" in caught.value.hint


def test_another_network_has_no_data_of_its_own(drawn, exported):
    with pytest.raises(ConfigError, match="'mine' is no network whose own data") as caught:
        unseen_moments(drawn, exported("mine", digits, data=True))
    assert "labels.csv" in caught.value.hint


def test_a_namesake_with_other_classes_is_refused(drawn, exported):
    class Namesake:
        LABELS, INPUTS = ("cat", "dog"), digits.INPUTS

    with pytest.raises(ConfigError, match="'0' is no class of digits-host"):
        unseen_moments(drawn, exported("digits", Namesake, data=True))


def test_a_report_that_is_none_is_named(drawn, exported):
    with pytest.raises(BundleError, match="report.json: is not a report of this version"):
        unseen_moments(drawn, exported("digits", digits, data=True, report=[]))
