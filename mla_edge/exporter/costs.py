"""What a run of each graph costs on this machine."""

from __future__ import annotations

import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from mla_edge.engines import Engine, open_engine
from mla_edge.exporter.steps import versions
from mla_edge.signals import Tensors


def measure_costs(
    graphs: Mapping[str, Path], feed: Tensors, *, threads: int, rounds: int = 40
) -> dict[str, float]:
    """Median milliseconds of one run of each graph, in turns so that all see the same machine.

    ``feed`` holds every modality and ``present``; outputs of earlier graphs are passed on.
    """
    engines = {name: open_engine(path, threads=threads) for name, path in graphs.items()}
    taken: dict[str, list[float]] = {name: [] for name in graphs}
    warm_up = max(3, rounds // 10)
    for turn in range(rounds + warm_up):
        known = dict(feed)
        for name, engine in engines.items():
            inputs = {spec.name: known[spec.name] for spec in engine.inputs}
            began = time.perf_counter()
            outputs = engine.run(inputs)
            if turn >= warm_up:
                taken[name].append((time.perf_counter() - began) * 1e3)
            known.update(outputs)
    for engine in engines.values():
        engine.close()
    return {name: float(np.median(values)) for name, values in taken.items()}


def open_engines(graphs: Mapping[str, Path], *, threads: int) -> dict[str, Engine]:
    """An engine for each tier's graph, in their order."""
    return {name: open_engine(path, threads=threads) for name, path in graphs.items()}


def tier_logits(
    engines: Mapping[str, Engine], samples: Sequence[Tensors]
) -> dict[str, np.ndarray]:
    """Logits of every tier for every sample, [samples, classes]; earlier outputs are passed on."""
    logits: dict[str, list[np.ndarray]] = {name: [] for name in engines}
    for sample in samples:
        known = dict(sample)
        for name, engine in engines.items():
            outputs = engine.run({spec.name: known[spec.name] for spec in engine.inputs})
            logits[name].append(np.array(outputs["logits"][0]))
            known.update(outputs)
    return {name: np.stack(rows) for name, rows in logits.items()}


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
