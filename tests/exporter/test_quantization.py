"""Ranges from samples, and the two INT8 graphs made with them."""

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from processor import IS_EXACT

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ConfigError, ExportError
from mla_edge.exporter.layers import find_layers, floating_layers
from mla_edge.exporter.onnx_graph import read_graph, to_onnx
from mla_edge.exporter.quantization import calibrate, quantize
from mla_edge.exporter.ranges import Ranges, check_samples


def parts(path):
    model = onnx.load(str(path))
    producers = {name: node for node in model.graph.node for name in node.output}
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return model, producers, constants


def changed(tensors, number, name, value):
    return [{**s, name: value} if i == number else s for i, s in enumerate(tensors)]


def test_good_samples_pass(graph, tensors):
    assert check_samples(tensors, read_graph(graph).inputs) is None


def test_too_few_samples_are_refused(graph, tensors):
    with pytest.raises(ConfigError, match="31 samples are too few"):
        calibrate(graph, tensors[:31])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.full((1, 1600), np.nan, np.float32), "has NaN or infinity"),
        (np.full((1, 1600), np.inf, np.float32), "has NaN or infinity"),
        (np.zeros((1, 800), np.float32), r"float32 \[1, 800\]; expected float32 \[1, 1600\]"),
        (np.zeros((1, 1600), np.float64), "float64"),
    ],
)
def test_a_bad_sample_is_named(graph, tensors, value, message):
    with pytest.raises(ExportError, match=f"'audio' of sample 5 .*{message}"):
        calibrate(graph, changed(tensors, 5, "audio", value))


def test_a_missing_and_a_constant_input_are_named(graph, tensors):
    inputs = read_graph(graph).inputs
    with pytest.raises(ExportError, match="'image' of sample 0 is missing"):
        check_samples([{"audio": s["audio"]} for s in tensors], inputs)
    same = [{**s, "image": tensors[0]["image"]} for s in tensors]
    with pytest.raises(ExportError, match="'image' is the same in all 48 samples"):
        check_samples(same, inputs)
    ones = [{**s, "present": np.ones((1, 2), np.float32)} for s in tensors]
    assert check_samples(ones, inputs) is None


def test_ranges_survive_json_and_serve_every_opset(network, graph, ranges, tmp_path):
    again = Ranges.from_json(json.loads(json.dumps(ranges.to_json())))

    assert again == ranges
    older = to_onnx(network, network.tiers[0], tmp_path / "o16.onnx", opset=16).path
    one = quantize(older, tmp_path / "a.onnx", ranges, style="tensorrt").path
    assert find_layers(onnx.load(str(older)))[0].node.name in {
        node.name for node in onnx.load(str(one)).graph.node
    }
    with pytest.raises(ConfigError, match="not a calibration cache"):
        Ranges.from_json({"places": {}})


def test_ranges_of_another_graph_are_refused(network, ranges, tmp_path):
    other = to_onnx(network, network.tiers[1], tmp_path / "full.onnx", opset=17).path
    with pytest.raises(ExportError, match="made for another graph than full.onnx"):
        quantize(other, tmp_path / "out.onnx", ranges, style="cpu")
    assert not (tmp_path / "out.onnx").exists()


def test_unknown_names_are_refused(graph, ranges, tensors, tmp_path):
    with pytest.raises(ConfigError, match="'gpu'"):
        quantize(graph, tmp_path / "q.onnx", ranges, style="gpu")
    with pytest.raises(ConfigError, match="/head/Gemmm") as caught:
        quantize(graph, tmp_path / "q.onnx", ranges, style="cpu", keep_float=["/head/Gemmm"])
    assert "/head/Gemm" in caught.value.hint
    with pytest.raises(ConfigError, match="'magic'"):
        calibrate(graph, tensors, method="magic")


def test_the_tensorrt_form_is_signed_symmetric_and_without_quantized_bias(quantized):
    model, producers, constants = parts(quantized["tensorrt"])

    axes = {"Conv": 0, "MatMul": 1, "Gemm": 0}  # torch's Gemm transposes its weights
    seen = 0
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
            assert (constants[node.input[1]] > 0).all()
        weight = producers.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type in axes and weight is not None and weight.op_type == "DequantizeLinear":
            seen += 1
            shape = constants[producers[weight.input[0]].input[0]].shape
            axis = next(a.i for a in weight.attribute if a.name == "axis")
            assert axis == axes[node.op_type]
            assert constants[weight.input[1]].shape == (shape[axis],)
            assert producers[node.input[0]].op_type == "DequantizeLinear"
            if len(node.input) > 2:
                assert node.input[2] in constants
    assert seen == 15


def test_the_residual_branch_is_quantized_where_it_fuses(quantized):
    model, producers, _ = parts(quantized["tensorrt"])
    add = next(node for node in model.graph.node if node.name == "/stem/stem.3/Add")
    kinds = {producers[name].op_type for name in add.input}
    assert kinds == {"DequantizeLinear", "Conv"}
    later = next(n for n in model.graph.node if n.name == "/blocks.0/blocks.0.0/Add_1")
    assert "DequantizeLinear" not in {producers[name].op_type for name in later.input}


def test_the_cpu_form_is_unsigned_with_biases_in_int32(quantized):
    model, producers, constants = parts(quantized["cpu"])
    zeros = [constants[n.input[2]] for n in model.graph.node if n.op_type == "QuantizeLinear"]

    assert {zero.dtype for zero in zeros} == {np.dtype("uint8")}
    assert any(zero.any() for zero in zeros)
    kept = set(read_graph(quantized["cpu"]).keep_float)
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.name not in kept:
            assert [producers[name].op_type for name in node.input] == ["DequantizeLinear"] * 3
            assert constants[producers[node.input[2]].input[0]].dtype == np.int32
    # Convolutions over the picture's three channels are faster in float.
    first = next(node for node in model.graph.node if node.name == "/stem/stem.0/Conv")
    assert first.input[1] in constants


@pytest.mark.parametrize("style", ["tensorrt", "cpu"])
def test_marked_modules_attention_and_norms_stay_float(quantized, style):
    model, producers, constants = parts(quantized[style])
    for node in model.graph.node:
        if node.name.startswith(("/mel/", "/gate/")) or node.op_type in (
            "LayerNormalization",
            "Softmax",
        ):
            weights = [producers[name] for name in node.input[1:] if name in producers]
            assert not any(maker.op_type == "DequantizeLinear" for maker in weights), node.name
    scores = [node for node in model.graph.node if node.name.endswith("0.0/MatMul_2")]
    assert scores
    assert all(producers[scores[0].input[i]].op_type != "DequantizeLinear" for i in (0, 1))


def test_layers_that_are_to_stay_float_do(graph, ranges, tmp_path):
    path = quantize(
        graph, tmp_path / "q.onnx", ranges, style="tensorrt", keep_float=["/head/Gemm"]
    ).path
    model, _, constants = parts(path)
    head = next(node for node in model.graph.node if node.name == "/head/Gemm")
    assert head.input[1] in constants


@pytest.mark.parametrize("style", ["tensorrt", "cpu"])
def test_both_forms_answer_as_the_float_network(quantized, held_back, style):
    samples, logits, _ = held_back
    engine = OnnxRuntimeEngine(quantized[style])
    least = 0.995 if IS_EXACT or style == "tensorrt" else 0.95
    for sample, expected in zip(samples, logits):
        found, wanted = engine.run(sample)["logits"].ravel(), expected.ravel()
        assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > least


@pytest.mark.parametrize("int8_weights", [False, True])
def test_a_half_graph_is_int8_beside_fp16(mixed, held_back, int8_weights):
    path = mixed(int8_weights=int8_weights)
    model, producers, constants = parts(path)
    marked = set(floating_layers(model))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    half = onnx.TensorProto.FLOAT16
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    quantized = [n for n in layers if n.input[1] in producers and n.name not in marked]
    fed = [n for n in quantized if producers[n.input[1]].op_type == "DequantizeLinear"]
    assert len(fed) >= 10
    for node in fed:
        assert types[node.output[0]] == half, node.name
        for tensor in node.input[:2]:
            assert constants[producers[tensor].input[1]].dtype == np.float16
    samples, logits, _ = held_back
    for optimise in (False, True):
        engine = OnnxRuntimeEngine(path, optimise=optimise)
        for sample, expected in zip(samples, logits):
            found, wanted = engine.run(sample)["logits"].ravel(), expected.ravel()
            assert found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.995


def test_a_weight_too_small_for_an_fp16_scale_does_not_divide_by_zero(
    network, ranges, tmp_path
):
    half = to_onnx(network, network.tiers[0], tmp_path / "h.onnx", opset=19, half=True).path
    model = onnx.load(str(half))
    layer = find_layers(model)[3]
    weights = numpy_helper.to_array(layer.weight).copy()
    weights[0] = 1e-7
    layer.weight.CopyFrom(numpy_helper.from_array(weights, layer.weight.name))
    onnx.save(model, str(half))
    path = quantize(half, tmp_path / "q.onnx", ranges, style="tensorrt", int8_weights=True).path
    for constant in onnx.load(str(path)).graph.initializer:
        if constant.name.endswith("/scale"):
            assert (numpy_helper.to_array(constant) > 0).all(), constant.name


def test_the_forms_are_deterministic_and_smaller(graph, ranges, quantized, tmp_path):
    again = quantize(graph, tmp_path / "q.onnx", ranges, style="cpu").path
    assert again.read_bytes() == quantized["cpu"].read_bytes()
    stored = quantize(graph, tmp_path / "s.onnx", ranges, style="tensorrt", int8_weights=True)
    assert stored.path.stat().st_size < 0.7 * quantized["tensorrt"].stat().st_size
    one, other = OnnxRuntimeEngine(stored.path), OnnxRuntimeEngine(quantized["tensorrt"])
    inputs = {spec.name: np.ones(spec.shape, np.float32) for spec in stored.inputs}
    a, b = one.run(inputs)["logits"], other.run(inputs)["logits"]
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_cpu_form_has_no_weights_left_to_dequantize(quantized, tmp_path):
    """What ONNX Runtime does not fuse it dequantizes at every run, slower than float."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        str(quantized["cpu"]), options, providers=["CPUExecutionProvider"]
    )
    model, _, constants = parts(tmp_path / "optimised.onnx")
    kinds = [node.op_type for node in model.graph.node]
    left = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert not [n for n in left if n.input[0] in constants]
    assert kinds.count("QLinearConv") == 5
    assert kinds.count("QGemm") == 9


def test_nan_inside_the_float_graph_is_found(graph, tensors, tmp_path):
    model = onnx.load(str(graph))
    layer = find_layers(model)[3]
    weights = numpy_helper.to_array(layer.weight).copy()
    weights.flat[0] = np.inf
    layer.weight.CopyFrom(numpy_helper.from_array(weights, layer.weight.name))
    path = tmp_path / "broken.onnx"
    onnx.save(model, str(path))

    with pytest.raises(ExportError, match="in broken.onnx is NaN or infinite"):
        calibrate(path, tensors)
