"""How far a graph is from the float network, and by which layer's fault."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mla_edge.errors import ExportError
from mla_edge.exporter.agreement import MOST_DB, answers, measure, output_error


def test_the_float_graph_agrees_with_itself(graph, held_back):
    samples, logits, labels = held_back
    found = measure(logits, graph, samples, labels)

    assert found.samples == 32
    assert found.top1_agreement == found.accuracy == found.float_accuracy == 1.0
    assert found.cosine == pytest.approx(1)
    assert found.drop_points == 0
    assert found.max_error < 1e-4
    assert not found.optimiser_breaks
    assert json.loads(json.dumps(dataclasses.asdict(found)))["samples"] == 32


@pytest.mark.parametrize("style", ["tensorrt", "cpu"])
def test_quantized_graphs_agree_closely(quantized, held_back, style):
    found = measure(held_back[1], quantized[style], held_back[0], held_back[2])

    assert 0.995 < found.min_cosine <= found.cosine < 0.9999999
    assert found.max_error > 0
    assert found.optimised_cosine > 0.99


def test_accuracy_is_against_the_labels_and_the_drop_in_points(graph, held_back):
    samples, logits, labels = held_back
    wrong = [(label + 1) % 4 if i < 8 else label for i, label in enumerate(labels)]
    found = measure(logits, graph, samples, wrong)
    assert found.accuracy == found.float_accuracy == 0.75

    swapped = [row[:, ::-1] for row in logits]
    flipped = [int(row.argmax()) for row in swapped]
    lost = measure(swapped, graph, samples, flipped)
    assert lost.drop_points == pytest.approx(100 * (1 - lost.accuracy))
    assert lost.drop_points > 0


def test_an_optimiser_that_breaks_the_graph_is_flagged(graph, held_back, monkeypatch):
    from mla_edge.exporter import agreement

    real = agreement.OnnxRuntimeEngine.run

    def run(self, inputs):
        outputs = real(self, inputs)
        return outputs if self.plain else {**outputs, "logits": -outputs["logits"]}

    class Engine(agreement.OnnxRuntimeEngine):
        def __init__(self, path, *, optimise=True, exact=False):
            super().__init__(path, optimise=optimise, exact=exact)
            self.plain = not optimise

    Engine.run = run
    monkeypatch.setattr(agreement, "OnnxRuntimeEngine", Engine)
    samples, logits, labels = held_back
    found = measure(logits, graph, samples, labels)

    assert found.optimiser_breaks
    assert found.optimised_cosine == pytest.approx(-1)
    assert found.top1_agreement == 1.0
    assert found.accuracy == found.optimised_accuracy < 1.0
    assert found.drop_points > 0


def test_logits_that_are_not_finite_are_refused(graph, held_back, tmp_path):
    model = onnx.load(str(graph))
    bias = next(t for t in model.graph.initializer if t.name == "head.bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(4, np.nan, np.float32), bias.name))
    path = tmp_path / "broken.onnx"
    onnx.save(model, str(path))

    with pytest.raises(ExportError, match=r"broken.onnx gives logits that are NaN .*sample 0"):
        measure(held_back[1], path, held_back[0], held_back[2])


def test_unequal_numbers_are_refused(graph, held_back):
    with pytest.raises(ExportError, match="32 references, 31 samples and 32 labels"):
        measure(held_back[1], graph, held_back[0][:31], held_back[2])
    with pytest.raises(ExportError, match="at least|0 references"):
        measure([], graph, [], [])


def test_the_error_of_logits_is_told_three_ways():
    wanted = np.float64([[2.0, 0.0], [0.0, 2.0]])
    same = output_error(wanted, wanted)
    assert (same.sqnr_db, same.divergence, same.changed) == (MOST_DB, 0.0, 0)
    found = output_error(wanted, np.float64([[1.8, 0.2], [0.2, -0.2]]))
    assert found.sqnr_db == pytest.approx(10 * np.log10(8 / 4.96), abs=0.01)
    assert found.changed == 1
    assert found.divergence > 0


def test_answers_are_of_the_graph_as_written(graph, held_back):
    samples, logits, _ = held_back
    found = answers(graph, samples[:3])
    np.testing.assert_allclose(found, np.concatenate(logits[:3]), atol=1e-4)
