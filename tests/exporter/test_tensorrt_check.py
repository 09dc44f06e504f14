"""A real TensorRT parser and builder on this machine, where it is installed."""

import importlib.util
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mla_edge.engines.target import RTX_CAPABILITIES
from mla_edge.errors import MissingDependency
from mla_edge.exporter import tensorrt_check
from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.exporter.quantization import quantize
from mla_edge.exporter.tensorrt_check import verify_tensorrt

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="tensorrt-rtx is not installed",
)


def _missing(flavour):
    raise MissingDependency(f"no {flavour}")


def test_without_tensorrt_nothing_is_called_ok(graph, monkeypatch):
    monkeypatch.setattr(tensorrt_check, "load_bindings", _missing)
    found = verify_tensorrt(graph, int8=False)

    assert found.status == "not checked"
    assert "pip install 'mla-edge[tensorrt-check]'" in found.reason


@pytest.mark.parametrize("installed", [True, False])
def test_weighted_layers_that_are_exempt_are_named(
    graph, ranges, quantized, tmp_path, monkeypatch, installed
):
    if installed:
        pytest.importorskip("tensorrt_rtx_bindings")
    else:
        monkeypatch.setattr(tensorrt_check, "load_bindings", _missing)
    marked = verify_tensorrt(quantized["tensorrt"], int8=True).exempt
    assert marked
    assert all(name.startswith(("/mel", "/gate")) for name in marked)
    assert any(name.startswith("/mel") for name in marked)

    path = tmp_path / "q.onnx"
    quantize(graph, path, ranges, style="tensorrt", keep_float=["/head/Gemm"])
    assert set(verify_tensorrt(path, int8=True).exempt) == {*marked, "/head/Gemm"}
    assert verify_tensorrt(graph, int8=False).exempt == ()


@needs_rtx
@pytest.mark.parametrize("opset", [16, 17])
@pytest.mark.parametrize("half", [False, True])
def test_float_graphs_build(network, tmp_path, opset, half):
    for tier in network.tiers:
        graph = to_onnx(network, tier, tmp_path / "graph.onnx", opset=opset, half=half)
        found = verify_tensorrt(graph.path, int8=False)
        assert (found.status, found.reason) == ("ok", "")
        assert found.version.startswith("TensorRT-RTX 1.")
        assert found.layers > 5
        assert found.seconds > 0


@needs_rtx
@pytest.mark.parametrize("int8_weights", [False, True])
def test_the_int8_graph_builds_with_every_weighted_layer_dequantized(
    graph, ranges, tmp_path, int8_weights
):
    path = quantize(
        graph, tmp_path / "q.onnx", ranges, style="tensorrt", int8_weights=int8_weights
    ).path
    found = verify_tensorrt(path, int8=True, capabilities=RTX_CAPABILITIES)

    assert (found.status, found.reason, found.undequantized) == ("ok", "", ())


@needs_rtx
@pytest.mark.parametrize("int8_weights", [False, True])
def test_int8_beside_fp16_builds_too(mixed, int8_weights):
    path = mixed(int8_weights=int8_weights)
    found = verify_tensorrt(path, int8=True, capabilities=RTX_CAPABILITIES)

    assert (found.status, found.reason, found.undequantized) == ("ok", "", ())


@needs_rtx
def test_layers_that_are_not_int8_are_named(network, graph):
    found = verify_tensorrt(graph, int8=True)

    assert found.status == "refused"
    assert "/stem/stem.0/Conv" in found.undequantized
    assert "/head/Gemm" in found.undequantized
    assert "/blocks.0/blocks.0.0/qkv/MatMul" in found.undequantized
    assert not [name for name in found.undequantized if name.startswith(("/mel", "/gate"))]
    assert verify_tensorrt(graph, int8=True, keep_float=found.undequantized).status == "ok"


@needs_rtx
def test_what_quantize_was_told_to_keep_is_exempt(graph, ranges, tmp_path):
    path = tmp_path / "q.onnx"
    quantize(graph, path, ranges, style="tensorrt", keep_float=["/head/Gemm"])
    assert verify_tensorrt(path, int8=True).status == "ok"


@needs_rtx
def test_what_the_parser_refuses_is_named(quantized, tmp_path):
    found = verify_tensorrt(quantized["cpu"], int8=True)
    assert found.status == "refused"
    assert "bias/dequantized (DequantizeLinear)" in found.reason

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Det", ["m"], ["y"], "/bad/Det")
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [1, 2, 2])
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["m"], "/r"), node]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [shape]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = Path(tmp_path) / "det.onnx"
    onnx.save(model, str(path))
    assert "/bad/Det (Det)" in verify_tensorrt(path, int8=False).reason
