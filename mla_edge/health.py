"""How hot a machine is, what it draws, how busy it is, by its files under a ``root``."""

from __future__ import annotations

import re
from pathlib import Path

from mla_edge.machine_files import read

_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")  # what all others hang on, where a board has it


def temperatures_c(root: Path = Path("/")) -> dict[str, float]:
    """Degrees Celsius of each thermal zone that gives them, by name: ``cpu-thermal``, …."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name = read(root, f"sys/class/thermal/{zone.name}/type").strip() or zone.name
        value = _number(read(root, f"sys/class/thermal/{zone.name}/temp"))
        if value is not None and value > -50_000:  # a zone that is off says -256 °C
            found[name] = value / 1e3
    return found


def power_w(root: Path = Path("/")) -> float | None:
    """Watts that the whole board draws, by its INA3221; None where there is none.

    The rail of the input where there is one, otherwise the sum of all (JetPack 5 and later).
    """
    rails: dict[str, float] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        folder = f"sys/class/hwmon/{chip.name}"
        if read(root, f"{folder}/name").strip() != "ina3221":
            continue
        for path in sorted((root / folder).glob("in*_label")):
            number = re.findall(r"\d+", path.name)[0]
            label = read(root, f"{folder}/in{number}_label").strip()
            volts = _number(read(root, f"{folder}/in{number}_input"))
            amperes = _number(read(root, f"{folder}/curr{number}_input"))
            named = label not in ("", "NC") and number != "7"  # the seventh sums up others
            if named and volts is not None and amperes is not None:
                rails[label] = volts * amperes / 1e6  # of millivolts and milliamperes
    total = next((rails[name] for name in _TOTAL_RAILS if name in rails), None)
    return total if total is not None else sum(rails.values()) if rails else None


def busy_s(root: Path = Path("/")) -> float | None:
    """Seconds of work of all cores together since the machine started."""
    found = re.match(r"cpu +([\d ]+)", read(root, "proc/stat"))
    if not found:
        return None
    user, nice, system, _idle, _waiting, *rest = map(int, found.group(1).split())
    return (user + nice + system + sum(rest[:2])) / 100  # in ticks of 10 ms


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
