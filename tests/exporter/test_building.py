"""``build`` and then ``run``, whole: on fakes of three boards, and with the real RTX."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from board_trees import make_agx_xavier, make_board
from faking import VERSIONS
from typer.testing import CliRunner

import mla_edge
from mla_edge._content import content_dir
from mla_edge.bundle import Bundle, sha256_of
from mla_edge.cli import app
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.engines.sidecar import read_sidecar
from mla_edge.errors import (
    AccuracyGateError,
    BundleError,
    EngineMismatch,
    ExportError,
    InferenceError,
)
from mla_edge.exporter import building, engine_proof, pipeline
from mla_edge.exporter.building import BuildRequest, build, choose_workspace, describe
from mla_edge.exporter.engine_proof import Proof
from mla_edge.exporter.onnx_graph import read_graph
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.exporter.steps import StepCache
from mla_edge.golden import read_golden
from mla_edge.profiles import load_profile

QUICK = 'source = "network"\ncalibrate = 48\ntune = 96\ntest = 96\n'
PROFILES = {"8.6": "agx-xavier", "10.3": "agx-orin", "11.4": "agx-thor"}
SIMULATED = ["--camera", "sim://digits?size=64x64", "--mic", "sim://digits"]


@pytest.fixture(scope="module")
def export_small(network, tmp_path_factory):
    """Exports the small two-tier network."""

    def make(profile, samples=QUICK, **options):
        out = tmp_path_factory.mktemp("exported")
        (out / "quick.toml").write_text(samples)
        request = ExportRequest(
            profile,
            "small:make",
            out=out,
            calibration=str(out / "quick.toml"),
            max_drop=100.0,
            **options,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "load_network", lambda ref, **given: network)
            return export(request, cache=StepCache(out / "steps")).bundle

    return make


@pytest.fixture(scope="module")
def exported(export_small):
    """For the AGX Orin and its DLA."""
    return export_small("agx-orin", dla=True)


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of it, for the board that has that TensorRT or for a named profile."""

    def make(profile="agx-orin"):
        folder = tmp_path / "bundles" / f"small-{profile}"
        shutil.copytree(exported.folder, folder)
        bundle = dataclasses.replace(
            exported, folder=folder, profile=profile, name=f"small-{profile}"
        )
        bundle.write()
        return Bundle.read(folder)

    return make


@pytest.fixture
def board(tmp_path):
    """The files of the board that has that TensorRT."""

    def make(version="10.3"):
        root = tmp_path / f"board-{version}"
        if version == "8.6":
            return make_agx_xavier(root)
        number, soc = {"10.3": ("3701-0005", "tegra234"), "11.4": ("3834-0008", "tegra264")}[
            version
        ]
        return make_board(
            root,
            compatible=[f"nvidia,p{number}", f"nvidia,{soc}"],
            boardids=number,
            memory_kb=63_000_000,
            modes=["MAXN", "MODE_15W", "MODE_30W"],
            mode=2,
        )

    return make


@pytest.fixture
def request_for(copy, board):
    def make(version="10.3", **options):
        folder = copy(PROFILES[version]).folder
        return BuildRequest(folder, max_drop=100.0, root=board(version), **options)

    return make


def contents(folder):
    """Every file under ``folder``, by name."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def call(monkeypatch, root, *words):
    """The command line on a board whose files are under ``root``."""
    monkeypatch.setattr(building, "BuildRequest", functools.partial(BuildRequest, root=root))
    return CliRunner().invoke(app, [*map(str, words)])


def assert_it_runs(monkeypatch, root, bundle):
    """The bundle's engines decide, on the board whose files are under ``root``."""
    done = call(
        monkeypatch, root, "run", "--bundle", bundle.folder, *SIMULATED, "--duration", "2",
        "--engine", "tensorrt", "--as-fast-as-possible", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) > 10


@pytest.mark.parametrize("version", VERSIONS)
def test_build_and_run_on_the_board(fakes, copy, board, monkeypatch, version):
    fakes.use(version)
    bundle, root = copy(PROFILES[version]), board(version)
    done = call(monkeypatch, root, "build", bundle.folder, "--max-drop", 100, "--json")
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    target = shown["target"]
    assert (shown["ok"], shown["reused"]) == (True, False)
    assert target["module"] in load_profile(bundle.profile).module
    assert target["power_mode"] in ("7 MODE_15W_DESKTOP", "2 MODE_30W")
    weak = version != "11.4"
    for tier in bundle.tiers:
        made = shown["tiers"][tier.name]
        assert made["typing"] == ("weak" if weak else "strong")
        assert made["flags"] == (["INT8", "FP16"] if weak else [])
        assert shown["proof"]["tiers"][tier.name]["inspection"]["int8"] > 0
    assert shown["proof"]["status"] == "ok"
    assert shown["proof"]["samples"] == len(read_golden(bundle.folder / "golden.npz"))
    assert fakes.machine.left_over() == []

    built = Bundle.read(bundle.folder)
    built.check_hashes()
    key = f"sm{target['sm']}-trt{VERSIONS[version]}"
    for tier in built.tiers:
        plan = built.folder / "engines" / key / f"{tier.name}.plan"
        sidecar = read_sidecar(plan)
        assert sidecar.onnx_sha256 == built.files[f"graphs/{tier.name}.onnx"]
        assert sidecar.plan_sha256 == built.files[f"engines/{key}/{tier.name}.plan"]
        assert dataclasses.asdict(sidecar.target) == target
    assert (built.folder / "engines" / key / "timing.cache").is_file()
    assert json.loads((built.folder / "report.json").read_text())["engines"][key]

    for engine in ("tensorrt", "auto"):
        words = ["run", "--bundle", built.folder, *SIMULATED, "--duration", "2"]
        fakes.machine.calls.clear()
        done = call(
            monkeypatch, root, *words, "--engine", engine, "--as-fast-as-possible", "--json"
        )
        assert done.exit_code == 0, done.stderr
        *decisions, summary = map(json.loads, done.stdout.splitlines())
        assert decisions and summary
        assert fakes.machine.calls.count("execute") >= len(decisions)
        assert not [c for c in fakes.machine.calls if "memcpy" in c]  # the memory is shared
    assert fakes.machine.left_over() == []


def test_with_enough_golden_samples_the_routing_is_chosen_again(
    fakes, export_small, board, monkeypatch
):
    """And a bundle of opset 16, as the Xavier's TensorRT takes it, through the whole build."""
    fakes.use("8.6")
    bundle = export_small("agx-xavier", QUICK.replace("tune = 96", "tune = 690"), golden=690)
    assert read_graph(bundle.graph("lite", cpu=False)).opset == 16
    root = board("8.6")
    done = call(monkeypatch, root, "build", bundle.folder, "--max-drop", 100, "--json")
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["proof"]["samples"] == 690
    assert shown["proof"]["routing"].count("chosen again on 230 samples") == 3
    policy = json.loads((Path(shown["engines"]) / "build.json").read_text())["policy"]
    assert policy["cost_ms"] != bundle.policy.cost_ms
    assert "TensorRT 8.6" in policy["measured_on"]

    assert_it_runs(monkeypatch, root, bundle)


def test_engines_answer_as_their_graphs_on_every_golden_sample(fakes, request_for):
    fakes.use("11.4", INTEGRATED=False)
    result = build(request_for("11.4"))
    golden = read_golden(result.bundle.folder / "golden.npz")
    with mla_edge.load(result.bundle.folder, engine="tensorrt") as model:
        plain = OnnxRuntimeEngine(result.bundle.graph("lite", cpu=False), optimise=False)
        for sample in golden.samples():
            inputs = {name: sample[name] for name in ("image", "audio", "present")}
            found = model._engines[0].run(inputs)["logits"]
            np.testing.assert_array_equal(found, plain.run(inputs)["logits"])
    assert "memcpy_htod_async" in fakes.machine.calls
    proof = result.facts["proof"]
    recorded = result.bundle.provenance["golden"]["tensorrt"]
    for name, tier in proof["tiers"].items():
        assert tier["top1_agreement"] == recorded[name]["top1_agreement"]
        assert tier["ms"] > 0
        assert tier["inspection"]["told"]


@pytest.mark.parametrize(
    ("profile", "version", "message"),
    [
        ("agx-orin", "8.6", "is for agx-orin (Jetson AGX Orin), and this is agx-xavier"),
        ("agx-xavier", "10.3", "is for agx-xavier (Jetson AGX Xavier), and this is agx-orin"),
        ("host", "10.3", "runs no TensorRT"),
    ],
)
def test_a_bundle_of_another_machine_is_refused(
    fakes, copy, board, monkeypatch, profile, version, message
):
    fakes.use(version)
    bundle = copy(profile)
    before = contents(bundle.folder)
    done = call(monkeypatch, board(version), "build", bundle.folder)
    assert done.exit_code == 5
    assert message in " ".join(done.stderr.split())
    assert contents(bundle.folder) == before


def test_a_machine_that_is_no_jetson_is_refused(fakes, copy, tmp_path):
    fakes.use("10.3", SM=86)
    with pytest.raises(BundleError, match="this machine is no Jetson"):
        build(BuildRequest(copy().folder, root=tmp_path / "nothing"))


@pytest.mark.parametrize("ends", ["memory", "killed"])
def test_a_build_that_fails_leaves_the_bundle_as_it_was(fakes, request_for, ends):
    fakes.use("10.3")
    request = request_for(again=True)
    build(request)
    parent = request.bundle.parent
    before = contents(parent)
    fakes.set(BUILD_ENDS=ends)
    with pytest.raises(ExportError):
        build(request)
    assert contents(parent) == before
    assert [path.name for path in parent.iterdir()] == [request.bundle.name]


@pytest.mark.parametrize("at", ["build", "prove", "publish"])
def test_an_interrupted_build_leaves_the_bundle_as_it_was(fakes, request_for, at):
    fakes.use("10.3")
    request = request_for()
    before = contents(request.bundle.parent)

    def interrupt(event):
        if event.step == at and event.tier in ("", "full"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(request, interrupt)
    assert contents(request.bundle.parent) == before
    assert fakes.machine.left_over() == []


def test_engines_that_answer_otherwise_are_not_published(fakes, request_for, monkeypatch):
    fakes.use("10.3")
    request = request_for()
    before = contents(request.bundle.parent)
    right = engine_proof.answer

    def wrong(engines, tiers, golden):
        return {name: -logits for name, logits in right(engines, tiers, golden).items()}

    monkeypatch.setattr(engine_proof, "answer", wrong)
    with pytest.raises(AccuracyGateError, match="nothing was published"):
        build(request)
    assert contents(request.bundle.parent) == before


def test_equal_engines_are_reused_and_others_are_built(fakes, request_for):
    fakes.use("10.3")
    request = request_for()
    first = build(request)
    before = contents(request.bundle)
    again = build(request)
    assert (first.reused, again.reused) == (False, True)
    assert again.facts == json.loads(json.dumps(first.facts))
    assert contents(request.bundle) == before
    assert describe(request)["steps"] == ["nothing: equal engines are there"]
    assert not build(dataclasses.replace(request, again=True)).reused

    fakes.use("10.3", SM_COUNT=8)
    assert not build(request).reused
    fakes.use("10.3")  # an engine for 8 multiprocessors is not one for 16
    with pytest.raises(EngineMismatch, match="multiprocessors 8, here 16"):
        mla_edge.load(request.bundle, engine="tensorrt")
    with mla_edge.load(request.bundle) as model:
        assert model.runs_on == "ONNX Runtime"
        assert "multiprocessors 8, here 16" in model.note


def test_engines_that_could_not_be_run_are_proven_once_there_is_a_gpu(
    fakes, request_for, monkeypatch
):
    fakes.use("10.3")
    request = request_for()
    with monkeypatch.context() as patch:
        patch.setattr(building, "prove", lambda *_: Proof("no GPU can be used here", 12))
        first = build(request)
        assert describe(request)["steps"] == [
            "prove the engines that are there, if a GPU can be used now"
        ]
        before = contents(request.bundle)
        still = build(request)
        assert (still.reused, still.facts["proof"]["status"]) == (True, "not run")
        assert contents(request.bundle) == before

    told = []
    result = build(request, lambda event: told.append(event.step))
    assert result.reused
    assert "build" not in told
    assert first.facts["proof"]["status"] == "not run"
    assert result.facts["proof"]["status"] == "ok"
    after = contents(request.bundle)
    folder = f"engines/{result.key}"
    assert {name for name in after if after[name] != before.get(name)} == {
        "bundle.json", "report.json", "report.html", f"{folder}/build.json"
    }  # fmt: skip
    written = json.loads(after[f"{folder}/build.json"])
    assert written == json.loads(json.dumps(result.facts))
    assert json.loads(after["report.json"])["engines"][result.key] == written
    Bundle.read(request.bundle).check_hashes()
    assert "TensorRT 10.3.0" in written["policy"]["measured_on"]
    assert build(request).facts == written


def test_engines_built_otherwise_than_asked_for_are_built_again(fakes, request_for):
    fakes.use("10.3")
    request = request_for()
    assert not build(dataclasses.replace(request, optimisation_level=4)).reused
    assert build(request).reused  # any will do
    assert build(dataclasses.replace(request, optimisation_level=4)).reused
    other = build(dataclasses.replace(request, optimisation_level=2))
    assert not other.reused
    assert other.facts["tiers"]["lite"]["optimisation_level"] == 2
    small = dataclasses.replace(request, optimisation_level=2, workspace_mb=100)
    assert describe(small)["steps"][0] == "lite: build, workspace 100 MB"
    assert [build(small).reused, build(small).reused] == [False, True]


def test_a_stricter_gate_judges_engines_that_are_there(fakes, request_for, monkeypatch):
    fakes.use("10.3")
    request = request_for()
    right = engine_proof.answer

    def one_wrong(engines, tiers, golden):
        found = right(engines, tiers, golden)
        sure = int(np.flatnonzero(found["full"].argmax(1) == golden.labels)[0])
        found["full"][sure] *= -1
        return found

    monkeypatch.setattr(engine_proof, "answer", one_wrong)
    monkeypatch.setattr(engine_proof, "required_agreement", lambda *_: 0.0)
    assert build(request).facts["proof"]["accuracy"] == "judged"
    before = contents(request.bundle)
    assert build(request).reused
    lenient = build(dataclasses.replace(request, max_drop=1.0))
    assert "not judged: 12 golden samples" in lenient.facts["proof"]["accuracy"]
    with pytest.raises(AccuracyGateError, match="still has these engines.*--again"):
        build(dataclasses.replace(request, max_drop=0.0))
    assert contents(request.bundle) == before


def test_a_build_record_of_another_version_does_not_count(fakes, request_for):
    fakes.use("10.3")
    request = request_for()
    result = build(request)
    path = request.bundle / "engines" / result.key / "build.json"
    facts = json.loads(path.read_text())
    del facts["proof"]["tiers"]["lite"]["inspection"]["fp32"]
    path.write_text(json.dumps(facts))
    bundle = Bundle.read(request.bundle)
    name = path.relative_to(request.bundle).as_posix()
    dataclasses.replace(bundle, files={**bundle.files, name: sha256_of(path)}).write()
    assert not build(request).reused


def test_what_tensorrt_made_and_what_was_judged_is_told(fakes, copy, board, monkeypatch):
    fakes.use("10.3")
    bundle, root = copy(), board()
    words = ["build", bundle.folder, "--max-drop", 1]
    done = call(monkeypatch, root, *words)
    assert done.exit_code == 0, done.stderr
    assert "accuracy: not judged: 12 golden samples, 102 are needed" in done.stdout
    assert done.stdout.count("read or write FP32") == len(bundle.tiers)
    page = (bundle.folder / "report.html").read_text()
    assert "not judged: 12 golden samples" in page
    assert "with weights not in INT8" in page

    told = engine_proof.inspect_layers

    def in_fp16(text):
        found = told(text)
        return dataclasses.replace(found, int8=0, not_int8=("/only/&/Conv",))

    monkeypatch.setattr(engine_proof, "inspect_layers", in_fp16)
    done = call(monkeypatch, root, *words, "--again")
    assert "warning: the bundle is INT8, and TensorRT put no layer" in done.stdout
    done = call(monkeypatch, root, *words, "--json")
    assert "no layer" in json.loads(done.stdout)["proof"]["tiers"]["lite"]["warning"]
    page = (bundle.folder / "report.html").read_text()
    assert "the bundle is INT8, and TensorRT put no layer" in page
    assert "/only/&amp;/Conv" in page


def test_exit_codes_tell_a_failed_build_and_a_missing_provider(fakes, copy, board, monkeypatch):
    fakes.use("10.3", BUILD_ENDS="memory")
    bundle, root = copy(), board()
    done = call(monkeypatch, root, "build", bundle.folder)
    assert done.exit_code == 7
    assert "OutOfMemory" in done.stderr
    assert "--workspace-mb less" in " ".join(done.stderr.split())
    done = call(
        monkeypatch, root, "run", "--bundle", bundle.folder, *SIMULATED, "--engine", "ort-cuda"
    )
    assert done.exit_code == 3
    assert "CUDAExecutionProvider cannot be used" in " ".join(done.stderr.split())


def test_a_profile_of_the_users_own_is_exported_built_and_run_on_its_board(
    fakes, export_small, board, monkeypatch, tmp_path
):
    """And the graph that TensorRT 11 is given, INT8 beside FP16, goes the whole way."""
    text = (content_dir("device_profiles") / "agx-thor.toml").read_text()
    text = re.sub("^tensorrt = .*$", 'tensorrt = "11.4"', text, flags=re.MULTILINE)
    text = re.sub("^opset = .*$", "opset = 19", text, flags=re.MULTILINE)
    own = tmp_path / "my-thor.toml"
    own.write_text(text)
    bundle = export_small(str(own))
    own.unlink()  # a board does not have it
    assert "my-thor.toml" in bundle.files
    graph = onnx.load(str(bundle.graph("lite", cpu=False)))
    assert graph.opset_import[0].version == 19
    kinds = {value.type.tensor_type.elem_type for value in graph.graph.value_info}
    assert {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8} <= kinds

    fakes.use("11.4")
    root = board("11.4")
    done = call(monkeypatch, root, "build", bundle.folder, "--max-drop", 100, "--json")
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    recorded = bundle.provenance["golden"]["tensorrt"]
    for tier in bundle.tiers:
        assert shown["tiers"][tier.name]["typing"] == "strong"
        proof = shown["proof"]["tiers"][tier.name]
        assert proof["top1_agreement"] == recorded[tier.name]["top1_agreement"]
    assert_it_runs(monkeypatch, root, bundle)

    fakes.use("10.3")
    with pytest.raises(BundleError, match=r"is for my-thor .*, and this is agx-orin"):
        build(BuildRequest(bundle.folder, root=board("10.3")))


def test_engines_of_two_versions_live_side_by_side(fakes, request_for):
    request = request_for("10.3")
    fakes.use("10.3")
    build(request)
    fakes.use("11.4", SM=87, SM_COUNT=16)
    build(request)
    assert sorted(p.name for p in (request.bundle / "engines").iterdir()) == [
        "sm87-trt10.3.0",
        "sm87-trt11.4.0",
    ]
    for version in ("10.3", "11.4"):
        fakes.use(version, SM=87, SM_COUNT=16)
        with mla_edge.load(request.bundle) as model:
            assert model.runs_on.startswith(f"TensorRT {VERSIONS[version]}")


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(fakes, copy, board, monkeypatch):
    fakes.use("10.3")
    bundle = copy()
    before = contents(bundle.folder)
    done = call(monkeypatch, board(), "build", bundle.folder, "--dry-run", "--json")
    assert done.exit_code == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["steps"] == [
        "lite: build, workspace 8192 MB",
        "full: build, workspace 8192 MB",
        "prove",
        "publish",
    ]
    assert contents(bundle.folder) == before


@pytest.mark.parametrize("version", ["10.3", "11.4"])
def test_a_dla_takes_a_cache_up_to_10_and_the_graph_itself_on_11(fakes, request_for, version):
    fakes.use(version, SM=87, SM_COUNT=16, DLA_CORES=2)
    request = dataclasses.replace(request_for("10.3"), dla=True)
    result = build(request)
    plain = version == "10.3"
    for tier in result.bundle.tiers:
        plan = result.bundle.folder / "engines" / result.key / f"{tier.name}.plan"
        form = "dla.onnx" if plain else "onnx"
        assert read_sidecar(plan).graph == f"graphs/{tier.name}.{form}"
        assert result.facts["tiers"][tier.name]["dla"]
        form = result.facts["proof"]["tiers"][tier.name]["form"]
        assert form == ("dla" if plain else "tensorrt")
        assert form in result.bundle.provenance["golden"]
    assert build(request).reused
    assert not build(dataclasses.replace(request, dla=False)).reused
    with pytest.raises(ExportError, match="finds no DLA on this machine"):
        fakes.use(version, SM=87, SM_COUNT=16)
        build(request)


def test_memory_decides_whether_and_with_how_much_it_builds(request_for):
    request, profile = request_for(), load_profile("agx-orin")

    def free(kilobytes):
        (request.root / "proc/meminfo").write_text(f"MemAvailable: {kilobytes} kB\n")

    free(6_000_000)
    assert choose_workspace(request, profile) == 2929
    free(60_000_000)
    assert choose_workspace(request, profile) == 8192
    assert choose_workspace(dataclasses.replace(request, workspace_mb=100), profile) == 100
    free(500_000)
    with pytest.raises(ExportError, match="488 MB of memory and 0 MB of swap are free"):
        choose_workspace(request, profile)


def test_without_a_gpu_a_board_says_so(fakes, request_for):
    fakes.use("10.3", PRESENT=False)
    with pytest.raises(InferenceError, match="no GPU that can be used"):
        build(request_for())


def test_the_real_rtx_builds_without_a_gpu_and_says_what_is_not_proven(export_small):
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    bundle = export_small("rtx")
    for tier in bundle.tiers:  # INT8 beside FP16: no flag of RTX's adds the FP16
        graph = onnx.load(str(bundle.graph(tier.name, cpu=False))).graph
        kinds = {value.type.tensor_type.elem_type for value in graph.value_info}
        assert {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8} <= kinds
    done = CliRunner().invoke(app, ["build", str(bundle.folder), "--json"])
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    folder = bundle.folder / "engines" / f"rtx{shown['target']['tensorrt']}"
    assert shown["engines"] == str(folder)
    for tier in bundle.tiers:
        plan = folder / f"{tier.name}.plan"
        assert plan.stat().st_size == shown["tiers"][tier.name]["plan_bytes"] > 1000
        assert read_sidecar(plan).build["typing"] == "strong"
        assert read_sidecar(plan).target.sm is None
    if shown["proof"]["status"] != "ok":  # no GPU: the usual case
        assert "no GPU can be used here" in shown["proof"]["reason"]
    Bundle.read(bundle.folder).check_hashes()

    plans = {path: path.stat().st_mtime_ns for path in folder.glob("*.plan")}
    done = CliRunner().invoke(app, ["build", str(bundle.folder)])
    assert "reused" in done.stdout
    if shown["proof"]["status"] != "ok":
        assert "NOT PROVEN: no GPU can be used here" in done.stdout
    assert plans == {path: path.stat().st_mtime_ns for path in folder.glob("*.plan")}
    done = CliRunner().invoke(app, ["build", str(bundle.folder), "--again", "--json"])
    assert json.loads(done.stdout)["reused"] is False
    assert plans != {path: path.stat().st_mtime_ns for path in folder.glob("*.plan")}
