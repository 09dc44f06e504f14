import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter import pipeline, post_training
from mla_edge.exporter.agreement import Agreement
from mla_edge.exporter.calibration import load_calibration
from mla_edge.exporter.float_graphs import example_feed, float_module, make_float_graphs
from mla_edge.exporter.job import Job
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.pipeline import ExportRequest, describe_plan, export
from mla_edge.exporter.qat import Int8Graphs, _Candidate
from mla_edge.exporter.steps import StepCache, Steps
from mla_edge.networks import load_network

ALARMS = f"{Path(__file__).parents[2] / 'examples' / 'your_network' / 'alarms.py'}:make_network"
SPREAD = 3.2  # powers of ten between the sizes of channels


def make_uneven():
    """The alarms, with the same answers and channels of very different sizes.

    What a batch norm makes larger, the next convolution makes smaller. One scale for a whole
    activation, and one for all input channels of a weight, do not fit that.
    """
    network = load_network(ALARMS)
    body = network.tiers[0].module.body
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for stage, following in ((0, 1), (1, 2)):
            norm, convolution = body[stage][1], body[following][0]
            sizes = 10 ** (SPREAD * torch.rand(norm.num_features, generator=draw))
            norm.weight *= sizes
            norm.bias *= sizes
            convolution.weight /= sizes[None, :, None, None]
    return network


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "quick.toml"
    path.write_text('source = "network"\ncalibrate = 48\ntune = 200\ntest = 200\n')
    return str(path)


@pytest.fixture(scope="module")
def steps_cache(tmp_path_factory):
    return StepCache(tmp_path_factory.mktemp("steps"))


@pytest.fixture
def uneven(monkeypatch, tmp_path, quick):
    """Makes the request to export the uneven network by a recipe that ends with ``qat``.

    Its weights are rounded one by one: together they lose nothing, and leave nothing to learn.
    """
    monkeypatch.setattr(post_training, "round_together", lambda *_: {})
    monkeypatch.setattr(pipeline, "load_network", lambda ref, data=None: make_uneven())
    data = tmp_path / "data"
    data.mkdir()
    (data / "take.txt").write_text("real")

    def make(qat, steps=100):
        recipe = tmp_path / "hard.toml"
        title = 'title = "hard"\nprecision = "int8"\ncalibration = "quick"\n'
        recipe.write_text(
            title + f"[qat]\nsamples = 300\nsteps = {steps}\ntime_limit_s = 900\n" + qat
        )
        return ExportRequest("agx-xavier", ALARMS, str(recipe), tmp_path / "out", data, quick)

    return make


def test_it_recovers_what_int8_loses_with_no_layer_in_float(uneven, steps_cache):
    done = export(uneven(""), cache=steps_cache)
    tier = done.report["tiers"][0]
    qat = tier["qat"]
    before, after = qat["before"], qat["after"]
    assert before["all_int8_drop_points"]["tensorrt"] > 3
    assert before["tune_drop_points"]["tensorrt"] > 3
    assert before["left_in_float"] == {}  # no rival, so not looked for
    assert qat["kept"]
    assert after["left_in_float"] == {}
    assert after["tune_drop_points"]["tensorrt"] <= 0.5
    assert done.report["gate"]["worst_drop_points"] <= 1.0
    assert (qat["layers"], qat["not_simulated"]) == (5, [])
    assert qat["training"]["last_loss"] < qat["training"]["first_loss"] / 20
    assert tier["left_in_float"] == {}
    graph = load_model(done.bundle.graph("only", cpu=False))
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("QuantizeLinear") >= 2 * qat["layers"] - 1
    page = (done.bundle.folder / "report.html").read_text()
    assert "Quantization-aware fine-tune, 100 steps" in page
    assert "better on tune samples" in page


def test_a_fine_tune_that_ruins_it_is_undone_and_said(uneven, steps_cache):
    done = export(uneven("learning_rate = 0.5\n", steps=3), cache=steps_cache)
    tier = done.report["tiers"][0]
    assert not tier["qat"]["kept"]
    assert "so undone" in tier["qat"]["verdict"]
    assert tier["left_in_float"]["tensorrt"]
    assert done.report["gate"]["passed"]
    assert "so undone" in (done.bundle.folder / "report.html").read_text()


@pytest.mark.parametrize("how", ["never", "no data"])
def test_it_is_not_tried_where_it_is_not_wanted(uneven, steps_cache, how):
    request = uneven('when = "never"\n' if how == "never" else "")
    if how == "no data":
        request = dataclasses.replace(request, data=None)
    tier = export(request, cache=steps_cache).report["tiers"][0]
    assert tier["qat"] is None
    assert tier["left_in_float"]["tensorrt"]


def test_it_is_said_in_the_plan(uneven):
    for how, said in (("missed", "where INT8 alone misses"), ("always", "data"), ("never", "")):
        steps = describe_plan(uneven(f'when = "{how}"\n'))["steps"]
        found = [step for step in steps if "quantization-aware" in step]
        assert bool(found) == bool(said)
        assert all(said in step for step in found)


def candidate(drop, cosine=0.99, floats=0, test_drop=0.0):
    found = Agreement(100, 1.0, cosine, cosine, 0.0, 1.0, 1.0, drop, 1.0, 1.0, False)
    tested = dataclasses.replace(found, drop_points=test_drop)
    left = {"tensorrt": dict.fromkeys("abc"[:floats], "")}
    graphs = Int8Graphs(Path("float.onnx"), Path(), left)
    return _Candidate(graphs, {}, {"tensorrt": found}, {"tensorrt": tested})


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (candidate(0.4), candidate(0.0, floats=1)),  # both hold: INT8 is what was asked for
        (candidate(0.0, floats=3), candidate(0.8)),  # one of them holds
        (candidate(0.8, floats=3), candidate(0.9)),  # none does
        (candidate(0.1, 0.9), candidate(0.2)),
        (candidate(0.1), candidate(0.1, 0.98)),
        (candidate(0.4, floats=2), candidate(0.1, test_drop=1.1)),  # would be refused
    ],
)
def test_which_is_better_is_a_matter_of_the_gate_then_of_int8_then_of_accuracy(better, worse):
    assert better.badness(1.0) < worse.badness(1.0)
    assert not better.badness(1.0) < better.badness(1.0)  # no better is not enough


def test_a_tier_that_was_pruned_and_taught_goes_on_from_there(uneven, shares_pay, tmp_path):
    request = uneven("[distillation]\nsamples = 32\nsteps = 3\n[tiers.only]\nprune = 0.5\n")
    steps = Steps(lambda event: None)
    plan = pipeline.load(request, steps)
    network = plan.network
    job = Job(
        profile=plan.profile,
        recipe=plan.recipe,
        precision="int8",
        network=network,
        calibration=load_calibration(plan.calibration, network),
        own_samples=True,
        trains=True,
        base="test",
        steps=steps,
        cache=StepCache(tmp_path / "steps"),
    )
    part = network.tiers[0]
    graphs = make_float_graphs(job, part)
    module = float_module(job, part, graphs)
    sample = example_feed(job, part)
    engine = OnnxRuntimeEngine(graphs / "float.onnx")
    found = module(torch.from_numpy(sample["audio"])).detach()
    np.testing.assert_allclose(found, engine.run(sample)["logits"], rtol=1e-3, atol=1e-3)
    untaught = float_module(job, part, tmp_path)
    assert not torch.allclose(untaught(torch.from_numpy(sample["audio"])), found, atol=1e-2)
