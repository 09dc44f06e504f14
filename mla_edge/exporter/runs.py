"""Run the graphs of all tiers here: what they give, and what they cost."""

from __future__ import annotations

import os
import platform
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import numpy as np

from mla_edge.engines import Engine, open_engine
from mla_edge.exporter.steps import versions
from mla_edge.signals import Tensors

_WARM_UP = 3


@contextmanager
def open_engines(graphs: Mapping[str, Path], *, threads: int) -> Iterator[dict[str, Engine]]:
    """An engine for each tier's graph, in their order; closed at the end."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(closing(open_engine(path, threads=threads)))
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
    cases: Mapping[str, tuple[Path, Tensors]], *, rounds: int = 60
) -> dict[str, np.ndarray]:
    """Milliseconds of every run of each graph on its own feed, in turns: [rounds] by name.

    One thread, and the processor's time instead of the clock's: what other processes take of
    this machine is not counted, so this is the latency where nothing else runs.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    with open_engines({name: path for name, (path, _) in cases.items()}, threads=1) as engines:
        for turn in range(rounds + _WARM_UP):
            for name, (_, feed) in cases.items():
                began = time.thread_time()
                engines[name].run(feed)
                if turn >= _WARM_UP:
                    taken[name].append((time.thread_time() - began) * 1e3)
    return {name: np.array(values) for name, values in taken.items()}


def saving(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """How many milliseconds less ``after`` takes than ``before``, both timed in turns [rounds].

    The median of the pairs, and how far its 95 % interval (by order statistics) reaches: what
    is less than that is noise.
    """
    pairs = np.sort(before - after)
    middle = float(np.median(pairs))
    reach = int(np.ceil(0.98 * np.sqrt(len(pairs))))
    low = pairs[max(0, len(pairs) // 2 - reach)]
    high = pairs[min(len(pairs) - 1, (len(pairs) - 1) // 2 + reach)]
    return middle, float(max(middle - low, high - middle))


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
