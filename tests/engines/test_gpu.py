"""The same, on a machine that has a GPU with pycuda and TensorRT or TensorRT-RTX."""

import numpy as np
import pytest
from faking import make_graph, make_input

from mla_edge.engines.bindings import load_bindings
from mla_edge.engines.inspection import inspect_layers
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.engines.trt import TensorRTEngine
from mla_edge.errors import InferenceError, MissingDependency
from mla_edge.exporter.engine_build import BuildSpec, build_engine

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["tensorrt", "rtx"])
def bindings(request):
    """An installed TensorRT, on a machine where an engine can run."""
    try:
        from mla_edge.engines.cuda import read_gpu

        read_gpu()
        return load_bindings(request.param)
    except (MissingDependency, InferenceError) as error:
        pytest.skip(f"needs a GPU, pycuda and TensorRT: {error}")


@pytest.mark.parametrize(("int8", "tolerance"), [(False, 0.02), (True, 0.1)])
def test_an_engine_that_was_built_here_answers_as_its_graph(
    bindings, tmp_path, int8, tolerance
):
    from mla_edge.engines.cuda import Gpu

    graph = make_graph(tmp_path / "lite.onnx", int8=int8)
    folder = tmp_path / "bundle" / "engines" / "here"
    folder.mkdir(parents=True)
    plan = folder / "lite.plan"
    data, _ = build_engine(bindings, BuildSpec(str(graph), "int8" if int8 else "fp32"))
    plan.write_bytes(data)
    plain = OnnxRuntimeEngine(graph, optimise=False)
    engine = TensorRTEngine(plan, bindings, Gpu())
    try:
        for seed in range(20):
            found, expected = engine.run(make_input(seed)), plain.run(make_input(seed))
            for name, value in expected.items():
                np.testing.assert_allclose(found[name], value, atol=tolerance)
        assert inspect_layers(engine.inspect()).layers > 0
    finally:
        engine.close()


def test_a_hundred_engines_leave_no_memory_behind(bindings, tmp_path):
    import pycuda.driver as driver

    from mla_edge.engines.cuda import Gpu

    graph = make_graph(tmp_path / "lite.onnx")
    folder = tmp_path / "bundle" / "engines" / "here"
    folder.mkdir(parents=True)
    (folder / "lite.plan").write_bytes(build_engine(bindings, BuildSpec(str(graph), "int8"))[0])
    gpu = Gpu().hold()
    left = []
    for _ in range(100):
        engine = TensorRTEngine(folder / "lite.plan", bindings, gpu)
        engine.run(make_input())
        engine.close()
        left.append(driver.mem_get_info()[0])
    gpu.release()
    assert left[10] - left[-1] < 8 << 20
