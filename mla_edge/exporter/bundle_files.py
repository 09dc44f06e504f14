"""What an export has made of each tier, as files of its bundle."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from mla_edge.exporter import report as reporting
from mla_edge.exporter.part_archive import archive_name
from mla_edge.exporter.showing import show, shown_by

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.tiers import TierResult
    from mla_edge.networks import Network


def write_graphs(folder: Path, network: Network, results: list[TierResult]) -> None:
    """Copy every tier's two graphs into the bundle, what a DLA takes, what is known of
    latency, and what a board needs to measure it."""
    (folder / "graphs").mkdir()
    shown = {part.tier.name: shown_by(part.module) for part in network.tiers}
    for result in results:
        for source, suffix in ((result.tensorrt_graph, ""), (result.cpu_graph, ".cpu")):
            copy = folder / "graphs" / f"{result.name}{suffix}.onnx"
            copy.write_bytes(show(source.read_bytes(), shown[result.name]))
        if result.dla is not None:
            result.dla.copy_into(folder)
        if result.goal is not None:
            (folder / "latency").mkdir(exist_ok=True)
            table = result.goal.table.to_json()
            reporting.write_json(folder / "latency" / f"{result.name}.json", table)
        if result.parts is not None:
            (folder / "latency").mkdir(exist_ok=True)
            shutil.copyfile(result.parts, folder / archive_name(result.name))
