"""Time a tier with any widths of its groups, and every width of every group by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from mla_edge.exporter.latency_table import Idle, LatencyTable
from mla_edge.exporter.layers import find_layers, structure_of
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import quantize, run_with
from mla_edge.exporter.ranges import Ranges
from mla_edge.exporter.regions import Region, cut_out, find_regions, fix_sizes, narrow
from mla_edge.exporter.runs import machine, saving, time_runs
from mla_edge.exporter.steps import hash_of
from mla_edge.signals import Tensors


class WidthTimer:
    """Makes the graph of a tier with any widths, in the form that runs here, and times it."""

    def __init__(  # noqa: PLR0913 - two graphs, where their widths are, and the form
        self,
        whole: Path,
        pruned: Path,
        scopes: Mapping[str, Sequence[str]],
        widths: Mapping[str, int],
        sample: Tensors,
        folder: Path,
        *,
        ranges: Ranges | None = None,
        keep_float: Sequence[str] = (),
    ) -> None:
        """For float graphs of the tier: ``whole``, and ``pruned`` with every width smaller.

        ``widths`` has every group's width in ``whole``, and ``scopes`` where in the names of
        nodes the module is that makes it. ``sample`` is an input of the tier; what is made
        comes into ``folder``. With ``ranges``, of the whole graph, it is timed in INT8, without
        them in float; ``keep_float`` names layers that are not made INT8.
        """
        self._whole = fix_sizes(load_model(whole), sample)
        self._pruned = fix_sizes(load_model(pruned), sample)
        self._sample, self._ranges, self._keep = sample, ranges, set(keep_float)
        self._folder = folder
        self.regions: dict[str, Region] = find_regions(
            self._whole, self._pruned, scopes, widths
        )

    def measure(self, tier: str, options: Mapping[str, Sequence[int]]) -> LatencyTable:
        """The table of the groups in ``options``, each at the widths that it may have."""
        parts = {name: cut_out(self._whole, region) for name, region in self.regions.items()}
        feeds = self._feeds(parts)
        rows: dict[str, dict[int, float]] = {}
        cases = {"": (self._graph({}), self._sample)}
        for number, group in enumerate(parts):
            try:
                made = [
                    narrow(parts[group], self._pruned, self.regions, {group: width})
                    for width in options[group]
                ]
            except ValueError:  # not of the form that can be made narrower here
                continue
            rows[group] = {}
            for width, model in zip(options[group], made):
                path = self._write(model, self._folder / f"{number}-{width}")
                cases[f"{group}@{width}"] = (path, feeds[group])
        taken = time_runs(cases)
        idle = []
        for group, row in rows.items():
            whole = max(options[group])
            for width in options[group]:
                ms = taken[f"{group}@{width}"]
                saved_ms, noise_ms = saving(taken[f"{group}@{whole}"], ms)
                if width == whole or saved_ms > noise_ms:
                    row[width] = float(np.median(ms))
                else:
                    idle.append(Idle(f"{group} at {width}", saved_ms, noise_ms))
        return LatencyTable(
            tier=tier,
            precision="int8" if self._ranges else "fp32",
            measured_on=machine(),
            threads=1,
            whole_ms=float(np.median(taken[""])),
            rows=rows,
            left_out=tuple(sorted(options.keys() - rows.keys())),
            idle=tuple(idle),
        )

    def time(
        self, choices: Mapping[str, Mapping[str, int]], sessions: int = 8
    ) -> dict[str, np.ndarray]:
        """Milliseconds of a run of the whole graph, [sessions], by choice of widths.

        Those of the graph with nothing pruned are under ``""``.
        """
        graphs = {name: self._graph(widths) for name, widths in {"": {}, **choices}.items()}
        cases = {name: (path, self._sample) for name, path in graphs.items()}
        return time_runs(cases, sessions=sessions)

    def _graph(self, widths: Mapping[str, int]) -> Path:
        """The whole graph with ``widths``, which may have been made before."""
        cut = {name: w for name, w in sorted(widths.items()) if w < self.regions[name].width}
        path = self._folder / hash_of(cut)
        made = next(path.parent.glob(f"{path.name}*"), None)
        if made is not None:
            return made
        model = narrow(self._whole, self._pruned, self.regions, cut) if cut else self._whole
        return self._write(model, path)

    def _feeds(self, parts: Mapping[str, Any]) -> dict[str, Tensors]:
        """What each part takes when the sample runs through the whole graph."""
        needed = {name: [value.name for value in p.graph.input] for name, p in parts.items()}
        given = {value.name for value in self._whole.graph.input}
        inner = sorted({name for names in needed.values() for name in names} - given)
        values = next(run_with(self._whole, inner, [self._sample]))
        values = {name: np.array(value) for name, value in values.items()}
        return {part: {name: values[name] for name in names} for part, names in needed.items()}

    def _write(self, model: Any, path: Path) -> Path:
        """The form of ``model`` that runs here, as a file."""
        plain = path.with_suffix(".onnx")
        plain.write_bytes(model.SerializeToString())
        if self._ranges is None:
            return plain
        # Of the same places: where a range ends at zero, a Relu costs nothing.
        structure = structure_of(find_layers(model))
        ranges = dataclasses.replace(
            self._ranges, structure=structure, corrections={}, roundings={}
        )
        kept = sorted(self._keep & {node.name for node in model.graph.node})
        out = path.with_suffix(".cpu.onnx")
        quantize(plain, out, ranges, style="cpu", keep_float=kept)
        plain.unlink()
        return out
