"""What layers cost, and how far their outputs are from the float graph's."""

import pytest

from mla_edge.exporter.layer_costs import by_layer, time_nodes
from mla_edge.exporter.layer_noise import noise_in_layers
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model


def test_every_layer_of_a_real_graph_is_timed_and_nothing_is_lost(graph, quantized, tensors):
    names = [layer.node.name for layer in find_layers(load_model(graph))]
    times = time_nodes(quantized["cpu"], tensors[0])
    rows, others = by_layer(times, names)

    assert {name for name, _ in rows} == set(names)
    assert all(ms > 0 for _, ms in rows), rows
    assert [ms for _, ms in rows] == sorted((ms for _, ms in rows), reverse=True)
    total = sum(ms for _, ms in rows) + sum(ms for _, _, ms in others)
    assert total == pytest.approx(sum(times.values()))
    assert "Softmax" in {operator for operator, _, _ in others}


def test_a_fused_node_is_its_layers_and_no_namesakes():
    times = {
        ("/a/MatMul", "QGemm"): 1.0,
        ("/a/MatMul/MatMulAddFusion", "Gemm"): 2.0,
        ("/a/Conv_token_12", "QLinearConv"): 4.0,
        ("/a/MatMul_1", "MatMul"): 8.0,  # of two activations: no layer
        ("/a/Conv_output_0/flat/reshape", "Reshape"): 16.0,
        ("/a/Conv_10", "Conv"): 32.0,
    }
    rows, others = by_layer(times, ["/a/MatMul", "/a/Conv", "/a/Conv_10"])
    assert dict(rows) == {"/a/MatMul": 3.0, "/a/Conv": 4.0, "/a/Conv_10": 32.0}
    assert others == [("Reshape", 1, 16.0), ("MatMul", 1, 8.0)]


@pytest.mark.parametrize("style", ["tensorrt", "cpu"])
def test_noise_comes_in_with_a_layers_input_and_goes_out_with_its_output(
    graph, quantized, tensors, style
):
    noise = noise_in_layers(graph, quantized[style], tensors[:8])
    assert all(0 <= before < 0.1 and 0 < after < 0.1 for before, after in noise.values())
    assert min(before for before, _ in noise.values()) < 1e-9  # of a layer behind the input
    assert max(before for before, _ in noise.values()) > 1e-6
    assert noise_in_layers(graph, graph, tensors[:2]) == {}  # no layer of it is quantized
