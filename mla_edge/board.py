"""Which Jetson this is, read from its files under a ``root`` folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Iterable

from mla_edge import machine_files
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
    "39.2.1": "7.2.1",
}
_PYTHONS = {"4": "3.6", "5": "3.8", "6": "3.10", "7": "3.12"}  # of JetPack's Ubuntu


@dataclass(frozen=True)
class Board:
    """A Jetson; what is None could not be read."""

    model: str
    soc: str
    module: str | None  # p-number
    profile: str | None
    l4t: str | None
    jetpack: str | None
    cuda: str | None
    tensorrt: str | None
    tensorrt_python: str | None  # the one that can import JetPack's TensorRT, such as 3.8
    opencv: str | None  # JetPack's, for Python
    python_venv: bool  # whether the system's Python can make environments: python3.X-venv
    memory_mb: int | None
    memory_free_mb: int | None  # what the kernel calls available
    swap_mb: int | None  # free, on disks
    desktop: bool | None
    power_mode: str | None  # number and name
    power_modes: dict[int, str]  # on offer, names by number
    dla_mhz: float | None  # in this power mode, from the profile
    dla_mhz_by_mode: dict[int, float]  # in those on offer; empty where there is no DLA
    clocks_fixed: bool | None

    @property
    def system_python(self) -> str | None:
        """The Python of the system, to which JetPack's packages belong."""
        major = (self.jetpack or "").partition(".")[0]
        return self.tensorrt_python or _PYTHONS.get(major)


def identify(root: str | Path = "/") -> Board | None:
    """The Jetson whose files are under ``root``, or None if it is no Jetson."""
    root = Path(root)
    compatible = machine_files.fields(root, "proc/device-tree/compatible")
    soc = next((name[7:] for name in compatible if name.startswith("nvidia,tegra")), None)
    if soc is None:
        return None
    model = machine_files.fields(root, "sys/firmware/devicetree/base/model")
    boardids = machine_files.fields(root, "proc/device-tree/nvidia,boardids")
    installed = machine_files.packages(root)
    memory_mb = machine_files.memory_mb(root, "MemTotal")
    modes, mode = machine_files.power_modes(root), machine_files.power_mode(root)
    numbers = list(_numbers([*boardids, *compatible]))
    profile, module = _match(soc, numbers, memory_mb, modes.values())
    dla_mhz = _dla_mhz(profile, module, modes)
    l4t = machine_files.l4t(root)
    return Board(
        model=" ".join(model) or "unknown",
        soc=soc,
        module=module.number if module else next(iter(numbers), None),
        profile=profile.name if profile else None,
        l4t=l4t,
        jetpack=_jetpack(l4t, installed),
        cuda=machine_files.cuda(root, installed),
        tensorrt=machine_files.tensorrt(installed),
        tensorrt_python=machine_files.tensorrt_python(root),
        opencv=installed.get("libopencv-python"),
        python_venv=any(re.match(r"python3\.\d+-venv$", name) for name in installed),
        memory_mb=memory_mb,
        memory_free_mb=machine_files.memory_mb(root, "MemAvailable"),
        swap_mb=machine_files.swap_mb(root),
        desktop=machine_files.desktop(root),
        power_mode=None if mode is None else f"{mode} {modes.get(mode, '')}".strip(),
        power_modes=modes,
        dla_mhz=None if mode is None else dla_mhz.get(mode),
        dla_mhz_by_mode=dla_mhz,
        clocks_fixed=machine_files.clocks_fixed(root),
    )


def _jetpack(l4t: str | None, installed: dict[str, str]) -> str | None:
    """JetPack by its L4T, or, where that is not listed, by the package that brings the rest."""
    if l4t in _JETPACKS:
        return _JETPACKS[l4t]
    found = re.match(r"[\d.]+", installed.get("nvidia-jetpack", ""))
    return found.group() if found else None


def _dla_mhz(
    profile: DeviceProfile | None, module: Module | None, modes: dict[int, str]
) -> dict[int, float]:
    """The clock of the accelerators in each power mode on offer, by its number here.

    Modes are matched by name, for their numbers change with JetPack.
    """
    if profile is None or module is None or not module.dla_cores:
        return {}
    known = {
        mode.name: mode.dla_mhz
        for mode in profile.power_modes
        if mode.dla_mhz is not None and mode.memory_gb in (None, module.memory_gb)
    }
    return {number: known[name] for number, name in modes.items() if name in known}


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
