"""What recording costs: the loop, the processor and the disk; JSON.

    python benchmarks/recording.py [BUNDLE] --seconds 10

The simulator's pictures, 640 x 480, and its sound are drawn beforehand, and given to the
recorder 30 times a second, with a decision each time. ``loop_us`` is what the loop's thread
spends on noting one frame, one window and one decision, ``cores`` what the recorder's own
thread uses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from default_bundle import add_bundle

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.recording_format import Session
from mla_edge.runtime.recorder import Recorder
from mla_edge.signals import Prediction

SOURCE = "sim://digits?size=640x480"
FPS = 30
DRAWN = 90  # frames, given again and again


def measure(
    bundle: Bundle, pairs: list[Any], seconds: float, *, lossless: bool
) -> dict[str, Any]:
    """The figures of one way to record."""
    session = Session(
        bundle=bundle.name,
        bundle_sha256=bundle.sha256(),
        inputs=bundle.inputs,
        labels=bundle.labels,
        runs_on="nothing",
        threads=None,
        lossless=lossless,
        made_with=mla_edge.__version__,
        settings={},
    )
    spent_us = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.mcap"
        recorder = Recorder(path, session)
        start_s = time.monotonic()
        began_s, own_s = time.process_time(), time.thread_time()
        for number in range(round(seconds * FPS)):
            time_s = start_s + number / FPS
            time.sleep(max(0.0, time_s - time.monotonic()))
            frame, sound = (replace(s, time_s=time_s) for s in pairs[number % len(pairs)])
            times = {"image": time_s, "audio": time_s}
            decision = Prediction("7", 0.9, "lite", "x", "image+audio", times, time_s, 2.0, 2.0)
            before_s = time.perf_counter()
            recorder.see(frame)
            recorder.see(sound)
            recorder.add(decision)
            spent_us.append((time.perf_counter() - before_s) * 1e6)
        recorder.close()
        used_s = time.process_time() - began_s - (time.thread_time() - own_s)
        told = recorder.to_dict()
    p50, p99 = np.percentile(spent_us, [50, 99])
    return {
        "loop_us": {"p50": round(p50, 1), "p99": round(p99, 1)},
        "cores": round(used_s / seconds, 3),
        "mb_per_minute": round(told["mb"] / seconds * 60, 1),
        "left_out": told["left_out"],
    }


def main() -> None:
    """Measure both ways."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_bundle(parser)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with mla_edge.open_camera(
        SOURCE, as_fast_as_possible=True
    ) as camera, mla_edge.open_microphone(
        "sim://digits", rate_hz=8000, window_s=1.0, as_fast_as_possible=True
    ) as microphone:
        pairs = [(camera.read(1.0), microphone.read(1.0)) for _ in range(DRAWN)]
    bundle = Bundle.read(options.bundle)
    ways = {"jpeg": False, "lossless": True}
    shown = {
        name: measure(bundle, pairs, options.seconds, lossless=lossless)
        for name, lossless in ways.items()
    }
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
