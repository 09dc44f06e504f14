"""What a board proves of its engines, and how it chooses its routing again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mla_edge.bundle import Bundle, ModePolicy, RouterPolicy
from mla_edge.engines.inspection import Inspection
from mla_edge.errors import AccuracyGateError, BundleError
from mla_edge.exporter.engine_proof import (
    JUDGED,
    Proof,
    TierProof,
    certify,
    check_gate,
    warn_of_types,
)
from mla_edge.golden import Golden
from mla_edge.signals import InputSpec, Tier

EXPORTED = ModePolicy(temperature=1.0, threshold=0.9)
COST_MS = {"lite": 1.0, "full": 10.0}


def make(count, *, labelled=True, unsure_wrong=0):
    """A bundle, golden samples, and engines' logits: lite is wrong where it is unsure."""
    tiers = (Tier("lite", ("x",), ("logits",)), Tier("full", ("x",), ("logits",)))
    bundle = Bundle(
        folder=Path("b"), name="b", network="n", profile="agx-orin", labels=("a", "b", "c"),
        inputs=(InputSpec("x", "tensor", (1, 4)),), tiers=tiers,
        policy=RouterPolicy({"x": EXPORTED}), created="", provenance={}, files={},
    )  # fmt: skip
    labels = np.arange(count) % 3
    full = np.eye(3)[labels] * 9.0
    lite = full.copy()
    lite[:unsure_wrong] = np.roll(full[:unsure_wrong], 1, axis=1) * 0.1
    logits = {"lite": lite, "full": full}
    golden = Golden({"x": np.zeros((count, 4))}, logits, labels if labelled else None)
    return bundle, golden, logits


def test_with_enough_golden_samples_the_routing_is_chosen_again():
    bundle, golden, logits = make(300, unsure_wrong=60)
    policy, said = certify(bundle, golden, logits, COST_MS, "Orin")
    assert said == "x: chosen again on 300 samples, 80% kept"
    assert policy.modes["x"] != EXPORTED
    assert policy.modes["x"].threshold <= 1.0
    assert (policy.cost_ms, policy.measured_on) == (COST_MS, "Orin")


def test_with_too_few_the_export_s_threshold_stays_and_the_missing_are_counted():
    policy, said = certify(*make(12), COST_MS, "Orin")
    assert policy.modes == {"x": EXPORTED}
    assert said == "x: kept, 218 golden samples are missing"


def test_without_labels_nothing_is_chosen():
    policy, said = certify(*make(300, labelled=False), COST_MS, "Orin")
    assert policy is None
    assert "no labels" in said


TOLD = Inspection(told=True, layers=9, int8=4, not_int8=("/mel",), reformats=1, fp32=2)


def prove(samples, agreement=1.0, accuracy=0.95, form="tensorrt"):
    tier = TierProof(
        agreement, 0.1, accuracy, None if accuracy is None else 0.95, 1.0, TOLD, form
    )
    return Proof("", samples, {"lite": tier})


def gated(**recorded):
    """A bundle of two inputs whose graphs agreed so well."""
    bundle = make(1)[0]
    modes = dict.fromkeys(("x+y", "x", "y"), EXPORTED)
    golden = {form: {"lite": {"top1_agreement": share}} for form, share in recorded.items()}
    return dataclasses.replace(
        bundle, policy=RouterPolicy(modes), provenance={"golden": golden, "precision": "int8"}
    )


def test_with_200_golden_samples_a_point_is_judged():
    assert check_gate(gated(tensorrt=0.5), prove(200), 1.0) == JUDGED
    assert check_gate(gated(tensorrt=0.5), prove(200, accuracy=0.94), 1.0) == JUDGED
    with pytest.raises(AccuracyGateError, match=r"'lite': .*, 5.00 points lost \(1 allowed\)"):
        check_gate(gated(tensorrt=0.5), prove(200, accuracy=0.90), 1.0)


def test_with_12_golden_samples_accuracy_is_not_judged_and_that_is_said():
    said = check_gate(gated(tensorrt=0.5), prove(12, accuracy=0.5), 1.0)
    assert said == (
        "not judged: 12 golden samples, 102 are needed for 1 point (export --golden 102)"
    )  # 100, and as many of each of three modes
    assert check_gate(gated(tensorrt=0.5), prove(12, accuracy=0.87), 10.0) == JUDGED
    with pytest.raises(AccuracyGateError, match="points lost"):
        check_gate(gated(tensorrt=0.5), prove(12, accuracy=0.5), 10.0)


def test_no_points_at_all_can_be_judged_on_any_number_of_samples():
    assert check_gate(gated(tensorrt=0.5), prove(12), 0.0) == JUDGED
    with pytest.raises(AccuracyGateError, match="allowed"):
        check_gate(gated(tensorrt=0.5), prove(12, accuracy=0.94), 0.0)


def test_without_labels_or_without_a_run_nothing_is_judged():
    bundle = gated(tensorrt=0.5)
    assert "no labels" in check_gate(bundle, prove(200, accuracy=None), 1.0)
    assert "did not run" in check_gate(bundle, Proof("no GPU", 12), 1.0)


@pytest.mark.parametrize("samples", [12, 200])
def test_agreement_may_be_one_sample_less_than_at_export(samples):
    bundle = gated(tensorrt=1.0)
    check_gate(bundle, prove(samples, agreement=1 - 1 / samples), 100.0)
    with pytest.raises(AccuracyGateError, match="are required.*; nothing was published"):
        check_gate(bundle, prove(samples, agreement=1 - 2 / samples), 100.0)


def test_an_engine_for_the_dla_is_held_against_what_was_simulated_for_it():
    bundle = gated(tensorrt=1.0, dla=0.5)
    assert check_gate(bundle, prove(200, agreement=0.6, form="dla"), 100.0) == JUDGED
    with pytest.raises(AccuracyGateError):
        check_gate(bundle, prove(200, agreement=0.6), 100.0)
    with pytest.raises(AccuracyGateError):
        check_gate(gated(tensorrt=0.5, dla=1.0), prove(200, agreement=0.6, form="dla"), 100.0)
    with pytest.raises(BundleError, match="how well its dla graphs agreed"):
        check_gate(gated(tensorrt=1.0), prove(200, form="dla"), 1.0)


def test_a_proof_comes_back_from_json():
    proof = dataclasses.replace(prove(12), routing="kept")
    assert Proof.from_json(json.loads(json.dumps(proof.as_json()))) == proof
    with pytest.raises((KeyError, TypeError)):
        Proof.from_json({**proof.as_json(), "tiers": {"lite": {"ms": 1.0}}})


def test_an_int8_bundle_whose_engine_has_no_int8_is_warned_of():
    none = dataclasses.replace(TOLD, int8=0)
    assert "no layer with weights in INT8" in warn_of_types(gated(), none)
    assert warn_of_types(gated(), TOLD) == ""
    assert warn_of_types(gated(), dataclasses.replace(none, told=False)) == ""
    half = dataclasses.replace(gated(), provenance={"precision": "fp16"})
    assert warn_of_types(half, none) == ""
