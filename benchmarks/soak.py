"""Faults at random for as long as asked: does it come back each time, and does it leak?

    python benchmarks/soak.py [BUNDLE] [--minutes 20] [--seed 0] [--json]

The camera is real as far as the runtime goes: ``stamped_camera.py`` over HTTP, which is killed
and started again, or stalls. The microphone is the simulator's, whose reads fail, give nothing,
or give what is not finite. Faults come every 4 to 12 s and last up to 6 s, drawn from the seed.

Held against, each with its reason under ``failed`` and exit code 1 where it does not hold:

* decisions go on while one of the two is there, and one always is: at most 1.5 s without any
  (0.5 s until what stalls is masked, and a second for a busy machine);
* each is back, within the time that its retries take: 1.5 s the camera, 0.5 s the microphone;
* no decision says its picture to be 0.15 s younger than by the stamp in it, or more;
* memory grows by less than 1 MB an hour, by its slope after the first quarter;
* threads and open files are as many as they were: the fewest and the most of the last quarter
  are not both more than those of the second. A camera that opens has more for a moment.

The last two are judged from 10 minutes on; a shorter run says so under ``not_judged``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from default_bundle import add_bundle
from loop import camera_at, free_port
from stamped_camera import read_stamp

import mla_edge
from mla_edge.errors import CaptureError, CaptureTimeout
from mla_edge.preprocess import Preprocessor
from mla_edge.runtime.loading import Parts, open_model
from mla_edge.runtime.model import FusedModel
from mla_edge.signals import Sample, Sound, Tensors

BACK_S = {"camera": 1.5, "microphone": 0.5}  # its retries, opening it, and a busy machine
SEEN, HEARD = ("killed", "stalled"), ("lost", "silent driver", "not finite")
MOST_A_SECOND = 60  # decisions
WARM_UP = 0.25  # of the time; what is allocated until then is not growth
MOST_GROWTH_MB = 1.0  # an hour
MOST_GAP_S = 1.5  # without a decision
LEAST_MINUTES = 10.0  # for a slope that is more than noise
TRANSPORT_MS = 150.0  # from the drawn stamp over HTTP to the decoded picture, on a busy machine


class FaultyMicrophone:
    """The simulator's microphone, with faults while they are set."""

    def __init__(self, microphone: Any) -> None:
        """Around ``microphone``."""
        self._microphone = microphone
        self.fault = ""

    @property
    def drops(self) -> int:
        """As of the microphone."""
        return int(self._microphone.drops)

    def close(self) -> None:
        """Whoever opened the microphone closes it."""

    def read(self, timeout_s: float) -> Sound:
        """What the microphone gives, unless a fault is on."""
        if self.fault == "lost":
            raise CaptureError("the microphone is unplugged")
        if self.fault == "silent driver":
            time.sleep(min(timeout_s, 0.05))
            raise CaptureTimeout("nothing came")
        sound: Sound = self._microphone.read(timeout_s)
        if self.fault == "not finite":
            return Sound(sound.samples * np.float32("nan"), sound.rate_hz, sound.time_s)
        return sound


class Camera:
    """The network camera: killed, started again, stalled, by its own process."""

    def __init__(self, port: int) -> None:
        """Started at once."""
        self.port = port
        self._stack = ExitStack()
        self._process = self._stack.enter_context(camera_at(port))

    def begin(self, fault: str) -> None:
        """Let it fail."""
        if fault == "killed":
            self._stack.close()
        else:
            self._say("stall")

    def end(self, fault: str) -> None:
        """Let it be well again."""
        if fault == "killed":
            self._process = self._stack.enter_context(camera_at(self.port))
        else:
            self._say("go")

    def close(self) -> None:
        """End its process."""
        self._stack.close()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()


class Faults:
    """Makes them, on a thread of its own, and notes when each began and ended."""

    def __init__(self, camera: Camera, microphone: FaultyMicrophone, seed: int) -> None:
        """Nothing before ``start``."""
        self._draw = random.Random(seed)
        self._camera, self._microphone = camera, microphone
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.made: list[tuple[str, str, float, float]] = []

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Let the last one end, and no more begin."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._draw.uniform(4, 12)):
            what = self._draw.choice(("camera", "camera", "microphone"))
            kinds = SEEN if what == "camera" else HEARD
            fault, lasts_s = self._draw.choice(kinds), self._draw.uniform(0.2, 6)
            began_s = time.monotonic()
            if what == "camera":
                self._camera.begin(fault)
                time.sleep(lasts_s)
                self._camera.end(fault)
            else:
                self._microphone.fault = fault
                time.sleep(lasts_s)
                self._microphone.fault = ""
            self.made.append((what, fault, began_s, time.monotonic()))


@contextmanager
def stamped_model(folder: Path, stamps: list[float]) -> Iterator[FusedModel]:
    """The bundle, noting the stamp of each picture that it decides on."""

    def watch(parts: Parts) -> Parts:
        def see(sample: Sample, filled: Collection[str] = ()) -> Tensors:
            frame: Any = sample.signals.get("image")
            stamps[:] = [] if frame is None else [read_stamp(frame.image)]
            return preprocess(sample, filled)

        preprocess = parts.preprocess
        assert isinstance(preprocess, Preprocessor)
        return Parts(parts.engines, parts.router, see, parts.policy)

    with open_model(folder, threads=1, instrument=watch) as model:
        yield model


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    this = psutil.Process()
    stamps: list[float] = []
    # Written to in place: what this program keeps must not look like a leak of the runtime's.
    most = round(args.minutes * 60 * MOST_A_SECOND)
    used = {name: np.full(most, -1.0) for name in ("at", "image", "audio")}
    number = 0
    memory: list[tuple[float, float]] = []
    too_young = 0
    with ExitStack() as stack:
        camera = Camera(free_port() if not args.port else args.port)
        stack.callback(camera.close)
        model = stack.enter_context(stamped_model(args.bundle, stamps))
        sound = next(spec for spec in model.bundle.inputs if spec.kind == "audio")
        url = f"http://127.0.0.1:{camera.port}/video.mjpg"
        eyes = stack.enter_context(mla_edge.open_camera(url))
        source = mla_edge.open_microphone(
            "sim://digits", rate_hz=sound.rate_hz or 0, window_s=sound.window_s
        )
        ears = FaultyMicrophone(stack.enter_context(source))
        faults = Faults(camera, ears, args.seed)
        began_s = time.monotonic()
        counts: list[tuple[float, int, int]] = []
        faults.start()
        next_s = 0.0
        for prediction in mla_edge.run(model, eyes, ears, duration_s=args.minutes * 60):
            now_s = prediction.decision_time_s
            if number < most:
                used["at"][number] = now_s
                for name in prediction.capture_time_s:
                    used[name][number] = now_s
                number += 1
            if stamps:
                true_ms = (now_s - stamps[0]) * 1e3
                said_ms = prediction.ages_ms["image"]
                too_young += said_ms + TRANSPORT_MS < true_ms
            if now_s >= next_s:
                next_s = now_s + 5
                memory.append((now_s - began_s, this.memory_info().rss / 1e6))
                counts.append((now_s - began_s, this.num_threads(), this.num_fds()))
        ended_s = time.monotonic()
        faults.stop()
    kept = {name: values[:number] for name, values in used.items()}
    return report(args, faults.made, kept, memory, counts, too_young, ended_s)


def report(  # noqa: PLR0913 - all that was noted
    args: argparse.Namespace,
    made: list[tuple[str, str, float, float]],
    used: dict[str, np.ndarray],
    memory: list[tuple[float, float]],
    counts: list[tuple[float, int, int]],
    too_young: int,
    run_end_s: float,
) -> dict[str, Any]:
    """What came of it, and whether it is as it should be."""
    inputs = {"camera": "image", "microphone": "audio"}
    waits: dict[str, list[float]] = {"camera": [], "microphone": []}
    missed = 0
    for what, _, _, ended_s in made:
        times = used[inputs[what]]
        back = times[times >= ended_s]
        if len(back):
            waits[what].append(float(back[0]) - ended_s)
        missed += not len(back) and run_end_s - ended_s > BACK_S[what]
    late = sum(wait > BACK_S[what] for what, found in waits.items() for wait in found)
    steady = [(at, mb) for at, mb in memory if at > args.minutes * 60 * WARM_UP]
    slope_mb = None
    if len(steady) > 2:
        at_s, held_mb = np.array(steady).T
        slope_mb = round(float(np.polyfit(at_s, held_mb, 1)[0]) * 3600, 2)
    settled = [row for row in counts if row[0] > args.minutes * 60 * WARM_UP] or counts
    early = [row for row in settled if row[0] <= args.minutes * 60 * 0.5] or settled
    late_rows = [row for row in settled if row[0] > args.minutes * 60 * 0.75] or settled
    gaps = np.diff(np.append(used["at"], run_end_s))
    figures = {
        "minutes": args.minutes,
        "seed": args.seed,
        "decisions": len(used["at"]),
        "faults": len(made),
        "never_back": missed,
        "back_later_than_expected": late,
        "back_s": {
            what: {"median": round(float(np.median(found)), 2), "max": round(max(found), 2)}
            for what, found in waits.items()
            if found
        },
        "longest_without_decision_s": round(float(gaps.max()), 2),
        "ages_understated": too_young,
        "memory_mb": [round(memory[0][1], 1), round(memory[-1][1], 1)],
        "memory_mb_by_minute": by_minute(memory),
        "memory_growth_mb_an_hour": slope_mb,
    }
    for column, name in ((1, "threads"), (2, "open_files")):
        figures[name] = range_of(settled, column)
        figures[f"{name}_by_quarter"] = [range_of(rows, column) for rows in (early, late_rows)]
    return {**figures, **judge(figures)}


def by_minute(memory: list[tuple[float, float]]) -> list[float]:
    """The median of each minute: a step tells of something else than a slope does."""
    minutes: dict[int, list[float]] = {}
    for at_s, held_mb in memory:
        minutes.setdefault(int(at_s // 60), []).append(held_mb)
    return [round(float(np.median(held)), 1) for held in minutes.values()]


def range_of(rows: list[tuple[float, int, int]], column: int) -> list[int]:
    """The smallest and the largest of one column."""
    values = [int(row[column]) for row in rows]
    return [min(values), max(values)]


def judge(figures: dict[str, Any]) -> dict[str, list[str]]:
    """In words, what does not hold (``failed``), and what so short a run cannot say."""
    failed, not_judged = [], []
    if figures["never_back"]:
        failed.append(f"{figures['never_back']} times a source was never back")
    if figures["back_later_than_expected"]:
        found = {what: times["max"] for what, times in figures["back_s"].items()}
        late = ", ".join(
            f"{what} {wait_s:g} s (wanted {BACK_S[what]:g})" for what, wait_s in found.items()
        )
        failed.append(
            f"{figures['back_later_than_expected']} times a source was back too late; at the "
            f"latest: {late}"
        )
    if figures["longest_without_decision_s"] > MOST_GAP_S:
        failed.append(
            f"{figures['longest_without_decision_s']:g} s without a decision, {MOST_GAP_S:g} "
            "wanted"
        )
    if figures["ages_understated"]:
        failed.append(
            f"{figures['ages_understated']} decisions said their picture more than "
            f"{TRANSPORT_MS:g} ms younger than it was"
        )
    if figures["minutes"] < LEAST_MINUTES:
        not_judged.append(f"memory, threads and open files: under {LEAST_MINUTES:g} minutes")
        return {"failed": failed, "not_judged": not_judged}
    growth_mb = figures["memory_growth_mb_an_hour"]
    if growth_mb is None or growth_mb >= MOST_GROWTH_MB:
        failed.append(f"memory grows by {growth_mb} MB an hour, {MOST_GROWTH_MB:g} is too much")
    for name in ("threads", "open_files"):
        (fewest, most), (then_fewest, then_most) = figures[f"{name}_by_quarter"]
        if then_fewest > fewest and then_most > most:
            failed.append(
                f"{name.replace('_', ' ')} grew from {fewest} … {most} to "
                f"{then_fewest} … {then_most}"
            )
    return {"failed": failed, "not_judged": not_judged}


def main() -> int:
    """Soak, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_bundle(parser)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0, help="of the camera; 0: a free one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = soak(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result.items():
            print(f"{name}: {value}")
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
