"""How fast a tier is to become: in milliseconds, or in parts of what it takes unpruned."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Sequence

from mla_edge.errors import ConfigError
from mla_edge.exporter.runs import machine
from mla_edge.exporter.table_file import TableFile, read_tables, table_of

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.profiles import DeviceProfile


@dataclass(frozen=True)
class LatencyGoal:
    """What one tier is pruned to; one of the two is given."""

    tier: str
    latency_ms: float | None = None
    speedup: float | None = None
    given: TableFile | None = None  # tables of the machine that will run it

    @property
    def fingerprint(self) -> tuple[str, ...]:
        """What of it decides how the bundle becomes: a measurement is of one machine."""
        where = machine() if self.given is None else json.dumps(self.given.to_json())
        return str(self), self.tier, where

    def target_ms(self, whole_ms: float) -> float:
        """The latency to reach, of a tier that takes ``whole_ms`` with nothing pruned."""
        if self.latency_ms is not None:
            return self.latency_ms
        return whole_ms / (self.speedup or 1.0)

    def steps(self, data: Path | None) -> list[str]:
        """What an export does for it, in words."""
        taught = f", both distilled on {data}" if data is not None else ""
        costs = "measure what every width costs here, and"
        if self.given is not None:
            measured_on = self.given.tables[self.tier].measured_on
            costs = f"take what every width costs from a table of {measured_on}, measure"
        return [
            f"{self.tier}: {costs} what is lost with it",
            f"{self.tier}: prune to {self} by a knapsack, and uniformly to compare{taught}",
        ]

    def __str__(self) -> str:
        """As the user asked for it."""
        if self.latency_ms is not None:
            return f"{self.latency_ms:g} ms"
        return f"{self.speedup:g} times faster"


def make_goal(  # noqa: PLR0913 - what the command line says of it
    latency_ms: float | None,
    speedup: float | None,
    tier: str,
    tiers: Sequence[str],
    profile: DeviceProfile,
    table: Path | None = None,
) -> LatencyGoal | None:
    """The goal for ``tier``, or for the last one of ``tiers``; None where none is set.

    ConfigError for two goals, for a number that is none, for a tier that is not there, for a
    ``table`` of another device, and for milliseconds of a board without one: only this machine
    is measured.
    """
    if latency_ms is None and speedup is None:
        if table is not None:
            raise ConfigError(
                f"--latency-table {table}: how fast is the tier to be?",
                hint="give --target-latency-ms or --target-speedup as well",
            )
        if tier:
            raise ConfigError(
                f"--target-tier {tier}: how fast is it to be?",
                hint="give --target-speedup or --target-latency-ms as well",
            )
        return None
    if latency_ms is not None and speedup is not None:
        raise ConfigError(
            "--target-latency-ms and --target-speedup are two goals", hint="give one of them"
        )
    if latency_ms is not None and not (math.isfinite(latency_ms) and latency_ms > 0):
        raise ConfigError(
            f"--target-latency-ms {latency_ms:g} is no latency", hint="give more than 0"
        )
    if speedup is not None and not (math.isfinite(speedup) and speedup > 1):
        raise ConfigError(
            f"--target-speedup {speedup:g} is not faster",
            hint="give more than 1: 1.5 takes two thirds of the time",
        )
    if latency_ms is not None and profile.tensorrt is not None and table is None:
        raise ConfigError(
            f"--target-latency-ms: no {profile.title} takes part in an export, so its "
            "milliseconds cannot be measured",
            hint="give --latency-table, measured on the board (docs/how-to/faster.md); or "
            "--target-speedup, which is measured on this machine's processor; or "
            "--profile host for a bundle that runs here",
        )
    tier = tier or tiers[-1]
    if tier not in tiers:
        raise ConfigError(
            f"--target-tier {tier}: the network has no such tier",
            hint=f"its tiers: {', '.join(tiers)}",
        )
    given = None if table is None else read_tables(table)
    if given is not None:
        table_of(given, tier, profile.name)
    return LatencyGoal(tier, latency_ms, speedup, given)
