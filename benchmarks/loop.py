"""How old what a decision is made from is: our loop, and the two that everybody writes.

    python benchmarks/loop.py BUNDLE [--engine-ms 45] [--seconds 10] [--json]

One camera for all (``stamped_camera.py``: 30 pictures a second over HTTP, each with its capture
time in it), and a network of the same cost for all: a busy wait of ``--engine-ms``. Each loop
runs in a process of its own, one after the other: ``--seconds`` undisturbed, then the camera
stalls for 5 s, then it is killed for 5 s, with as long in between to recover.

``plain`` reads and decides in turns. ``thread`` keeps the newest picture on a thread, and
decides on what is there. ``ours`` is ``mla_edge.open_camera`` and ``mla_edge.run``.

A decision says on which capture it was made: by the stamp in the picture itself. It is *stale*
if that is more than 0.5 s before it, and *marked* if the program was told that the camera is
lost or stale; *repeated* if the picture was used before.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TextIO

import cv2
import numpy as np
import psutil
from stamped_camera import read_stamp

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.engines import Engine, open_engine
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import CascadeRouter
from mla_edge.signals import Sample, Tensors

STALE_S = 0.5
BREAK_S = 5.0  # how long a stall lasts, and how long the camera is gone
LOOPS = ("plain", "thread", "ours")
HERE = Path(__file__).parent


def think(engine_ms: float) -> None:
    """A network that keeps one core busy for so long."""
    end_s = time.perf_counter() + engine_ms / 1e3
    while time.perf_counter() < end_s:
        pass


class Thinking:
    """An engine of a given cost, in the place of a real one."""

    def __init__(self, engine: Engine, engine_ms: float, classes: int) -> None:
        """Take what ``engine`` takes."""
        self.inputs, self.outputs, self.close = engine.inputs, engine.outputs, engine.close
        self._engine_ms = engine_ms
        self._logits = np.zeros((1, classes), np.float32)

    def run(self, inputs: Tensors) -> Tensors:
        """Always the same answer, after so long."""
        think(self._engine_ms)
        return {"logits": self._logits}


class Log:
    """Writes a line a decision: when it was made, and when its picture was taken."""

    def __init__(self, out: TextIO) -> None:
        """To ``out``."""
        self._out = out

    def decision(self, captured_s: float) -> None:
        """A decision was made now."""
        self._out.write(f"{time.monotonic():.6f} {captured_s:.6f}\n")

    def told(self, what: str) -> None:
        """The program was told that the camera is lost, stale or back."""
        self._out.write(f"{time.monotonic():.6f} {what}\n")


def plain(url: str, engine_ms: float, log: Log, bundle: Path) -> None:
    """Read, decide, and again; opened anew by nobody."""
    capture = cv2.VideoCapture(url)
    while True:
        there, picture = capture.read()
        if not there:
            log.told("lost")
            time.sleep(0.1)
            continue
        think(engine_ms)
        log.decision(read_stamp(picture))


def thread(url: str, engine_ms: float, log: Log, bundle: Path) -> None:
    """The recipe of many a page: a thread that reads, a variable with the newest picture."""
    capture = cv2.VideoCapture(url)
    newest: list[np.ndarray] = []

    def read() -> None:
        while True:
            there, picture = capture.read()
            if there:
                newest[:] = [picture]
            else:
                time.sleep(0.01)

    threading.Thread(target=read, daemon=True).start()
    while True:
        if not newest:
            time.sleep(0.005)
            continue
        picture = newest[0]
        think(engine_ms)
        log.decision(read_stamp(picture))


def ours(url: str, engine_ms: float, log: Log, bundle: Path) -> None:
    """mla-edge, with its engines replaced by ones of the given cost."""
    known = Bundle.read(bundle)
    preprocess = Preprocessor(known.inputs)
    stamps: list[float] = []

    def see(sample: Sample) -> Tensors:
        frame: Any = sample.signals["image"]
        stamps[:] = [read_stamp(frame.image)]
        return preprocess(sample)

    tier = known.tiers[-1].name
    engines = {
        each.name: Thinking(
            open_engine(known.graph(each.name, cpu=True), threads=1),
            engine_ms if each.name == tier else 0.0,
            len(known.labels),
        )
        for each in known.tiers
    }
    router = CascadeRouter(known.policy)
    with FusedModel(known, engines, router, see) as model, mla_edge.open_camera(url) as camera:
        predictions = mla_edge.run(
            model, camera, None, on_fault=lambda fault: log.told(fault.what)
        )
        for _ in predictions:
            log.decision(stamps[0])


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def camera_at(port: int) -> Iterator[subprocess.Popen[str]]:
    """The camera, in a process of its own."""
    command = [sys.executable, str(HERE / "stamped_camera.py"), str(port)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One loop, through all that happens to its camera."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/video.mjpg"
    command = [sys.executable, __file__, str(args.bundle), "--run", name, "--url", url]
    command += ["--engine-ms", str(args.engine_ms)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with camera_at(port) as camera:
        assert camera.stdin is not None
        began_s = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        watched = psutil.Process(process.pid)
        time.sleep(3.0)  # to start
        steady_s, cpu_s = time.monotonic(), sum(watched.cpu_times()[:2])
        time.sleep(args.seconds)
        steady = (steady_s, time.monotonic())
        cores = (sum(watched.cpu_times()[:2]) - cpu_s) / (steady[1] - steady[0])
        memory_mb = watched.memory_info().rss / 1e6
        camera.stdin.write("stall\n")
        camera.stdin.flush()
        stall_s = time.monotonic()
        time.sleep(BREAK_S)
        camera.stdin.write("go\n")
        camera.stdin.flush()
        moving_s = time.monotonic()
        time.sleep(args.seconds)
        kill_s = time.monotonic()
    time.sleep(BREAK_S)
    with camera_at(port):
        back_s = time.monotonic()
        time.sleep(args.seconds)
        process.kill()
        reader.join()
    decisions, told = parse(lines)
    breaks = ((stall_s, moving_s), (kill_s, back_s))
    return {
        "loop": name,
        **figures(decisions, steady),
        "first_decision_s": round(decisions[0][0] - began_s, 2) if decisions else None,
        "cores": round(cores, 2),
        "memory_mb": round(memory_mb),
        "stall": after_break(decisions, told, *breaks[0]),
        "killed": after_break(decisions, told, *breaks[1]),
    }


Decisions = list[tuple[float, float]]


def parse(lines: list[str]) -> tuple[Decisions, list[tuple[float, str]]]:
    """Decisions as (made, captured), and what the program was told and when."""
    decisions, told = [], []
    for line in lines:
        moment, what = line.split()
        if what[0].isdigit():
            decisions.append((float(moment), float(what)))
        else:
            told.append((float(moment), what))
    return decisions, told


def figures(decisions: Decisions, span: tuple[float, float]) -> dict[str, Any]:
    """Ages, and what was used twice or never, in an undisturbed span."""
    within = [(made, taken) for made, taken in decisions if span[0] <= made < span[1]]
    if not within:
        return {"decisions": 0}
    ages = np.array([made - taken for made, taken in within]) * 1e3
    p50, p99 = np.percentile(ages, [50, 99])
    return {
        "decisions": len(within),
        "age_p50_ms": round(float(p50), 1),
        "age_p99_ms": round(float(p99), 1),
        "age_max_ms": round(float(ages.max()), 1),
        "repeated": len(within) - len({taken for _, taken in within}),
    }


def after_break(
    decisions: Decisions, told: list[tuple[float, str]], begin_s: float, end_s: float
) -> dict[str, Any]:
    """What a loop does while its camera is gone, and how soon it decides on new pictures."""
    during = [(made, taken) for made, taken in decisions if begin_s <= made < end_s]
    said = [moment for moment, what in told if begin_s <= moment < end_s and what != "back"]
    stale = [made for made, taken in during if made - taken > STALE_S]
    fresh = [made for made, taken in decisions if made > end_s and made - taken < STALE_S]
    return {
        "stale_decisions": len(stale),
        "unmarked": sum(1 for made in stale if not said or made < said[0]),
        "told_after_s": round(said[0] - begin_s, 2) if said else None,
        "recovered_after_s": round(fresh[0] - end_s, 2) if fresh else None,
    }


def main() -> int:
    """Measure, and print a row a loop."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine-ms", type=float, default=45.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--loop", choices=LOOPS, action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        globals()[args.run](args.url, args.engine_ms, Log(sys.stdout), args.bundle)
        return 0
    rows = [measure(name, args) for name in args.loop or LOOPS]
    if args.json:
        print(json.dumps({"engine_ms": args.engine_ms, "loops": rows}, indent=1))
    else:
        for row in rows:
            print(", ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
