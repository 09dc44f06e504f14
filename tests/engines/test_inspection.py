"""What is read out of TensorRT's own words on the layers of an engine."""

import dataclasses
import json

import pytest

from mla_edge.engines.inspection import Inspection, inspect_layers

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP16 = "Channel major FP16 format where channel % 8 == 0"
FP32 = "Row major linear FP32"


def layer(name, given, made, kind="Convolution", layer_type="CaskConvolution"):
    return {
        "Name": name,
        "LayerType": layer_type,
        "ParameterType": kind,
        "Inputs": [{"Name": "in", "Format/Datatype": given}],
        "Outputs": [{"Name": "out", "Format/Datatype": made}],
    }


def inspect(*layers):
    return inspect_layers(json.dumps({"Layers": layers, "Bindings": []}))


def test_layers_are_counted_by_what_they_read_and_write():
    found = inspect(
        layer("Reformatting CopyNode for x", FP32, INT8, "Reformat", "Reformat"),
        layer("/stem", INT8, INT8),
        layer("/head", INT8, FP32, "MatrixMultiply", "gemm"),
        layer("/mel", FP32, FP16),
        layer("/softmax", "Float", "Half", "SoftMax", "SoftMax"),
        layer("/relu", FP16, "BFloat16", "Activation", "PointWise"),
    )
    assert found == Inspection(
        told=True, layers=6, int8=2, not_int8=("/mel",), reformats=1, fp32=3
    )
    assert found.in_words == (
        "6 layers; with weights: 2 in INT8, 1 not; 3 read or write FP32; "
        "1 copies between formats"
    )


def test_names_alone_tell_nothing():
    found = inspect("/stem", "/head")
    assert found == Inspection(False, 2, 0, (), 0, 0)
    assert found.in_words == "TensorRT tells no details of its layers"


@pytest.mark.parametrize(
    "text", ["", "a text", "[]", "{}", "null", '{"Layers": 3}', '{"Layers": null}']
)
def test_what_is_no_json_of_an_inspector_tells_nothing(text):
    assert inspect_layers(text) == Inspection(False, 0, 0, (), 0, 0)


@pytest.mark.parametrize("inputs", [None, 3, "x", [None], [{}], ["x"]])
def test_a_layer_of_another_form_is_counted_and_reads_nothing(inputs):
    found = inspect({"Name": "/stem", "LayerType": "Convolution", "Inputs": inputs})
    assert (found.told, found.int8, found.not_int8, found.fp32) == (True, 0, ("/stem",), 0)


def test_it_comes_back_from_json_whole_and_another_form_is_refused():
    found = inspect(layer("/mel", FP32, FP16))
    written = json.loads(json.dumps(dataclasses.asdict(found)))
    assert Inspection.from_json(written) == found
    del written["fp32"]
    with pytest.raises(TypeError):
        Inspection.from_json(written)
