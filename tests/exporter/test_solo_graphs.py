import numpy as np
import onnx
import pytest
from processor import IS_EXACT

from mla_edge.engines import open_engine
from mla_edge.exporter.solo import isolate, try_input


@pytest.mark.parametrize("form", ["float", "cpu"])
@pytest.mark.parametrize("place", [0, 1])
def test_an_input_alone_gives_what_the_whole_graph_gives_without_the_others(  # noqa: PLR0913
    network, graph, quantized, tensors, tmp_path, place, form
):
    whole = graph if form == "float" else quantized["cpu"]
    name = network.inputs[place].name
    out = tmp_path / "alone.onnx"
    isolate(whole, out, name, network.inputs)
    alone, before = open_engine(out, threads=1), open_engine(whole, threads=1)
    assert [spec.name for spec in alone.inputs] == [name]
    assert [spec.name for spec in alone.outputs] == ["logits"]
    for tensor in tensors[:8]:
        masked = {spec.name: np.zeros(spec.shape, np.float32) for spec in network.inputs}
        masked[name] = tensor[name]
        masked["present"] = np.float32([[place == 0, place == 1]])
        expected = before.run(masked)["logits"]
        given = alone.run({name: tensor[name]})["logits"]
        rough = 0.15 if IS_EXACT else 0.4
        np.testing.assert_allclose(given, expected, atol=1e-4 if form == "float" else rough)
    assert len(onnx.load(out).graph.node) < len(onnx.load(whole).graph.node)
    alone.close()
    before.close()


COSTS = (0.3, 1.0, 5.0)
COUNT = 2000


def made_up(rng, right_share, sure_where_right):
    """Logits of two classes, all of class 0: how often right, and whether sureness tells."""
    right = rng.random(COUNT) < right_share
    margin = np.where(right, 6.0, 0.5) if sure_where_right else np.full(COUNT, 6.0)
    logits = np.zeros((COUNT, 2), np.float32)
    logits[:, 0] = np.where(right, margin, -margin)
    return logits


def tried(solo, kept_share=0.9):
    rng = np.random.default_rng(0)
    both = made_up(rng, 1.0, sure_where_right=True)
    kept = rng.random(COUNT) < kept_share
    labels = np.zeros(COUNT, np.int64)
    return try_input("image+audio", "audio", 1.0, (solo, both, both), kept, labels, COSTS)


def test_an_input_that_knows_when_it_is_sure_is_asked_first():
    found = tried(made_up(np.random.default_rng(1), 0.8, sure_where_right=True))
    assert found.threshold is not None
    assert found.kept == pytest.approx(0.8, abs=0.03)
    without = 1.0 + 0.1 * 5.0
    assert found.cost_before_ms == pytest.approx(without, rel=0.05)
    assert found.cost_ms == pytest.approx(0.3 + 0.2 * without, rel=0.1)


def test_an_input_that_is_sure_and_wrong_is_not_asked():
    found = tried(made_up(np.random.default_rng(1), 0.8, sure_where_right=False))
    assert (found.threshold, found.cost_ms) == (None, found.cost_before_ms)
    assert "would spoil" in found.why


def test_an_input_that_is_hardly_ever_sure_does_not_pay():
    found = tried(made_up(np.random.default_rng(1), 0.1, sure_where_right=True))
    assert found.threshold is None
    assert "no threshold saves 5 %" in found.why


def test_few_samples_allow_nothing():
    logits = np.tile(np.float32([[6, 0]]), (50, 1))
    kept, labels = np.ones(50, bool), np.zeros(50, np.int64)
    found = try_input("image+audio", "audio", 1.0, (logits,) * 3, kept, labels, COSTS)
    assert found.threshold is None
    assert found.why == "50 samples are too few"
