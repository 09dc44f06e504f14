"""``run`` as a process of its own, while what it stands on gives way."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from colours import make_bundle

pytest.importorskip("cv2")

STAMPED = Path(__file__).parents[2] / "benchmarks" / "stamped_camera.py"
SIMULATED = ["--camera", "sim://digits?size=96x64", "--mic", "sim://digits"]
PATIENT_S = 20.0  # on a busy machine


class Running:
    """A run whose lines are collected as they come, each with its moment."""

    def __init__(self, folder, *words):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mla_edge", *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.decisions, self.words, self.last = [], [], {}
        self._threads = [
            threading.Thread(target=self._collect_decisions),
            threading.Thread(target=self._collect_words),
        ]
        for thread in self._threads:
            thread.start()

    def _collect_decisions(self):
        for line in self.process.stdout:
            found = json.loads(line)
            if "label" in found:
                self.decisions.append(found)
            else:
                self.last = found

    def _collect_words(self):
        for line in self.process.stderr:
            self.words.append(line.rstrip("\n"))

    def until(self, condition, what):
        end_s = time.monotonic() + PATIENT_S
        while not condition():
            assert time.monotonic() < end_s, f"never {what}: {self.words}"
            assert self.process.poll() is None, f"it ended before {what}: {self.words}"
            time.sleep(0.01)

    def says(self, text, count=1):
        """Wait until so many lines on stderr have the text."""
        self.until(lambda: sum(text in line for line in self.words) >= count, text)

    def decides(self, mode, count=3):
        """Wait for so many more decisions in that mode."""
        number = len(self.decisions)
        self.until(
            lambda: sum(made["mode"] == mode for made in self.decisions[number:]) >= count, mode
        )

    def stop(self, number=signal.SIGTERM):
        """End it by a signal; how long that took, and its exit code."""
        begun_s = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(PATIENT_S)
        taken_s = time.monotonic() - begun_s
        self.close()
        return code, taken_s

    def close(self):
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()


@contextlib.contextmanager
def running(folder, *words):
    run = Running(folder, *words)
    try:
        yield run
    finally:
        if not run.process.stdout.closed:
            run.close()


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
