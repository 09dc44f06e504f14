"""What `run --web` costs: the processor time of a run without it, with it, and looked at.

    python benchmarks/web.py [BUNDLE] [--turns 8] [--seconds 3]

The three take turns in one run, so that all see the same machine. Pictures are made before: the
simulator's own work is not of interest here. Then its parts, in processor time of their thread,
which a busy machine does not change much.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

from default_bundle import add_bundle

import mla_edge
from mla_edge.runtime.capture import Camera, Microphone
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.web.events import Events, Place
from mla_edge.runtime.web.server import WebServer
from mla_edge.runtime.web.view import View
from mla_edge.signals import Frame, Sample, Sound, find_inputs
from mla_edge.simulator.digits import DigitsOptions, DigitsWorld
from mla_edge.testing import FakeCamera, FakeMicrophone

PERIOD_S = 1 / 30
WAYS = ("without", "with --web", "one browser looks")
# Reads the events as a browser does, in a process of its own: its work is not the run's.
LOOKER = "import sys, urllib.request as u; [None for _ in u.urlopen(sys.argv[1] + 'events')]"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_bundle(parser)
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3, help="of each turn")
    options = parser.parse_args()
    with mla_edge.load(options.bundle) as model:
        world = DigitsWorld(DigitsOptions.parse(f"sim://digits?size={options.size}"))
        spec = find_inputs(model.bundle.inputs)["microphone"]
        frames = [Frame(world.frame(i / 3)[0], 0.0) for i in range(30)]
        rate_hz = spec.rate_hz or 0
        heard, _ = world.sound(2.0, spec.shape[-1], rate_hz)
        sounds = [Sound(heard, rate_hz, 0.0)]
        shares: dict[str, list[float]] = {way: [] for way in WAYS}
        latencies: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.turns):
            for way in WAYS:
                count = round(options.seconds / PERIOD_S) + 300
                camera = FakeCamera([frames[i % 30] for i in range(count)], period_s=PERIOD_S)
                microphone = FakeMicrophone(sounds * count, period_s=PERIOD_S)
                share = measure(model, way, camera, microphone, options.seconds, latencies[way])
                shares[way].append(share)
        parts(model, frames, sounds)
    print("| | of one core | more than without | latency p50 | p99 |")
    print("|---|---|---|---|---|")
    for way in WAYS:
        more = [a - b for a, b in zip(shares[way], shares[WAYS[0]])]
        found = statistics.quantiles(latencies[way], n=100)
        print(
            f"| {way} | {statistics.median(shares[way]):.1%} | {statistics.median(more):+.1%} "
            f"| {found[49]:.2f} ms | {found[98]:.2f} ms |"
        )


def parts(model: FusedModel, frames: list[Frame], sounds: list[Sound]) -> None:
    """Print what a decision and a message to a browser take."""
    view = View(model)
    eyes = view.watch("camera", FakeCamera(frames * 40))
    ears = view.watch("microphone", FakeMicrophone(sounds * 1200))
    noting, telling = [], []
    events, place = Events(view), Place()
    for _ in range(200):
        signals = {"image": eyes.read(0.0), "audio": ears.read(0.0)}
        prediction = model.infer(Sample(signals))
        began_s = time.thread_time()
        view.add(prediction)
        noting.append(time.thread_time() - began_s)
        time.sleep(0.1)  # a message has news only so often
        began_s = time.thread_time()
        _, place = events.tick(place)
        telling.append(time.thread_time() - began_s)
    note_us, tell_ms = statistics.median(noting) * 1e6, statistics.median(telling) * 1e3
    print(f"noting a decision {note_us:.1f} µs, a message to a browser {tell_ms:.2f} ms:")
    print(
        f"{note_us * 30 / 1e6:.3%} of a core at 30 a second, {tell_ms * 10 / 1e3:.1%} at 10\n"
    )


def measure(  # noqa: PLR0913 - what is measured, and for how long
    model: FusedModel,
    way: str,
    camera: Camera,
    microphone: Microphone,
    seconds: float,
    latencies: list[float],
) -> float:
    """The share of one core that this process takes for a turn."""
    with ExitStack() as stack:
        view = None
        if way != WAYS[0]:
            view = View(model)
            server = stack.enter_context(WebServer(view, 0))
            if way == WAYS[2]:
                looker = subprocess.Popen([sys.executable, "-c", LOOKER, server.url])
                stack.callback(looker.wait)
                stack.callback(looker.kill)
            camera, microphone = (
                view.watch("camera", camera),
                view.watch("microphone", microphone),
            )
        began_s, begun_cpu_s = None, 0.0
        for prediction in mla_edge.run(model, camera, microphone):
            if view is not None:
                view.add(prediction)
            if began_s is None:
                if way == WAYS[2] and not model.shows:
                    continue  # it does not look yet
                began_s, begun_cpu_s = time.monotonic(), time.process_time()
            latencies.append(prediction.latency_ms)
            if time.monotonic() - began_s >= seconds:
                break
        assert began_s is not None
        return (time.process_time() - begun_cpu_s) / (time.monotonic() - began_s)


if __name__ == "__main__":
    main()
