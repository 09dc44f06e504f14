"""Finished graphs that give gate weights and attention as well, and are otherwise the same."""

import numpy as np
import pytest

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ExportError
from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.exporter.showing import show, shown_by
from mla_edge.exporter.tracing import example_inputs
from mla_edge.networks import load_network


@pytest.fixture(scope="module")
def network():
    return load_network("digits")


@pytest.fixture(scope="module")
def graph(network, tmp_path_factory):
    """The lite tier, as it is exported."""
    path = tmp_path_factory.mktemp("showing") / "lite.onnx"
    to_onnx(network, network.tiers[0], path, opset=17)
    return path


def test_a_graph_gives_weights_besides_what_it_gave_bit_for_bit(network, graph, tmp_path):
    shown = shown_by(network.tiers[0].module)
    assert list(shown) == ["gate", "attention.image", "attention.audio"]
    wider = tmp_path / "wider.onnx"
    wider.write_bytes(show(graph.read_bytes(), shown))
    plain, more = OnnxRuntimeEngine(graph, threads=1), OnnxRuntimeEngine(wider, threads=1)
    assert [spec.name for spec in more.outputs] == ["logits", *shown]
    for inputs in example_inputs(network, network.tiers[0], 3):
        found = more.run(inputs)
        assert np.array_equal(found["logits"], plain.run(inputs)["logits"])
        assert {name: found[name].shape for name in shown} == {
            "gate": (1, 2),
            "attention.image": (1, 8, 8),
            "attention.audio": (1, 3, 6),
        }
        for name in shown:
            assert found[name].sum() == pytest.approx(1, abs=1e-5)
        assert np.all((found["gate"] > 1e-6) == (inputs["present"] > 0))


def test_the_full_tier_and_the_other_network_say_what_can_be_shown(network):
    full = shown_by(network.tiers[1].module)
    assert {name: shape for name, (_, shape) in full.items()} == {
        "gate": (1, 2),
        "attention.image": (1, 4, 4),
        "attention.audio": (1, 1, 12),
    }
    from mla_edge.networks.commands import make_full, make_lite

    assert list(make_full().shows) == ["gate", "attention.mouth", "attention.audio"]
    assert list(make_lite().shows) == ["gate", "attention.audio"]  # its frames are one picture


def test_a_network_that_shows_nothing_is_written_as_it_is(graph):
    data = graph.read_bytes()
    assert show(data, shown_by(object())) == data


@pytest.mark.parametrize(
    ("shown", "problem"),
    [
        ({"gate": ("door", (1, 2))}, "'door', which has 0 of them"),
        ({"gate": ("gate", (1, 3))}, r"'gate' is to be \[1, 3\], but the softmax is \[1, 2\]"),
        ({"logits": ("gate", (1, 2))}, "logits cannot be outputs of the graph"),
    ],
)
def test_a_network_that_says_what_it_has_not_is_refused(graph, shown, problem):
    with pytest.raises(ExportError, match=problem) as caught:
        show(graph.read_bytes(), shown)
    assert "`shows`" in caught.value.hint
