"""What every width of every group costs to run, as it was measured; pruning goes by it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Mapping

import numpy as np

from mla_edge.errors import ConfigError

FORMAT = 1
_STEPS = 8  # widths of a group


@dataclass(frozen=True)
class Idle:
    """A cut that makes nothing faster: what it saved, and the noise that this is within."""

    what: str
    saved_ms: float
    noise_ms: float


@dataclass(frozen=True)
class Rung:
    """A whole graph that was timed with every group at some width."""

    widths: Mapping[str, int]
    ms: float


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds by group and width, on one thread of one machine, or on its GPU.

    A row is of the part of the graph that the width runs through, run alone; only the
    differences within a row mean anything. Widths that make their part no faster are not in
    it.
    """

    tier: str
    precision: str  # of the graph: int8, fp16 or fp32
    measured_on: str  # the processor or the GPU, and the version of the engine
    threads: int  # of the processor; 0 on a GPU
    whole_ms: float  # of the whole graph, nothing pruned
    rows: Mapping[str, Mapping[int, float]]
    left_out: tuple[str, ...] = ()  # groups that cannot be timed, and are not pruned
    idle: tuple[Idle, ...] = ()
    ladder: tuple[Rung, ...] = ()  # whole graphs, where none can be timed later

    def predict(self, widths: Mapping[str, int]) -> float:
        """Milliseconds of the graph with ``widths``; between two that were measured, on a line.

        Adds up what every group saves, as if none had to do with another.
        """
        saved = 0.0
        for group, width in widths.items():
            known = sorted(self.rows[group])
            costs = [self.rows[group][one] for one in known]
            saved += costs[-1] - float(np.interp(width, known, costs))
        return self.whole_ms - saved

    def expect(self, widths: Mapping[str, int]) -> float:
        """`predict`, corrected by what whole graphs took.

        The ladder says what was measured where the groups alone promise so much; between two
        rungs on a line, and below the last one as far off as that is.
        """
        known = {self.whole_ms: self.whole_ms}
        known.update((self.predict(self._timed(rung.widths)), rung.ms) for rung in self.ladder)
        promised = np.array(sorted(known))
        # More milliseconds promised are never fewer in truth: what says so is noise.
        taken = np.maximum.accumulate([known[ms] for ms in promised])
        ms = self.predict(widths)
        below = min(0.0, ms - float(promised[0]))
        return float(np.interp(ms, promised, taken)) + below

    def _timed(self, widths: Mapping[str, int]) -> dict[str, int]:
        return {group: width for group, width in widths.items() if group in self.rows}

    def to_json(self) -> dict[str, Any]:
        """For the bundle and the cache."""
        return {
            "format": FORMAT,
            **{key: value for key, value in vars(self).items() if key != "rows"},
            "left_out": list(self.left_out),
            "idle": [asdict(cut) for cut in self.idle],
            "ladder": [{"widths": dict(rung.widths), "ms": rung.ms} for rung in self.ladder],
            "rows": {
                group: {str(width): cost for width, cost in sorted(row.items())}
                for group, row in self.rows.items()
            },
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LatencyTable:
        """What `to_json` gave; ConfigError if it is something else."""
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']}, {FORMAT} is known")
            rows = {
                str(group): {int(width): float(cost) for width, cost in row.items()}
                for group, row in values["rows"].items()
            }
            return cls(
                tier=str(values["tier"]),
                precision=str(values["precision"]),
                measured_on=str(values["measured_on"]),
                threads=int(values["threads"]),
                whole_ms=float(values["whole_ms"]),
                rows=rows,
                left_out=tuple(values["left_out"]),
                idle=tuple(Idle(**cut) for cut in values["idle"]),
                ladder=tuple(
                    Rung({str(g): int(w) for g, w in rung["widths"].items()}, float(rung["ms"]))
                    for rung in values["ladder"]
                ),
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"not a latency table: {type(error).__name__}: {error}", hint="measure it again"
            ) from error


def allowed_widths(width: int, round_to: int) -> list[int]:
    """The widths that a group of ``width`` may have, eighths of it that are rounded up."""
    eighths = (math.ceil(width * i / _STEPS / round_to) * round_to for i in range(1, _STEPS))
    return sorted({width, *(one for one in eighths if one < width)})
