"""What routing saves on a stream in which mostly nothing happens, and what it misses.

    python benchmarks/routing_stream.py [--bundle DIR] [--minutes 10] [--reuse-ms 500] [--json]

The simulator shows and says digits every 20 to 24 s, 30 pictures a second with sensor noise and
the sound of a quiet room, and between them nothing (``--decoys 0.3``: in three of ten pauses a
card that is no digit moves). ``mla_edge.run`` ticks as it does on a camera, but as fast as
possible. Every way decides every tick, in turns of 50, each with engines of its own:

* always full;
* routed as exported;
* routed, and the last decision reused while nothing changes, for --reuse-ms at most.

Processor time is that of the whole decisions by the operating system's account; drawing the
pictures is not in it, nor copying each just before, as reading a camera does. An event that
always-full labels right is late where a way says that label more than 200 ms after it did, and
missed where it never does while the event lasts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable

import mla_edge
from mla_edge.bundle import NEVER, Bundle
from mla_edge.errors import MlaEdgeError
from mla_edge.runtime.loading import Parts, open_model
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import UNCHANGED, CascadeRouter
from mla_edge.signals import NOTHING, Frame, Sample, Sound
from mla_edge.simulator.schedule import Event, Schedule
from mla_edge.simulator.speech import RATE_HZ, SpeechBank

FULL, ROUTED, REUSED = "always full", "routed", "routed, unchanged reused"
LATE_S = 0.2
TURN = 50  # ticks of one way, before it is the next one's turn
WINDOW_S = 1.0  # of sound: so long after its end a part of a word is in it
_ROUNDING_S = 1e-6


@dataclass
class Way:
    """One way to decide, and what it said."""

    model: FusedModel
    seconds: float = 0.0
    said: list[tuple[float, str]] = field(default_factory=list)
    full: int = 0
    unchanged: int = 0

    def infer(self, sample: Sample, clock: Callable[[], float]) -> None:
        """Decide, and note it."""
        sample = just_read(sample)
        began = time.process_time()
        found = self.model.infer(sample, clock=clock)
        self.seconds += time.process_time() - began
        self.said.append((max(found.capture_time_s.values()), found.label))
        self.unchanged += found.reason == UNCHANGED
        self.full += found.tier == "full" and found.reason != UNCHANGED


def just_read(sample: Sample) -> Sample:
    """``sample`` in memory that was written a moment ago, as ``read`` of a device gives it.

    There the thread that decides has turned the picture to RGB just before. Those that were
    kept for a turn have left the processor's caches.
    """
    copies = {
        name: replace(signal, image=signal.image.copy())
        if isinstance(signal, Frame)
        else replace(signal, samples=signal.samples.copy())
        for name, signal in sample.signals.items()
        if isinstance(signal, (Frame, Sound))
    }
    return replace(sample, signals={**sample.signals, **copies})


class Turns:
    """A model for ``mla_edge.run`` that keeps the moments, and then lets each way decide them.

    In turns of some ticks: what a way finds in the processor's caches is then its own, as on a
    robot that decides in one way only.
    """

    def __init__(self, ways: dict[str, Way]) -> None:
        """Ask ``ways``."""
        self._ways = list(ways.values())
        self._moments: list[tuple[Sample, float]] = []

    @property
    def bundle(self) -> Bundle:
        """That of all of them."""
        return self._ways[0].model.bundle

    def infer(self, sample: Sample, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep ``sample``; nobody waits for what is said of it."""
        self._moments.append((sample, clock()))
        if len(self._moments) == TURN:
            self.finish()

    def finish(self) -> None:
        """Decide what has been kept."""
        for way in self._ways:
            for sample, now_s in self._moments:
                way.infer(sample, partial(float, now_s))
        self._moments.clear()


def never_lite(parts: Parts) -> Parts:
    """Always full."""
    modes = {m: replace(p, threshold=NEVER) for m, p in parts.policy.modes.items()}
    policy = replace(parts.policy, modes=modes)
    return replace(parts, router=CascadeRouter(policy), policy=policy)


def stretch(event: Event) -> tuple[float, float]:
    """When the digit of ``event`` can be seen or heard."""
    begin_s, end_s = (event.start_s, event.end_s) if event.shown else (event.end_s, 0.0)
    if event.said:
        begin_s = min(begin_s, event.word_s)
        word_s = len(SpeechBank.load().clip(event.digit, event.clip)) / RATE_HZ
        end_s = max(end_s, event.word_s + word_s + WINDOW_S)
    return begin_s, end_s


def first_right(way: Way, event: Event) -> float | None:
    """When ``way`` first says the digit of ``event`` in its time."""
    begin_s, end_s = stretch(event)
    return next(
        (at for at, label in way.said if begin_s <= at <= end_s and label == str(event.digit)),
        None,
    )


def figures(ways: dict[str, Way], events: list[Event]) -> dict[str, Any]:
    """What came of every way, against always full."""
    firsts = {name: [first_right(way, e) for e in events] for name, way in ways.items()}
    quiet = [
        all(not begin_s <= at <= end_s for begin_s, end_s in map(stretch, events))
        for at, _ in ways[FULL].said
    ]
    full_s = ways[FULL].seconds
    rows = {}
    for name, way in ways.items():
        pairs = [(a, b) for a, b in zip(firsts[FULL], firsts[name]) if a is not None]
        delays = [b - a for a, b in pairs if b is not None]
        count = len(way.said)
        rows[name] = {
            "cpu_ms": 1e3 * way.seconds / count,
            "less_cpu_than_full": 1 - way.seconds / full_s,
            "share_of_full": way.full / count,
            "unchanged": way.unchanged / count,
            "found": sum(first is not None for first in firsts[name]),
            "missed": sum(b is None for _, b in pairs),
            "late": sum(delay > LATE_S + _ROUNDING_S for delay in delays),
            "longest_delay_ms": 1e3 * max(delays, default=0.0),
            "digits_where_none": sum(
                label != NOTHING for (_, label), is_quiet in zip(way.said, quiet) if is_quiet
            ),
        }
    return {"ticks": len(ways[FULL].said), "quiet": sum(quiet), "ways": rows}


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run the stream."""
    seconds = args.minutes * 60
    source = f"sim://digits?seed={args.seed}&gap_s={args.gap_s:g}&decoys={args.decoys:g}"
    camera = f"{source}&duration={seconds:g}"
    with ExitStack() as stack:
        opened = {
            FULL: open_model(folder, threads=1, instrument=never_lite),
            ROUTED: open_model(folder, threads=1),
            REUSED: open_model(folder, threads=1, reuse_ms=args.reuse_ms),
        }
        for model in opened.values():
            stack.enter_context(model)
        ways = {name: Way(model) for name, model in opened.items()}
        eye = stack.enter_context(mla_edge.open_camera(camera, as_fast_as_possible=True))
        ear = stack.enter_context(
            mla_edge.open_microphone(
                camera, rate_hz=RATE_HZ, window_s=WINDOW_S, as_fast_as_possible=True
            )
        )
        turns = Turns(ways)
        asked: Any = turns  # it says nothing of what it is asked
        for _ in mla_edge.run(asked, eye, ear, as_fast_as_possible=True):
            pass
        turns.finish()
    events = Schedule(args.seed, "test", args.gap_s).between(0.0, seconds)
    whole = [event for event in events if stretch(event)[1] <= seconds]
    return {
        "minutes": args.minutes,
        "events": len(whole),
        **figures(ways, whole),
    }


def words(found: dict[str, Any]) -> str:
    """A table, and what it is of."""
    heads = (
        *(f"{found['minutes']:g} minutes", "CPU ms a tick", "less than full", "full asked"),
        *("reused", "events found", "missed", "late", "longest delay", "digits where none is"),
    )
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in found["ways"].items():
        lines.append(
            f"| {name} | {row['cpu_ms']:.3f} | {row['less_cpu_than_full']:.1%} | "
            f"{row['share_of_full']:.1%} | {row['unchanged']:.1%} | {row['found']} of "
            f"{found['events']} | {row['missed']} | {row['late']} | "
            f"{row['longest_delay_ms']:.0f} ms | {row['digits_where_none']} |"
        )
    lines.append(f"\n{found['ticks']} ticks, {found['quiet']} of them with nothing to find.")
    return "\n".join(lines)


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=Path("bundles/digits-host"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--gap-s", type=float, default=20.0, help="between two digits, at least"
    )
    parser.add_argument("--decoys", type=float, default=0.0, help="share of pauses with a card")
    parser.add_argument("--reuse-ms", type=float, default=500.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON, not Markdown")
    args = parser.parse_args()
    try:
        found = measure(args.bundle, args)
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found, indent=1) if args.json else words(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
