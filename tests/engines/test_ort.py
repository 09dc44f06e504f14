import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from onnx import TensorProto, helper, save_model

from mla_edge.bundle import sha256_of
from mla_edge.engines import open_engine
from mla_edge.engines.ort import OnnxRuntimeEngine, _providers
from mla_edge.errors import BundleError, ConfigError, InferenceError
from mla_edge.signals import TensorSpec


def write(path, nodes, inputs, outputs, *, opset=17):
    def tensors(specs):
        return [helper.make_tensor_value_info(*spec) for spec in specs]

    graph = helper.make_graph(nodes, "g", tensors(inputs), tensors(outputs))
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    save_model(made, str(path))
    return path


@pytest.fixture
def adder(tmp_path):
    """total = a + b, and twice = total + total."""
    float32 = TensorProto.FLOAT
    return write(
        tmp_path / "adder.onnx",
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Add", ["total", "total"], ["twice"]),
        ],
        [("a", float32, (1, 2)), ("b", float32, (1, 2))],
        [("total", float32, (1, 2)), ("twice", float32, (1, 2))],
    )


def pair(a, b):
    return {"a": np.array([a], np.float32), "b": np.array([b], np.float32)}


@pytest.mark.parametrize("threads", [0, 1])
def test_a_graph_runs_by_name(adder, threads):
    engine = open_engine(adder, threads=threads)
    assert engine.inputs == (
        TensorSpec("a", "float32", (1, 2)),
        TensorSpec("b", "float32", (1, 2)),
    )
    assert [spec.name for spec in engine.outputs] == ["total", "twice"]
    outputs = engine.run(pair([1, 2], [3, 4]))
    assert outputs["total"].tolist() == [[4, 6]]
    assert outputs["twice"].tolist() == [[8, 12]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"a": np.zeros((1, 2), np.float32)}, "expected inputs a, b; found a"),
        ({}, "expected inputs a, b; found none"),
        ({**pair([0, 0], [0, 0]), "c": np.zeros(1)}, "found a, b, c"),
        (pair([0, 0, 0], [0, 0]), r"'a': expected float32 \[1, 2\], found float32 \[1, 3\]"),
        (
            {**pair([0, 0], [0, 0]), "b": np.zeros((1, 2), np.uint8)},
            r"'b': expected float32 \[1, 2\], found uint8 \[1, 2\]",
        ),
        (pair([0, 0], [0, np.nan]), "input 'b' has values that are not finite"),
        (pair([np.inf, -np.inf], [0, 0]), "input 'a' has values that are not finite"),
    ],
)
def test_wrong_inputs_are_refused_by_name(adder, inputs, message):
    with pytest.raises(InferenceError, match=message):
        open_engine(adder).run(inputs)


def test_a_profile_names_every_node_of_every_run(adder, tmp_path):
    engine = OnnxRuntimeEngine(adder, optimise=False, profile=tmp_path / "nodes")
    for _ in range(3):
        engine.run(pair([1, 2], [3, 4]))
    path = engine.end_profile()
    assert path.parent == tmp_path and path.name.startswith("nodes")
    events = json.loads(path.read_text())
    ran = [event for event in events if event.get("name", "").endswith("_kernel_time")]
    assert len(ran) == 2 * 3
    assert {event["args"]["op_name"] for event in ran} == {"Add"}
    engine.close()
    with pytest.raises(InferenceError, match="the engine is closed"):
        engine.end_profile()


def test_large_values_are_not_taken_for_infinite(adder):
    huge = [3e38, 3e38]
    assert np.isfinite(open_engine(adder).run(pair(huge, [0, 0]))["total"]).all()


def test_a_closed_engine_says_so(adder):
    engine = open_engine(adder)
    engine.close()
    engine.close()
    with pytest.raises(InferenceError, match="adder.onnx: the engine is closed"):
        engine.run(pair([0, 0], [0, 0]))


def test_a_failure_inside_the_graph_names_it(tmp_path):
    node = helper.make_node("Gather", ["x", "at"], ["y"], axis=0)
    graph = write(
        tmp_path / "gather.onnx",
        [node],
        [("x", TensorProto.FLOAT, (2,)), ("at", TensorProto.INT64, (1,))],
        [("y", TensorProto.FLOAT, (1,))],
    )
    with pytest.raises(InferenceError, match=r"gather.onnx: .*out of"):
        open_engine(graph).run({"x": np.zeros(2, np.float32), "at": np.array([9])})


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_graph_that_is_cut_off_is_named(adder, keep):
    data = adder.read_bytes()
    adder.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BundleError, match="adder.onnx: ONNX Runtime cannot load it"):
        open_engine(adder)


def test_what_is_no_graph_is_named(tmp_path):
    path = tmp_path / "noise.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(BundleError, match="noise.onnx: ONNX Runtime cannot load it"):
        open_engine(path)


def test_a_missing_graph_is_named(tmp_path):
    with pytest.raises(BundleError, match="lite.cpu.onnx: no such graph"):
        open_engine(tmp_path / "lite.cpu.onnx")


def test_a_graph_of_unknown_shape_is_refused(tmp_path):
    shape = ("batch", 2)
    path = write(
        tmp_path / "dynamic.onnx",
        [helper.make_node("Relu", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, shape)],
        [("y", TensorProto.FLOAT, shape)],
    )
    with pytest.raises(BundleError, match="'x' is tensor.float. .*'batch'.*shape is fixed"):
        open_engine(path)


def test_engines_of_a_provider_are_kept_in_the_users_cache_not_in_the_bundle(
    adder, tmp_path, monkeypatch
):
    graph = tmp_path / "bundle" / "graphs" / "lite.onnx"
    graph.parent.mkdir(parents=True)
    adder.rename(graph)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (_, options), cuda, cpu = _providers("tensorrt", graph)
    folder = tmp_path / "cache" / "mla-edge" / "onnxruntime" / sha256_of(graph)
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(folder)
    assert folder.is_dir()
    assert (cuda, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    bundle = graph.parents[1]
    assert sorted(bundle.rglob("*")) == [graph.parent, graph]

    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot be made") as caught:
        _providers("tensorrt", graph)
    assert "XDG_CACHE_HOME" in caught.value.hint


def test_only_graphs_are_run(tmp_path):
    with pytest.raises(ConfigError, match="nothing here runs '.plan' files"):
        open_engine(tmp_path / "lite.plan")


def test_without_onnx_runtime_the_fix_is_named(adder):
    code = """
        import sys
        from pathlib import Path
        sys.modules["onnxruntime"] = None
        from mla_edge.engines import open_engine
        from mla_edge.errors import MissingDependency
        try:
            open_engine(Path(sys.argv[1]))
        except MissingDependency as error:
            print(error.hint)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(adder)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "pip install onnxruntime\n"


def test_it_sleeps_between_runs(adder):
    code = """
        import sys, time
        from pathlib import Path
        import numpy as np
        from mla_edge.engines import open_engine
        engine = open_engine(Path(sys.argv[1]), threads=2)
        zeros = np.zeros((1, 2), np.float32)
        engine.run({"a": zeros, "b": zeros})
        before = time.process_time()
        for _ in range(20):
            engine.run({"a": zeros, "b": zeros})
            time.sleep(0.02)
        print(time.process_time() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(adder)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout) < 0.2  # of 0.4 s; a spinning thread would use all of it


def test_nothing_is_told_to_others_and_nothing_kept_for_that(tmp_path):
    code = (
        "import os, mla_edge.engines.ort\n"
        "own = '/proc/self/fd'\n"
        "files = [os.path.realpath(f'{own}/{number}') for number in os.listdir(own)]\n"
        "print([name for name in files if 'onnxruntime' in name])\n"
    )
    # These two also turn it off.
    settings = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY")
    }
    settings.update(HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []
