"""Write the parts of a tier at each width, for the machine that will run it to time them."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Mapping, Sequence

from mla_edge.exporter.contest import make_graphs, with_widths
from mla_edge.exporter.float_graphs import example_feed, mixes, without_adapters
from mla_edge.exporter.int8 import choose_cpu_graph
from mla_edge.exporter.layers import floating_layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.operators import takes_int8_weights
from mla_edge.exporter.part_archive import PartArchive, Whole, describe_feed, write_archive
from mla_edge.exporter.steps import hash_of
from mla_edge.exporter.tier_widths import find_options, make_width_graphs
from mla_edge.exporter.width_graphs import Form, WidthGraphs

if TYPE_CHECKING:
    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.networks import TierNetwork

_EIGHTHS = (6, 4, 2, 1)  # of every width at once, in whole graphs that are timed too
_FILE = "parts.zip"


def make_parts(job: Job, part: TierNetwork, held: HeldBack) -> Path | None:
    """The file of the tier's parts, nothing of it pruned; None where no width can be.

    In the form that runs there: what TensorRT builds for a board, and for ``host`` what ONNX
    Runtime is fast on.
    """
    name, part = part.tier.name, without_adapters(part)
    groups, options = find_options(job, part)
    if not groups:
        return None
    # Sparse weights are of one network, and these are of none.
    job = with_widths(job, name, {})
    recipe = job.recipe
    how = dataclasses.replace(recipe.tier(name), sparsity="")
    job = dataclasses.replace(
        job, recipe=dataclasses.replace(recipe, tiers={**recipe.tiers, name: how})
    )
    source, precision, form = _form(job, part, held)
    shapes = {key: value.shape for key, value in example_feed(job, part).items()}
    key = hash_of("latency_parts", job.base, name, options, source, precision, str(form),
                  str(how), job.profile.name, job.profile.opset, shapes)  # fmt: skip
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused("latency_parts", name)
        return entry / _FILE
    with tempfile.TemporaryDirectory() as scratch:
        graphs = make_width_graphs(
            WidthGraphs, job, part, groups, options, precision, Path(scratch),
            source=source, form=form,
        )  # fmt: skip
        with job.steps.step("latency_parts", name):
            archive = _archive(job, part, graphs, options, precision)
            entry = job.cache.store(
                key, lambda folder: write_archive(folder / _FILE, archive, Path(scratch))
            )
            size_mb = (entry / _FILE).stat().st_size / 1e6
            job.steps.note(f"{archive.count} graphs, {size_mb:.2f} MB")
    return entry / _FILE


def _form(job: Job, part: TierNetwork, held: HeldBack) -> tuple[str, str, Form]:
    """From which graph of the tier the parts come, their precision, and their form."""
    name = part.tier.name
    if job.profile.tensorrt is None:
        precision = "fp32"
        if job.precision == "int8":
            folder, graph = make_graphs(job, part, "int8")
            precision = choose_cpu_graph(job, part, folder, graph.parent, held)[1]
        return "float.onnx", precision, Form("cpu", stand_in=True)
    half = job.precision == "fp16" or mixes(job, name)
    form = Form(
        "tensorrt",
        int8_weights=takes_int8_weights(job.profile.tensorrt),
        int4=bool(job.recipe.tier(name).weights),
        stand_in=True,
    )
    return "half.onnx" if half else "float.onnx", job.precision, form


def _archive(
    job: Job,
    part: TierNetwork,
    graphs: WidthGraphs,
    options: Mapping[str, Sequence[int]],
    precision: str,
) -> PartArchive:
    """Makes every graph, and says what each is."""
    name = part.tier.name
    paths, feeds = graphs.parts(options)
    whole = graphs.graph({})
    wholes = [Whole(whole.name, {})]
    for eighths in _EIGHTHS:
        widths = {
            group: min(w for w in row if 8 * w >= eighths * max(row))
            for group, row in paths.items()
        }
        file = graphs.graph(widths).name
        if file not in [known.file for known in wholes]:
            wholes.append(Whole(file, widths))
    sample = example_feed(job, part)
    return PartArchive(
        network=job.network.name,
        profile=job.profile.name,
        tier=name,
        precision=precision,
        carries_types=precision == "fp16" or bool(job.recipe.tier(name).weights),
        float_layers=tuple(floating_layers(load_model(whole))),
        inputs={key: tuple(value.shape) for key, value in sample.items()},
        left_out=tuple(sorted(options.keys() - paths.keys())),
        wholes=tuple(wholes),
        parts={g: {w: p.name for w, p in row.items()} for g, row in paths.items()},
        feeds={
            "": describe_feed(sample),
            **{group: describe_feed(feed) for group, feed in feeds.items()},
        },
    )
