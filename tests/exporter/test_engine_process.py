"""A build in a process of its own: what is told while it works, and how it may end."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from faking import make_graph

from mla_edge.errors import ExportError, MissingDependency
from mla_edge.exporter import engine_process
from mla_edge.exporter.engine_build import BuildSpec
from mla_edge.exporter.engine_process import run_build


@pytest.fixture
def plan(tmp_path):
    return tmp_path / "lite.plan"


@pytest.fixture
def spec(tmp_path):
    return BuildSpec(str(make_graph(tmp_path / "lite.onnx")), "int8")


def build(spec, plan, **options):
    """The build, and everything that was told."""
    told = []
    built = run_build("tensorrt", spec, plan, told.append, **options)
    return built, told


def test_the_plan_and_what_there_is_to_say_come_back(fakes, spec, plan):
    fakes.use("10.3", BUILD_ENDS="chatty")
    built, told = build(dataclasses.replace(spec, float_layers=("/relu",)), plan)
    assert plan.read_bytes().startswith(b"fake-plan ")
    assert built.plan_bytes == plan.stat().st_size
    assert (built.tensorrt, built.typing, built.flags) == ("10.3.0", "weak", ("INT8", "FP16"))
    assert built.held_float == ("/relu", "/mean")
    assert any("Timing layers 100%" in line for line in told)


@pytest.mark.parametrize(
    ("ends", "message", "hint"),
    [
        (
            "killed",
            "build: lite.onnx: the build was killed, most likely because the system ran out "
            "of memory",
            "--workspace-mb less",
        ),
        ("crashed", "build: lite.onnx: TensorRT crashed (SIGSEGV)", "sudo dmesg"),
        (
            "exited",
            "the build ended with code 9: terminate called without an active exception",
            "mla-edge doctor",
        ),
        ("memory", "TensorRT 10.3.0 cannot build lite.onnx: Error Code 2: OutOfMemory", "swap"),
        ("mute", "the builder gives no reason", "mla-edge doctor"),
    ],
)
def test_every_end_is_said_and_leaves_no_plan(fakes, spec, plan, ends, message, hint):
    fakes.use("10.3", BUILD_ENDS=ends)
    with pytest.raises(ExportError) as caught:
        build(spec, plan)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.exit_code == 7
    assert not plan.exists()


def test_without_tensorrt_the_fix_comes_through(fakes, spec, plan, monkeypatch):
    fakes.use("10.3")
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(MissingDependency) as caught:
        build(spec, plan)
    assert "apt-get install nvidia-jetpack" in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_build_that_says_nothing_is_heard_of_and_can_be_interrupted(fakes, spec, plan):
    fakes.use("10.3", BUILD_ENDS="hanging")
    told = []

    def listen(text):
        told.append(text)
        if len(told) == 2:
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_build("tensorrt", spec, plan, listen, heartbeat_s=0.2)
    assert time.monotonic() - began < 30
    assert told[0].endswith("s, TensorRT starts")
    assert psutil.Process().children() == []
    assert not plan.exists()


def test_a_full_disk_is_told_as_one(fakes, spec):
    fakes.use("10.3")
    with pytest.raises(ExportError, match="build: /dev/full: No space left") as caught:
        build(spec, Path("/dev/full"))
    assert "free some space" in caught.value.hint


def test_a_parent_that_is_killed_takes_the_build_with_it(fakes, spec, plan):
    fakes.use("10.3", BUILD_ENDS="hanging")
    code = """if 1:
        import sys
        from pathlib import Path
        from mla_edge.exporter.engine_build import BuildSpec
        from mla_edge.exporter.engine_process import run_build
        run_build("tensorrt", BuildSpec(sys.argv[1], "int8"), Path(sys.argv[2]), print,
                  heartbeat_s=0.1)
    """
    words = [sys.executable, "-u", "-c", code, spec.graph, str(plan)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        # By then the build has its orders, and hangs.
        assert any(line.startswith("2 s") for line in parent.stdout)
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_a_python_without_numpy_is_told_from_a_crash(fakes, spec, plan, monkeypatch, tmp_path):
    fakes.use("10.3")
    (tmp_path / "numpy.py").write_text("raise ImportError('no numpy here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ExportError, match="ended with code 1: .*no numpy here"):
        build(spec, plan)
    assert engine_process.HEARTBEAT_S <= 5
