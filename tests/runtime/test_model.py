import time
from dataclasses import replace

import numpy as np
import pytest
from colours import (
    DULL_RED,
    FULL,
    INPUTS,
    LITE,
    frame,
    make_bundle,
    sample,
    sound,
)

import mla_edge
from mla_edge.bundle import ModePolicy, RouterPolicy
from mla_edge.errors import BundleError, InferenceError
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import CascadeRouter
from mla_edge.signals import Frame, InputSpec, Sound, TensorSpec, Tier
from mla_edge.testing import FakeEngine


def test_a_sure_lite_answers_alone(small_bundle):
    with mla_edge.load(small_bundle.folder) as model:
        prediction = model.infer(sample(image=frame("blue", 1.0)), clock=lambda: 1.25)
    assert (prediction.label, prediction.tier, prediction.reason, prediction.mode) == (
        "blue",
        "lite",
        "lite-confident",
        "image",
    )
    assert prediction.confidence == pytest.approx(np.exp(6) / (np.exp(6) + 2))
    assert prediction.probabilities.sum() == pytest.approx(1)
    assert prediction.capture_time_s == {"image": 1.0}
    assert prediction.decision_time_s == 1.25
    assert prediction.age_ms == pytest.approx(250)
    assert prediction.latency_ms > 0


def test_an_unsure_lite_goes_on_to_full(small_bundle):
    with mla_edge.load(small_bundle.folder) as model:
        prediction = model.infer(sample(image=frame(DULL_RED)))
    assert (prediction.label, prediction.tier, prediction.reason) == (
        "red",
        "full",
        "escalated",
    )


def test_both_modalities_are_used_and_age_is_that_of_the_older(small_bundle):
    both = sample(image=frame(DULL_RED, 2.0), audio=sound("green", 1.0))
    with mla_edge.load(small_bundle.folder) as model:
        prediction = model.infer(both, clock=lambda: 3.0)
    assert (prediction.label, prediction.mode) == ("green", "image+audio")
    assert prediction.age_ms == pytest.approx(2000)


def test_what_a_masked_modality_said_before_is_forgotten(small_bundle):
    with mla_edge.load(small_bundle.folder) as model:
        model.infer(sample(image=frame("red"), audio=sound("red")))
        prediction = model.infer(sample(audio=sound("green")))
    assert (prediction.label, prediction.mode) == ("green", "audio")


def test_a_mode_without_a_policy_takes_full(tmp_path):
    policy = RouterPolicy({"image": ModePolicy(1.0, 0.5)}, {}, "")
    bundle = make_bundle(tmp_path / "b", policy=policy)
    with mla_edge.load(bundle.folder) as model:
        prediction = model.infer(sample(audio=sound("red")))
    assert (prediction.tier, prediction.reason) == ("full", "unknown-mode")


def test_one_tier_means_no_routing(tmp_path):
    bundle = make_bundle(tmp_path / "b", tiers=[FULL])
    with mla_edge.load(bundle.folder) as model:
        prediction = model.infer(sample(image=frame("green")))
    assert (prediction.label, prediction.tier, prediction.reason) == (
        "green",
        "full",
        "single-tier",
    )


@pytest.mark.parametrize("threshold", [0.8, 2.0])
def test_a_tier_can_take_the_features_of_an_earlier_one(tmp_path, threshold):
    first = replace(LITE, outputs=("logits", "features"))
    second = Tier("full", ("features",), ("logits",))
    policy = RouterPolicy({"image": ModePolicy(1.0, threshold)}, {}, "")
    bundle = make_bundle(tmp_path / "b", tiers=[first, second], policy=policy)
    with mla_edge.load(bundle.folder) as model:
        prediction = model.infer(sample(image=frame(DULL_RED)))
        direct = model.infer(sample(audio=sound("red")))
    assert (prediction.label, prediction.tier) == ("red", "full")
    assert (direct.label, direct.tier, direct.reason) == ("red", "full", "unknown-mode")


def test_lite_is_not_run_where_full_always_answers(tmp_path):
    engines = {name: fake_engine([0.0, 1.0, 0.0]) for name in ("lite", "full")}
    policy = RouterPolicy({"image": ModePolicy(1.0, 1.1)}, {}, "")
    bundle = make_bundle(tmp_path / "b", policy=policy)
    model = FusedModel(bundle, engines, CascadeRouter(policy), Preprocessor(INPUTS))
    prediction = model.infer(sample(image=frame("red")))
    assert (prediction.label, prediction.reason) == ("green", "full-only")
    assert [len(engines[name].calls) for name in ("lite", "full")] == [0, 1]


def test_the_truth_is_passed_on(small_bundle):
    with mla_edge.load(small_bundle.folder) as model:
        prediction = model.infer(sample(image=frame("red", truth="red")))
    assert prediction.truth == "red"


def test_an_empty_sample_is_refused(small_bundle):
    with mla_edge.load(small_bundle.folder) as model, pytest.raises(
        InferenceError, match="no modality"
    ) as caught:
        model.infer(sample())
    assert caught.value.hint == "give at least one of image, audio"


@pytest.mark.parametrize(
    ("signals", "message"),
    [
        ({"depth": frame("red")}, "no input 'depth'"),
        ({"image": Frame(np.full((4, 4, 3), np.nan), 0.0)}, "image: has values that are not"),
        (
            {"image": Frame(np.zeros((4, 4), np.uint8), 0.0)},
            r"image: expected uint8 .*\[4, 4\]",
        ),
        ({"image": sound("red")}, "image: expected a Frame, found Sound"),
        (
            {"audio": Sound(np.full(800, np.nan, "f"), 800, 0.0)},
            "audio: has values that are not",
        ),
        (
            {"audio": Sound(np.zeros((2, 800), "f"), 800, 0.0)},
            r"audio: expected float32 .*2, 800",
        ),
        ({"audio": frame("red")}, "audio: expected a Sound, found Frame"),
    ],
)
def test_a_wrong_signal_is_refused_by_name(small_bundle, signals, message):
    with mla_edge.load(small_bundle.folder) as model, pytest.raises(
        InferenceError, match=message
    ):
        model.infer(sample(**signals))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_no_answer(tmp_path, value):
    bundle = make_bundle(tmp_path / "b", tiers=[FULL])
    engines = {"full": fake_engine([value, 0.0, 0.0])}
    model = FusedModel(bundle, engines, CascadeRouter(bundle.policy), Preprocessor(INPUTS))
    with pytest.raises(InferenceError, match="'full' gave values that are not finite"):
        model.infer(sample(image=frame("red")))


def test_values_that_are_only_large_are_an_answer(tmp_path):
    bundle = make_bundle(tmp_path / "b", tiers=[FULL])
    engines = {"full": fake_engine([-1e30, 3e38, 0.0])}
    model = FusedModel(bundle, engines, CascadeRouter(bundle.policy), Preprocessor(INPUTS))
    made = model.infer(sample(image=frame("red")))  # a warning would be an error here
    assert (made.label, made.confidence) == (bundle.labels[1], 1.0)


def test_a_changed_graph_is_refused(small_bundle):
    path = small_bundle.graph("full", cpu=True)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="full.cpu.onnx: sha256 .* cut off"):
        mla_edge.load(small_bundle.folder)


@pytest.mark.parametrize("graph", ["graphs/full.cpu.onnx", "graphs/full.onnx"])
def test_a_graph_that_no_hash_covers_is_refused(small_bundle, graph):
    files = {name: sha for name, sha in small_bundle.files.items() if name != graph}
    replace(small_bundle, files=files).write()
    with pytest.raises(BundleError, match=f"{graph}: is not in the bundle's list of files"):
        mla_edge.load(small_bundle.folder)


def test_a_manifest_that_was_changed_is_refused(small_bundle):
    path = small_bundle.folder / "bundle.json"
    path.write_text(path.read_text().replace('"red"', '"pink"'))
    with pytest.raises(BundleError, match="bundle.json: was changed"):
        mla_edge.load(small_bundle.folder)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="not a bundle"):
        mla_edge.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("red", "green")}, r"gives logits \(1, 3\) for 2 labels"),
        (
            {"inputs": (INPUTS[0], InputSpec("audio", "audio", (1, 900), 800))},
            r"takes 'audio' as \(1, 800\), but it is \(1, 900\)",
        ),
        ({"inputs": (INPUTS[0],)}, "takes 'audio', which nothing gives"),
        ({"inputs": (InputSpec("image", "smell", (1, 3)), INPUTS[1])}, "of kind 'smell'"),
        (
            {"inputs": (InputSpec("image", "image", (1, 16, 16)), INPUTS[1])},
            "cannot have the shape",
        ),
        (
            {"tiers": (LITE, replace(FULL, outputs=("logits", "mood")))},
            "does not give 'mood'",
        ),
    ],
)
def test_a_bundle_that_does_not_fit_its_graphs_is_refused(tmp_path, changes, message):
    bundle = replace(make_bundle(tmp_path / "b"), **changes)
    bundle.write()
    with pytest.raises(BundleError, match=message):
        mla_edge.load(bundle.folder)


def test_a_profile_that_this_machine_does_not_know_is_no_obstacle(tmp_path):
    bundle = make_bundle(tmp_path / "b", profile="my-own-board")
    with mla_edge.load(bundle.folder, threads=None) as model:
        assert model.infer(sample(image=frame("red"))).label == "red"


def test_what_is_not_an_engine_takes_little_time(small_bundle):
    with mla_edge.load(small_bundle.folder, threads=1) as model:
        seen = sample(image=frame("red"), audio=sound("red"))
        model.infer(seen)
        start = time.process_time()
        for _ in range(50):
            model.infer(seen)
    assert (time.process_time() - start) / 50 < 0.02  # graphs of microseconds; 20 ms is a hang


def test_closing_closes_every_engine(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    engines = {name: fake_engine([0.0, 1.0, 0.0]) for name in ("lite", "full")}
    with FusedModel(bundle, engines, CascadeRouter(bundle.policy), Preprocessor(INPUTS)):
        pass
    assert all(engine.closed for engine in engines.values())


def fake_engine(logits):
    inputs = [
        TensorSpec("image", "float32", (1, 3, 16, 16)),
        TensorSpec("audio", "float32", (1, 800)),
        TensorSpec("present", "float32", (1, 2)),
    ]
    return FakeEngine(inputs, {"logits": np.array([logits], np.float32)})
