"""From the start of the process to its first decision, and the memory it then holds.

    python benchmarks/cold_start.py [BUNDLE] [--runs 5] [--json]

``mla-edge run --json`` is started anew each time, on the simulator and on a camera over HTTP
(``stamped_camera.py``); the clock runs from before the process is made until its first line is
read. One run comes first that is not counted, so that the files are in memory. The memory is
what is resident after ``--seconds`` of deciding, and the most that ever was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from default_bundle import add_bundle
from loop import camera_at, cpu_of, free_port, memory_of


def start(bundle: Path, sources: list[str], seconds: float) -> dict[str, float]:
    """Seconds to the first decision, on the clock and of the processor, and megabytes."""
    command = [sys.executable, "-m", "mla_edge", "run", "--json", "--bundle", str(bundle)]
    began_s = time.monotonic()
    process = subprocess.Popen(
        [*command, *sources], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        decided_s = time.monotonic() - began_s
        cpu_s = cpu_of(process.pid)
        if b'"label"' not in first:
            raise SystemExit(process.communicate()[1].decode())
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            process.stdout.readline()
        held, most = memory_of(process.pid)
    finally:
        process.kill()
        process.communicate()
    return {
        "first_decision_s": decided_s,
        "first_decision_cpu_s": cpu_s,
        "resident_mb": held,
        "most_resident_mb": most,
    }


def measure(bundle: Path, sources: list[str], runs: int, seconds: float) -> dict[str, Any]:
    """The median of each figure, and the longest start."""
    start(bundle, sources, 0.0)  # what it reads is now in memory
    each = [start(bundle, sources, seconds) for _ in range(runs)]
    figures: dict[str, Any] = {
        name: round(float(np.median([run[name] for run in each])), 3) for name in each[0]
    }
    figures["longest_start_s"] = round(max(run["first_decision_s"] for run in each), 3)
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_bundle(parser)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    port = free_port()
    sources = {
        "simulator": ["--camera", "sim://digits?size=640x480", "--mic", "sim://digits"],
        "http camera": ["--camera", f"http://127.0.0.1:{port}/video.mjpg", "--mic", "none"],
    }
    with camera_at(port):
        rows = {
            name: measure(args.bundle, words, args.runs, args.seconds)
            for name, words in sources.items()
        }
    load = round(os.getloadavg()[0], 1)
    if args.json:
        print(json.dumps({"load": load, "rows": rows}, indent=1))
        return
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{what} {value}" for what, value in row.items()))
    print(f"load of the machine {load}")


if __name__ == "__main__":
    main()
