"""The widths that a tier's groups may have, and the graphs that have them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Mapping, Sequence, TypeVar

import torch

from mla_edge.exporter.contest import with_widths
from mla_edge.exporter.float_graphs import example_feed, make_float_graphs
from mla_edge.exporter.int8 import choose_ranges, matching
from mla_edge.exporter.latency_table import allowed_widths
from mla_edge.exporter.pruning import ROUND_TO, Group, find_groups
from mla_edge.exporter.tracing import scopes_of
from mla_edge.exporter.width_graphs import FOR_PROCESSOR, Form, WidthGraphs

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import Job
    from mla_edge.networks import TierNetwork
    from mla_edge.profiles import DeviceProfile

_INT8_CHANNELS = 32  # that a tensor core of a GPU takes at a time (TensorRT's kCHW32)
_Graphs = TypeVar("_Graphs", bound=WidthGraphs)


def rounding(profile: DeviceProfile, precision: str) -> int:
    """What the widths of a tier are multiples of: 32 for INT8 on a GPU, otherwise 16."""
    on_gpu = profile.tensorrt is not None and precision == "int8"
    return _INT8_CHANNELS if on_gpu else ROUND_TO


def find_options(job: Job, part: TierNetwork) -> tuple[list[Group], dict[str, list[int]]]:
    """The groups of the tier that have more than one width, and their widths."""
    feed = example_feed(job, part)
    example = [torch.from_numpy(feed[name]) for name in part.tier.inputs]
    channels = rounding(job.profile, job.precision)
    groups = find_groups(part.module, example)
    options = {
        group.layer: allowed_widths(group.width, 1 if group.kind == "heads" else channels)
        for group in groups
    }
    groups = [group for group in groups if len(options[group.layer]) > 1]
    return groups, {group.layer: options[group.layer] for group in groups}


def make_width_graphs(  # noqa: PLR0913 - a tier, its widths, and the form of its graphs
    kind: type[_Graphs],
    job: Job,
    part: TierNetwork,
    groups: Sequence[Group],
    options: Mapping[str, Sequence[int]],
    precision: str,
    folder: Path,
    *,
    source: str = "float.onnx",
    form: Form = FOR_PROCESSOR,
) -> _Graphs:
    """What makes the tier's graphs with any widths; ``job`` prunes nothing of it.

    They come from its graph ``source`` (the one in half precision is ``half.onnx``) and are
    INT8 if ``precision`` is that.
    """
    name, feed = part.tier.name, example_feed(job, part)
    written = job.precision if source != "float.onnx" else "fp32"
    untaught = dataclasses.replace(job, trains=False, precision=written)
    narrower = {group: widths[len(widths) // 2 - 1] for group, widths in options.items()}
    pruned = with_widths(untaught, name, narrower)
    graph = make_float_graphs(untaught, part) / "float.onnx"
    ranges = choose_ranges(job, part, graph).ranges if precision == "int8" else None
    return kind(
        graph.with_name(source),
        make_float_graphs(pruned, part) / source,
        scopes_of(part.module, part.tier.inputs, feed, name),
        {group.layer: group.width for group in groups},
        feed,
        folder,
        ranges=ranges,
        keep_float=matching(graph, job.recipe.tier(name).keep_float),
        form=form,
    )
