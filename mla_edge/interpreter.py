"""Which Python is on a machine and what it sees: the one that runs, or one read from files."""

from __future__ import annotations

import importlib
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable

from mla_edge import machine_files

# Where people put an environment, under the root of another machine.
_ENVIRONMENTS = ("home/*/.venv", "home/*/*/.venv", "home/*/venv", "root/.venv", "opt/*/.venv")
_SYSTEM = re.compile(r"/usr/lib/python3[\d.]*/dist-packages$")  # what Debian packages fill


@dataclass(frozen=True)
class Interpreter:
    """A Python; packages are versions by name, lower case with hyphens."""

    version: str  # such as 3.8.10; of another machine's system only 3.8
    prefix: str  # its folder, as its own machine names it
    running: bool
    virtual: bool  # a virtual environment
    of_system: bool  # whether the system's Python is underneath
    sees_system: bool  # whether it imports what is installed as Debian packages
    pip_packages: dict[str, str]  # those that its own pip brought
    local_packages: dict[str, str]  # those of an open environment that the system's pip brought
    system_packages: dict[str, str]  # empty where it does not see them
    gstreamer: bool | None  # whether its OpenCV has it; None: not known, or no OpenCV

    @property
    def minor(self) -> str:
        """The version as TensorRT's packages tell it, such as 3.8."""
        return ".".join(self.version.split(".")[:2])

    @property
    def pip(self) -> str:
        """The command that installs into it."""
        if self.running:
            return "pip"
        return f"{self.prefix}/bin/pip" if self.virtual else f"python{self.minor} -m pip"

    @property
    def from_pip(self) -> dict[str, str]:
        """What pip brought, which hides what Debian packages did."""
        return {**self.local_packages, **self.pip_packages}

    @property
    def packages(self) -> dict[str, str]:
        """Everything that it sees, as it would import it."""
        return {**self.system_packages, **self.from_pip}

    def uninstall_command(self, packages: list[str]) -> str:
        """The command that removes ``packages`` of pip, each with the pip that brought it."""
        own = [name for name in packages if name in self.pip_packages]
        local = [name for name in packages if name in self.local_packages]
        commands = []
        if own:
            commands.append(f"{self.pip} uninstall -y {' '.join(own)}")
        if local:
            pip = f"/usr/bin/python{self.minor} -m pip"
            commands.append(f"sudo {pip} uninstall -y {' '.join(local)}")
        return " && ".join(commands)


def running_interpreter() -> Interpreter:
    """The Python that this runs in."""
    folders = [Path(entry) for entry in sys.path if entry]
    system = [folder for folder in folders if _SYSTEM.search(folder.as_posix())]
    others = [folder for folder in folders if folder not in system]
    own = others
    if sys.prefix != sys.base_prefix:
        own = [folder for folder in others if Path(sys.prefix) in folder.parents]
    installed = machine_files.packages(Path("/")) if system else {}
    return Interpreter(
        version=platform.python_version(),
        prefix=sys.prefix,
        running=True,
        virtual=sys.prefix != sys.base_prefix,
        of_system=sys.base_prefix == "/usr",
        sees_system=bool(system),
        pip_packages=_packages(own),
        local_packages=_packages(folder for folder in others if folder not in own),
        system_packages=_system_packages(system, installed),
        gstreamer=_running_gstreamer(),
    )


def find_interpreter(root: Path) -> Interpreter | None:
    """The Python on the machine whose files are under ``root``; None where none is found.

    An environment with mla-edge in it comes first, then any other, then the system's Python.
    Nothing is loaded. That an OpenCV has GStreamer is concluded from where it came from: pip's
    wheels have none, the packages of JetPack and of Ubuntu do.
    """
    found = [
        _environment(root, config.parent)
        for pattern in _ENVIRONMENTS
        for config in sorted(root.glob(f"{pattern}/pyvenv.cfg"))
    ]
    if found:
        return min(found, key=lambda python: "mla-edge" not in python.pip_packages)
    version = re.match(r"3\.\d+", machine_files.packages(root).get("python3", ""))
    return _read(root, version.group(), None, of_system=True, opened=True) if version else None


def has_gstreamer(build_information: str) -> bool | None:
    """What ``cv2.getBuildInformation()`` says of GStreamer."""
    found = re.search(r"^\s*GStreamer:\s+(YES|NO)", build_information, re.MULTILINE)
    return found.group(1) == "YES" if found else None


def _environment(root: Path, folder: Path) -> Interpreter:
    config = machine_files.read(root, (folder / "pyvenv.cfg").relative_to(root).as_posix())
    entries = dict(re.findall(r"^(\S+) *= *(.*?) *$", config, re.MULTILINE))
    return _read(
        root,
        entries.get("version") or entries.get("version_info") or "unknown",  # uv: the latter
        folder,
        of_system=entries.get("home") in ("/usr/bin", "/bin"),
        opened=entries.get("include-system-site-packages", "").lower() == "true",
    )


def _read(
    root: Path,
    version: str,
    environment: Path | None,
    *,
    of_system: bool,
    opened: bool,
) -> Interpreter:
    """The interpreter of an environment, otherwise the system's."""
    minor = ".".join(version.split(".")[:2])
    system: list[Path] = []
    local: list[Path] = []
    if of_system and opened:  # another Python has packages of its own there
        system = [root / f"usr/lib/python{name}/dist-packages" for name in (minor, "3")]
        local = sorted(root.glob(f"home/*/.local/lib/python{minor}/site-packages"))
        local += [root / f"usr/local/lib/python{minor}/dist-packages"]
    own = sorted(environment.glob("lib/python3*/site-packages")) if environment else local
    pip_packages = _packages(own)
    local_packages = _packages(local) if environment else {}
    system_packages = _system_packages(system, machine_files.packages(root))
    gstreamer = None
    if any(name.startswith("opencv-") for name in {**local_packages, **pip_packages}):
        gstreamer = False
    elif "opencv" in system_packages:
        gstreamer = True
    return Interpreter(
        version=version,
        prefix=f"/{environment.relative_to(root).as_posix()}" if environment else "/usr",
        running=False,
        virtual=environment is not None,
        of_system=of_system,
        sees_system=of_system and opened,
        pip_packages=pip_packages,
        local_packages=local_packages,
        system_packages=system_packages,
        gstreamer=gstreamer,
    )


def _packages(folders: Iterable[Path]) -> dict[str, str]:
    """What is installed in ``folders``, by what pip and Debian leave beside the modules."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.*-info")):
            entry = re.match(r"(.+?)-(\d[^-]*).*\.(?:dist|egg)-info$", path.name)
            if entry:
                name = re.sub(r"[-_.]+", "-", entry.group(1)).lower()
                found.setdefault(name, entry.group(2))
    return found


def _system_packages(folders: list[Path], installed: dict[str, str]) -> dict[str, str]:
    """Those in the system's ``folders``; OpenCV's Debian packages leave nothing beside it."""
    found = _packages(folders)
    if any(path for folder in folders for path in folder.glob("cv2*")):
        version = installed.get("libopencv-python") or installed.get("python3-opencv") or ""
        found["opencv"] = version.partition("-")[0].partition("+")[0] or "unknown version"
    return found


def _running_gstreamer() -> bool | None:
    try:
        information = getattr(importlib.import_module("cv2"), "getBuildInformation", None)
    except (ImportError, OSError):  # not there, or a library of it is missing
        return None
    return has_gstreamer(information()) if information else None
