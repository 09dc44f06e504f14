"""One tier through the export: smaller, to ONNX, quantized, compared, checked by TensorRT."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

import torch

from mla_edge.bundle import sha256_of
from mla_edge.errors import ExportError
from mla_edge.exporter.agreement import Agreement, measure
from mla_edge.exporter.calibration import (
    over_modes,
    to_examples,
)
from mla_edge.exporter.distillation import distil
from mla_edge.exporter.dla_export import DlaForm, prepare_dla
from mla_edge.exporter.job import HeldBack, Job
from mla_edge.exporter.onnx_graph import load_model, to_onnx
from mla_edge.exporter.operators import check_operators
from mla_edge.exporter.pruning import prune
from mla_edge.exporter.quantization import (
    calibrate,
    check_samples,
    find_layers,
    quantize,
    structure_of,
)
from mla_edge.exporter.ranges import Ranges
from mla_edge.exporter.recipe import TierRecipe
from mla_edge.exporter.runs import machine, measure_costs, open_engines, run_tiers
from mla_edge.exporter.sampling import draw_samples
from mla_edge.exporter.shipped_ranges import ranges_to_use
from mla_edge.exporter.steps import (
    hash_of,
    versions,
)
from mla_edge.exporter.tensorrt_check import BuildReport, verify_tensorrt
from mla_edge.networks import TierNetwork
from mla_edge.networks.lora import LoRALinear, merge_lora
from mla_edge.signals import Tensors, TensorSpec

_SLOWER = 1.1  # an INT8 graph may be this much slower than float before float is taken


@dataclass(frozen=True)
class RangesOrigin:
    """What the INT8 ranges of a tier were made from, in words and by the samples' sha256."""

    source: str
    samples_sha256: str


@dataclass(frozen=True)
class TierResult:
    """One tier, finished: its graphs, and everything that was measured on them."""

    name: str
    reference_graph: Path  # float, nothing pruned
    float_graph: Path  # float, pruned: what was quantized
    tensorrt_graph: Path
    cpu_graph: Path
    shrunk: Mapping[str, Any]  # parameters and widths before and after, the distillation
    ranges: RangesOrigin | None  # of INT8
    cpu_precision: str
    cpu_ms: Mapping[str, float]  # float graph and INT8 graph in turns, on this machine
    agreement: Mapping[str, Agreement]  # of the graph "tensorrt", of "cpu", of a DLA's INT8
    tensorrt: BuildReport
    dla: DlaForm | None = None

    @property
    def worst_drop(self) -> float:
        """Points of accuracy that the worse graph lost against the float network."""
        return max(found.drop_points for found in self.agreement.values())

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        graphs = {
            "float": self.reference_graph,
            "tensorrt": self.tensorrt_graph,
            "cpu": self.cpu_graph,
        }
        return {
            "name": self.name,
            **self.shrunk,
            "size_bytes": {form: path.stat().st_size for form, path in graphs.items()},
            "ranges_from": self.ranges.source if self.ranges else "",
            "ranges_samples_sha256": self.ranges.samples_sha256 if self.ranges else "",
            "cpu_precision": self.cpu_precision,
            "cpu_ms": dict(self.cpu_ms),
            "agreement": {
                form: dataclasses.asdict(found) for form, found in self.agreement.items()
            },
            "tensorrt": dataclasses.asdict(self.tensorrt),
            "dla": None if self.dla is None else dict(self.dla.facts),
        }


def export_tier(job: Job, part: TierNetwork, held: HeldBack) -> TierResult:
    """Everything from the network's tier to two graphs and what is known of them."""
    name = part.tier.name
    graphs = make_float_graphs(job, part)
    shrunk = json.loads((graphs / "shrunk.json").read_text(encoding="utf-8"))
    float_graph = graphs / "float.onnx"
    tensorrt_graph, cpu_graph, cpu_precision = float_graph, float_graph, "fp32"
    ranges: RangesOrigin | None = None
    cpu_ms: dict[str, float] = {}
    dla: DlaForm | None = None
    with job.steps.step("check_operators", name):
        _check_operators(job, graphs)
    if job.precision == "fp16":
        tensorrt_graph = graphs / "half.onnx"
    elif job.precision == "int8":
        quantized, ranges = quantize_tier(job, part, float_graph)
        tensorrt_graph = quantized / "tensorrt.onnx"
        _check_operators(job, quantized)
        cpu_graph, cpu_precision, cpu_ms = choose_cpu_graph(job, part, graphs, quantized, held)
        if job.dla:
            feeds = functools.partial(calibration_feeds, job, part)
            dla = prepare_dla(job, name, float_graph, quantized, feeds)
    measured = {"tensorrt": tensorrt_graph, "cpu": cpu_graph}
    if dla is not None and dla.simulated is not None:
        measured["dla"] = dla.simulated
    return TierResult(
        name=name,
        reference_graph=held.graphs[name],
        float_graph=float_graph,
        tensorrt_graph=tensorrt_graph,
        cpu_graph=cpu_graph,
        shrunk=shrunk,
        ranges=ranges,
        cpu_precision=cpu_precision,
        cpu_ms=cpu_ms,
        agreement={
            form: compare(job, part, graph, held, form) for form, graph in measured.items()
        },
        tensorrt=check_tensorrt(job, part, tensorrt_graph),
        dla=dla,
    )


def reference_graphs(job: Job) -> dict[str, Path]:
    """The float graph of every tier, nothing pruned: what all else is compared with."""
    whole = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, tiers={}))
    whole = dataclasses.replace(whole, precision="fp32")
    return {
        part.tier.name: make_float_graphs(whole, part) / "float.onnx"
        for part in job.network.tiers
    }


def make_float_graphs(job: Job, part: TierNetwork) -> Path:
    """A folder with ``float.onnx``, ``half.onnx`` for FP16, and ``shrunk.json`` of pruning."""
    steps, name = job.steps, part.tier.name
    how = job.recipe.tier(name)
    shrinks = bool(how.prune or how.prune_heads)
    half = job.precision == "fp16"
    opset = int(job.profile.opset or 0)
    learning = repr(job.recipe.distillation) if job.trains and shrinks else ""
    key = hash_of("graphs", job.base, name, how.prune, how.prune_heads, learning, opset, half)
    entry = job.cache.find(key)
    if entry is not None:
        done = [("prune", shrinks), ("distil", bool(learning)), ("to_onnx", True)]
        for step in (step for step, was_needed in done if was_needed):
            steps.reused(step, name)
        return entry
    part = _without_adapters(part)
    module, shrunk = _shrink(job, part, how) if shrinks else (part.module, _whole(part.module))
    with steps.step("to_onnx", name):

        def make(folder: Path) -> None:
            smaller = dataclasses.replace(part, module=module)
            to_onnx(job.network, smaller, folder / "float.onnx", opset=opset)
            if half:
                to_onnx(job.network, smaller, folder / "half.onnx", opset=opset, half=True)
            _write(folder / "shrunk.json", json.dumps(shrunk))

        return job.cache.store(key, make)


def quantize_tier(job: Job, part: TierNetwork, float_graph: Path) -> tuple[Path, RangesOrigin]:
    """A folder with ``tensorrt.onnx`` and ``cpu.onnx``, and where the ranges came from."""
    name = part.tier.name
    how = job.recipe.tier(name)
    said = f"calibration set {job.calibration.spec.name}"
    entries = ranges_to_use(job.network, job.recipe, job.precision, job.own_samples)
    shipped = entries[name]
    ranges = Ranges.from_json(shipped["ranges"]) if shipped else None
    if ranges and ranges.structure != structure_of(find_layers(load_model(float_graph))):
        said += "; the shipped ranges do not fit this graph (other versions of onnx, onnxslim?)"
        shipped = ranges = None
    if shipped:
        origin = RangesOrigin(shipped["source"], shipped["samples_sha256"])
    else:
        origin = RangesOrigin(said, job.calibration.sha256)
    int8_weights = _takes_int8_weights(job.profile.tensorrt)
    key = hash_of(
        "quantize",
        job.base,
        sha256_of(float_graph),
        how.keep_float,
        shipped,
        origin.samples_sha256,
        int8_weights,
    )
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused("quantize", name)
        return entry, origin
    with job.steps.step("quantize", name):
        job.steps.note(f"ranges: {origin.source}")
        taken = ranges or calibrate(float_graph, calibration_feeds(job, part))
        kept = _matching(float_graph, how.keep_float)

        def make(folder: Path) -> None:
            for style in ("tensorrt", "cpu"):
                quantize(
                    float_graph, folder / f"{style}.onnx", taken,
                    style=style, keep_float=kept, int8_weights=int8_weights,
                )  # fmt: skip
            _write(folder / "ranges.json", json.dumps(taken.to_json()))

        return job.cache.store(key, make), origin


def calibration_feeds(job: Job, part: TierNetwork) -> list[Tensors]:
    """The calibration samples in every mode in turn, as the tier takes them."""
    network = job.network
    whole = [example.tensors for example in job.calibration.calibrate]
    check_samples(whole, [TensorSpec(s.name, "float32", s.shape) for s in network.inputs])
    spread = over_modes(job.calibration.calibrate, network.inputs)
    feeds = [example.tensors for example in spread]
    if not set(part.tier.inputs) <= set(feeds[0]):
        feeds = with_earlier_outputs(job, feeds)
    return [{name: feed[name] for name in part.tier.inputs} for feed in feeds]


def with_earlier_outputs(job: Job, samples: Sequence[Tensors]) -> list[Tensors]:
    """The samples with what a later tier takes from earlier ones."""
    with open_engines(reference_graphs(job), threads=job.threads) as engines:
        return run_tiers(engines, samples)[1]


def choose_cpu_graph(
    job: Job, part: TierNetwork, graphs: Path, quantized: Path, held: HeldBack
) -> tuple[Path, str, dict[str, float]]:
    """The INT8 graph for a processor, or the float one where INT8 is larger or slower here."""
    name = part.tier.name
    pair = {"fp32": graphs / "float.onnx", "int8": quantized / "cpu.onnx"}
    hashes = [sha256_of(path) for path in pair.values()]
    key = hash_of("cpu_speed", hashes, machine(), job.threads)
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused("cpu_speed", name)
    else:
        with job.steps.step("cpu_speed", name):
            feed = {wanted: held.feeds[0][wanted] for wanted in part.tier.inputs}
            measured = json.dumps(measure_costs(pair, feed, threads=job.threads))
            entry = job.cache.store(
                key, lambda folder: _write(folder / "cpu_ms.json", measured)
            )
    taken = json.loads((entry / "cpu_ms.json").read_text(encoding="utf-8"))
    smaller = pair["int8"].stat().st_size < pair["fp32"].stat().st_size
    form = "int8" if smaller and taken["int8"] <= taken["fp32"] * _SLOWER else "fp32"
    return pair[form], form, taken


def compare(job: Job, part: TierNetwork, graph: Path, held: HeldBack, form: str) -> Agreement:
    """How close a graph is to the float network on the samples held back."""
    name = part.tier.name
    key = hash_of("agreement", job.base, sha256_of(graph), job.calibration.sha256, versions())
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused(f"agreement {form}", name)
        return Agreement(**json.loads((entry / "agreement.json").read_text(encoding="utf-8")))
    with job.steps.step(f"agreement {form}", name):
        feeds = [{wanted: feed[wanted] for wanted in part.tier.inputs} for feed in held.feeds]
        found = measure(list(held.logits[name]), graph, feeds, held.labels.tolist())
        job.steps.note(f"drop {found.drop_points:+.2f} points, cosine {found.cosine:.4f}")

        text = json.dumps(dataclasses.asdict(found))
        job.cache.store(key, lambda folder: _write(folder / "agreement.json", text))
    return found


def check_tensorrt(job: Job, part: TierNetwork, graph: Path) -> BuildReport:
    """The verdict of a real TensorRT parser and builder, where one is installed."""
    with job.steps.step("verify_tensorrt", part.tier.name):
        verdict = verify_tensorrt(graph, int8=job.precision == "int8")
        job.steps.note(verdict.status)
    if verdict.status == "refused" and job.profile.tensorrt is not None:
        layers = ", ".join(verdict.undequantized)
        raise ExportError(
            f"verify_tensorrt: {verdict.version} refuses tier {part.tier.name!r}: "
            f"{verdict.reason}{': ' if layers else ''}{layers}",
            hint="name the layers in keep_float of the recipe, or export with --recipe fp16",
        )
    return verdict


def _shrink(
    job: Job, part: TierNetwork, how: TierRecipe
) -> tuple[torch.nn.Module, dict[str, Any]]:
    name = part.tier.name
    with job.steps.step("prune", name):
        feed = job.calibration.calibrate[0].tensors
        if not set(part.tier.inputs) <= set(feed):
            feed = with_earlier_outputs(job, [feed])[0]
        example = [torch.from_numpy(feed[wanted]) for wanted in part.tier.inputs]
        pruned = prune(part.module, example, channels=how.prune, heads=how.prune_heads)
        millions = pruned.parameters_before / 1e6, pruned.parameters_after / 1e6
        job.steps.note(f"{millions[0]:.2f} M → {millions[1]:.2f} M parameters")
    shrunk: dict[str, Any] = {
        "parameters": pruned.parameters_before,
        "parameters_after": pruned.parameters_after,
        "pruned": [dataclasses.asdict(change) for change in pruned.changes],
        "distillation": None,
    }
    if job.trains:
        with job.steps.step("distil", name):
            recipe, network = job.recipe.distillation, job.network
            samples = draw_samples(network, "train", recipe.samples, job.calibration.spec.seed)
            spread = over_modes(to_examples(samples, network.inputs), network.inputs)
            feeds = [example.tensors for example in spread]
            if not set(part.tier.inputs) <= set(feeds[0]):
                feeds = with_earlier_outputs(job, feeds)
            taught = distil(pruned.module, part.module, feeds, part.tier.inputs, recipe)
            shrunk["distillation"] = dataclasses.asdict(taught)
            job.steps.note(f"{taught.steps} steps, loss {taught.first_loss:.3f} → "
                           f"{taught.last_loss:.3f}")  # fmt: skip
    return pruned.module, shrunk


def _without_adapters(part: TierNetwork) -> TierNetwork:
    """The tier with its low-rank adapters merged: pruning and TensorRT see plain layers."""
    if not any(isinstance(module, LoRALinear) for module in part.module.modules()):
        return part
    return dataclasses.replace(part, module=merge_lora(copy.deepcopy(part.module)))


def _whole(module: torch.nn.Module) -> dict[str, Any]:
    count = sum(parameter.numel() for parameter in module.parameters())
    return {
        "parameters": count, "parameters_after": count, "pruned": [], "distillation": None
    }  # fmt: skip


def _check_operators(job: Job, folder: Path) -> None:
    if job.profile.tensorrt is not None:
        for graph in sorted(folder.glob("*.onnx")):
            if graph.name != "cpu.onnx":
                check_operators(graph, job.profile.tensorrt)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _matching(graph: Path, patterns: Sequence[str]) -> list[str]:
    """The nodes that the patterns name; a pattern that names none stays, to be refused."""
    names = [node.name for node in load_model(graph).graph.node]
    found = {p: [n for n in names if fnmatch.fnmatchcase(n, p)] or [p] for p in patterns}
    return sorted({name for matches in found.values() for name in matches})


def _takes_int8_weights(tensorrt: str | None) -> bool:
    """TensorRT before 10 refuses weights that are stored as INT8."""
    digits = (tensorrt or "").partition(".")[0]
    return not digits.isdigit() or int(digits) >= 10
