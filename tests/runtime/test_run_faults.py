"""``run`` as a process of its own, while what it stands on gives way."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from colours import make_bundle
from running import running

pytest.importorskip("cv2")

STAMPED = Path(__file__).parents[2] / "benchmarks" / "stamped_camera.py"
SIMULATED = ["--camera", "sim://digits?size=96x64", "--mic", "sim://digits"]


def camera_process(port):
    camera = subprocess.Popen(
        [sys.executable, str(STAMPED), str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    camera.stdout.readline()
    return camera


def end(process):
    process.kill()
    process.communicate()


def test_a_network_camera_that_hangs_or_dies_is_left_out_and_used_again(here):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    camera = camera_process(port)
    try:
        url = f"http://127.0.0.1:{port}/"
        with running(here, "run", "--camera", url, "--mic", "sim://digits", "--json") as run:
            run.decides("image+audio")
            camera.send_signal(signal.SIGSTOP)
            run.says("image is stale and is left out: nothing new for 5")
            run.decides("audio")
            camera.send_signal(signal.SIGCONT)
            run.says("image is back", 1)
            run.decides("image+audio")
            end(camera)
            run.says("image is lost and is left out: ")
            run.decides("audio")
            camera = camera_process(port)
            run.says("image is back", 2)
            run.decides("image+audio")
            camera.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            code, taken_s = run.stop()
            assert code == 130, run.words
            assert taken_s < 5  # it does not wait for the camera
            assert run.last["summary"]["faults"]["image"]["lost"] == 1
    finally:
        end(camera)


def test_a_bundle_that_is_replaced_under_a_run_changes_nothing_until_it_is_told(here):
    """By a copy over it, which leaves half a file for a while, and by another folder."""
    folder = here / "bundles/colours-host"
    with running(here, "run", *SIMULATED, "--json") as run:
        run.decides("image+audio")
        for path in folder.glob("graphs/*"):
            path.write_bytes(path.read_bytes()[:100])
        run.decides("image+audio", 10)
        run.process.send_signal(signal.SIGHUP)
        run.says("not reloaded: ")
        run.decides("image+audio", 10)
        shutil.rmtree(folder)
        run.decides("image+audio", 10)
        make_bundle(here / "new", labels=("a", "b", "c"))
        (here / "new").rename(folder)
        run.decides("image+audio", 10)
        assert {made["label"] for made in run.decisions} <= {"red", "green", "blue"}
        run.process.send_signal(signal.SIGHUP)
        run.says("reloaded bundles/colours-host")
        run.decides("image+audio")
        assert run.decisions[-1]["label"] in "abc"
        assert run.stop()[0] == 130
        numbers = [made["decision_time_s"] for made in run.decisions]
        assert max(b - a for a, b in zip(numbers, numbers[1:])) < 2  # 0.03 on an idle machine


def test_a_run_that_was_suspended_goes_on_with_what_is_new(here):
    with running(here, "run", *SIMULATED, "--json", "--deadline-ms", "1000") as run:
        run.decides("image+audio")
        run.process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        number = len(run.decisions)
        run.process.send_signal(signal.SIGCONT)
        run.decides("image+audio", 20)
        assert run.stop(signal.SIGINT)[0] == 130
        for made in run.decisions[number + 1 :]:  # one was perhaps being made
            assert made["age_ms"] < 500


def test_a_full_disk_behind_its_output_ends_it_with_words(here):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mla_edge", "run", *SIMULATED, "--duration", "1", "--json"],
            cwd=here,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3, done.stderr
    assert "mla-edge: No space left on device\n  free some space" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("behind", ["/dev/full", "a reader that left"])
def test_words_that_nobody_takes_do_not_end_it(here, behind):
    """A service whose log is on a full disk decides all the same."""
    redirect = "2>/dev/full" if behind == "/dev/full" else "2> >(true)"
    words = " ".join(["run", "--camera", "sim://digits", "--mic", "none", "--duration", "0.5"])
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m mla_edge {words} --json {redirect}"],
        cwd=here,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1])["summary"]["decisions"] > 0


def test_a_disk_that_is_really_full_ends_the_recording_and_not_the_run(here):
    """On a file system of 400 kB in a namespace of its own."""
    inside = ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("this machine makes no namespaces for mounts")
    (here / "small").mkdir()
    python = f"'{sys.executable}' -m mla_edge"
    record = f"record small/out.mcap {' '.join(SIMULATED)} --lossless --duration 2.5 --json"
    done = subprocess.run(
        [
            *(*inside, "bash", "-c"),
            "mount -t tmpfs -o size=400k tmpfs small || exit 77; "
            f"{python} {record}; echo $?; {python} replay small/out.mcap --json | tail -1",
        ],
        cwd=here,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this machine mounts nothing in a namespace")
    *decisions, last, code, replayed = done.stdout.splitlines()
    assert code == "3", done.stderr
    told = "recording stopped: small/out.mcap: No space left on device; deciding goes on"
    assert done.stderr.count(told) == 1
    assert "Traceback" not in done.stderr
    assert json.loads(last)["summary"]["decisions"] == len(decisions)
    compared = json.loads(replayed)["summary"]["replay"]["compared"]
    assert 3 < compared < len(decisions)
