"""What certifies a built-in network: what no step of its making has seen, each of it once."""

import json

import numpy as np
import pytest
from clips_folder import make_clips_folder
from data_folder import make_data_folder

from mla_edge.bundle import Bundle, RouterPolicy
from mla_edge.errors import BundleError, ConfigError
from mla_edge.networks import commands, digits
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


def test_an_export_without_data_has_not_seen_what_tunes_either(drawn, exported):
    bundle = exported("digits", digits, data=False)
    found = unseen_moments(drawn, bundle)
    assert sum("image" in sample.signals for sample in found.samples) == 70
    assert sum("audio" in sample.signals for sample in found.samples) == 160
    again = unseen_moments(drawn, bundle)
    assert again.sha256 == found.sha256
    for one, other in zip(found.samples, again.samples):  # another draw is no other data
        for name, signal in one.signals.items():
            np.testing.assert_array_equal(values_of(signal), values_of(other.signals[name]))
    tested = unseen_moments(drawn, exported("digits", digits, data=True))
    assert len(found.origins) == len(found.samples)
    assert set(tested.origins) <= set(found.origins)  # drawn anew, they are no other data


def test_of_commands_each_test_clip_is_a_unit(tmp_path, exported):
    clips = tmp_path / "clips"
    clips.mkdir()
    found = unseen_moments(make_clips_folder(clips), exported("commands", commands, data=True))
    assert len(found.samples) == len(found.origins) == 2  # of 17
    assert set(found.labels) <= set(commands.LABELS)
    for sample in found.samples:
        assert set(sample.signals) == {"mouth", "audio"}
        Preprocessor(commands.INPUTS)(sample)


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
