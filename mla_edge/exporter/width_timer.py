"""Time a tier with any widths of its groups, and every width of every group by itself."""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np

from mla_edge.exporter.latency_table import LatencyTable
from mla_edge.exporter.runs import SESSIONS, judge_widths, machine, time_runs
from mla_edge.exporter.width_graphs import WidthGraphs


class WidthTimer(WidthGraphs):
    """Makes the graph of a tier with any widths, in the form that runs here, and times it."""

    def measure(self, tier: str, options: Mapping[str, Sequence[int]]) -> LatencyTable:
        """The table of the groups in ``options``, each at the widths that it may have."""
        paths, feeds = self.parts(options)
        cases = {("", 0): (self.graph({}), self._sample)}
        for group, row in paths.items():
            cases.update({(group, w): (path, feeds[group]) for w, path in row.items()})
        names = {f"{group}@{width}": (group, width) for group, width in cases}
        found = time_runs({name: cases[key] for name, key in names.items()})
        taken = {key: found[name] for name, key in names.items()}
        rows, idle = {}, []
        for group, made in paths.items():
            rows[group], slow = judge_widths(group, {w: taken[group, w] for w in made})
            idle += slow
        return LatencyTable(
            tier=tier,
            precision=self.precision,
            measured_on=machine(),
            threads=1,
            whole_ms=float(np.median(taken["", 0])),
            rows=rows,
            left_out=tuple(sorted(options.keys() - rows.keys())),
            idle=tuple(idle),
        )

    def time(
        self, choices: Mapping[str, Mapping[str, int]], sessions: int = SESSIONS
    ) -> dict[str, np.ndarray]:
        """Milliseconds of a run of the whole graph, [sessions], by choice of widths.

        Those of the graph with nothing pruned are under ``""``.
        """
        graphs = {name: self.graph(widths) for name, widths in {"": {}, **choices}.items()}
        cases = {name: (path, self._sample) for name, path in graphs.items()}
        return time_runs(cases, sessions=sessions)
