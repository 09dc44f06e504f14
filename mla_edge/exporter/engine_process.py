"""Build one engine in a process of its own, and say what happens while it works.

A build may be killed for the memory it takes, or crash inside TensorRT. Then this process is
still there to say so, and to leave nothing behind.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Callable

from mla_edge.errors import ConfigError, ExportError, MissingDependency
from mla_edge.exporter.engine_build import BuildSpec, EngineBuild, from_json

OnBeat = Callable[[str], None]
"""Told in words how the build goes, at least every ``HEARTBEAT_S`` seconds."""

HEARTBEAT_S = 5.0
_WORDS = {"phase", "built", "error"}  # one is in everything that the child tells
_KINDS = {"MissingDependency": MissingDependency, "ConfigError": ConfigError}
_MEMORY = (
    "free memory (stop the desktop: sudo systemctl isolate multi-user.target), add swap, or "
    "give --workspace-mb less"
)


def run_build(
    flavour: str,
    spec: BuildSpec,
    plan: Path,
    on_beat: OnBeat,
    *,
    heartbeat_s: float = HEARTBEAT_S,
) -> EngineBuild:
    """Build ``spec`` into the file ``plan`` with TensorRT ``flavour``.

    ExportError says what TensorRT refused, or what ended the process. Interrupted, the process
    is ended first.
    """
    order = json.dumps(
        {"flavour": flavour, "plan": str(plan), "spec": asdict(spec), "parent": os.getpid()}
    )
    package = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mla_edge.exporter.engine_build"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        try:
            last = _follow(process, order, on_beat, heartbeat_s)
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # an order that the child never read
                        pipe.close()
        stderr.seek(0)
        said = stderr.read().decode(errors="replace").strip().splitlines()
    if "built" in last:
        return from_json(EngineBuild, last["built"])
    if "error" in last:
        raise _KINDS.get(last["kind"], ExportError)(last["error"], hint=last["hint"])
    raise _ended(process.returncode, Path(spec.graph).name, said)


def _follow(
    process: subprocess.Popen[str], order: str, on_beat: OnBeat, heartbeat_s: float
) -> dict[str, Any]:
    """Hand over the order and pass on what comes back; the last thing it said, {} if none."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(order)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; its exit says why
    events: queue.Queue[dict[str, Any] | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process.stdout, events), daemon=True)
    reader.start()
    began = time.monotonic()
    doing, last = "TensorRT starts", {}
    while True:
        try:
            event = events.get(timeout=heartbeat_s)
        except queue.Empty:
            on_beat(f"{time.monotonic() - began:.0f} s, {doing}")
            continue
        if event is None:
            break
        if "phase" in event:
            doing = f"{event['phase']} {event['share']:.0%}"
            on_beat(f"{time.monotonic() - began:.0f} s, {doing}")
        else:
            last = event
    reader.join()
    return last


def _read(stdout: IO[str], events: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stdout:
        # TensorRT's libraries may print something of their own.
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and _WORDS & event.keys():
                events.put(event)
    events.put(None)


def _ended(code: int, graph: str, said: list[str]) -> ExportError:
    """The process ended without a word of ours."""
    tail = f": {said[-1]}" if said else ""
    if code == -signal.SIGKILL:
        return ExportError(
            f"build: {graph}: the build was killed, most likely because the system ran out "
            f"of memory{tail}",
            hint=_MEMORY,
        )
    if code < 0:
        name = signal.Signals(-code).name
        return ExportError(
            f"build: {graph}: TensorRT crashed ({name}){tail}",
            hint="sudo dmesg says more; build again, and report the graph if it crashes again",
        )
    return ExportError(
        f"build: {graph}: the build ended with code {code}{tail}",
        hint="python3 -m mla_edge.exporter.engine_build needs numpy and TensorRT: "
        "mla-edge doctor",
    )
