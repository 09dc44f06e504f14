"""A tier as an ONNX graph: exact opset, static, every name in its place, float16 inside."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ConfigError, ExportError
from mla_edge.exporter.onnx_graph import load_model, read_graph, to_onnx
from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import InputSpec, Reading, Sample, Tier


def network_of(module, shape=(1, 6), outputs=("logits",)):
    """A network of one tier and one input of plain numbers."""

    def samples(split, count, seed):
        random = np.random.default_rng(seed)
        return [
            Sample({"x": Reading(random.normal(0, 1, shape).astype(np.float32), 0.0, "a")})
            for _ in range(count)
        ]

    tier = TierNetwork(Tier("only", ("x",), outputs), module.eval())
    return Network("tiny", ("a", "b"), (InputSpec("x", "tensor", shape),), (tier,), samples)


def export(network, folder, **options):
    options.setdefault("opset", 17)
    return to_onnx(network, network.tiers[0], folder / "graph.onnx", **options)


def operators(graph):
    return {node.op_type for node in onnx.load(str(graph.path)).graph.node}


@pytest.mark.parametrize("opset", [14, 16, 17, 20])
def test_the_opset_is_exact_and_the_graph_says_what_the_network_says(
    network, tensors, tmp_path, opset
):
    tier = network.tiers[0]
    graph = to_onnx(network, tier, tmp_path / "graph.onnx", opset=opset)

    model = onnx.load(str(graph.path))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert ("LayerNormalization" in operators(graph)) == (opset >= 17)
    assert "If" not in operators(graph)
    assert [spec.name for spec in graph.inputs] == ["image", "audio", "present"]
    assert [spec.name for spec in graph.outputs] == ["logits", "feature"]
    assert graph.inputs[0].shape == (1, 3, 32, 32)
    assert graph.opset == opset
    engine = OnnxRuntimeEngine(graph.path)
    for sample in tensors[:6]:
        with torch.no_grad():
            expected = tier.module(*(torch.from_numpy(sample[n]) for n in tier.tier.inputs))
        found = engine.run(sample)
        np.testing.assert_allclose(found["logits"], expected[0], atol=1e-4)
        np.testing.assert_allclose(found["feature"], expected[1], atol=1e-4)


def test_equal_networks_give_equal_bytes(network, tmp_path):
    first = to_onnx(network, network.tiers[0], tmp_path / "a.onnx", opset=17)
    torch.manual_seed(99)
    again = to_onnx(network, network.tiers[0], tmp_path / "b.onnx", opset=17)

    assert first.path.read_bytes() == again.path.read_bytes()
    assert str(tmp_path).encode() not in first.path.read_bytes()


def test_an_input_that_is_not_used_stays(network, tmp_path):
    graph = to_onnx(network, network.tiers[1], tmp_path / "full.onnx", opset=17)

    assert [spec.name for spec in graph.inputs] == ["image", "feature"]
    engine = OnnxRuntimeEngine(graph.path)
    inputs = {spec.name: np.zeros(spec.shape, np.float32) for spec in graph.inputs}
    assert engine.run(inputs)["logits"].shape == (1, 4)


def test_topk_has_a_constant_k_and_equal_constants_are_stored_once(graph):
    model = onnx.load(str(graph))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}

    assert all(n.input[1] in constants for n in model.graph.node if n.op_type == "TopK")
    assert len(
        {t.SerializeToString().replace(n.encode(), b"") for n, t in constants.items()}
    ) == len(constants)


def test_marked_modules_are_named_also_where_they_are_called_again(tmp_path):
    class Marked(nn.Module):
        keep_float32 = True

        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x):
            return self.inner(x).tanh()

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList([nn.Sequential(Marked())])
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.parts[0](self.parts[0](x)))

    graph = export(network_of(Twice()), tmp_path)

    weighted = [n.name for n in load_model(graph.path).graph.node if n.op_type == "Gemm"]
    assert len(weighted) == 3
    assert [name for name in weighted if name not in graph.keep_float] == ["/head/Gemm"]


@pytest.mark.parametrize("opset", [16, 17])
def test_half_computes_in_float16_and_keeps_marked_modules_in_float32(
    network, graph, tensors, tmp_path, opset
):
    half = to_onnx(network, network.tiers[0], tmp_path / "half.onnx", opset=opset, half=True)

    model = onnx.shape_inference.infer_shapes(onnx.load(str(half.path)))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types.update((tensor.name, tensor.data_type) for tensor in model.graph.initializer)
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            kept = node.name in half.keep_float
            wanted = onnx.TensorProto.FLOAT if kept else onnx.TensorProto.FLOAT16
            assert types[node.input[1]] == wanted, node.name
    assert {spec.dtype for spec in (*half.inputs, *half.outputs)} == {"float32"}
    # The waveform goes into the marked front end as it is: 11 bits would be noise in it.
    takers = [node.op_type for node in model.graph.node if "audio" in node.input]
    assert takers == ["Unsqueeze"]
    assert half.path.stat().st_size < 0.7 * graph.stat().st_size
    single, other = OnnxRuntimeEngine(graph), OnnxRuntimeEngine(half.path)
    for sample in tensors[:8]:
        a, b = (engine.run(sample)["logits"].ravel() for engine in (single, other))
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


@pytest.mark.parametrize("opset", [0, 13, 21])
def test_an_opset_that_cannot_be_written_is_refused(network, tmp_path, opset):
    with pytest.raises(ConfigError, match=f"opset {opset} cannot be written") as caught:
        to_onnx(network, network.tiers[0], tmp_path / "graph.onnx", opset=opset)
    assert "14 to 20" in caught.value.hint


class Fourier(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x.T @ x)[None, :2]


class Branch(nn.Module):
    def forward(self, x):
        return x[:, :2] if x.sum() > SUM_OF_FIRST else x[:, 2:4]


SUM_OF_FIRST = None  # set by the test: between the sums of the two samples


class Grows(nn.Module):
    def forward(self, x):
        return x[x > 0][None, :2]


class Broken(nn.Module):
    def forward(self, x):
        return x.view(7, 3)


@pytest.mark.parametrize(
    ("module", "outputs", "message"),
    [
        (Fourier(), ("logits",), "aten::"),
        (Broken(), ("logits",), "does not run: RuntimeError"),
        (nn.Linear(6, 3), ("logits",), r"logits \[1, 3\] for 2 labels"),
        (nn.Linear(6, 2), ("logits", "feature"), "says it gives logits, feature"),
        (Grows(), ("logits",), "depends on the data"),
    ],
)
def test_what_cannot_be_exported_is_named(tmp_path, module, outputs, message):
    with pytest.raises(ExportError, match=message) as caught:
        export(network_of(module, outputs=outputs), tmp_path)
    assert "to_onnx" in str(caught.value)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_branch_that_tracing_froze_is_found(tmp_path, monkeypatch):
    network = network_of(Branch())
    sums = [s.signals["x"].values.sum() for s in network.samples("calibrate", 2, 0)]
    monkeypatch.setattr("test_onnx_graph.SUM_OF_FIRST", float(np.mean(sums)))

    with pytest.raises(ExportError, match="differs from the network's") as caught:
        export(network, tmp_path)
    assert "torch.where" in caught.value.hint


def test_nan_from_the_float_network_is_refused(tmp_path):
    broken = nn.Linear(6, 2)
    with torch.no_grad():
        broken.weight[0, 0] = float("nan")

    with pytest.raises(ExportError, match="NaN or infinity in 'logits'"):
        export(network_of(broken), tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_a_file_that_is_cut_off_is_named(graph, tmp_path, keep):
    path = tmp_path / "cut.onnx"
    path.write_bytes(graph.read_bytes()[:keep])

    with pytest.raises(ExportError, match="cut.onnx: not an ONNX graph, or cut off"):
        read_graph(path)
    with pytest.raises(ExportError, match="gone.onnx"):
        read_graph(tmp_path / "gone.onnx")


def test_the_tier_itself_is_left_as_it_was(network, tmp_path):
    before = network.fingerprint
    to_onnx(network, network.tiers[0], tmp_path / "half.onnx", opset=17, half=True)

    assert network.fingerprint == before
    assert not any(module._forward_hooks for module in network.tiers[0].module.modules())
    assert dataclasses.is_dataclass(network)
