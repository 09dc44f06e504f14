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

Then how old the oldest data is that a decision used, by its capture time, on a camera of 30
pictures a second and a microphone that give what was drawn before, at its moment. Less the
time of the engines it is to be 1.5 frame periods, 50 ms, at p99.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import ExitStack, closing
from typing import Any, Callable, Iterator

import numpy as np
from default_bundle import add_bundle

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.engines import Engine, open_engine
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import CascadeRouter
from mla_edge.signals import InputSpec, find_inputs
from mla_edge.simulator.digits import DigitsOptions, DigitsWorld
from mla_edge.simulator.sources import SimCamera, SimMicrophone

CAMERA = "sim://digits?size=640x480"
WARM_UP = 5  # decisions that are not counted
MOST_AGE_MS = 1.5 * 1e3 / 30  # of the oldest data used, engines aside


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


class DrawnBefore(DigitsWorld):
    """The simulator's world, whose pictures and sound are there at once."""

    def __init__(self, options: DigitsOptions, sound: InputSpec) -> None:
        """Draw a second of pictures, and a window for ``sound``."""
        super().__init__(options)
        frames = range(round(options.fps))
        self._pictures = [super(DrawnBefore, self).frame(n / options.fps) for n in frames]
        self._sound = super().sound(2.0, sound.shape[-1], sound.rate_hz or 0)

    def frame(self, time_s: float) -> tuple[np.ndarray, str]:
        """The picture of that part of a second."""
        return self._pictures[round(time_s * self.options.fps) % len(self._pictures)]

    def sound(self, end_s: float, samples: int, rate_hz: int) -> tuple[np.ndarray, str | None]:
        """Always the same."""
        return self._sound


def ages(bundle: Bundle, seconds: float, threads: int) -> Iterator[tuple[float, float]]:
    """Seconds of each decision: its age, and that less the time in engines."""
    engines = Stopwatch()
    inputs = find_inputs(bundle.inputs)
    world = DrawnBefore(DigitsOptions.parse(CAMERA), inputs["microphone"])
    with ExitStack() as stack:
        model = stack.enter_context(timed_model(bundle, engines, threads))
        camera = stack.enter_context(closing(SimCamera(world)))
        sound = inputs["microphone"]
        microphone = stack.enter_context(
            closing(SimMicrophone(world, rate_hz=sound.rate_hz or 0, window_s=sound.window_s))
        )
        for prediction in mla_edge.run(model, camera, microphone, duration_s=seconds):
            yield prediction.age_ms / 1e3, prediction.age_ms / 1e3 - engines.wall_s
            engines.wall_s = 0.0


def timed_model(bundle: Bundle, engines: Stopwatch, threads: int) -> FusedModel:
    """The model, with engines that ``engines`` sees."""
    timed = {
        tier.name: TimedEngine(
            open_engine(bundle.graph(tier.name, cpu=True), threads=threads), engines
        )
        for tier in bundle.tiers
    }
    return FusedModel(bundle, timed, CascadeRouter(bundle.policy), Preprocessor(bundle.inputs))


def ticks(bundle: Bundle, seconds: float, threads: int) -> Iterator[tuple[float, float, float]]:
    """Seconds of each tick: in engines; in neither engines nor reads; that as CPU time."""
    engines, others = Stopwatch(), Stopwatch()
    sound = next(spec for spec in bundle.inputs if spec.kind == "audio")
    with timed_model(bundle, engines, threads) as model, mla_edge.open_camera(
        CAMERA
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
    measured = np.array(list(ticks(bundle, options.seconds, options.threads)))[WARM_UP:] * 1e3
    aged = np.array(list(ages(bundle, options.seconds, options.threads)))[WARM_UP:] * 1e3
    if not len(measured) or not len(aged):
        parser.error(f"{WARM_UP} decisions or fewer were made: give more --seconds")
    figures = {
        "bundle": bundle.name,
        "ticks": len(measured),
        "cores": os.cpu_count(),
        "engine_ms": percentiles(measured[:, 0]),
        "overhead_ms": percentiles(measured[:, 1]),
        "overhead_cpu_ms": percentiles(measured[:, 2]),
        "age_ms": percentiles(aged[:, 0]),
        "age_less_engines_ms": {**percentiles(aged[:, 1]), "wanted_p99": MOST_AGE_MS},
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
