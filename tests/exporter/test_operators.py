"""Operators against the tables of each TensorRT."""

import onnx
import pytest
from onnx import TensorProto, helper

from mla_edge.errors import ConfigError, ExportError
from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.exporter.operators import (
    check_operators,
    is_only_strongly_typed,
    takes_int8_weights,
)
from mla_edge.exporter.quantization import quantize

VERSIONS = ("8.4", "8.5", "8.6", "10.0", "10.3", "10.13", "10.16", "11.4", "rtx-1.7")


def save(path, operator, opset=17, inputs=("x",), **attributes):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    node = helper.make_node(operator, list(inputs), ["y"], "/part/it", **attributes)
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [4], [1.0] * 4)
    graph = helper.make_graph([node], "g", [x], [y], [scale])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_opset_16_fits_every_version(network, tmp_path, version):
    for tier in network.tiers:
        graph = to_onnx(network, tier, tmp_path / "graph.onnx", opset=16)
        assert check_operators(graph.path, version) is None


def test_layer_normalization_is_refused_before_8_6(graph):
    with pytest.raises(
        ExportError, match=r"/norm.*TensorRT 8.5 has no operator Layer"
    ) as caught:
        check_operators(graph, "8.5")
    assert caught.value.hint == "export at opset 16, which spells it out"
    assert check_operators(graph, "8.6") is None


@pytest.mark.parametrize("version", VERSIONS)
def test_an_operator_nobody_has_is_named_with_its_node(tmp_path, version):
    path = save(tmp_path / "det.onnx", "Hardmax" if version.startswith("8") else "Det")
    with pytest.raises(ExportError, match=f"/part/it: TensorRT {version} has no operator"):
        check_operators(path, version)


def test_the_version_that_has_it_is_named(tmp_path):
    path = save(tmp_path / "hard.onnx", "Hardmax")
    with pytest.raises(ExportError, match="Hardmax") as caught:
        check_operators(path, "8.6.2")
    assert "TensorRT 10.0 or later" in caught.value.hint


@pytest.mark.parametrize("version", ["8.2", "7.1"])
def test_a_version_without_a_table_is_refused(graph, version):
    with pytest.raises(ConfigError, match="too old") as caught:
        check_operators(graph, version)
    assert "8.4" in caught.value.hint


@pytest.mark.parametrize("version", ["", "ten", "8"])
def test_what_is_no_version_is_refused(graph, version):
    with pytest.raises(ConfigError, match="TensorRT version"):
        check_operators(graph, version)


def test_quantized_graphs_are_held_to_the_parsers_demands(graph, ranges, quantized, tmp_path):
    assert check_operators(quantized["tensorrt"], "8.6") is None
    with pytest.raises(ExportError, match="INT32|unsigned|zero point"):
        check_operators(quantized["cpu"], "10.3")
    stored = quantize(
        graph, tmp_path / "q.onnx", ranges, style="tensorrt", int8_weights=True
    ).path
    assert check_operators(stored, "10.3") is None
    with pytest.raises(ExportError, match="weights stored as INT8"):
        check_operators(stored, "8.6")


@pytest.mark.parametrize(
    ("version", "weights", "strong"),
    [
        ("8.5", False, False),
        ("10.3", True, False),
        ("10.16", True, False),
        ("11.4", True, True),
        ("rtx-1.7", True, True),
        (None, True, False),
    ],
)
def test_what_a_version_takes(version, weights, strong):
    assert takes_int8_weights(version) is weights
    assert is_only_strongly_typed(version) is strong
