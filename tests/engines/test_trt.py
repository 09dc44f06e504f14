"""The engine on the GPU: on fakes that compute with ONNX Runtime and forgive nothing."""

import json
import threading

import numpy as np
import pytest
from faking import VERSIONS, make_graph, make_input

from mla_edge.engines.inspection import inspect_layers
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.engines.trt import TensorRTEngine
from mla_edge.errors import EngineMismatch, InferenceError
from mla_edge.exporter.engine_build import BuildSpec, build_engine
from mla_edge.signals import TensorSpec

every_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def graph(tmp_path):
    return make_graph(tmp_path / "lite.onnx")


def make_plan(bindings, graph):
    folder = graph.parent / "bundle" / "engines" / "key"
    folder.mkdir(parents=True, exist_ok=True)
    plan = folder / "lite.plan"
    plan.write_bytes(build_engine(bindings, BuildSpec(str(graph), "int8"))[0])
    return plan


def open_engine(bindings, plan):
    from mla_edge.engines.cuda import Gpu

    return TensorRTEngine(plan, bindings, Gpu())


@pytest.fixture
def engine(fakes, graph):
    bindings = fakes.use("10.3")
    engine = open_engine(bindings, make_plan(bindings, graph))
    yield engine
    engine.close()


@every_version
@pytest.mark.parametrize("integrated", [True, False])
def test_it_answers_as_the_graph_does(fakes, graph, version, integrated):
    bindings = fakes.use(version, INTEGRATED=integrated)
    engine = open_engine(bindings, make_plan(bindings, graph))
    assert engine.inputs == (TensorSpec("x", "float32", (1, 3, 8, 8)),)
    assert engine.outputs == (
        TensorSpec("logits", "float32", (1, 4)),
        TensorSpec("feature", "float32", (1, 6)),
    )
    plain = OnnxRuntimeEngine(graph, optimise=False)
    for seed in range(3):
        found, expected = engine.run(make_input(seed)), plain.run(make_input(seed))
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    engine.close()
    engine.close()
    assert fakes.machine.left_over() == []


def test_a_gpu_that_shares_memory_copies_nothing(fakes, graph):
    bindings = fakes.use("10.3", INTEGRATED=True)
    engine = open_engine(bindings, make_plan(bindings, graph))
    fakes.machine.calls.clear()
    engine.run(make_input())
    engine.close()
    assert fakes.machine.calls == ["execute", "synchronize"]


def test_another_gpu_copies_each_tensor_once_and_waits_once(fakes, graph):
    bindings = fakes.use("10.3", INTEGRATED=False)
    engine = open_engine(bindings, make_plan(bindings, graph))
    assert fakes.machine.calls.count("allocate pinned") == 3
    assert fakes.machine.calls.count("allocate device") == 3
    fakes.machine.calls.clear()
    for _ in range(2):
        engine.run(make_input())
    engine.close()
    once = ["memcpy_htod_async", "execute", *2 * ["memcpy_dtoh_async"], "synchronize"]
    assert fakes.machine.calls == 2 * once  # and nothing was allocated


def test_outputs_are_views_until_the_next_call(engine):
    first = engine.run(make_input(0))["logits"]
    kept = first.copy()
    second = engine.run(make_input(1))["logits"]
    assert second is first
    assert not np.array_equal(kept, second)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "expected inputs x; found none"),
        ({"y": np.zeros(1)}, "expected inputs x; found y"),
        ({**make_input(), "y": np.zeros(1)}, "expected inputs x; found x, y"),
        (
            {"x": np.zeros((1, 3, 8, 8))},
            r"'x': expected float32 \[1, 3, 8, 8\], found float64 \[1, 3, 8, 8\]",
        ),
        ({"x": np.zeros((3, 8, 8), np.float32)}, r"found float32 \[3, 8, 8\]"),
        (
            {"x": np.full((1, 3, 8, 8), np.nan, np.float32)},
            "'x' has values that are not finite",
        ),
    ],
)
def test_wrong_inputs_are_refused_by_name_and_the_next_call_works(engine, inputs, message):
    with pytest.raises(InferenceError, match=message):
        engine.run(inputs)
    assert np.isfinite(engine.run(make_input())["logits"]).all()


def test_another_thread_is_refused(engine):
    found = []

    def run():
        try:
            engine.run(make_input())
        except InferenceError as error:
            found.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "another thread" in found[0]


def test_a_run_that_fails_says_why_and_only_that(engine, monkeypatch):
    engine._log.errors.append("of an earlier run")
    engine._log.warnings.append("of an earlier run")
    context = type(engine._context)
    monkeypatch.setattr(context, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(InferenceError, match="did not run it: it gives no reason") as caught:
        engine.run(make_input())
    assert "mla-edge build" in caught.value.hint
    assert engine._log.warnings == []

    def refuse(self, stream):
        engine._log.errors.append("Error Code 1: Cuda Runtime (an illegal memory access)")
        return False

    monkeypatch.setattr(context, "execute_async_v3", refuse)
    for _ in range(3):
        with pytest.raises(InferenceError, match="illegal memory access"):
            engine.run(make_input())
    assert len(engine._log.errors) == 1


def test_a_closed_engine_says_so(engine):
    engine.close()
    with pytest.raises(InferenceError, match="lite.plan: the engine is closed"):
        engine.run(make_input())


def test_a_plan_of_another_version_is_refused_with_what_tensorrt_says(fakes, graph):
    plan = make_plan(fakes.use("8.6"), graph)
    bindings = fakes.use("10.3")
    with pytest.raises(EngineMismatch, match="Version tag does not match") as caught:
        open_engine(bindings, plan)
    assert "mla-edge build" in caught.value.hint
    assert str(graph.parent / "bundle") in caught.value.hint
    assert fakes.machine.left_over() == []


def test_a_plan_of_another_gpu_is_refused_with_what_tensorrt_says(fakes, graph):
    plan = make_plan(fakes.use("10.3", SM=86), graph)
    with pytest.raises(EngineMismatch, match="incompatible device.*compute 87 got compute 86"):
        open_engine(fakes.use("10.3"), plan)


def test_what_is_no_plan_is_refused(fakes, graph, tmp_path):
    bindings = fakes.use("11.4")
    plan = make_plan(bindings, graph)
    plan.write_bytes(b"nothing of the kind")
    with pytest.raises(EngineMismatch, match="magic tag"):
        open_engine(bindings, plan)


def test_without_memory_everything_is_given_back(fakes, graph):
    bindings = fakes.use("10.3", INTEGRATED=False, MEMORY_MB=0)
    with pytest.raises(InferenceError, match="no GPU memory for a tensor of .*float32"):
        open_engine(bindings, make_plan(bindings, graph))
    assert fakes.machine.left_over() == []


def test_a_tensor_that_it_cannot_give_is_refused_in_the_right_order(fakes, tmp_path):
    bindings = fakes.use("10.3")
    plan = make_plan(bindings, make_graph(tmp_path / "lite.onnx"))
    engine = type(
        bindings.trt.Runtime(bindings.logger).deserialize_cuda_engine(plan.read_bytes())
    )
    original = engine.get_tensor_shape
    engine.get_tensor_shape = lambda self, name: (
        (-1, 4) if name == "logits" else original(self, name)
    )
    with pytest.raises(EngineMismatch, match=r"its tensor 'logits' is FLOAT \[-1, 4\]"):
        open_engine(bindings, plan)
    assert fakes.machine.violations == []
    assert fakes.machine.left_over() == []


def test_two_engines_share_a_gpu_and_the_last_one_frees_it(fakes, graph):
    bindings = fakes.use("10.3", INTEGRATED=False)
    plan = make_plan(bindings, graph)
    from mla_edge.engines.cuda import Gpu

    gpu = Gpu()
    first, second = (TensorRTEngine(plan, bindings, gpu) for _ in range(2))
    expected = second.run(make_input())["logits"].copy()
    first.close()
    np.testing.assert_array_equal(second.run(make_input())["logits"], expected)
    second.close()
    assert fakes.machine.left_over() == []


@every_version
def test_the_layers_are_told_where_the_plan_keeps_them(fakes, graph, version):
    bindings = fakes.use(version)
    engine = open_engine(bindings, make_plan(bindings, graph))
    text = engine.inspect()
    engine.close()
    found = inspect_layers(text)
    assert found.told
    assert (found.int8, found.not_int8, found.reformats) == (2, (), 1)
    assert {"/conv", "/head"} <= {layer["Name"] for layer in json.loads(text)["Layers"]}
