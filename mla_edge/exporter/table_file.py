"""Latency tables of a network's tiers in one file: a board writes it, an export reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from mla_edge.bundle import write_atomically
from mla_edge.errors import ConfigError
from mla_edge.exporter.latency_table import LatencyTable

FORMAT = 1
_MEASURE = (
    "export with --latency-parts, measure that bundle where it will run: "
    "mla-edge build BUNDLE --latency-table FILE"
)


@dataclass(frozen=True)
class TableFile:
    """What was measured of which network, for which device."""

    network: str
    profile: str
    tables: Mapping[str, LatencyTable]  # by tier
    inputs: Mapping[str, Mapping[str, Sequence[int]]]  # shapes by tier and input

    def to_json(self) -> dict[str, Any]:
        """As the file has it."""
        return {
            "format": FORMAT,
            "network": self.network,
            "profile": self.profile,
            "tiers": {
                tier: {
                    "inputs": {n: list(shape) for n, shape in self.inputs[tier].items()},
                    "table": table.to_json(),
                }
                for tier, table in self.tables.items()
            },
        }


def write_tables(path: Path, file: TableFile) -> None:
    """Write ``file`` to ``path``, whole or not at all."""
    write_atomically(path, (json.dumps(file.to_json(), indent=2) + "\n").encode())


def read_tables(path: Path) -> TableFile:
    """The tables at ``path``; ConfigError if there are none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, {FORMAT} is known")
        tiers = found["tiers"]
        return TableFile(
            str(found["network"]),
            str(found["profile"]),
            {tier: LatencyTable.from_json(values["table"]) for tier, values in tiers.items()},
            {tier: dict(values["inputs"]) for tier, values in tiers.items()},
        )
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint=_MEASURE) from error
    except (ConfigError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: is no file of latency tables: {error}", hint=_MEASURE
        ) from (error)


def table_of(file: TableFile, tier: str, profile: str) -> LatencyTable:
    """The table of ``tier``; ConfigError where it is of another device or has no such tier."""
    if file.profile != profile:
        raise ConfigError(
            f"--latency-table: it was measured for {file.profile} ({_where(file)}), and this "
            f"export is for {profile}",
            hint=f"--profile {file.profile}, or for a table of {profile}: {_MEASURE}",
        )
    if tier not in file.tables:
        raise ConfigError(
            f"--latency-table: it has no tier {tier!r}",
            hint=f"--target-tier is one of {', '.join(file.tables)}, or measure again: "
            f"{_MEASURE}",
        )
    return file.tables[tier]


def check_fit(
    table: LatencyTable,
    measured_inputs: Mapping[str, Sequence[int]],
    inputs: Mapping[str, Sequence[int]],
    options: Mapping[str, Sequence[int]],
    precisions: Sequence[str],
) -> None:
    """ConfigError, naming what differs, unless ``table`` is of a tier like this one.

    ``options`` has the widths that every group of the tier may have, ``inputs`` the shapes of
    its inputs. What the weights are does not matter.
    """
    differs = _difference(table, measured_inputs, inputs, options, precisions)
    if differs:
        raise ConfigError(
            f"--latency-table: it does not fit tier {table.tier!r} of this network: {differs}",
            hint=f"measure this network: {_MEASURE}",
        )


def _difference(
    table: LatencyTable,
    measured_inputs: Mapping[str, Sequence[int]],
    inputs: Mapping[str, Sequence[int]],
    options: Mapping[str, Sequence[int]],
    precisions: Sequence[str],
) -> str:
    if table.precision not in precisions:
        return f"it was measured in {table.precision}, this export is {precisions[0]}"
    shapes = {name: list(shape) for name, shape in inputs.items()}
    measured = {name: list(shape) for name, shape in measured_inputs.items()}
    if shapes != measured:
        return f"its inputs were {measured}, here they are {shapes}"
    known = {*table.rows, *table.left_out}
    more, less = sorted(known - options.keys()), sorted(options.keys() - known)
    if more or less:
        said = {"not in the network": more, "not in the table": less}
        return "; ".join(f"{', '.join(groups)} {how}" for how, groups in said.items() if groups)
    for group, row in table.rows.items():
        if max(row) != max(options[group]):
            return f"{group} was {max(row)} wide, here it is {max(options[group])}"
        other = sorted(row.keys() - set(options[group]))
        if other:
            return f"{group} cannot be {', '.join(map(str, other))} wide here"
    return ""


def _where(file: TableFile) -> str:
    return next((table.measured_on for table in file.tables.values()), "nowhere")
