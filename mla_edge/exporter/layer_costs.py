"""What each layer of a finished graph takes on a processor, and how wrong its output is."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Mapping

import numpy as np

from mla_edge.bundle import sha256_of
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter.float_graphs import calibration_feeds, example_feed
from mla_edge.exporter.job import kept_json
from mla_edge.exporter.layer_noise import noise_in_layers
from mla_edge.exporter.layers import channel_axis
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.runs import machine
from mla_edge.exporter.steps import hash_of
from mla_edge.signals import Tensors

if TYPE_CHECKING:
    from mla_edge.exporter.job import Job
    from mla_edge.exporter.tiers import TierResult

_WARM_UP, _RUNS = 3, 16  # of the graph, each node timed
_SAMPLES = 16  # through both graphs with all their tensors
_EVENT = "_kernel_time"  # how ONNX Runtime ends the name of a node that it timed
_WEIGHTED = re.compile("Conv|Gemm|MatMul")  # in the operator of what was a layer
_FUSED = re.compile(r"[^\w]|_(?!\d)|$")  # after a layer's name, in what it was fused to


def measure_layers(job: Job, result: TierResult) -> dict[str, Any]:
    """The layers with weights, the most costly first; the other nodes by their operator.

    Cost is the median time of a node of the graph for a processor, as ONNX Runtime fuses and
    runs it on one thread. The error of a layer in INT8 is the energy of what its output, on
    calibration samples, differs by from the float graph's, over that of the float graph's.
    """
    part = next(part for part in job.network.tiers if part.tier.name == result.name)
    graphs = {"cpu": result.cpu_graph, "tensorrt": result.tensorrt_graph}
    hashes = [sha256_of(path) for path in (result.float_graph, *graphs.values())]

    def measure() -> dict[str, Any]:
        model = load_model(result.float_graph)
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        names = [n.name for n in model.graph.node if channel_axis(n, weights) is not None]
        times = time_nodes(result.cpu_graph, example_feed(job, part))
        rows, others = by_layer(times, names)
        whole_ms = sum(times.values())
        errors = {}
        if job.precision == "int8":
            feeds = calibration_feeds(job, part)[:_SAMPLES]
            for form, graph in graphs.items():
                if graph != result.float_graph:
                    errors[form] = noise_in_layers(result.float_graph, graph, feeds)
        return {
            "rows": [
                {
                    "layer": name,
                    "ms": ms,
                    "share": ms / whole_ms,
                    "noise": {
                        form: found[name][1] for form, found in errors.items() if name in found
                    },
                }
                for name, ms in rows
            ],
            "others": [
                {"operator": operator, "nodes": nodes, "ms": ms, "share": ms / whole_ms}
                for operator, nodes, ms in others
            ],
            "samples": _SAMPLES,
            "runs": _RUNS,
        }

    key = hash_of("layers", hashes, job.calibration.sha256, machine())
    return kept_json(job, "layers", result.name, key, measure)


def time_nodes(graph: Path, feed: Tensors) -> dict[tuple[str, str], float]:
    """The median milliseconds of each node of ``graph``, by its name and operator.

    They are the nodes that ONNX Runtime's optimiser leaves, on one thread.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = OnnxRuntimeEngine(graph, threads=1, profile=Path(folder) / "nodes")
        for _ in range(_WARM_UP + _RUNS):
            engine.run(feed)
        events = json.loads(engine.end_profile().read_text(encoding="utf-8"))
        engine.close()
    taken = defaultdict(list)
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_EVENT):
            key = name[: -len(_EVENT)], event["args"]["op_name"]
            taken[key].append(event["dur"] / 1e3)
    return {key: float(np.median(values[_WARM_UP:])) for key, values in taken.items()}


def by_layer(
    times: Mapping[tuple[str, str], float], layers: Iterable[str]
) -> tuple[list[tuple[str, float]], list[tuple[str, int, float]]]:
    """The milliseconds of each layer, and of the other nodes by operator; most costly first.

    A fused node has the name of the layer that it was, and something after it.
    """
    found: dict[str, float] = dict.fromkeys(layers, 0.0)
    others: dict[str, list[float]] = defaultdict(list)
    for (name, operator), ms in times.items():
        layer = _layer_of(name, found) if _WEIGHTED.search(operator) else None
        if layer is None:
            others[operator].append(ms)
        else:
            found[layer] += ms
    rows = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
    rest = [(operator, len(values), sum(values)) for operator, values in others.items()]
    return rows, sorted(rest, key=lambda row: (-row[2], row[0]))


def _layer_of(node: str, layers: Iterable[str]) -> str | None:
    """The layer that ``node`` is what became of; the longest name, where several fit."""
    fits = [
        name for name in layers if node.startswith(name) and _FUSED.match(node[len(name) :])
    ]
    return max(fits, key=len, default=None)
