"""``export --dla``: the graph, cache and plan in the bundle, and what is said of them."""

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from mla_edge._content import content_dir
from mla_edge.bundle import Bundle
from mla_edge.cli import app
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import AccuracyGateError, BundleError, ConfigError
from mla_edge.exporter import dla_export, pipeline
from mla_edge.exporter.dla import CACHE, TYPED, DlaNode, DlaPlan
from mla_edge.exporter.dla_simulation import simulate
from mla_edge.exporter.layers import floating_layers
from mla_edge.exporter.pipeline import ExportRequest, describe_plan, export
from mla_edge.exporter.steps import StepCache
from mla_edge.exporter.tensorrt_cache import read_cache, write_cache

ALARMS = f"{Path(__file__).parents[2] / 'examples' / 'your_network' / 'alarms.py'}:make_network"
QUICK = 'source = "network"\ncalibrate = 48\ntune = 96\ntest = 96\n'


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A calibration set, and the steps that exports of this file share."""
    folder = tmp_path_factory.mktemp("dla")
    (folder / "quick.toml").write_text(QUICK)
    return folder


@pytest.fixture(scope="module")
def export_words(workplace):
    def invoke(*words):
        return CliRunner().invoke(
            app,
            ["export", ALARMS, "--calibration", str(workplace / "quick.toml"), "--dla", *words],
            env={"XDG_CACHE_HOME": str(workplace / "steps")},
        )

    return invoke


@pytest.fixture(scope="module")
def exported(export_words, workplace):
    """What ``export --profile agx-xavier --dla --json`` printed, and its bundle."""
    done = export_words("--profile", "agx-xavier", "--out", str(workplace / "out"), "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), Bundle.read(workplace / "out" / "alarms-agx-xavier")


@pytest.fixture
def request_(workplace, tmp_path):
    return ExportRequest(
        "agx-xavier", ALARMS, out=tmp_path / "out", dla=True,
        calibration=str(workplace / "quick.toml"),
    )  # fmt: skip


@pytest.fixture
def steps(workplace):
    return StepCache(workplace / "steps" / "mla-edge" / "export")


def test_the_cache_and_its_graph_are_in_the_bundle_and_hashed(exported, tmp_path):
    _, bundle = exported
    assert {"graphs/only.dla.onnx", "calibration/only.cache"} < set(bundle.files)
    bundle.check_hashes()
    cache = bundle.folder / "calibration" / "only.cache"
    whole = cache.read_bytes()
    cache.write_bytes(whole[:-9])
    with pytest.raises(BundleError, match=r"only.cache: sha256"):
        bundle.check_hashes()
    cache.write_bytes(whole)


def test_the_cache_round_trips_and_is_for_the_boards_tensorrt(exported):
    _, bundle = exported
    text = (bundle.folder / "calibration" / "only.cache").read_text()
    assert text.startswith("TRT-8502-EntropyCalibration2\n")
    version, scales = read_cache(text)
    assert write_cache(scales, version) == text
    again = read_cache(write_cache(scales, version))[1]
    assert [struct.pack(">f", again[t]) for t in scales] == [
        struct.pack(">f", scale) for scale in scales.values()
    ]


def test_its_scales_are_those_of_the_graph_with_q_dq(exported):
    _, bundle = exported
    _, scales = read_cache((bundle.folder / "calibration" / "only.cache").read_text())
    graph = onnx.load(bundle.graph("only", cpu=False)).graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    quantized = {
        node.input[0]: constants[node.input[1]]
        for node in graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    }
    assert len(quantized) == 5
    for tensor, scale in quantized.items():
        assert np.float32(scales[tensor]) == scale, tensor
    assert len(scales) > len(quantized)


def test_the_graph_has_no_q_dq_and_every_tensor_of_the_dla_has_a_scale(exported):
    said, bundle = exported
    path = bundle.folder / "graphs" / "only.dla.onnx"
    model = onnx.load(path)
    assert model.opset_import[0].version == 16
    assert not {n.op_type for n in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    _, scales = read_cache((bundle.folder / "calibration" / "only.cache").read_text())
    assert set(scales) <= names
    assert said["tiers"]["only"]["dla"]["without_range"] == []
    assert said["tiers"]["only"]["dla"]["cache"]["tensors"] == len(scales)
    kept = floating_layers(model)
    report = json.loads((bundle.folder / "report.json").read_text())
    nodes = {node["name"]: node for node in report["tiers"][0]["dla"]["nodes"]}
    assert kept
    assert all(nodes[name]["device"] == "gpu" for name in kept if name in nodes)


def test_the_plan_is_told_as_json_and_in_the_report(exported):
    said, bundle = exported
    plan = said["tiers"]["only"]["dla"]
    report = json.loads((bundle.folder / "report.json").read_text())["tiers"][0]["dla"]
    nodes = report["nodes"]
    assert {key: value for key, value in report.items() if key != "nodes"} == plan
    assert plan["form"] == CACHE
    assert plan["layers"] == {
        device: sum(node["device"] == device for node in nodes) for device in ("dla", "gpu")
    }
    taken = {node["operator"] for node in nodes if node["device"] == "dla"}
    assert {"Conv", "Relu", "AveragePool"} <= taken
    assert sum(len(names) for names in plan["falls_back"].values()) == plan["layers"]["gpu"]
    assert plan["macs_share"] == pytest.approx(plan["dla_macs"] / plan["macs"])
    assert plan["transitions"] > 0
    assert plan["border_bytes"] > 0
    assert plan["advice"] in ("use", "do not use")
    assert "115.2 MHz" in plan["warnings"][0]
    page = (bundle.folder / "report.html").read_text()
    assert "<h2>DLA</h2>" in page
    assert plan["reason"] in page
    assert "No board measured this" in page
    assert "115.2 MHz" in page
    assert "was not looked at" not in page
    assert "ms" not in plan["assumed"].split()


def test_its_accuracy_is_measured_as_int8_leaves_it(exported):
    said, _ = exported
    tier = said["tiers"]["only"]
    assert set(tier["drop_points"]) == {"tensorrt", "cpu", "dla"}
    assert tier["agreement"]["dla"]["cosine"] > 0.99
    assert tier["agreement"]["dla"]["cosine"] < 1.0


def test_a_person_is_told_in_words(export_words, workplace, exported):
    done = export_words("--profile", "agx-xavier", "--out", str(workplace / "out"))
    assert done.exit_code == 0, done.stderr
    assert "reused" in done.stdout
    plan = exported[0]["tiers"]["only"]["dla"]
    counts = plan["layers"]
    assert f"DLA, only: {counts['dla']} of {sum(counts.values())} layers" in done.stdout
    assert f"{plan['advice']} ({plan['reason']})" in done.stdout
    assert "clocks the DLA at 115.2 MHz" in done.stdout


def test_ranges_that_ruin_the_dla_are_refused_by_the_gate(request_, tmp_path, monkeypatch):
    def ruin(model, plan, amplitudes):
        amplitudes.update({tensor: 300 * value for tensor, value in amplitudes.items()})

    monkeypatch.setattr(dla_export, "even_out", ruin)
    with pytest.raises(AccuracyGateError, match="points of accuracy"):
        export(request_, cache=StepCache(tmp_path / "steps"))


def test_the_wish_for_a_dla_is_an_input_of_the_export(request_, steps):
    first = export(request_, cache=steps)
    assert export(request_, cache=steps).reused
    without = export(dataclasses.replace(request_, dla=False), cache=steps)
    assert not without.reused
    assert not [name for name in without.bundle.files if "dla" in name or "cache" in name]
    assert without.report["tiers"][0]["dla"] is None
    assert first.report["tiers"][0]["dla"]["form"] == CACHE
    assert "export with --dla" in " ".join(without.report["not_proven"])
    assert "No layer ran on a DLA" in " ".join(first.report["not_proven"])


def test_a_finished_plan_is_used_again(request_, steps):
    export(request_, cache=steps)
    seen = []
    other = dataclasses.replace(request_, max_drop=0.75)
    export(other, seen.append, cache=steps)
    assert any(event.step == "plan_dla" and event.reused for event in seen)
    Bundle.read(request_.out / "alarms-agx-xavier").check_hashes()


def test_a_later_tier_gets_a_cache_of_its_own(network, request_, steps, monkeypatch):
    monkeypatch.setattr(pipeline, "load_network", lambda ref, **given: network)
    small = dataclasses.replace(request_, network="small", max_drop=100.0)
    bundle = export(small, cache=steps).bundle
    bundle.check_hashes()
    for tier in ("lite", "full"):
        _, scales = read_cache((bundle.folder / "calibration" / f"{tier}.cache").read_text())
        assert scales
        assert (bundle.folder / "graphs" / f"{tier}.dla.onnx").is_file()
    report = json.loads((bundle.folder / "report.json").read_text())
    lite = report["tiers"][0]["dla"]
    # windows of attention between the layers: what a DLA is not for
    assert lite["advice"] == "do not use"
    assert any("two computed tensors" in why for why in lite["falls_back"])


def test_a_dry_run_names_it(request_):
    assert f"only: plan for the DLA, {CACHE}" in describe_plan(request_)["steps"]
    plain = describe_plan(dataclasses.replace(request_, dla=False))["steps"]
    assert not any("DLA" in step for step in plain)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--profile", "agx-thor"], "has no DLA"),
        (["--profile", "host"], "has no DLA"),
        (["--profile", "agx-xavier", "--recipe", "fp16"], "this export is fp16"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(export_words, tmp_path, words, why):
    done = export_words(*words, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert why in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def board(tmp_path, tensorrt):
    """AGX Orin with another TensorRT."""
    text = (content_dir("device_profiles") / "agx-orin.toml").read_text()
    path = tmp_path / "agx-orin.toml"
    path.write_text(text.replace('tensorrt = "10.3"', f'tensorrt = "{tensorrt}"'))
    return str(path)


def test_a_strongly_typed_tensorrt_takes_the_graph_with_q_dq(request_, steps, tmp_path):
    request = dataclasses.replace(request_, profile=board(tmp_path, "11.4.1"))
    result = export(request, cache=steps)
    plan = result.report["tiers"][0]["dla"]
    assert plan["form"] == TYPED
    assert plan["cache"] is None
    assert not [name for name in result.bundle.files if "dla" in name or "cache" in name]
    assert set(result.report["tiers"][0]["agreement"]) == {"tensorrt", "cpu"}
    devices = {node["name"]: node for node in plan["nodes"]}
    convolutions = [n for n in devices.values() if n["operator"] == "Conv"]
    assert {n["device"] for n in convolutions} == {"dla", "gpu"}
    assert any("no Q/DQ on both sides" in why for why in plan["falls_back"])
    assert "strongly typed" in (result.bundle.folder / "report.html").read_text()


def test_a_tensorrt_between_is_refused(request_, tmp_path):
    with pytest.raises(ConfigError, match="TensorRT 10.13 has no DLA"):
        export(dataclasses.replace(request_, profile=board(tmp_path, "10.13")))


def plan_of(nodes):
    """A plan with every node on the DLA."""
    listed = tuple(DlaNode(node.name, node.op_type, "dla", "", 0) for node in nodes)
    return DlaPlan(listed, (), 1, 0, 0, 0, ())


def test_what_a_dla_wants_at_one_scale_gets_one():
    nodes = [
        helper.make_node("MaxPool", ["a"], ["b"], "pool", kernel_shape=[2, 2]),
        helper.make_node("Relu", ["x"], ["y"], "relu"),
        helper.make_node("Concat", ["b", "c"], ["d"], "join", axis=1),
    ]
    model = helper.make_model(helper.make_graph(nodes, "test", [], []))
    amplitudes = {"a": 1.0, "b": 2.0, "c": 5.0, "d": 3.0, "x": 7.0, "y": 8.0}
    dla_export.even_out(model, plan_of(nodes), amplitudes)
    assert amplitudes == {"a": 5.0, "b": 5.0, "c": 5.0, "d": 5.0, "x": 7.0, "y": 8.0}


def test_the_simulation_rounds_what_the_dla_rounds(tmp_path):
    random = np.random.default_rng(0)
    weights = random.normal(0, 1, (2, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "conv"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Abs", ["b"], ["y"], "abs"),
    ]
    shapes = [("x", [1, 3, 4, 4]), ("y", [1, 2, 4, 4])]
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes)
    graph = helper.make_graph(nodes, "test", [x], [y], [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)])
    model.ir_version = 8
    scales = {"x": 0.02, "a": 99.0, "b": 0.05, "y": 0.1}
    (tmp_path / "g.onnx").write_bytes(
        simulate(model, scales, plan_of(nodes), []).SerializeToString()
    )
    engine = OnnxRuntimeEngine(tmp_path / "g.onnx", optimise=False)
    given = random.normal(0, 1, (1, 3, 4, 4)).astype(np.float32)
    found = engine.run({"x": given})["y"]

    def rounded(values, scale):
        return np.clip(np.rint(values / np.float32(scale)), -128, 127) * np.float32(scale)

    steps = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    inner = np.einsum("oc,nchw->nohw", rounded(weights, steps)[..., 0, 0], rounded(given, 0.02))
    # between the convolution and its ReLU nothing is rounded
    expected = rounded(np.abs(rounded(np.maximum(inner, 0), 0.05)), 0.1)
    # a value on the edge of a step may fall to either side
    assert np.abs(found - expected).max() <= 0.1001
    assert (np.isclose(found, expected, atol=1e-5)).mean() > 0.9
