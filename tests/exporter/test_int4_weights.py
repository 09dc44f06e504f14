"""Linear layers with weights in INT4: what is stored, what it computes, who takes it."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mla_edge.errors import ConfigError
from mla_edge.exporter.agreement import answers, output_error
from mla_edge.exporter.int4_weights import BLOCK, in_blocks, int4_layers, rounded
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model, to_onnx
from mla_edge.exporter.quantization import calibrate, quantize
from mla_edge.exporter.recipe import choose_precision, load_recipe
from mla_edge.exporter.sensitivity import tabulate
from mla_edge.exporter.tensorrt_check import tensorrt_version, verify_tensorrt
from mla_edge.networks import Network, TierNetwork
from mla_edge.profiles import load_profile
from mla_edge.signals import InputSpec, Tier


class Wide(nn.Module):
    """[1, 4, 16, 16] -> logits: a convolution, linear layers on whole blocks, one on less."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 64, 4, stride=4)
        self.mix = nn.Linear(64, 128)
        self.next = nn.Linear(128, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, image):
        tokens = torch.relu(self.conv(image)).flatten(2).transpose(1, 2)
        tokens = torch.relu(self.mix(tokens))
        return self.head(torch.relu(self.next(tokens)).mean(1))


@pytest.fixture(scope="module")
def wide():
    torch.manual_seed(0)
    tier = TierNetwork(Tier("only", ("image",), ("logits",)), Wide().eval())
    inputs = (InputSpec("image", "image", (1, 4, 16, 16)),)
    return Network("wide", ("a", "b", "c", "d"), inputs, (tier,), lambda *_: [])


@pytest.fixture(scope="module")
def samples():
    draw = np.random.default_rng(0)
    return [{"image": draw.normal(size=(1, 4, 16, 16)).astype(np.float32)} for _ in range(32)]


@pytest.fixture(scope="module")
def made(wide, samples, tmp_path_factory):
    """The float graph, and its forms with INT4 weights by style."""
    folder = tmp_path_factory.mktemp("int4")
    plain = to_onnx(wide, wide.tiers[0], folder / "float.onnx", opset=20).path
    half = to_onnx(wide, wide.tiers[0], folder / "half.onnx", opset=20, half=True).path
    ranges = calibrate(plain, samples)
    forms = {
        style: quantize(
            source, folder / f"{style}.onnx", ranges, style=style, int8_weights=True, int4=True
        ).path
        for style, source in (("cpu", plain), ("tensorrt", half))
    }
    return plain, ranges, forms


def test_each_block_has_its_scale():
    weights = np.random.default_rng(1).normal(size=(2 * BLOCK, 3)).astype(np.float32)
    weights[:BLOCK, 0] *= 100
    whole, scales = in_blocks(weights, 1)
    assert whole.shape == weights.shape
    assert scales.shape == (2, 3)
    assert np.abs(whole).max() == 7
    error = np.abs(rounded(weights, 1) - weights)
    assert error[:BLOCK, 0].max() > 20 * error[BLOCK:, 0].max()
    assert (error <= np.repeat(scales, BLOCK, 0) / 2 + 1e-6).all()
    np.testing.assert_array_equal(rounded(weights.T, 0), rounded(weights, 1).T)


@pytest.mark.parametrize("style", ["cpu", "tensorrt"])
def test_linear_layers_are_int4_and_the_rest_int8(made, style):
    plain, _, forms = made
    model = onnx.load(str(forms[style]))
    producers = {name: node for node in model.graph.node for name in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert int4_layers(model) == ["/mix/MatMul", "/next/MatMul"]
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            maker = producers[node.input[1]]
            stored = types[maker.input[0]]
            small = node.name in int4_layers(model)
            kind = onnx.TensorProto.INT4 if small else onnx.TensorProto.INT8
            assert stored == kind, node.name
            if small:
                source = producers.get(node.input[0])
                assert source is None or source.op_type != "DequantizeLinear"
    assert {entry.version for entry in model.opset_import} == {21}


@pytest.mark.parametrize("style", ["cpu", "tensorrt"])
def test_they_compute_with_the_rounded_weights(wide, made, samples, style):
    plain, _, forms = made
    module = copy.deepcopy(wide.tiers[0].module)
    with torch.no_grad():
        for layer in (module.mix, module.next):
            layer.weight.copy_(torch.from_numpy(rounded(layer.weight.numpy(), 0)))
        wanted = torch.cat([module(torch.from_numpy(s["image"])) for s in samples]).numpy()
    found = answers(forms[style], samples)
    assert output_error(wanted, found).sqnr_db > 30
    plainly = output_error(answers(plain, samples), found)
    assert output_error(wanted, found).sqnr_db > plainly.sqnr_db + 3


def test_onnx_runtime_computes_with_int4(made, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        str(made[2]["cpu"]), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert kinds.count("MatMulNBits") >= 1  # unless its input is INT8: then it is dequantized


@pytest.mark.skipif(tensorrt_version() is None, reason="TensorRT-RTX is not installed")
def test_a_real_tensorrt_builds_it(made):
    report = verify_tensorrt(made[2]["tensorrt"], int8=True)
    assert report.status == "ok", report.reason
    assert set(report.exempt) == {"/mix/MatMul", "/next/MatMul"}


def test_the_table_says_which_are_int4(made, samples):
    plain, ranges, _ = made
    table = tabulate(plain, ranges, "cpu", samples[:4], int4=True)
    small = {row.layer for row in table if row.calibrator == "INT4 weights"}
    assert small == {"/mix/MatMul", "/next/MatMul"}
    assert table[0].layer in small
    assert len(table) == len(find_layers(load_model(plain)))


@pytest.mark.parametrize(
    ("board", "precision", "why"),
    [
        (
            "agx-xavier",
            "int8",
            "TensorRT 8.5 and sm 72; INT4 weights need TensorRT 10 and sm 80",
        ),
        ("agx-orin", "fp16", "with precision = 'fp16'"),
        ("agx-orin", "int8", ""),
        ("agx-thor", "int8", ""),
        ("rtx", "int8", ""),
        ("host", "int8", ""),
    ],
)
def test_boards_without_it_are_refused(tmp_path, board, precision, why):
    path = tmp_path / "mine.toml"
    path.write_text(
        f'title = "x"\nprecision = "{precision}"\ncalibration = "default"\n'
        "[tiers.full]\nweights = 'int4'\n"
    )
    recipe, profile = load_recipe(str(path)), load_profile(board)
    if not why:
        assert choose_precision(recipe, profile) == precision
        return
    with pytest.raises(ConfigError, match=why) as caught:
        choose_precision(recipe, profile)
    assert caught.value.hint
