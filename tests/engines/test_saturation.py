"""Sums of INT8 that are cut off are seen, and said where a bundle was not made for that."""

import dataclasses

import numpy as np
import pytest
from faking import make_bundle
from processor import IS_EXACT

from mla_edge.engines import saturation
from mla_edge.engines.opening import open_tiers


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "made-host")


def test_what_is_tried_is_what_the_processor_says_of_itself():
    assert saturation.saturates() == (not IS_EXACT)


def test_the_graph_is_one_product():
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights = np.full((64, 32), 127, np.int8)
    zero = numpy_helper.from_array(np.array(0, np.uint8), "zero")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["activations", "weights", "zero"], ["sums"])],
        "saturation",
        [helper.make_tensor_value_info("activations", TensorProto.UINT8, (16, 64))],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, (16, 32))],
        [numpy_helper.from_array(weights, "weights"), zero],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    assert onnx.load(saturation._GRAPH) == model


def test_a_processor_of_another_kind_is_not_tried(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(saturation, "_GRAPH", None)
    assert saturation.saturates.__wrapped__() is False


@pytest.mark.parametrize("saturates", [True, False])
@pytest.mark.parametrize(
    ("provenance", "is_wrong"),
    [
        ({"precision": "int8"}, True),  # of before this was asked
        ({"precision": "int8", saturation.MINDED: False}, True),
        ({"precision": "int8", saturation.MINDED: True}, False),
        ({"precision": "fp32", saturation.MINDED: False}, False),
    ],
)
def test_a_bundle_that_did_not_mind_it_says_so(
    bundle, monkeypatch, provenance, is_wrong, saturates
):
    monkeypatch.setattr(saturation, "saturates", lambda: saturates)
    opened = open_tiers(dataclasses.replace(bundle, provenance=provenance))
    if saturates and is_wrong:
        assert opened.note.startswith("this processor cuts off sums of INT8")
        assert f"mla-edge verify {bundle.folder}" in opened.note
        assert "\n" not in opened.note
    else:
        assert opened.note == ""
    for engine in opened.engines.values():
        engine.close()
