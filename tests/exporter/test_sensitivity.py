"""Each layer alone in INT8: what the table says against graphs that have just that layer."""

import dataclasses

import pytest

from mla_edge.exporter.agreement import answers, output_error
from mla_edge.exporter.calibrators import Range
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import quantize
from mla_edge.exporter.sensitivity import tabulate

SPOILT = "/blocks.0/blocks.0.1/back/MatMul"


@pytest.fixture
def spoilt(ranges):
    places = {**ranges.places, f"{SPOILT}:in": Range(-0.01, 0.01, 0.01)}
    return dataclasses.replace(ranges, places=places)


@pytest.mark.parametrize(("style", "count"), [("tensorrt", 15), ("cpu", 14)])
def test_the_layer_with_a_spoilt_range_is_the_worst(graph, spoilt, tensors, style, count):
    table = tabulate(graph, spoilt, style, tensors[:8])
    assert table[0].layer == SPOILT
    assert table[0].operator == "MatMul"
    assert table[0].sqnr_db < table[1].sqnr_db - 5
    assert table[0].divergence > table[1].divergence
    assert [row.sqnr_db for row in table] == sorted(row.sqnr_db for row in table)
    assert len(table) == count
    assert {row.samples for row in table} == {8}


def test_the_table_is_what_a_graph_with_that_layer_alone_gives(
    graph, spoilt, tensors, tmp_path
):
    samples = tensors[:8]
    table = {row.layer: row for row in tabulate(graph, spoilt, "tensorrt", samples)}
    names = [layer.node.name for layer in find_layers(load_model(graph))]
    wanted = answers(graph, samples)
    for name in (SPOILT, "/head/Gemm", names[0], names[6]):
        others = [other for other in names if other != name]
        path = tmp_path / "alone.onnx"
        quantize(graph, path, spoilt, style="tensorrt", keep_float=others)
        found = output_error(wanted, answers(path, samples))
        assert table[name].sqnr_db == pytest.approx(found.sqnr_db, abs=0.3), name
        assert table[name].changed == found.changed


def test_layers_that_stay_float_are_not_in_it(graph, ranges, tensors):
    table = tabulate(graph, ranges, "tensorrt", tensors[:2], [SPOILT])
    assert SPOILT not in {row.layer for row in table}
    assert len(table) == 14
