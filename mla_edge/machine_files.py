"""What the files of a Linux machine, and of L4T, say under a ``root`` folder.

Nothing is read through a link that leads out of ``root``: there it would be this machine's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

# Programs that draw a desktop, as /proc/<pid>/comm names them (cut after 15 letters).
_DESKTOPS = {"Xorg", "Xwayland", "gnome-shell", "gdm-x-session", "lxsession", "xfce4-session"}
_HERE = Path("/")  # which no link leads out of
GPU_CLOCK = re.compile(r"gv11b|gp10b|ga10b|gb10b|gpu")  # of the folders in /sys/class/devfreq


def read(root: Path, name: str) -> str:
    """The text of the file ``name`` under ``root``; empty where it cannot be read."""
    path = root / name
    try:
        if root == _HERE:
            return path.read_text(encoding="utf-8", errors="replace")
        inside, found = root.resolve(), path.resolve()
        if inside != found and inside not in found.parents:
            return ""
        return found.read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        return ""


def fields(root: Path, name: str) -> list[str]:
    """The strings of a device tree property: they end in NUL."""
    return [field for field in read(root, name).split("\0") if field]


def nvidia_gpu(root: Path) -> str:
    """What NVIDIA's driver for PCs says of its GPUs and itself; empty where it is not there."""
    told = (root / "proc/driver/nvidia/gpus").glob("*/information")
    found = [re.search(r"^Model:\s*(.+?)\s*$", read(root, str(path.relative_to(root))), re.M)
             for path in sorted(told)]  # fmt: skip
    parts = [match.group(1) for match in found if match]
    release = re.search(
        r"Kernel Module.*?\s(\d[\d.]+)\s", read(root, "proc/driver/nvidia/version")
    )
    return ", ".join([*parts, *([f"driver {release.group(1)}"] if release else [])])


def packages(root: Path) -> dict[str, str]:
    """The Debian packages that are installed: versions by name."""
    found = {}
    for stanza in read(root, "var/lib/dpkg/status").split("\n\n"):
        entries = dict(re.findall(r"^(Package|Status|Version): (.*)$", stanza, re.MULTILINE))
        if entries.get("Status", "").endswith(" installed") and "Package" in entries:
            found[entries["Package"]] = entries.get("Version", "")
    return found


def memory_mb(root: Path, entry: str) -> int | None:
    """An entry of ``/proc/meminfo``, such as MemTotal."""
    found = re.search(rf"^{entry}:\s+(\d+) kB", read(root, "proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) // 1024 if found else None


def swap_mb(root: Path) -> int | None:
    """The swap that is free on disks; zram is not counted, for it lies in the same memory."""
    lines = read(root, "proc/swaps").splitlines()
    if not lines:
        return None
    rows = [line.split() for line in lines[1:]]
    free_kb = [int(row[2]) - int(row[3]) for row in rows if "zram" not in row[0]]
    return sum(free_kb) // 1024


def desktop(root: Path) -> bool | None:
    """Whether a desktop is running; None where no processes are shown."""
    names = {
        read(root, f"proc/{folder.name}/comm").strip()
        for folder in (root / "proc").glob("[0-9]*")
    }
    return bool(names & _DESKTOPS) if names else None


def clocks_fixed(root: Path) -> bool | None:
    """Whether the clock of the GPU is fixed, as ``jetson_clocks`` does; None: not known."""
    fixed = []
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        if GPU_CLOCK.search(folder.name):
            low, high = (
                read(root, f"sys/class/devfreq/{folder.name}/{end}_freq").strip()
                for end in ("min", "max")
            )
            if low and high:
                fixed.append(low == high)
    return all(fixed) if fixed else None


def loose_cpu_clocks(root: Path) -> dict[str, str]:
    """The cores whose clock follows what they have to do, and by which governor.

    A clock is fixed where its limits are one, as after ``jetson_clocks``, or its governor is
    ``performance``. Cores that do not say (a virtual machine's, one that is off) are left out.
    """
    loose = {}
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*")):
        low, high, governor = (
            read(root, f"sys/devices/system/cpu/{folder.name}/cpufreq/scaling_{what}").strip()
            for what in ("min_freq", "max_freq", "governor")
        )
        if low and high and governor and low != high and governor != "performance":
            loose[folder.name] = governor
    return loose


def l4t(root: Path) -> str | None:
    """The release of L4T, such as 35.4.1."""
    found = re.search(
        r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root, "etc/nv_tegra_release")
    )
    if not found:
        return None
    numbers = [found.group(1), *found.group(2).split(".")]
    return ".".join([*numbers, "0", "0"][:3])


def cuda(root: Path, installed: dict[str, str]) -> str | None:
    """The version of CUDA: of the toolkit, otherwise of the runtime's Debian package."""
    for folder in ("usr/local/cuda", *_newest_first(root, "usr/local", "cuda-*")):
        try:
            return str(json.loads(read(root, f"{folder}/version.json"))["cuda"]["version"])
        except (ValueError, KeyError, TypeError):
            pass
        found = re.search(r"CUDA Version ([\d.]+)", read(root, f"{folder}/version.txt"))
        if found:  # up to CUDA 10.2
            return found.group(1)
    for name in sorted(installed, reverse=True):
        found = re.match(r"cuda-cudart-(\d+)-(\d+)$", name)
        if found:
            return f"{found.group(1)}.{found.group(2)}"
    return None


def tensorrt(installed: dict[str, str]) -> str | None:
    """The version of the TensorRT that JetPack installed as Debian packages."""
    for name, version in installed.items():
        found = re.match(r"[\d.]+", version)
        if found and re.match(r"libnvinfer\d+$", name):
            return found.group()
    return None


def tensorrt_python(root: Path) -> str | None:
    """The Python, such as 3.8, that JetPack's TensorRT can be imported by."""
    for folder in _newest_first(root, "usr/lib", "python3.*"):
        if (root / folder / "dist-packages/tensorrt").is_dir():
            return folder.rpartition("python")[2]
    return None


def power_modes(root: Path) -> dict[int, str]:
    """The power modes that the board offers, names by number."""
    found = re.findall(
        r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>",
        read(root, "etc/nvpmodel.conf"),
        re.MULTILINE,
    )
    return {int(number): name for number, name in found}


def power_mode(root: Path) -> int | None:
    """The number of the power mode that was set last."""
    found = re.search(r"pmode:(\d+)", read(root, "var/lib/nvpmodel/status"))
    return int(found.group(1)) if found else None


def _newest_first(root: Path, folder: str, pattern: str) -> list[str]:
    """Folders whose names end in a version."""

    def version(name: str) -> list[int]:
        return [int(number) for number in re.findall(r"\d+", name)]

    names = [path.name for path in (root / folder).glob(pattern) if path.is_dir()]
    return [f"{folder}/{name}" for name in sorted(names, key=version, reverse=True)]
