"""A calibrator for each tensor and corrected biases: kept where the network's output gains."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mla_edge.exporter import post_training
from mla_edge.exporter.agreement import answers, output_error
from mla_edge.exporter.calibrators import CALIBRATORS, Range
from mla_edge.exporter.layer_runs import measure_layers
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model, to_onnx
from mla_edge.exporter.post_training import CORRECTED, calibrate_by_tensor
from mla_edge.exporter.quantization import STYLES, calibrate, quantize
from mla_edge.exporter.ranges import BY_TENSOR, Ranges, encode_correction


@pytest.fixture(scope="module")
def found(graph, tensors, held_back):
    return calibrate_by_tensor(graph, tensors, held_back[0])


def test_every_attempt_is_told_and_the_best_is_kept(found):
    for style in STYLES:
        rows = {row["attempt"]: row for row in found.tried[style]}
        assert {BY_TENSOR, "max", "mse"} <= set(rows)
        kept = [name for name, row in rows.items() if row["kept"]]
        assert len(kept) == 1
        assert rows[kept[0]]["sqnr_db"] >= rows["mse"]["sqnr_db"]
        assert bool(found.corrections.get(style)) == (kept[0] == CORRECTED)
        assert sum(found.calibrators(style).values()) == len(found.places)
        assert set(found.calibrators(style)) <= set(CALIBRATORS)


def test_the_result_is_what_the_attempt_said(graph, found, held_back, tmp_path):
    samples = held_back[0]
    again = Ranges.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    wanted = answers(graph, samples)
    for style in STYLES:
        path = quantize(graph, tmp_path / f"{style}.onnx", again, style=style).path
        told = next(row for row in found.tried[style] if row["kept"])
        assert output_error(wanted, answers(path, samples)).sqnr_db == pytest.approx(
            told["sqnr_db"], abs=0.05
        )


def test_ranges_only_are_the_same_ranges_and_nothing_else(graph, tensors, held_back, found):
    made = calibrate_by_tensor(graph, tensors, held_back[0], ranges_only=True)
    assert made.places == found.places
    assert made.corrections == made.roundings == {}
    for style in STYLES:
        rows = {row["attempt"]: row["kept"] for row in made.tried[style]}
        assert set(rows) == {BY_TENSOR, "max", "mse"}
        assert sum(rows.values()) == 1


def test_a_choice_that_is_worse_for_the_network_is_rolled_back(
    graph, tensors, held_back, monkeypatch
):
    def misled(*args):
        errors = measure_layers(*args)
        for style, calibrator, tensor in errors.noise:
            errors.noise[style, calibrator, tensor] = float(calibrator != "percentile-99.9")
        for key in errors.shift:
            errors.shift[key] = np.full_like(errors.shift[key], 0.5)
        return errors

    monkeypatch.setattr(post_training, "measure_layers", misled)
    made = calibrate_by_tensor(graph, tensors, held_back[0])
    for style in STYLES:
        rows = {row["attempt"]: row for row in made.tried[style]}
        assert not rows[BY_TENSOR]["kept"]
        assert not rows[CORRECTED]["kept"]
        assert rows[CORRECTED]["sqnr_db"] < rows["max"]["sqnr_db"] - 5
    assert made.corrections == {}


@pytest.mark.parametrize("style", STYLES)
def test_a_correction_brings_a_layers_mean_back(graph, ranges, tensors, style, tmp_path):
    """A head whose input is clipped hard: the shift that was measured goes into its bias."""
    model = load_model(graph)
    head = next(layer for layer in find_layers(model) if layer.node.name == "/head/Gemm")
    whole = ranges.places["/head/Gemm:in"]
    bad = Range(whole.low / 4, whole.high / 4, whole.amplitude / 4)
    candidates = {head.source: dict.fromkeys(CALIBRATORS, bad)}
    shift = measure_layers(model, [head], candidates, tensors).shift[style, "max", "/head/Gemm"]
    clipped = dataclasses.replace(ranges, places={**ranges.places, "/head/Gemm:in": bad})
    change = {style: {"/head/Gemm": encode_correction(-shift)}}
    corrected = dataclasses.replace(clipped, corrections=change)
    wanted = answers(graph, tensors)
    means = []
    for number, given in enumerate((clipped, corrected)):
        path = quantize(graph, tmp_path / f"{number}.onnx", given, style=style).path
        means.append(np.abs((answers(path, tensors) - wanted).mean(0)).max())
    assert means[0] > 0.05
    assert means[1] < 0.2 * means[0]


def test_corrections_fit_every_kind_of_layer_and_half_precision(network, ranges, tmp_path):
    tier = network.tiers[0]
    half = to_onnx(network, tier, tmp_path / "half.onnx", opset=19, half=True).path
    layers = find_layers(load_model(half))
    assert {layer.node.op_type for layer in layers} == {"Conv", "Gemm", "MatMul"}
    changes = {
        la.node.name: encode_correction(np.full(la.weight.dims[la.axis], 0.125))
        for la in layers
    }
    given = dataclasses.replace(ranges, corrections={"tensorrt": changes})
    plain = quantize(half, tmp_path / "plain.onnx", ranges, style="tensorrt").path
    path = quantize(half, tmp_path / "q.onnx", given, style="tensorrt").path
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(str(p)).graph.initializer}
        for p in (plain, path)
    )
    new = [name for name in after if name.endswith("/corrected_bias")]
    assert len(new) >= 10
    assert all(after[name].dtype == np.float16 for name in new)
    old = before["head.bias"].astype(np.float32)
    np.testing.assert_allclose(after["/head/Gemm/corrected_bias"], old + 0.125, atol=1e-3)


def test_a_single_calibrator_needs_no_tune_samples(graph, tensors):
    one = calibrate(graph, tensors, method="entropy")
    assert one.calibrators("cpu") == {"entropy": len(one.places)}
    assert one.tried == {}
