"""Where sums of INT8 are cut off, a graph for another machine is not judged by that."""

import dataclasses

import numpy as np
import pytest
from test_pipeline import ALARMS, QUICK

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter import held_back, int8, job
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.exporter.steps import StepCache


@pytest.fixture
def wrong_kernels(monkeypatch):
    """Any optimised INT8 graph answers wrongly, as where its sums are cut off; counted."""
    make, run, ran = OnnxRuntimeEngine.__init__, OnnxRuntimeEngine.run, []

    def init(self, path, *, optimise=True, exact=False, **other):
        make(self, path, optimise=optimise, exact=exact, **other)
        rounds = path.is_file() and b"DequantizeLinear" in path.read_bytes()
        self.is_wrong = rounds and optimise and not exact

    def answer(self, inputs):
        outputs = run(self, inputs)
        if not self.is_wrong:
            return outputs
        ran.append(self)
        return {name: -value for name, value in outputs.items()}

    monkeypatch.setattr(OnnxRuntimeEngine, "__init__", init)
    monkeypatch.setattr(OnnxRuntimeEngine, "run", answer)
    for module in (job, held_back):
        monkeypatch.setattr(module, "saturates", lambda: True)
    return ran


@pytest.fixture
def request_of(tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "SLOWER", 1e9)  # INT8 ships, however busy this machine is
    quick = tmp_path / "quick.toml"
    quick.write_text(QUICK)
    return lambda profile: ExportRequest(
        profile, ALARMS, out=tmp_path / "out", calibration=str(quick)
    )


def test_answers_without_kernels_are_those_of_the_graph_as_written(quantized, held_back):
    samples = held_back[0]
    for graph in quantized.values():
        said = []
        for how in ({"optimise": False}, {"exact": True}):
            engine = OnnxRuntimeEngine(graph, **how)
            said.append(np.concatenate([engine.run(each)["logits"] for each in samples]))
            engine.close()
        # A value halfway between two steps may fall to the other side.
        np.testing.assert_allclose(*said, atol=0.02 * np.abs(said[0]).max())


def test_an_export_for_a_board_is_as_good_as_its_own_arithmetic(
    wrong_kernels, request_of, tmp_path
):
    done = export(request_of("agx-xavier"), cache=StepCache(tmp_path / "steps"))
    (tier,) = done.report["tiers"]
    assert tier["cpu_precision"] == "int8"
    assert tier["left_in_float"] == {}
    for found in tier["agreement"].values():
        assert found["drop_points"] <= 1 and found["optimised_cosine"] > 0.99
    golden = done.bundle.provenance["golden"]
    assert {match["only"]["top1_agreement"] for match in golden.values()} == {1.0}
    assert wrong_kernels  # how long it takes was measured with the kernels


def test_an_export_for_this_processor_is_judged_by_its_kernels(
    wrong_kernels, request_of, tmp_path
):
    cache = StepCache(tmp_path / "steps")
    export(request_of("agx-xavier"), cache=cache)
    request = dataclasses.replace(request_of("host"), max_drop=100.0)  # nothing left in float
    (tier,) = export(request, cache=cache).report["tiers"]
    assert tier["agreement"]["cpu"]["optimised_cosine"] < -0.9
    assert tier["agreement"]["tensorrt"]["optimised_cosine"] > 0.99
