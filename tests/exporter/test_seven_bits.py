"""Activations in seven bits where a processor adds up products in 16 bits."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from processor import IS_EXACT
from test_pipeline import ALARMS, QUICK

from mla_edge.exporter import int8, job
from mla_edge.exporter.calibrators import steps
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.exporter.post_training import calibrate_by_tensor
from mla_edge.exporter.quantization import quantize, run_with
from mla_edge.exporter.ranges import Ranges
from mla_edge.exporter.seven_bits import (
    SEVEN_BITS,
    in_seven_bits,
    note_attempt,
    try_seven_bits,
)
from mla_edge.exporter.steps import StepCache


def test_two_products_fit_into_16_bits(graph, ranges, tensors, tmp_path):
    path = quantize(graph, tmp_path / "q.onnx", in_seven_bits(ranges), style="cpu").path
    model = load_model(path)
    onnx.checker.check_model(model)
    weighted = {"Conv", "Gemm", "MatMul"}
    producers = {name: node for node in model.graph.node for name in node.output}
    sources = {
        producers[node.input[0]].input[0]
        for node in model.graph.node
        if node.op_type in weighted and node.input[0] in producers
        and producers[node.input[0]].op_type == "DequantizeLinear"
    }  # fmt: skip
    assert len(sources) > 5
    most = 0
    for values in run_with(model, sorted(sources), tensors[:8], optimise=False):
        for source in sources:
            assert values[source].dtype == np.uint8
            most = max(most, int(values[source].max()))
    # Beyond the range that a calibrator chose there are a few: they are not cut off.
    assert 100 < most < 160
    for found in in_seven_bits(ranges).places.values():
        scale, zero, _, _ = steps(found, "cpu")
        assert zero <= 128


def test_what_TensorRT_takes_is_as_it_was(graph, ranges, tmp_path):
    made = [
        quantize(graph, tmp_path / f"{n}.onnx", r, style="tensorrt").path.read_bytes()
        for n, r in enumerate((ranges, in_seven_bits(ranges)))
    ]
    assert made[0] == made[1]


@pytest.mark.skipif(not IS_EXACT, reason="here seven bits may be the better ones")
def test_eight_bits_stay_where_sums_are_exact(graph, tensors, held_back):
    ranges = calibrate_by_tensor(graph, tensors, held_back[0])
    row = try_seven_bits(graph, ranges, held_back[0])
    assert not row["kept"]
    noted = note_attempt(ranges, row)
    assert noted.places == ranges.places
    assert [r["attempt"] for r in noted.tried["cpu"] if r["kept"]] == [
        r["attempt"] for r in ranges.tried["cpu"] if r["kept"]
    ]
    assert noted.tried["cpu"][-1]["sqnr_db"] < max(r["sqnr_db"] for r in ranges.tried["cpu"])
    assert Ranges.from_json(noted.to_json()) == noted


@pytest.mark.parametrize("kept", [True, False])
def test_an_export_for_such_a_processor_says_what_it_took(tmp_path, monkeypatch, kept):
    quick = tmp_path / "quick.toml"
    quick.write_text(QUICK)
    row = {"attempt": SEVEN_BITS, "kept": kept, "sqnr_db": 30.0, "divergence": 0.0}
    monkeypatch.setattr(job, "saturates", lambda: True)
    monkeypatch.setattr(int8, "try_seven_bits", lambda *_: {**row, "changed": 0, "samples": 9})
    monkeypatch.setattr(int8, "SLOWER", 1e9)  # INT8 ships, however busy this machine is
    request = ExportRequest("host", ALARMS, out=tmp_path / "out", calibration=str(quick))
    cache = StepCache(tmp_path / "steps")
    done = export(request, cache=cache)
    tier = done.report["tiers"][0]
    tried = {r["attempt"]: r["kept"] for r in tier["calibration"]["tried"]["cpu"]}
    assert tried[SEVEN_BITS] is kept
    assert sum(tried.values()) == 1
    model = load_model(done.bundle.graph("only", cpu=True))
    plain = export(dataclasses.replace(request, profile="agx-xavier"), cache=cache)
    exact = load_model(plain.bundle.graph("only", cpu=True))
    ratios = [a / b for a, b in zip(scales(model), scales(exact))]
    assert ratios == pytest.approx([255 / 127 if kept else 1.0] * len(ratios), rel=1e-4)
    attempts = plain.report["tiers"][0]["calibration"]["tried"]["cpu"]
    assert SEVEN_BITS not in [r["attempt"] for r in attempts]


def scales(model):
    """Of what the graph quantizes, in its order."""
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    found = [
        float(constants[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    assert found
    return found
