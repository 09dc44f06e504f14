import json
import signal
import subprocess
import sys
import time
from contextlib import closing, nullcontext
from dataclasses import replace

import numpy as np
import pytest
from colours import INPUTS, LABELS, frame, make_bundle, sound
from typer.testing import CliRunner

import mla_edge
from mla_edge.cli import app
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import CaptureError, InferenceError, MissingDependency
from mla_edge.signals import TensorSpec
from mla_edge.testing import FakeCamera, FakeEngine, FakeMicrophone

KEYS = [
    *("label", "confidence", "tier", "reason", "mode", "capture_time_s"),
    *("decision_time_s", "latency_ms", "age_ms", "ages_ms", "skew_ms"),
    *("reused_ms", "repeated", "truth", "certificate", "degraded"),
]
SIMULATED = ["--camera", "sim://digits?size=96x64", "--mic", "sim://digits"]
LOST = CaptureError("the cable is out")


def call(*words):
    return CliRunner().invoke(app, ["run", *words])


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def start(here, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "mla_edge", "run", *words],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_json_is_one_object_a_line_and_the_summary_last(here):
    result = call(*SIMULATED, "--duration", "1", "--json")
    assert result.exit_code == 0, result.stderr
    *decisions, last = lines(result.stdout)
    assert decisions
    for decision in decisions:
        assert list(decision) == KEYS
        assert list(decision["capture_time_s"]) == ["image", "audio"]
    assert list(last) == ["summary"]
    assert last["summary"]["decisions"] == len(decisions)
    assert sum(tier["decisions"] for tier in last["summary"]["tiers"].values()) == len(
        decisions
    )
    assert {decision["truth"] for decision in decisions} <= {*"0123456789", "none", None}


def test_the_bundle_it_chose_is_said_on_stderr(here):
    result = call(*SIMULATED, "--duration", "0.2", "--json")
    assert result.stderr.startswith("bundle bundles/colours-host, made 2026")
    other = make_bundle(here / "other")
    named = call(*SIMULATED, "--duration", "0.2", "--json", "--bundle", str(other.folder))
    assert named.exit_code == 0
    assert named.stderr == ""


def test_a_masked_modality_has_no_capture_time(here):
    result = call("--camera", "none", "--mic", "sim://digits", "--duration", "0.4", "--json")
    first = lines(result.stdout)[0]
    assert first["mode"] == "audio"
    assert first["capture_time_s"]["image"] is None


def test_for_people_there_is_a_line_a_change_and_a_table(here):
    result = call("--as-fast-as-possible", *SIMULATED, "--duration", "2")
    assert result.exit_code == 0
    *changes, _, _, _, _, _, _, _, last = result.stdout.splitlines()
    labels = [line.split()[2] for line in changes]
    assert all(a != b for a, b in zip(labels, labels[1:]))
    assert last.split() == ["faults", "none"]
    assert "\x1b" not in result.stdout
    for name in ("decisions", "tiers", "modes", "accuracy", "latency", "age", "drops"):
        assert f"\n{name} " in result.stdout


def test_a_simulator_as_fast_as_possible_is_the_same_each_time(here):
    words = ["--as-fast-as-possible", *SIMULATED, "--duration", "3", "--json"]
    runs = [lines(call(*words).stdout)[:-1] for _ in range(2)]
    for decision in runs[0] + runs[1]:
        del decision["latency_ms"]
    assert len(runs[0]) == 90
    assert runs[0] == runs[1]


def test_neither_camera_nor_microphone_is_a_mistake(here):
    result = call("--camera", "none", "--mic", "none")
    assert result.exit_code == 2
    assert "leave nothing to run on" in result.stderr


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--duration", "-1"], "--duration"),
        (["--rate", "0"], "--rate"),
        (["--threads", "-1"], "--threads"),
        (["--threads", "100000"], "100000 threads: this machine has "),
        (["--max-age-ms", "x"], "--max-age-ms"),
        (["--rate", "5", "--as-fast-as-possible"], "as fast as possible"),
        (["--camera", "sim://letters"], "sim://"),
    ],
)
def test_a_wrong_option_is_named(here, words, option):
    result = call(*SIMULATED, *words)
    assert result.exit_code == 2
    assert option in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [["run"], ["record", "out.mcap"]])
def test_a_live_camera_with_a_file_as_fast_as_possible_is_refused(here, command):
    pytest.importorskip("mcap")
    from network_camera import NetworkCamera

    with closing(NetworkCamera()) as camera:
        words = ["--camera", camera.url, "--mic", "sim://digits", "--as-fast-as-possible"]
        result = CliRunner().invoke(app, [*command, *words])
    assert result.exit_code == 2
    assert "the camera is live and the microphone is not" in result.stderr
    assert "without --as-fast-as-possible" in result.stderr
    assert not (here / "out.mcap").exists()


def test_without_a_bundle_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*SIMULATED)
    assert result.exit_code == 5
    assert "there is no bundle" in result.stderr
    assert "mla-edge export --profile" in result.stderr


def test_a_damaged_bundle_is_refused(here):
    graph = here / "bundles/colours-host/graphs/lite.cpu.onnx"
    graph.write_bytes(graph.read_bytes()[:50])
    result = call(*SIMULATED)
    assert result.exit_code == 5
    assert "lite.cpu.onnx" in result.stderr


def test_a_camera_that_does_not_open_names_the_ways_round_it(here):
    result = call("--camera", "no-such-file.avi", "--mic", "sim://digits")
    assert result.exit_code == 6
    assert "no-such-file.avi" in result.stderr
    assert "or run without it: --camera none" in result.stderr
    alone = call("--camera", "no-such-file.avi", "--mic", "none")
    assert alone.exit_code == 6
    assert "--camera none" not in alone.stderr
    assert "--camera sim://digits" in alone.stderr


def test_a_missing_package_names_the_ways_round_it(here, monkeypatch):
    def fail(source, **options):
        raise MissingDependency("sounddevice is not installed", hint="pip install sounddevice")

    monkeypatch.setattr(mla_edge, "open_microphone", fail)
    result = call("--camera", "sim://digits")
    assert result.exit_code == 3
    assert "pip install sounddevice\n  or run without it: --mic none" in result.stderr


def test_a_camera_lost_on_the_way_is_masked_and_said(here, monkeypatch):
    eyes = FakeCamera(
        [frame("red")] * 60, period_s=0.01, faults=dict.fromkeys(range(20, 24), LOST)
    )
    ears = FakeMicrophone([sound("red")] * 60, period_s=0.02)
    monkeypatch.setattr(mla_edge, "open_camera", lambda *_, **__: nullcontext(eyes))
    monkeypatch.setattr(mla_edge, "open_microphone", lambda *_, **__: nullcontext(ears))
    result = call("--max-age-ms", "60000", "--json")
    assert result.exit_code == 0
    assert "image is lost and is left out: the cable is out\nimage is back\n" in result.stderr
    summary = lines(result.stdout)[-1]["summary"]
    assert summary["faults"] == {"image": {"lost": 1}}
    assert set(summary["modes"]) >= {"image+audio", "audio"}


def test_sound_that_is_not_finite_does_not_end_the_run(here, monkeypatch):
    broken = replace(sound("red"), samples=np.full(800, np.nan, np.float32))
    eyes = FakeCamera([frame("red")] * 60, period_s=0.01)
    ears = FakeMicrophone([broken] * 10 + [sound("red")] * 60, period_s=0.01)
    monkeypatch.setattr(mla_edge, "open_camera", lambda *_, **__: nullcontext(eyes))
    monkeypatch.setattr(mla_edge, "open_microphone", lambda *_, **__: nullcontext(ears))
    result = call("--max-age-ms", "60000", "--json")
    assert result.exit_code == 0, result.stderr
    told = "audio is lost and is left out: its values are not finite (NaN or infinite)"
    assert result.stderr.count(told) == 1
    assert "audio is back" in result.stderr
    summary = lines(result.stdout)[-1]["summary"]
    assert summary["faults"] == {"audio": {"lost": 1}}
    assert set(summary["modes"]) >= {"image+audio", "image"}


def test_no_such_camera_is_said_with_the_fix(here):
    result = call("--camera", "77", "--mic", "sim://digits")
    assert result.exit_code == 6
    assert "no camera at /dev/video77" in result.stderr
    assert "there is: " in result.stderr or "has no /dev/video" in result.stderr
    assert "or run without it: --camera none" in result.stderr
    assert "Traceback" not in result.output


def test_no_such_microphone_is_said_with_the_fix(here):
    done = subprocess.run(
        [sys.executable, "-m", "mla_edge", "run", "--camera", "sim://digits", "--mic", "Attic"],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == MissingDependency.exit_code:
        pytest.skip(done.stderr)
    assert done.returncode == 6, done.stderr
    assert "no microphone 'Attic'" in done.stderr
    assert "or run without it: --mic none" in done.stderr
    assert "Traceback" not in done.stderr


def test_sources_that_never_give_are_an_error(here, monkeypatch):
    eyes = FakeCamera([], faults=dict.fromkeys(range(1000), LOST))
    monkeypatch.setattr(mla_edge, "open_camera", lambda *_, **__: nullcontext(eyes))
    result = call("--mic", "none", "--duration", "0.3", "--json")
    assert result.exit_code == 6
    assert "no decision was made" in result.stderr
    assert "image: the cable is out" in result.stderr
    (last,) = lines(result.stdout)
    assert last["summary"]["decisions"] == 0
    assert (last["ok"], last["exit_code"]) == (False, 6)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_an_engine_that_fails_on_the_way_ends_with_the_summary(here, monkeypatch, form):
    work, left = OnnxRuntimeEngine.run, [4]

    def run(engine, inputs):
        left[0] -= 1
        if left[0] < 0:
            raise InferenceError("lite: out of memory", hint="close other programs")
        return work(engine, inputs)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", run)
    result = call("--as-fast-as-possible", *SIMULATED, "--duration", "3", *form)
    assert result.exit_code == 1
    assert "mla-edge: lite: out of memory\n  close other programs" in result.stderr
    assert "Traceback" not in result.output
    if form:
        *decisions, last = lines(result.stdout)
        assert 0 < last["summary"]["decisions"] == len(decisions)
        assert last["problem"] == "lite: out of memory"
        assert (last["ok"], last["exit_code"]) == (False, 1)
    else:
        assert "\ndecisions " in result.stdout


def test_a_bundle_without_ears_does_not_open_the_microphone(tmp_path, monkeypatch):
    bundle = make_bundle(tmp_path / "seeing", inputs=INPUTS[:1])
    logits = {"logits": np.zeros((1, len(LABELS)), np.float32)}
    monkeypatch.setattr(
        "mla_edge.engines.opening.open_engine",
        lambda path, threads: FakeEngine(
            [TensorSpec("image", "float32", (1, 3, 16, 16))], logits
        ),
    )
    words = ["--bundle", str(bundle.folder), "--camera", "sim://digits", "--duration", "0.3"]
    result = call(*words)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "--mic is not used: the bundle takes no audio\n"
    refused = call("--bundle", str(bundle.folder), "--camera", "none")
    assert refused.exit_code == 2
    assert "no source of that was given" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_the_summary(here, number):
    process = start(here, *SIMULATED, "--json")
    first = process.stdout.readline()
    process.send_signal(number)
    rest, words = process.stdout.read(), process.stderr.read()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=20) == 130, words
    *decisions, last = lines(first + rest)
    assert last["summary"]["decisions"] == len(decisions)
    assert "Traceback" not in words


def test_a_reader_that_leaves_ends_it_quietly(here):
    process = start(here, *SIMULATED, "--json")
    process.stdout.readline()
    process.stdout.close()
    words = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=20) == 0
    assert "Traceback" not in words
    assert "Broken" not in words


def test_lines_come_when_they_are_made(here):
    process = start(here, *SIMULATED, "--json", "--duration", "3")
    process.stdout.readline()
    early_s = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - early_s > 0.5
