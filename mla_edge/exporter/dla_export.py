"""What an export adds for a DLA: the plan, and the INT8 form that its TensorRT takes.

Up to TensorRT 10.7 a DLA takes no Q/DQ: it gets a float graph and a calibration cache. From
11.4.1 on it takes the Q/DQ graph that the GPU gets, so there is nothing to add but the plan.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

import numpy as np

from mla_edge.bundle import sha256_of, write_atomically
from mla_edge.exporter.calibrators import collect_histograms
from mla_edge.exporter.dla import CACHE, DlaPlan, clock_warnings, dla_of, plan_dla
from mla_edge.exporter.dla_simulation import simulate
from mla_edge.exporter.int8 import read_ranges
from mla_edge.exporter.layers import KEPT, find_layers, floating_layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import run_with
from mla_edge.exporter.ranges import BY_TENSOR
from mla_edge.exporter.steps import hash_of
from mla_edge.exporter.tensorrt_cache import write_cache
from mla_edge.signals import Tensors

if TYPE_CHECKING:
    from mla_edge.exporter.job import Job

# The patch releases that JetPack brings, by what a profile says.
_SHIPPED = {"8.5": "8.5.2", "8.6": "8.6.2"}
_SAME_SCALE = ("MaxPool", "AveragePool", "Concat")  # a DLA wants one for what goes in and out

ASSUMED = (
    "No board measured this. NVIDIA's published limits say which layers a DLA takes; what its "
    "compiler refuses beyond them shows when it builds. Each tensor handed over is brought "
    "into another format, and one side waits: that is counted here, once a value as the DLA "
    "has it, and not timed. A DLA frees the GPU and saves power; by NVIDIA's own account one "
    "inference takes longer on it than on the GPU."
)


@dataclass(frozen=True)
class DlaForm:
    """What was made for a DLA of one tier: ``facts`` for the report, and its files."""

    facts: Mapping[str, Any]
    folder: Path | None  # with graph.onnx, cache and simulated.onnx; None where Q/DQ is taken

    @property
    def simulated(self) -> Path | None:
        """A graph to measure the accuracy with."""
        return self.folder / "simulated.onnx" if self.folder else None

    def copy_into(self, bundle: Path) -> None:
        """Put the float graph and the cache where the facts say that they are."""
        if self.folder is not None:
            for key, name in (("graph", "graph.onnx"), ("file", "cache")):
                target = bundle / self.facts["cache"][key]
                target.parent.mkdir(exist_ok=True)
                target.write_bytes((self.folder / name).read_bytes())


def prepare_dla(
    job: Job, tier: str, float_graph: Path, quantized: Path, feeds: Callable[[], Sequence[Any]]
) -> DlaForm:
    """The plan for a tier, and its graph and cache where the board's DLA wants these.

    ``quantized`` is the folder of the INT8 graphs and their ranges. ``feeds`` gives the
    calibration samples; it is asked when tensors have no range yet.
    """
    hashes = [sha256_of(quantized / name) for name in ("tensorrt.onnx", "ranges.json")]
    key = hash_of(
        "dla", job.base, tier, sha256_of(float_graph), hashes, repr(job.profile), job.dla,
        job.calibration.sha256,
    )  # fmt: skip
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused("plan_dla", tier)
    else:
        with job.steps.step("plan_dla", tier):
            make = _Maker(job, tier, float_graph, quantized, feeds)
            entry = job.cache.store(key, make)
            job.steps.note(summarise(make.facts))
    facts = json.loads((entry / "dla.json").read_text(encoding="utf-8"))
    return DlaForm(facts, entry if job.dla == CACHE else None)


def summarise(facts: Mapping[str, Any]) -> str:
    """A plan in a line."""
    counts = facts["layers"]
    return (
        f"{counts['dla']} of {counts['dla'] + counts['gpu']} layers, "
        f"{facts['macs_share']:.0%} of the multiplications, {facts['loadables']} loadables, "
        f"{facts['gpu_islands']} GPU islands, {facts['transitions']} tensors handed over "
        f"({facts['border_bytes'] / 1e3:.1f} kB): {facts['advice']}"
    )


class _Maker:
    """Fills a folder with what a tier needs on the DLA."""

    def __init__(
        self,
        job: Job,
        tier: str,
        float_graph: Path,
        quantized: Path,
        feeds: Callable[[], Sequence[Tensors]],
    ) -> None:
        self._job, self._tier, self._float_graph = job, tier, float_graph
        self._quantized, self._feeds = quantized, feeds
        self.facts: dict[str, Any] = {}

    def __call__(self, folder: Path) -> None:
        job, graph = self._job, self._float_graph
        model, int8 = load_model(graph), load_model(self._quantized / "tensorrt.onnx")
        names = {node.name for node in model.graph.node}
        floating = [name for name in floating_layers(int8) if name in names]
        dla = dla_of(job.profile)
        cache = None
        if job.dla == CACHE:
            plan = plan_dla(graph, dla, floating=floating)
            scales, counts = self._scales(model, plan, floating)
            plan = plan_dla(graph, dla, floating=floating, ranged=scales)
            version = _SHIPPED.get(str(job.profile.tensorrt), f"{job.profile.tensorrt}.0")
            version = ".".join(version.split(".")[:3])
            cache = {
                "file": f"calibration/{self._tier}.cache",
                "graph": f"graphs/{self._tier}.dla.onnx",
                "version": version,
                **counts,
            }
            write_atomically(folder / "cache", write_cache(scales, version).encode())
            write_atomically(folder / "graph.onnx", _marked(model, floating))
            simulated = simulate(model, scales, plan, floating)
            write_atomically(folder / "simulated.onnx", simulated.SerializeToString())
        else:
            plan = plan_dla(graph, dla, floating=floating, typed=_typed(model, int8, floating))
        self.facts = describe(plan, job.dla, clock_warnings(job.profile), cache)
        text = json.dumps(self.facts, indent=1)
        (folder / "dla.json").write_text(text, encoding="utf-8")

    def _scales(
        self, model: Any, plan: DlaPlan, floating: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, int]]:
        """The scale of each tensor that has one, and how many came from where.

        The ranges of the INT8 graphs come first. They are of the inputs and outputs of weighted
        layers; what the DLA reads and writes beyond that is measured on the calibration set.
        """
        ranges = read_ranges(self._quantized)
        amplitudes = {
            tensor: ranges.places[place].amplitude
            for layer in find_layers(model, floating)
            for place, tensor in layer.places.items()
        }
        given = len(amplitudes)
        missing = [tensor for tensor in plan.tensors if tensor not in amplitudes]
        if missing:
            runs = run_with(model, missing, self._feeds())
            seen = collect_histograms(runs, missing, self._float_graph.name)
            method = "mse" if ranges.method == BY_TENSOR else ranges.method
            amplitudes.update((tensor, h.range(method).amplitude) for tensor, h in seen.items())
        even_out(model, plan, amplitudes)
        # A tensor that was always 0 says nothing of its range.
        scales = {t: float(np.float32(a / 127)) for t, a in amplitudes.items() if a > 0}
        counts = {"tensors": len(scales), "from_int8_ranges": given, "measured": len(missing)}
        return scales, counts


def describe(
    plan: DlaPlan, form: str, warnings: Sequence[str], cache: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that the report says of a tier on the DLA."""
    reasons = "; ".join(plan.objections) or (
        f"{plan.share:.0%} of the multiplications on it, in {plan.loadables} loadables"
    )
    return {
        "form": form,
        "advice": "do not use" if plan.objections else "use",
        "reason": reasons,
        "assumed": ASSUMED,
        "layers": {"dla": plan.on_dla, "gpu": len(plan.nodes) - plan.on_dla},
        "loadables": plan.loadables,
        "gpu_islands": plan.islands,
        "macs": plan.macs,
        "dla_macs": plan.dla_macs,
        "macs_share": plan.share,
        "transitions": plan.transitions,
        "border_bytes": plan.border_bytes,
        "without_range": list(plan.without_range),
        "falls_back": plan.falls_back,
        "cache": None if cache is None else dict(cache),
        "warnings": list(warnings),
        "nodes": [dataclasses.asdict(node) for node in plan.nodes],
    }


def _marked(model: Any, floating: Sequence[str]) -> bytes:
    """The float graph with the names of the layers that are to stay float in it."""
    entry = model.metadata_props.add()
    entry.key, entry.value = KEPT, json.dumps(sorted(floating))
    return bytes(model.SerializeToString(deterministic=True))


def even_out(model: Any, plan: DlaPlan, amplitudes: dict[str, float]) -> None:
    """Give what a DLA wants at one scale the largest amplitude among them."""
    dla = {node.name for node in plan.nodes if node.device == "dla"}
    groups = [
        [name for name in (*node.input, *node.output) if name in amplitudes]
        for node in model.graph.node
        if node.op_type in _SAME_SCALE and node.name in dla
    ]
    uneven = True
    while uneven:  # a tensor may be in two groups, which are then at one scale
        uneven = False
        for group in groups:
            largest = max(amplitudes[name] for name in group)
            uneven = uneven or any(amplitudes[name] != largest for name in group)
            amplitudes.update(dict.fromkeys(group, largest))


def _typed(model: Any, int8: Any, floating: Sequence[str]) -> dict[str, bool]:
    """Which nodes of the float graph have INT8 on both sides in its Q/DQ form."""
    quantized = {n.input[0] for n in int8.graph.node if n.op_type == "QuantizeLinear"}
    constants = {"", *(tensor.name for tensor in model.graph.initializer)}
    typed = {
        node.name: {*node.input, *node.output} - constants <= quantized
        for node in model.graph.node
    }
    for layer in find_layers(model, floating):
        ends = {layer.source, layer.total or layer.out, layer.beside} - {""}
        for node in (layer.node, layer.bias, layer.add, layer.activation):
            if node is not None:
                typed[node.name] = ends <= quantized
    return typed
