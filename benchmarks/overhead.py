"""What the runtime adds to the engines: JSON with milliseconds a tick.

    python benchmarks/overhead.py [BUNDLE] --seconds 10

A tick is one ``next`` of ``run``, from asking for a decision to having it: polling the sources,
waiting for news, preprocessing, routing, making the prediction. Two things are timed apart and
subtracted: the engines, and each source's own ``read``, waiting inside it included, for the
simulator draws its pictures and makes its sound there. What a real camera or microphone adds
(decoding on its thread, the conversion to RGB and the copy of the sound in ``read``) is thus
not in the figure, and neither is what the caller does with the decision. Pauses of the loop
between two reads are in the wall time, not in the CPU time; where other programs want the
processor too, the CPU time is what to look at. The camera's picture is 640 x 480.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any, Callable, Iterator

import numpy as np
from default_bundle import add_bundle

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.engines import Engine, open_engine
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import CascadeRouter


class Stopwatch:
    """Adds up the time inside the calls it wraps: on the wall, and of the processor."""

    def __init__(self) -> None:
        """Start at zero."""
        self.wall_s = self.cpu_s = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, seen by this stopwatch."""

        def call(*arguments: Any) -> Any:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.wall_s += time.perf_counter() - wall_s
                self.cpu_s += time.thread_time() - cpu_s

        return call


class TimedEngine:
    """An engine whose runs a stopwatch sees."""

    def __init__(self, engine: Engine, watch: Stopwatch) -> None:
        """Run ``engine``."""
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.close = engine.close
        self.run = watch.timed(engine.run)


class TimedSource:
    """A source whose reads a stopwatch sees."""

    def __init__(self, source: Any, watch: Stopwatch) -> None:
        """Read ``source``."""
        self.drops = 0
        self.read = watch.timed(source.read)
        self.close = source.close


def ticks(bundle: Bundle, seconds: float, threads: int) -> Iterator[tuple[float, float, float]]:
    """Seconds of each tick: in engines; in neither engines nor reads; that as CPU time."""
    engines, others = Stopwatch(), Stopwatch()
    timed = {
        tier.name: TimedEngine(
            open_engine(bundle.graph(tier.name, cpu=True), threads=threads), engines
        )
        for tier in bundle.tiers
    }
    sound = next(spec for spec in bundle.inputs if spec.kind == "audio")
    model = FusedModel(bundle, timed, CascadeRouter(bundle.policy), Preprocessor(bundle.inputs))
    with model, mla_edge.open_camera(
        "sim://digits?size=640x480"
    ) as camera, mla_edge.open_microphone(
        "sim://digits", rate_hz=sound.rate_hz or 0, window_s=sound.window_s
    ) as microphone:
        run = mla_edge.run(
            model,
            TimedSource(camera, others),
            TimedSource(microphone, others),
            duration_s=seconds,
        )
        whole = Stopwatch()
        tick = whole.timed(lambda: next(run, None))
        while tick() is not None:
            yield (
                engines.wall_s,
                whole.wall_s - engines.wall_s - others.wall_s,
                whole.cpu_s - engines.cpu_s - others.cpu_s,
            )
            for watch in (engines, others, whole):
                watch.wall_s = watch.cpu_s = 0.0


def percentiles(values: np.ndarray) -> dict[str, float]:
    """The median and the 99th percentile."""
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4)}


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_bundle(parser)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    bundle = Bundle.read(options.bundle)
    measured = np.array(list(ticks(bundle, options.seconds, options.threads)))[5:] * 1e3
    figures = {
        "bundle": bundle.name,
        "ticks": len(measured),
        "cores": os.cpu_count(),
        "engine_ms": percentiles(measured[:, 0]),
        "overhead_ms": percentiles(measured[:, 1]),
        "overhead_cpu_ms": percentiles(measured[:, 2]),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
