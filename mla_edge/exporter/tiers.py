"""One tier through the export: smaller, to ONNX, quantized, compared, checked by TensorRT."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Sequence

from mla_edge.errors import ExportError
from mla_edge.exporter.agreement import Agreement
from mla_edge.exporter.dla_export import DlaForm, prepare_dla
from mla_edge.exporter.fallback import Kept, float_layers
from mla_edge.exporter.float_graphs import calibration_feeds, make_float_graphs
from mla_edge.exporter.held_back import compare
from mla_edge.exporter.int8 import RangesOrigin, choose_cpu_graph, quantize_tier
from mla_edge.exporter.job import HeldBack, Job
from mla_edge.exporter.latency_parts import make_parts
from mla_edge.exporter.operators import check_operators
from mla_edge.exporter.qat import hold_or_learn
from mla_edge.exporter.sensitivity import LayerSensitivity, layer_table
from mla_edge.exporter.shares import keep_what_pays
from mla_edge.exporter.shrinking import Reached, check_reached, shrink_to_goal
from mla_edge.exporter.tensorrt_check import BuildReport, verify_tensorrt
from mla_edge.networks import TierNetwork


@dataclass(frozen=True)
class TierResult:
    """One tier, finished: its graphs, and everything that was measured on them."""

    name: str
    reference_graph: Path  # float, nothing pruned
    float_graph: Path  # float, pruned, fine-tuned: what was quantized
    tensorrt_graph: Path
    cpu_graph: Path
    shrunk: Mapping[str, Any]  # parameters and widths before and after, the distillation
    ranges: RangesOrigin | None  # of INT8
    cpu_precision: str
    cpu_ms: Mapping[str, float]  # float graph and INT8 graph in turns, on this machine
    agreement: Mapping[str, Agreement]  # of the graph "tensorrt", of "cpu", of a DLA's INT8
    tensorrt: BuildReport
    dla: DlaForm | None = None
    left_in_float: Kept = field(default_factory=dict)
    float_layers: Sequence[Mapping[str, Any]] = ()  # everything with weights that is not INT8
    sensitivity_of: str = ""  # the form that the table is of
    sensitivity: Sequence[LayerSensitivity] = ()  # of the layers in INT8, worst first
    shares: Mapping[str, Any] | None = None  # of the recipe: whether they make it faster
    goal: Reached | None = None  # where the tier had one of latency
    qat: Mapping[str, Any] | None = None  # the fine-tune in INT8, where there was one
    parts: Path | None = None  # of the unpruned tier at each width, where they were asked for

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
            "calibration": None if self.ranges is None else self.ranges.as_json(),
            "cpu_precision": self.cpu_precision,
            "cpu_ms": dict(self.cpu_ms),
            "agreement": {
                form: dataclasses.asdict(found) for form, found in self.agreement.items()
            },
            "left_in_float": {form: list(kept) for form, kept in self.left_in_float.items()},
            "float_layers": [dict(layer) for layer in self.float_layers],
            "sensitivity": {
                "form": self.sensitivity_of,
                "layers": [dataclasses.asdict(row) for row in self.sensitivity],
            },
            "tensorrt": dataclasses.asdict(self.tensorrt),
            "dla": None if self.dla is None else dict(self.dla.facts),
            "qat": None if self.qat is None else dict(self.qat),
            "shares": None if self.shares is None else dict(self.shares),
            "goal": None if self.goal is None else dict(self.goal.facts),
        }


def export_tier(job: Job, part: TierNetwork, held: HeldBack) -> TierResult:
    """Everything from the network's tier to two graphs and what is known of them."""
    name = part.tier.name
    parts = make_parts(job, part, held) if job.latency_parts else None
    goal: Reached | None = None
    if job.goal is not None and job.goal.tier == name:
        job, goal = shrink_to_goal(job, part, held)
    job, shares = keep_what_pays(job, part)
    graphs = make_float_graphs(job, part)
    shrunk = json.loads((graphs / "shrunk.json").read_text(encoding="utf-8"))
    float_graph = graphs / "float.onnx"
    tensorrt_graph, cpu_graph, cpu_precision = float_graph, float_graph, "fp32"
    ranges: RangesOrigin | None = None
    cpu_ms: dict[str, float] = {}
    kept: dict[str, Mapping[str, str]] = {}
    qat: dict[str, Any] | None = None
    floating: list[dict[str, Any]] = []
    style, table = "", []
    dla: DlaForm | None = None
    with job.steps.step("check_operators", name):
        _check_operators(job, graphs)
    if job.precision == "fp16":
        tensorrt_graph = graphs / "half.onnx"
    elif job.precision == "int8":
        quantized, ranges = quantize_tier(job, part, float_graph, {})
        cpu_graph, cpu_precision, cpu_ms = choose_cpu_graph(job, part, graphs, quantized, held)
        forms = ["tensorrt", *(["cpu"] if cpu_precision == "int8" else [])]
        best, qat = hold_or_learn(job, part, float_graph, quantized, held, forms)
        float_graph, kept = best.float_graph, dict(best.left_in_float)
        changed, quantized = best.folder != quantized, best.folder
        if changed:  # the processor's graph may be slower now: perhaps float is taken instead
            cpu_graph, cpu_precision, cpu_ms = choose_cpu_graph(
                job, part, graphs, quantized, held
            )
            if cpu_precision != "int8":
                kept.pop("cpu", None)
        tensorrt_graph = quantized / "tensorrt.onnx"
        floating = float_layers(job, name, float_graph, kept, forms)
        style = "tensorrt" if job.profile.tensorrt is not None else "cpu"
        table = layer_table(job, part, float_graph, ranges.ranges, style)
        _check_operators(job, quantized)
        if job.dla:
            feeds = functools.partial(calibration_feeds, job, part)
            dla = prepare_dla(job, name, float_graph, quantized, feeds)
    if goal is not None:
        goal = check_reached(job, part, goal, cpu_graph)
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
        left_in_float=kept,
        float_layers=floating,
        sensitivity_of=style,
        sensitivity=table,
        shares=shares,
        goal=goal,
        qat=qat,
        parts=parts,
    )


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


def _check_operators(job: Job, folder: Path) -> None:
    if job.profile.tensorrt is not None:
        for graph in sorted(folder.glob("*.onnx")):
            if graph.name != "cpu.onnx":
                check_operators(graph, job.profile.tensorrt)
