"""What runs the tiers: the TensorRT engines that fit this machine, or ONNX Runtime, and why."""

import dataclasses

import numpy as np
import pytest
from faking import add_engines, make_bundle, make_input
from processor import IS_EXACT

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.engines.opening import open_tiers
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.engines.target import describe_target
from mla_edge.engines.trt import TensorRTEngine
from mla_edge.errors import BundleError, ConfigError, EngineMismatch, MissingDependency
from mla_edge.signals import Frame, Sample


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "made-agx-orin")


@pytest.fixture
def built(fakes, bundle):
    bindings = fakes.use("10.3")
    return add_engines(bundle, bindings, describe_target(bindings))


def close(opened):
    for engine in opened.engines.values():
        engine.close()


def test_engines_that_were_built_here_are_taken_and_answer_as_the_graph(built):
    opened = open_tiers(built)
    assert opened.title == "TensorRT 10.3.0, sm87-trt10.3.0"
    assert opened.note == ""
    engine = opened.engines["lite"]
    assert isinstance(engine, TensorRTEngine)
    plain = OnnxRuntimeEngine(built.graph("lite", cpu=False), optimise=False)
    expected = plain.run(make_input())["logits"]
    np.testing.assert_array_equal(engine.run(make_input())["logits"], expected)
    close(opened)


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_without_engines_the_processor_runs_it_and_nothing_is_said(bundle, engine):
    opened = open_tiers(bundle, engine=engine)
    assert (opened.title, opened.note) == ("ONNX Runtime", "")
    assert isinstance(opened.engines["lite"], OnnxRuntimeEngine)


@pytest.mark.parametrize(
    ("version", "device", "why"),
    [
        ("8.6", {}, "its engines are for sm87-trt10.3.0; this machine is sm72-trt8.6.1"),
        ("10.3", {"SM": 86}, "this machine is sm86-trt10.3.0"),
        ("10.3", {"SM_COUNT": 8}, "multiprocessors 16, here 8"),
        ("10.3", {"PRESENT": False}, "no GPU that can be used"),
    ],
)
def test_engines_of_another_machine_are_not_taken_and_it_says_why(
    built, fakes, version, device, why
):
    fakes.use(version, **device)
    opened = open_tiers(built)
    assert opened.title == "ONNX Runtime"
    assert opened.note.startswith("the bundle's TensorRT engines are not used: ")
    assert why in opened.note
    assert np.isfinite(opened.engines["lite"].run(make_input())["logits"]).all()
    if "PRESENT" not in device:
        assert "build them on this machine" in opened.note or "build it on" in opened.note
        with pytest.raises(EngineMismatch, match=why):
            open_tiers(built, engine="tensorrt")


def test_without_tensorrt_it_says_how_to_get_it(built, fakes, monkeypatch):
    fakes.forget()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    assert "TensorRT is not in this Python" in open_tiers(built).note
    with pytest.raises(MissingDependency, match="TensorRT is not in this Python"):
        open_tiers(built, engine="tensorrt")


def test_without_pycuda_it_says_how_to_get_it(built, fakes, monkeypatch):
    fakes.use("10.3")
    monkeypatch.setitem(__import__("sys").modules, "pycuda", None)
    monkeypatch.delitem(__import__("sys").modules, "pycuda.driver", raising=False)
    opened = open_tiers(built)
    assert "pycuda cannot be loaded" in opened.note
    assert "mla-edge[jetson]" in opened.note


def test_asked_for_tensorrt_without_engines_it_says_how_to_build_them(bundle):
    with pytest.raises(EngineMismatch, match="has no TensorRT engine") as caught:
        open_tiers(bundle, engine="tensorrt")
    assert caught.value.hint.endswith(f"mla-edge build {bundle.folder}")


def test_a_graph_that_was_exchanged_is_noticed(built):
    files = {**built.files, "graphs/lite.onnx": "ab" * 32}
    with pytest.raises(EngineMismatch, match="graph [0-9a-f]{12}, here abababababab"):
        open_tiers(dataclasses.replace(built, files=files), engine="tensorrt")


def test_an_unknown_engine_is_named(bundle):
    with pytest.raises(ConfigError, match="no engine is called 'cuda'") as caught:
        open_tiers(bundle, engine="cuda")
    assert "tensorrt" in caught.value.hint


def test_the_providers_of_onnxruntime_say_when_they_are_not_there(bundle):
    for name in ("ort-tensorrt", "ort-cuda"):
        with pytest.raises(MissingDependency, match="ExecutionProvider cannot be used"):
            open_tiers(bundle, engine=name)


def test_the_routing_is_that_of_the_engines(fakes, bundle):
    bindings = fakes.use("10.3")
    policy = {
        "modes": {"x": {"temperature": 2.0, "threshold": 0.5}},
        "cost_ms": {"lite": 1.5},
        "measured_on": "Orin (fake)",
    }
    built = add_engines(bundle, bindings, describe_target(bindings), policy)
    opened = open_tiers(built)
    assert opened.policy.modes["x"].threshold == 0.5
    assert opened.policy.measured_on == "Orin (fake)"
    close(opened)


def test_a_build_record_that_is_damaged_is_named(built):
    next(built.folder.rglob("build.json")).write_text("[")
    with pytest.raises(BundleError, match=r"build\.json: cannot be read"):
        open_tiers(built)


def test_where_one_tier_fails_the_others_are_closed(built, fakes):
    plan = next(built.folder.rglob("lite.plan"))
    tier = dataclasses.replace(built.tiers[0], name="second")
    for suffix in (".plan", ".json"):
        data = plan.with_suffix(suffix).read_bytes()
        (plan.parent / f"second{suffix}").write_bytes(data if suffix == ".json" else b"cut")
    files = {**built.files, "graphs/second.onnx": built.files["graphs/lite.onnx"]}
    both = dataclasses.replace(built, tiers=(*built.tiers, tier), files=files)
    with pytest.raises(EngineMismatch, match=r"second\.plan: .*magic tag"):
        open_tiers(both, engine="tensorrt")
    assert fakes.machine.left_over() == []
    assert fakes.machine.violations == []


def test_a_loaded_model_runs_on_them_and_frees_them(built, fakes):
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    sample = Sample({"x": Frame(image, 0.0)})
    with mla_edge.load(built.folder, engine="tensorrt") as model:
        assert model.runs_on.startswith("TensorRT 10.3.0")
        found = model.infer(sample)
    with mla_edge.load(built.folder, engine="onnxruntime") as model:
        expected = model.infer(sample)
    assert fakes.machine.left_over() == []
    assert found.label == expected.label
    rough = {"rtol": 1e-4} if IS_EXACT else {"atol": 0.01}
    np.testing.assert_allclose(found.probabilities, expected.probabilities, **rough)


def test_models_of_a_thread_may_be_closed_in_any_order(built, fakes):
    first, second = (mla_edge.load(built.folder) for _ in range(2))
    first.close()
    image = np.zeros((8, 8, 3), np.uint8)
    assert second.infer(Sample({"x": Frame(image, 0.0)})).label
    second.close()
    assert fakes.machine.stack == []
    with mla_edge.load(built.folder) as third:
        assert third.infer(Sample({"x": Frame(image, 0.0)})).label


def test_a_plan_that_was_changed_is_noticed_before_it_is_loaded(built):
    plan = next(built.folder.rglob("lite.plan"))
    plan.write_bytes(plan.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"lite\.plan: sha256 .*changed or cut off"):
        mla_edge.load(built.folder)
    assert Bundle.read(built.folder) == built
