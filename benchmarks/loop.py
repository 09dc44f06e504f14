"""How old what a decision is made from is: our loop, and the others that people write.

    python benchmarks/loop.py [BUNDLE] [--network-ms 45] [--seconds 10] [--runs 3] [--json]

One camera for all (``stamped_camera.py``: 30 pictures a second over HTTP, each with its capture
time in it), and a network of the same cost for all: ``--network-ms`` of one core. Each loop
runs in a process of its own, one after the other: ``--seconds`` undisturbed, then the camera
stalls for 5 s, then it is killed for 5 s, with as long in between to recover.

``plain`` reads and decides in turns. ``thread`` keeps the newest picture on a thread, and
decides on what is there. ``mediapipe`` is MediaPipe Tasks in live-stream mode, with the Python
of ``--mediapipe-python`` (``mediapipe_loop.py`` says how to make one; without it the row is
left out). ``ours`` is ``mla_edge.open_camera`` and ``mla_edge.run``.

A decision says on which capture it was made: by the stamp in the picture itself. It is *stale*
if that is more than 0.5 s before it, and *marked* if the program was told that the camera is
lost or stale; *repeated* if the picture was used before, which the JSON counts as unmarked
where the decision does not say so. Pictures of the undisturbed time on which no decision was
made are *missed*: those that come while a slower network runs are too.

With ``--runs`` all loops are run so often, in turns; the table has the median of each figure,
the JSON each run's too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, List, Tuple

import loops
import numpy as np
from default_bundle import add_bundle
from loops import BACK, REPEATED, Log, think
from stamped_camera import FPS, read_stamp

import mla_edge
from mla_edge.bundle import Bundle, RouterPolicy
from mla_edge.engines import Engine, open_engine
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import CascadeRouter
from mla_edge.signals import Sample, Tensors

STALE_S = 0.5
BREAK_S = 5.0  # how long a stall lasts, and how long the camera is gone
LOOPS = ("plain", "thread", "mediapipe", "ours")
HERE = Path(__file__).parent


class Thinking:
    """An engine of a given cost, in the place of a real one."""

    def __init__(self, engine: Engine, network_ms: float, classes: int) -> None:
        """Take what ``engine`` takes."""
        self.inputs, self.outputs, self.close = engine.inputs, engine.outputs, engine.close
        self._network_ms = network_ms
        self._logits = np.zeros((1, classes), np.float32)

    def run(self, inputs: Tensors) -> Tensors:
        """Always the same answer, after so long."""
        think(self._network_ms)
        return {"logits": self._logits}


def ours(url: str, network_ms: float, log: Log, bundle: Path) -> None:
    """mla-edge, with its full network replaced by one of the given cost.

    The others have one network and no lite one, so it is asked at once: a mode without a
    threshold is not routed.
    """
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
            network_ms if each.name == tier else 0.0,
            len(known.labels),
        )
        for each in known.tiers
    }
    router = CascadeRouter(RouterPolicy({}))
    with FusedModel(known, engines, router, see) as model, mla_edge.open_camera(url) as camera:
        predictions = mla_edge.run(
            model, camera, None, on_fault=lambda fault: log.told(fault.what)
        )
        for prediction in predictions:
            if prediction.age_ms > STALE_S * 1e3:
                log.told("stale")  # by the prediction itself
            if "image" in prediction.repeated:
                log.told(REPEATED)
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


def cpu_of(pid: int) -> float:
    """Seconds of the processor that a process took so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> tuple[float, float]:
    """Megabytes that a process has resident now, and the most it ever had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    held = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
    return int(held["VmRSS"]) * 1024 / 1e6, int(held["VmHWM"]) * 1024 / 1e6


def command_of(
    name: str, network_ms: float, model: Path, args: argparse.Namespace
) -> list[str]:
    """What starts the loop ``name``, but for the camera's address."""
    if name == "mediapipe":
        program = [args.mediapipe_python, str(HERE / "mediapipe_loop.py"), "run", str(model)]
        return [*program, "--url"]
    program = [sys.executable, __file__, str(args.bundle), "--run", name]
    return [*program, "--network-ms", str(network_ms), "--url"]


def measure(name: str, command: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """One loop, through all that happens to its camera."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/video.mjpg"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with camera_at(port) as camera:
        assert camera.stdin is not None
        began_s = time.monotonic()
        process = subprocess.Popen(
            [*command, url],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        time.sleep(3.0)  # to start
        steady_s, cpu_s = time.monotonic(), cpu_of(process.pid)
        time.sleep(args.seconds)
        steady = (steady_s, time.monotonic())
        cores = (cpu_of(process.pid) - cpu_s) / (steady[1] - steady[0])
        memory_mb, _ = memory_of(process.pid)
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
        **figures(decisions, told, steady),
        "first_decision_s": round(decisions[0][0] - began_s, 2) if decisions else None,
        "cores": round(cores, 2),
        "memory_mb": round(memory_mb),
        "stall": after_break(decisions, told, *breaks[0]),
        "killed": after_break(decisions, told, *breaks[1]),
    }


Decisions = List[Tuple[float, float]]


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


def figures(
    decisions: Decisions, told: list[tuple[float, str]], span: tuple[float, float]
) -> dict[str, Any]:
    """Ages, and what was used twice or never, in an undisturbed span."""
    within = [(made, taken) for made, taken in decisions if span[0] <= made < span[1]]
    if not within:
        return {"decisions": 0}
    ages = np.array([made - taken for made, taken in within]) * 1e3
    p50, p99 = np.percentile(ages, [50, 99])
    used = {taken for _, taken in within}
    pictures = round((max(used) - min(used)) * FPS) + 1
    return {
        "decisions": len(within),
        "age_p50_ms": round(float(p50), 1),
        "age_p99_ms": round(float(p99), 1),
        "age_max_ms": round(float(ages.max()), 1),
        "repeated": len(within) - len(used),
        "repeated_unmarked": unmarked(decisions, told, span),
        "missed": pictures - len(used),
    }


def unmarked(
    decisions: Decisions, told: list[tuple[float, str]], span: tuple[float, float]
) -> int:
    """How many decisions on a picture that was used before do not say so.

    A mark is said after the decision before, and no later than its own.
    """
    marks = [moment for moment, what in told if what == REPEATED]
    used: set[float] = set()
    before_s, count = float("-inf"), 0
    for made, taken in decisions:
        if span[0] <= made < span[1]:
            marked = any(before_s < moment <= made for moment in marks)
            count += taken in used and not marked
            used.add(taken)
        before_s = made
    return count


def after_break(
    decisions: Decisions, told: list[tuple[float, str]], begin_s: float, end_s: float
) -> dict[str, Any]:
    """What a loop does while its camera is gone, and how soon it decides on new pictures."""
    during = [(made, taken) for made, taken in decisions if begin_s <= made < end_s]
    said = [
        moment
        for moment, what in told
        if begin_s <= moment < end_s and what not in (BACK, REPEATED)
    ]
    stale = [made for made, taken in during if made - taken > STALE_S]
    fresh = [made for made, taken in decisions if made > end_s and made - taken < STALE_S]
    return {
        "stale_decisions": len(stale),
        "unmarked": sum(1 for made in stale if not said or made < said[0]),
        "told_after_s": round(said[0] - begin_s, 2) if said else None,
        "recovered_after_s": round(fresh[0] - end_s, 2) if fresh else None,
    }


def middle(found: list[Any]) -> Any:
    """The median of each figure of some rows; what never was, None, counts as the most."""
    if isinstance(found[0], dict):
        names = list(dict.fromkeys(name for row in found for name in row))
        return {name: middle([row[name] for row in found if name in row]) for name in names}
    return sorted(found, key=lambda value: (value is None, value))[len(found) // 2]


HEADINGS = (
    *("loop", "decisions", "age p50 / p99 / most", "missed", "repeated", "cores", "memory"),
    *("first decision", "stall: stale, unmarked; back after"),
    "killed: stale, unmarked; back after",
)


def as_table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(cells_of(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def cells_of(row: dict[str, Any]) -> tuple[str, ...]:
    """A row in words; a dash is never."""
    if not row["decisions"]:
        return (row["loop"], "0", *("—",) * (len(HEADINGS) - 2))
    ages = " / ".join(f"{row[f'age_{what}_ms']:.0f}" for what in ("p50", "p99", "max"))
    cells = [row["loop"], str(row["decisions"]), f"{ages} ms", str(row["missed"])]
    cells += [str(row["repeated"]), f"{row['cores']:.2f}", f"{row['memory_mb']} MB"]
    cells.append(f"{row['first_decision_s']:.2f} s")
    for broken in (row["stall"], row["killed"]):
        back_s = broken["recovered_after_s"]
        back = "—" if back_s is None else f"{back_s:.2f} s"
        cells.append(f"{broken['stale_decisions']}, {broken['unmarked']}; {back}")
    return tuple(cells)


def loops_to_run(args: argparse.Namespace) -> list[str]:
    """Those that were asked for, but for MediaPipe's where it is not there, which is told."""
    names = list(args.loop or LOOPS)
    if "mediapipe" in names and not has_mediapipe(args.mediapipe_python):
        names.remove("mediapipe")
        sys.stderr.write(
            f"no row of MediaPipe: {args.mediapipe_python} cannot import it; make an "
            "environment for it and name its Python:\n  python -m venv .venv-mediapipe && "
            ".venv-mediapipe/bin/pip install mediapipe\n  python benchmarks/loop.py "
            "--mediapipe-python .venv-mediapipe/bin/python\n"
        )
    return names


def has_mediapipe(python: str) -> bool:
    """Whether that interpreter finds MediaPipe."""
    found = "import sys, importlib.util as u; sys.exit(u.find_spec('mediapipe') is None)"
    try:
        return subprocess.run([python, "-c", found], check=False).returncode == 0
    except OSError:
        return False


def main() -> int:
    """Measure, and print a table for each cost of the network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_bundle(parser)
    parser.add_argument("--network-ms", type=float, action="append", help="45; may be repeated")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=1, help="of each loop, an odd number")
    parser.add_argument("--loop", choices=LOOPS, action="append")
    parser.add_argument("--mediapipe-python", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.runs < 1 or args.runs % 2 == 0:
        parser.error(f"--runs {args.runs}: give an odd number, so that one is in the middle")
    costs_ms = args.network_ms or [45.0]
    if args.run:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        log = Log(sys.stdout)
        if args.run == "ours":
            ours(args.url, costs_ms[0], log, args.bundle)
        else:
            getattr(loops, args.run)(args.url, costs_ms[0], log)
        return 0
    names, tables = loops_to_run(args), []
    with tempfile.TemporaryDirectory() as folder:
        for network_ms in costs_ms:
            model = Path(folder) / f"{network_ms}.tflite"
            if "mediapipe" in names:
                make = [args.mediapipe_python, str(HERE / "mediapipe_loop.py"), "make"]
                make += [str(model), "--network-ms", str(network_ms)]
                subprocess.run(make, check=True)
            commands = {name: command_of(name, network_ms, model, args) for name in names}
            runs = [
                [measure(name, command, args) for name, command in commands.items()]
                for _ in range(args.runs)
            ]
            rows = [middle(list(found)) for found in zip(*runs)]
            load = round(os.getloadavg()[0], 1)
            tables.append({"network_ms": network_ms, "load": load, "loops": rows, "runs": runs})
            if not args.json:
                print(f"a network of {network_ms:g} ms; load of the machine {load}:\n")
                print(f"{as_table(rows)}\n", flush=True)
    if args.json:
        print(json.dumps(tables, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
