"""Which Jetson this is, read from its files under a ``root`` folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Iterable

from mla_edge.profiles import all_profiles

if TYPE_CHECKING:
    from mla_edge.profiles import DeviceProfile, Module

# L4T release -> JetPack, from NVIDIA's release archive.
_JETPACKS = {
    "32.6.1": "4.6",
    "32.7.1": "4.6.1",
    "32.7.2": "4.6.2",
    "32.7.3": "4.6.3",
    "32.7.4": "4.6.4",
    "32.7.5": "4.6.5",
    "32.7.6": "4.6.6",
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "35.6.3": "5.1.5",
    "35.6.4": "5.1.6",
    "36.2.0": "6.0 DP",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2.0": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4.0": "7.1",
    "39.0.0": "7.2 EA",
    "39.2.0": "7.2",
}


@dataclass(frozen=True)
class Board:
    """A Jetson; what is None could not be read."""

    model: str
    soc: str
    module: str | None  # p-number
    profile: str | None
    l4t: str | None
    jetpack: str | None
    tensorrt: str | None
    memory_mb: int | None
    power_mode: str | None


def identify(root: str | Path = "/") -> Board | None:
    """The Jetson whose files are under ``root``, or None if it is no Jetson."""
    root = Path(root)
    tree = root / "proc/device-tree"
    compatible = _fields(tree / "compatible")
    soc = next((name[7:] for name in compatible if name.startswith("nvidia,tegra")), None)
    if soc is None:
        return None
    model = " ".join(_fields(root / "sys/firmware/devicetree/base/model"))
    memory_mb = _memory_mb(root)
    modes = _power_modes(root)
    numbers = list(_numbers([*_fields(tree / "nvidia,boardids"), *compatible]))
    profile, module = _match(soc, numbers, memory_mb, modes.values())
    l4t = _l4t(root)
    return Board(
        model=model or "unknown",
        soc=soc,
        module=module.number if module else next(iter(numbers), None),
        profile=profile.name if profile else None,
        l4t=l4t,
        jetpack=_JETPACKS.get(l4t) if l4t else None,
        tensorrt=_tensorrt(root),
        memory_mb=memory_mb,
        power_mode=_power_mode(root, modes),
    )


def _match(
    soc: str, numbers: list[str], memory_mb: int | None, modes: Iterable[str]
) -> tuple[DeviceProfile | None, Module | None]:
    """The profile and module: by p-number, otherwise by memory among those with this SoC.

    The model string is not used, for a carrier may report another module's. Two profiles with
    the same module (Super or not) are told apart by the power modes the board offers.
    """
    candidates = [
        (profile, module)
        for profile in all_profiles()
        if profile.soc == soc
        for module in profile.modules
    ]
    found = [pair for pair in candidates if pair[1].number in numbers]
    if not found and memory_mb is not None:
        # The kernel keeps some of the memory, so the module has the next size up.
        size = min(
            (m.memory_gb for _, m in candidates if m.memory_gb * 1024 >= memory_mb), default=0
        )
        found = [pair for pair in candidates if pair[1].memory_gb == size]
    if not found:
        return None, None
    offered = set(modes)

    def shared(pair: tuple[DeviceProfile, Module]) -> int:
        return len(offered & {mode.name for mode in pair[0].power_modes})

    return max(found, key=shared)


def _numbers(texts: Iterable[str]) -> Iterable[str]:
    """Every p-number that ``texts`` may mean, most trusted first.

    Boards write ``3448``, ``2888-0001``, ``3701:0000:300``, ``2888-0400-0004-…`` (with a
    revision between) or ``p3449-0000-b00+p3448-0000-b00`` (carrier first).
    """
    for text in texts:
        for part in reversed(text.split("+")):
            found = re.match(r"(?:nvidia,)?p?(\d{4})[-:](\d{4})(?:[-:](\d{4}))?", part)
            if found:
                family, first, second = found.groups()
                yield f"p{family}-{first}"
                if second:
                    yield f"p{family}-{second}"


def _memory_mb(root: Path) -> int | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) // 1024 if found else None


def _l4t(root: Path) -> str | None:
    found = re.search(
        r"R(\d+) \(release\), REVISION: ([\d.]+)", _read(root / "etc/nv_tegra_release")
    )
    if not found:
        return None
    numbers = [found.group(1), *found.group(2).split(".")]
    return ".".join([*numbers, "0", "0"][:3])


def _tensorrt(root: Path) -> str | None:
    """The version of the TensorRT that JetPack installed as Debian packages."""
    for package in _read(root / "var/lib/dpkg/status").split("\n\n"):
        if re.search(r"^Package: libnvinfer\d+$", package, re.MULTILINE):
            found = re.search(r"^Version: ([\d.]+)", package, re.MULTILINE)
            return found.group(1) if found else None
    return None


def _power_modes(root: Path) -> dict[int, str]:
    """The power modes that the board offers, names by number."""
    found = re.findall(
        r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>",
        _read(root / "etc/nvpmodel.conf"),
        re.MULTILINE,
    )
    return {int(number): name for number, name in found}


def _power_mode(root: Path, modes: dict[int, str]) -> str | None:
    found = re.search(r"pmode:(\d+)", _read(root / "var/lib/nvpmodel/status"))
    if not found:
        return None
    number = int(found.group(1))
    return f"{number} {modes[number]}" if number in modes else str(number)


def _fields(path: Path) -> list[str]:
    """The strings of a device tree property: they end in NUL."""
    return [field for field in _read(path).split("\0") if field]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
