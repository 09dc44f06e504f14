"""One builder on every TensorRT: what it asks of each, and what it says when one refuses."""

import json

import numpy as np
import pytest
from faking import VERSIONS, make_graph
from onnx import TensorProto, helper, save_model

from mla_edge.engines.bindings import load_bindings
from mla_edge.engines.target import RTX_CAPABILITIES
from mla_edge.errors import ConfigError, ExportError, MissingDependency
from mla_edge.exporter.engine_build import BuildSpec, build_engine, parse_network

every_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def graph(tmp_path):
    return make_graph(tmp_path / "lite.onnx")


@pytest.fixture
def plain(tmp_path):
    return make_graph(tmp_path / "plain.onnx", int8=False)


def settings(plan):
    """What the fake notes in its plans."""
    return json.loads(plan.split(b"\n")[0].partition(b" ")[2])


@pytest.mark.parametrize(
    ("version", "precision", "carries_types", "typing", "flags"),
    [
        ("8.6", "int8", False, "weak", ("INT8", "FP16")),
        ("10.3", "int8", False, "weak", ("INT8", "FP16")),
        ("11.4", "int8", False, "strong", ()),
        ("8.6", "fp16", True, "weak", ("FP16",)),  # it has no other way
        ("10.3", "fp16", True, "strong", ()),
        ("11.4", "fp16", True, "strong", ()),
        ("8.6", "fp32", False, "weak", ()),
        ("10.3", "fp32", False, "weak", ()),
        ("11.4", "fp32", False, "strong", ()),
    ],
)
def test_typing_follows_the_builder_and_the_graph(
    fakes, graph, plain, version, precision, carries_types, typing, flags
):
    bindings = fakes.use(version)
    spec = BuildSpec(str(graph if precision == "int8" else plain), precision, carries_types)
    plan, built = build_engine(bindings, spec)
    assert (built.typing, built.flags) == (typing, flags)
    assert built.tensorrt == VERSIONS[version]
    assert built.plan_bytes == len(plan)
    found = settings(plan)
    assert found["strong"] == (typing == "strong")
    assert set(flags) <= set(found["flags"])
    assert found["detailed"]


@pytest.mark.parametrize("version", ["8.6", "10.3"])
def test_what_needs_float_keeps_it_where_fp16_is_on(fakes, graph, version):
    bindings = fakes.use(version)
    plan, built = build_engine(bindings, BuildSpec(str(graph), "int8", float_layers=("/relu",)))
    assert built.held_float == ("/relu", "/mean")
    assert settings(plan)["held"] == ["/relu", "/mean"]
    assert "PREFER_PRECISION_CONSTRAINTS" in settings(plan)["flags"]
    plan, built = build_engine(bindings, BuildSpec(str(graph), "int8"))
    assert built.held_float == ("/mean",)


def test_a_graph_with_types_is_told_nothing_more(fakes, plain):
    plan, built = build_engine(
        fakes.use("11.4"), BuildSpec(str(plain), "fp16", True, float_layers=("/relu",))
    )
    assert (built.held_float, settings(plan)["held"], settings(plan)["flags"]) == ((), [], [])


@every_version
def test_memory_and_level_reach_the_builder(fakes, graph, version):
    spec = BuildSpec(str(graph), "int8", workspace_mb=77, optimisation_level=5)
    plan, built = build_engine(fakes.use(version), spec)
    assert settings(plan)["workspace"] == 77 << 20
    assert settings(plan)["level"] == 5
    assert built.workspace_mb == 77


@pytest.mark.parametrize(("version", "tells"), [("8.6", False), ("10.3", True), ("11.4", True)])
def test_phases_are_told_where_the_builder_tells_them(fakes, graph, version, tells):
    told = []
    _, built = build_engine(
        fakes.use(version), BuildSpec(str(graph), "int8"), lambda *phase: told.append(phase)
    )
    if not tells:
        assert (told, built.phases) == ([], {})
        return
    assert told[0] == ("Building Engine", 0.0)
    shares = [share for name, share in told if name == "Timing layers"]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert set(built.phases) == {"Building Engine", "Timing layers"}


@every_version
def test_measurements_are_kept_for_the_next_build(fakes, graph, tmp_path, version):
    bindings = fakes.use(version)
    spec = BuildSpec(str(graph), "int8", timing_cache=str(tmp_path / "timing.cache"))
    build_engine(bindings, spec)
    first = (tmp_path / "timing.cache").read_bytes()
    assert b"/conv" in first
    build_engine(bindings, spec)
    assert (tmp_path / "timing.cache").read_bytes() == first


@pytest.mark.parametrize("left", ["another GPU", "damaged"])
def test_measurements_that_do_not_fit_are_made_again(fakes, graph, tmp_path, left):
    cache = tmp_path / "timing.cache"
    spec = BuildSpec(str(graph), "int8", timing_cache=str(cache))
    build_engine(fakes.use("10.3", SM_COUNT=8), spec)
    before = cache.read_bytes()
    if left == "damaged":
        cache.write_bytes(b"\0")
    build_engine(fakes.use("10.3", SM_COUNT=16), spec)
    assert cache.read_bytes() not in (before, b"\0")
    assert b"16" in cache.read_bytes()


@pytest.mark.parametrize(
    ("version", "where"),
    [("8.6", "node 1: "), ("10.3", "/bad/Det (Det): "), ("11.4", "/bad/Det (Det): ")],
)
def test_what_the_parser_refuses_is_named(fakes, tmp_path, version, where):
    bindings = fakes.use(version)
    with pytest.raises(ExportError) as caught:
        build_engine(bindings, BuildSpec(str(write_det(tmp_path / "det.onnx"))))
    assert f"TensorRT {VERSIONS[version]} does not take det.onnx: {where}" in str(caught.value)
    assert "No importer registered for op: Det" in str(caught.value)
    assert caught.value.exit_code == 7


def write_det(path):
    """A graph with an operator that no TensorRT takes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 2, 2])
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["m"], "/r"),
        helper.make_node("Det", ["m"], ["y"], "/bad/Det"),
    ]
    made = helper.make_graph(nodes, "g", [x], [y], [shape])
    opset = [helper.make_opsetid("", 17)]
    save_model(helper.make_model(made, opset_imports=opset, ir_version=8), str(path))
    return path


@every_version
def test_a_file_that_is_no_graph_is_refused(fakes, tmp_path, version):
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"\xff\xff noise")
    with pytest.raises(ExportError, match="noise.onnx: .*Failed to parse"):
        build_engine(fakes.use(version), BuildSpec(str(path)))


def test_a_shape_that_is_not_fixed_is_refused(fakes, tmp_path):
    path = make_graph(tmp_path / "dynamic.onnx", int8=False, dynamic=True)
    with pytest.raises(ExportError, match=r"'x' of dynamic.onnx has the shape \[-1, 3, 8, 8\]"):
        build_engine(fakes.use("10.3"), BuildSpec(str(path)))


@every_version
def test_too_little_memory_is_said_with_what_helps(fakes, graph, version):
    bindings = fakes.use(version, BUILD_ENDS="memory")
    with pytest.raises(ExportError, match="cannot build lite.onnx: .*OutOfMemory") as caught:
        build_engine(bindings, BuildSpec(str(graph), "int8"))
    assert "--workspace-mb" in caught.value.hint


def test_a_builder_that_gives_no_reason_is_quoted_so(fakes, graph):
    with pytest.raises(ExportError, match="the builder gives no reason"):
        build_engine(fakes.use("10.3", BUILD_ENDS="mute"), BuildSpec(str(graph), "int8"))


def test_quantized_graphs_need_the_precision_of_their_recipe(fakes, graph):
    with pytest.raises(ExportError, match="Q/DQ layers, and INT8 is not set"):
        build_engine(fakes.use("8.6"), BuildSpec(str(graph), "fp32"))


def test_a_gpu_without_int8_says_so(fakes, graph):
    with pytest.raises(ExportError, match="this GPU has no fast INT8") as caught:
        build_engine(fakes.use("8.6", SM=62), BuildSpec(str(graph), "int8"))
    assert "--recipe fp16" in caught.value.hint


@every_version
def test_without_a_gpu_what_tensorrt_says_is_passed_on(fakes, graph, version):
    bindings = fakes.use(version, PRESENT=False)
    with pytest.raises(ExportError, match="does not start: CUDA initialization failure"):
        build_engine(bindings, BuildSpec(str(graph), "int8"))


@pytest.mark.parametrize("version", ["8.6", "10.3"])
def test_a_dla_gets_its_scales_from_a_calibration_cache(fakes, plain, tmp_path, version):
    cache = tmp_path / "calibration.cache"
    cache.write_bytes(b"TRT-8601-EntropyCalibration2\nx: 3c010a14\n")
    spec = BuildSpec(str(plain), "int8", dla=True, calibration_cache=str(cache))
    plan, built = build_engine(fakes.use(version, DLA_CORES=2), spec)
    assert built.typing == "weak"
    assert {"INT8", "FP16", "GPU_FALLBACK"} <= set(settings(plan)["flags"])
    with pytest.raises(ExportError, match="finds no DLA on this machine"):
        build_engine(fakes.use(version, DLA_CORES=0), spec)


def test_a_dla_of_a_strong_builder_takes_the_graph_as_it_is(fakes, graph):
    plan, built = build_engine(
        fakes.use("11.4", DLA_CORES=2), BuildSpec(str(graph), "int8", dla=True)
    )
    assert (built.typing, settings(plan)["flags"]) == ("strong", ["GPU_FALLBACK"])


@every_version
def test_errors_of_an_earlier_build_are_forgotten(fakes, graph, tmp_path, version):
    bindings = fakes.use(version)
    with pytest.raises(ExportError):
        build_engine(bindings, BuildSpec(str(write_det(tmp_path / "det.onnx"))))
    assert bindings.log.errors
    build_engine(bindings, BuildSpec(str(graph), "int8"))
    assert bindings.log.errors == []


def test_bindings_are_found_by_flavour_and_made_once(fakes):
    first = fakes.use("10.3")
    assert first.title == "TensorRT 10.3.0"
    assert load_bindings() is first
    with pytest.raises(ConfigError, match="no TensorRT is called 'rt'"):
        load_bindings("rt")
    fakes.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "tensorrt", None)
        with pytest.raises(MissingDependency, match="TensorRT is not in this Python"):
            load_bindings()


class TestRtx:
    """The real TensorRT-RTX, which parses and builds without a GPU."""

    @pytest.fixture
    def rtx(self):
        pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
        return load_bindings("rtx")

    def test_it_builds_for_every_gpu_that_was_asked_for(self, rtx, graph, tmp_path):
        told = []
        spec = BuildSpec(
            str(graph),
            "int8",
            capabilities=RTX_CAPABILITIES,
            timing_cache=str(tmp_path / "timing.cache"),
        )
        plan, built = build_engine(rtx, spec, lambda *phase: told.append(phase))
        assert (built.typing, built.flags) == ("strong", RTX_CAPABILITIES)
        assert built.plan_bytes == len(plan) > 1000
        assert built.layers > 5
        assert told
        assert np.isclose(max(share for _, share in told), 1.0)
        assert not (tmp_path / "timing.cache").exists()  # it would ask for a GPU

    def test_it_names_what_it_refuses(self, rtx, tmp_path):
        spec = BuildSpec(str(write_det(tmp_path / "det.onnx")), capabilities=("SM86",))
        with pytest.raises(ExportError, match=r"/bad/Det \(Det\)"):
            build_engine(rtx, spec)

    def test_its_network_is_read_as_the_fakes_are(self, rtx, fakes, graph):
        real, fake = ({}, {})
        for bindings, found in ((rtx, real), (fakes.use("11.4"), fake)):
            _, network, _parser = parse_network(bindings, graph)
            layers = [network.get_layer(i) for i in range(network.num_layers)]
            found.update({layer.name: layer.type.name for layer in layers})
        assert {"/conv", "/relu", "/mean", "/head"} <= set(real)
        assert all(real[name] == kind for name, kind in fake.items() if name in real)
