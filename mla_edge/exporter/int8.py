"""A tier in INT8: a graph for TensorRT, one for a processor, and what had to stay float."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from mla_edge.bundle import sha256_of
from mla_edge.exporter.float_graphs import calibration_feeds, mixes, tune_feeds
from mla_edge.exporter.job import kept_json, minds_sums
from mla_edge.exporter.layers import find_layers, structure_of
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.operators import takes_int8_weights
from mla_edge.exporter.post_training import TUNE_SAMPLES, calibrate_by_tensor
from mla_edge.exporter.quantization import STYLES, quantize
from mla_edge.exporter.ranges import Ranges
from mla_edge.exporter.runs import machine, measure_costs
from mla_edge.exporter.seven_bits import note_attempt, try_seven_bits
from mla_edge.exporter.shipped_ranges import ranges_to_use
from mla_edge.exporter.steps import hash_of

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.networks import TierNetwork

RANGES = "ranges.json"
FROZEN = "frozen_ranges.json"  # beside a float graph that has learned with these ranges
SLOWER = 1.1  # an INT8 graph may be this much slower than float before float is taken


@dataclass(frozen=True)
class RangesOrigin:
    """The INT8 ranges of a tier, what they were made from in words, the samples' sha256."""

    source: str
    samples_sha256: str
    ranges: Ranges

    @property
    def origin(self) -> dict[str, str]:
        """For the bundle's provenance."""
        return {"source": self.source, "samples_sha256": self.samples_sha256}

    def as_json(self) -> dict[str, Any]:
        """For the report: which calibrators, and what each attempt gave on tune samples."""
        found = self.ranges
        return {
            "calibrators": {style: found.calibrators(style) for style in STYLES},
            "biases_corrected": {s: len(found.corrections.get(s, {})) for s in STYLES},
            "rounded_together": {s: len(found.roundings.get(s, {})) for s in STYLES},
            "tried": {style: list(rows) for style, rows in found.tried.items()},
        }


def quantize_tier(
    job: Job, part: TierNetwork, float_graph: Path, kept: Mapping[str, Sequence[str]]
) -> tuple[Path, RangesOrigin]:
    """A folder with ``tensorrt.onnx`` and ``cpu.onnx``, and where the ranges came from.

    ``kept`` names by form layers that stay float, besides those of the recipe.
    """
    name = part.tier.name
    origin = choose_ranges(job, part, float_graph)
    ranges = origin.ranges
    recipe = job.recipe.tier(name)
    int8_weights = takes_int8_weights(job.profile.tensorrt)
    sources = {"tensorrt": float_graph, "cpu": float_graph}
    if mixes(job, name):
        sources["tensorrt"] = float_graph.with_name("half.onnx")
    key = hash_of(
        "quantize",
        job.base,
        [sha256_of(source) for source in sources.values()],
        recipe.keep_float,
        {form: list(layers) for form, layers in kept.items()},
        ranges.to_json(),
        int8_weights,
        recipe.weights,
    )
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused("quantize", name)
        return entry, origin
    with job.steps.step("quantize", name):
        left = [f"{form}: {len(names)} layers left in float" for form, names in kept.items()]
        job.steps.note("; ".join(left) or f"ranges: {origin.source}")
        own = matching(float_graph, recipe.keep_float)

        def make(folder: Path) -> None:
            for style, source in sources.items():
                quantize(
                    source,
                    folder / f"{style}.onnx",
                    ranges,
                    style=style,
                    keep_float=[*own, *kept.get(style, ())],
                    int8_weights=int8_weights,
                    int4=bool(recipe.weights),
                )
            _write_ranges(folder, ranges)

        return job.cache.store(key, make), origin


def choose_ranges(job: Job, part: TierNetwork, float_graph: Path) -> RangesOrigin:
    """The shipped ranges where they fit, otherwise those of the calibration set.

    Those that the graph has learned with, if it has. On a processor whose sums saturate, and
    for it, activations are in seven bits where that comes nearer to float.
    """
    frozen = float_graph.with_name(FROZEN)
    if frozen.exists():
        found = json.loads(frozen.read_text(encoding="utf-8"))
        known = Ranges.from_json(found["ranges"])
        return RangesOrigin(found["source"], found["samples_sha256"], known)
    origin = _find_ranges(job, part, float_graph)
    if not minds_sums(job.profile):
        return origin
    key = hash_of(
        "saturation", job.base, sha256_of(float_graph), origin.ranges.to_json(), machine()
    )

    def make() -> dict[str, Any]:
        return try_seven_bits(float_graph, origin.ranges, tune_feeds(job, part, TUNE_SAMPLES))

    row = kept_json(job, "saturation", part.tier.name, key, make)
    return replace(origin, ranges=note_attempt(origin.ranges, row))


def _find_ranges(job: Job, part: TierNetwork, float_graph: Path) -> RangesOrigin:
    name = part.tier.name
    said = f"calibration set {job.calibration.spec.name}"
    shipped = ranges_to_use(job.network, job.recipe, job.precision, job.own_samples)[name]
    if shipped:
        ranges = Ranges.from_json(shipped["ranges"])
        if ranges.structure == structure_of(find_layers(load_model(float_graph))):
            return RangesOrigin(shipped["source"], shipped["samples_sha256"], ranges)
        said += "; the shipped ranges do not fit this graph (other versions of onnx, onnxslim?)"
    key = hash_of("ranges", job.base, sha256_of(float_graph), job.calibration.sha256)
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused("calibrate", name)
        return RangesOrigin(said, job.calibration.sha256, read_ranges(entry))
    with job.steps.step("calibrate", name):
        tune = tune_feeds(job, part, TUNE_SAMPLES)
        ranges = calibrate_by_tensor(float_graph, calibration_feeds(job, part), tune)
        job.steps.note(_kept_in_words(ranges))
        job.cache.store(key, lambda folder: _write_ranges(folder, ranges))
    return RangesOrigin(said, job.calibration.sha256, ranges)


def read_ranges(folder: Path) -> Ranges:
    """The ranges that the INT8 graphs in ``folder`` were made with."""
    return Ranges.from_json(json.loads((folder / RANGES).read_text(encoding="utf-8")))


def _kept_in_words(ranges: Ranges) -> str:
    kept = {
        style: next(row["attempt"] for row in rows if row["kept"])
        for style, rows in ranges.tried.items()
    }
    return ", ".join(f"{style}: {attempt}" for style, attempt in kept.items())


def freeze_ranges(folder: Path, origin: RangesOrigin) -> None:
    """Let every INT8 graph of the float graph in ``folder`` have these ranges.

    Not the corrected biases and rounded weights: those were for the weights before.
    """
    ranges = replace(origin.ranges, corrections={}, roundings={})
    frozen = {
        "source": origin.source,
        "samples_sha256": origin.samples_sha256,
        "ranges": ranges.to_json(),
    }
    (folder / FROZEN).write_text(json.dumps(frozen), encoding="utf-8")


def _write_ranges(folder: Path, ranges: Ranges) -> None:
    (folder / RANGES).write_text(json.dumps(ranges.to_json()), encoding="utf-8")


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

            def make(folder: Path) -> None:
                (folder / "cpu_ms.json").write_text(measured, encoding="utf-8")

            entry = job.cache.store(key, make)
    taken = json.loads((entry / "cpu_ms.json").read_text(encoding="utf-8"))
    smaller = pair["int8"].stat().st_size < pair["fp32"].stat().st_size
    form = "int8" if smaller and taken["int8"] <= taken["fp32"] * SLOWER else "fp32"
    return pair[form], form, taken


def matching(graph: Path, patterns: Sequence[str]) -> list[str]:
    """The nodes that the patterns name; a pattern that names none stays, to be refused."""
    names = [node.name for node in load_model(graph).graph.node]
    found = {p: [n for n in names if fnmatch.fnmatchcase(n, p)] or [p] for p in patterns}
    return sorted({name for matches in found.values() for name in matches})
