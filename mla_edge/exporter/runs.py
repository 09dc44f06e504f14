"""Run the graphs of all tiers here: what they give, and what they cost."""

from __future__ import annotations

import math
import os
import platform
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Callable, ContextManager, Iterator, Mapping, Sequence

import numpy as np

from mla_edge.engines import Engine, open_engine
from mla_edge.exporter.latency_table import Idle
from mla_edge.exporter.steps import versions
from mla_edge.signals import Tensors

SESSIONS = 8
_WARM_UP, _RUNS = 3, 12  # of one session
_STUDENT = 2.365  # Student's t at 97.5 %, of eight values; less of more


@contextmanager
def open_engines(
    graphs: Mapping[str, Path], *, threads: int, exact: bool = False
) -> Iterator[dict[str, Engine]]:
    """An engine for each tier's graph, in their order; closed at the end.

    ``exact`` is for answers only: without INT8 kernels a graph takes longer.
    """
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(closing(open_engine(path, threads=threads, exact=exact)))
            for name, path in graphs.items()
        }


def run_tiers(
    engines: Mapping[str, Engine], samples: Sequence[Tensors]
) -> tuple[dict[str, np.ndarray], list[Tensors]]:
    """Logits of every tier, [samples, classes], and the samples with what later tiers take."""
    logits: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    feeds = []
    for sample in samples:
        feed = dict(sample)
        for name, engine in engines.items():
            outputs = engine.run({spec.name: feed[spec.name] for spec in engine.inputs})
            copied = {output: np.array(value) for output, value in outputs.items()}
            logits[name].append(copied.pop("logits")[0])
            feed.update(copied)
        feeds.append(feed)
    return {name: np.stack(rows) for name, rows in logits.items()}, feeds


def measure_costs(
    graphs: Mapping[str, Path], feed: Tensors, *, threads: int, rounds: int = 40
) -> dict[str, float]:
    """Median milliseconds of one run of each graph, in turns so that all see the same machine.

    ``feed`` holds every modality and ``present``; outputs of earlier graphs are passed on.
    """
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    warm_up = max(3, rounds // 10)
    with open_engines(graphs, threads=threads) as engines:
        for turn in range(rounds + warm_up):
            feed = dict(feed)
            for name, engine in engines.items():
                inputs = {spec.name: feed[spec.name] for spec in engine.inputs}
                began = time.perf_counter()
                outputs = engine.run(inputs)
                if turn >= warm_up:
                    taken[name].append((time.perf_counter() - began) * 1e3)
                feed.update(outputs)
    return {name: float(np.median(values)) for name, values in taken.items()}


def time_runs(
    cases: Mapping[str, tuple[Path, Tensors]], *, sessions: int = SESSIONS
) -> dict[str, np.ndarray]:
    """Milliseconds of a run of each graph on its own feed: [sessions] by name, in turns.

    One thread of ONNX Runtime, and the processor's time instead of the clock's, so that what
    other processes take is not counted.
    """
    graphs = {name: path for name, (path, _) in cases.items()}
    feeds = {name: feed for name, (_, feed) in cases.items()}
    return time_in_turns(
        lambda: open_engines(graphs, threads=1), lambda _: feeds, time.thread_time, sessions
    )


def time_in_turns(
    open_all: Callable[[], ContextManager[Mapping[str, Engine]]],
    feed_all: Callable[[Mapping[str, Engine]], Mapping[str, Tensors]],
    clock: Callable[[], float],
    sessions: int = SESSIONS,
) -> dict[str, np.ndarray]:
    """Milliseconds by ``clock`` (in seconds) of a run of each engine: [sessions] by name.

    All engines run in turns. Each value is the median of some runs of a session that was opened
    anew: where its memory comes to lie makes the same graph some hundredths faster or slower.
    ``feed_all`` gives every engine's inputs.
    """
    taken: dict[str, list[float]] = {}
    for _ in range(sessions):
        with open_all() as engines:
            feeds = feed_all(engines)
            runs: dict[str, list[float]] = {name: [] for name in engines}
            for turn in range(_WARM_UP + _RUNS):
                for name, engine in engines.items():
                    began = clock()
                    engine.run(feeds[name])
                    if turn >= _WARM_UP:
                        runs[name].append((clock() - began) * 1e3)
        for name, values in runs.items():
            taken.setdefault(name, []).append(float(np.median(values)))
    return {name: np.array(values) for name, values in taken.items()}


def judge_widths(
    group: str, taken: Mapping[int, np.ndarray]
) -> tuple[dict[int, float], list[Idle]]:
    """The widths of ``group`` that make its part faster, with milliseconds, and the others.

    ``taken`` is [sessions] by width, in turns. The whole width is always among the faster.
    """
    whole = max(taken)
    row, idle = {}, []
    for width, ms in taken.items():
        saved_ms, noise_ms = saving(taken[whole], ms)
        if width == whole or saved_ms > noise_ms:
            row[width] = float(np.median(ms))
        else:
            idle.append(Idle(f"{group} at {width}", saved_ms, noise_ms))
    return row, idle


def saving(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """How many milliseconds less ``after`` takes than ``before``, both timed in turns.

    Both are [sessions]. The mean, and how far its 95 % interval reaches: what is less than
    that is noise.
    """
    pairs = before - after
    spread = float(pairs.std(ddof=1)) if len(pairs) > 1 else math.inf
    return float(pairs.mean()), _STUDENT * spread / math.sqrt(len(pairs))


def machine() -> str:
    """This machine's processor and what runs on it, for the record of a measurement."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    runtime = versions().get("onnxruntime", "")
    return f"{model}, {os.cpu_count()} cores, ONNX Runtime {runtime}"
