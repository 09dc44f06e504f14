"""How hot a machine is, what it draws, whether it slows down, by its files under a ``root``.

A file that is missing, or says nonsense, leaves its value out.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from mla_edge.machine_files import GPU_CLOCK, read

_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")  # what all others hang on, where a board has it
_DUMMIES = ("PMIC-Die",)  # zones that say 100 °C whatever the weather, up to Xavier
_COLDEST_C, _HOTTEST_C = -50.0, 150.0  # a zone that is off says -256 °C
_MOST_W = 1000.0  # of a rail; more is nonsense
_SLOWING = ("passive", "hot")  # trip points: the kernel lowers clocks, or is about to stop
_HOLDS_CLOCKS = re.compile(r"throttle|cpufreq|devfreq|processor", re.IGNORECASE)  # not a fan


def temperatures_c(root: Path = Path("/")) -> dict[str, float]:
    """Degrees Celsius of each thermal zone that gives them, by name: ``cpu-thermal``, ….

    The hottest of those that have one name.
    """
    found: dict[str, float] = {}
    for name, folder in _zones(root):
        value = _number(read(root, f"{folder}/temp"))
        if value is not None and _COLDEST_C < value / 1e3 < _HOTTEST_C:
            found[name] = max(value / 1e3, found.get(name, _COLDEST_C))
    return found


def throttle_points_c(root: Path = Path("/")) -> dict[str, float]:
    """From how many degrees Celsius on a thermal zone has the clocks lowered, by name.

    That is its lowest trip point of the type ``passive`` or ``hot``; a zone without any is not
    here. What only starts a fan (``active``) is left out, and what is switched off (0 or less).
    """
    found: dict[str, float] = {}
    for name, folder in _zones(root):
        for path in (root / folder).glob("trip_point_*_type"):
            value = _number(read(root, f"{folder}/{path.name[: -len('type')]}temp"))
            is_slowing = read(root, f"{folder}/{path.name}").strip() in _SLOWING
            if is_slowing and value is not None and 0 < value / 1e3 < _HOTTEST_C:
                found[name] = min(value / 1e3, found.get(name, _HOTTEST_C))
    return found


def throttled_by(root: Path = Path("/")) -> list[str]:
    """What holds clocks down at this moment because of heat: ``cpu-throttle-alert``, …."""
    found = []
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        folder = f"sys/class/thermal/{device.name}"
        if (_number(read(root, f"{folder}/cur_state")) or 0) <= 0:
            continue
        name = read(root, f"{folder}/type").strip()
        if _HOLDS_CLOCKS.search(name):
            found.append(name)
    return found


def over_currents(root: Path = Path("/")) -> int | None:
    """How often the board drew too much, or got too little voltage, since it started.

    It slows down for a moment each time; None where that is not counted (Orin and later do).
    """
    names = (
        f"sys/class/hwmon/{path.parent.name}/{path.name}"
        for path in (root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")
    )
    counts = [_number(read(root, name)) for name in names]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def clocks_mhz(root: Path = Path("/")) -> dict[str, float]:
    """The present clock of each core (``cpu0``, …) and of each part of the GPU, by name."""
    found: dict[str, float] = {}
    for path in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*")):
        value = _number(
            read(root, f"sys/devices/system/cpu/{path.name}/cpufreq/scaling_cur_freq")
        )
        if value is not None:
            found[path.name] = value / 1e3
    for path in sorted((root / "sys/class/devfreq").glob("*")):
        value = _number(read(root, f"sys/class/devfreq/{path.name}/cur_freq"))
        if value is not None and GPU_CLOCK.search(path.name):
            found[path.name] = value / 1e6
    return found


def power_w(root: Path = Path("/")) -> float | None:
    """Watts that the whole board draws, by its INA3221; None where there is none.

    The rail of the input where there is one, otherwise the sum of all (JetPack 5 and later).
    None too while one of those cannot be read: half a sum is none.
    """
    rails: dict[str, float | None] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        folder = f"sys/class/hwmon/{chip.name}"
        if read(root, f"{folder}/name").strip() != "ina3221":
            continue
        for path in sorted((root / folder).glob("in*_label")):
            number = re.findall(r"\d+", path.name)[0]
            label = read(root, f"{folder}/in{number}_label").strip()
            volts = _number(read(root, f"{folder}/in{number}_input"))
            amperes = _number(read(root, f"{folder}/curr{number}_input"))
            if label in ("", "NC") or number == "7":  # the seventh sums up others
                continue
            rails[label] = None
            if volts is not None and amperes is not None:
                watts = volts * amperes / 1e6  # of millivolts and milliamperes
                rails[label] = watts if 0 <= watts < _MOST_W else None
    for name in _TOTAL_RAILS:
        if name in rails:
            return rails[name]
    known = [value for value in rails.values() if value is not None]
    return sum(known) if known and len(known) == len(rails) else None


def busy_s(root: Path = Path("/")) -> float | None:
    """Seconds of work of all cores together since the machine started."""
    found = re.match(r"cpu +([\d ]+)", read(root, "proc/stat"))
    if not found:
        return None
    user, nice, system, _idle, _waiting, *rest = map(int, found.group(1).split())
    return (user + nice + system + sum(rest[:2])) / 100  # in ticks of 10 ms


def _zones(root: Path) -> list[tuple[str, str]]:
    """Name and folder of each thermal zone."""
    folders = [
        f"sys/class/thermal/{path.name}"
        for path in sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    ]
    named = [(read(root, f"{at}/type").strip() or at.rpartition("/")[2], at) for at in folders]
    return [(name, at) for name, at in named if name not in _DUMMIES]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
