"""What a board proves of its engines, and how it chooses its routing again."""

from pathlib import Path

import numpy as np

from mla_edge.bundle import Bundle, ModePolicy, RouterPolicy
from mla_edge.exporter.engine_proof import certify
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
