"""What this machine has and lacks, and the command that puts each thing right."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from mla_edge import machine_files
from mla_edge.board import identify
from mla_edge.board_findings import (
    board_findings,
    board_python_findings,
    environment_command,
    python_fits,
)
from mla_edge.findings import MISSING, NOTE, OK, Finding
from mla_edge.interpreter import find_interpreter, running_interpreter

if TYPE_CHECKING:
    from mla_edge.board import Board
    from mla_edge.interpreter import Interpreter

# What run imports, and the package of each.
_RUN = {
    "onnxruntime": "onnxruntime",
    "cv2": "opencv-python-headless",
    "sounddevice": "sounddevice",
    "soxr": "soxr",
}
_EXPORT = {
    "torch": "torch",
    "onnx": "onnx",
    "onnxslim": "onnxslim",
    "torch_pruning": "torch-pruning",
    "safetensors": "safetensors",
    "jinja2": "jinja2",
}
_RTX = "tensorrt-rtx-cu12-bindings"
_OURS = "'mla-edge["
_WHEEL = (
    "no package index has mla-edge yet: in the command the path of the wheel that make wheel "
    "writes stands for it"
)


@dataclass(frozen=True)
class Diagnosis:
    """The board, if this is one, and every finding."""

    board: Board | None
    python_seen: bool  # whether there was a Python to look at
    findings: tuple[Finding, ...]

    @property
    def can_run(self) -> bool | None:
        """Whether ``mla-edge run`` has what it needs; None where no Python was looked at."""
        if any(f.needed_for == "run" and f.status == MISSING for f in self.findings):
            return False
        return True if self.python_seen else None


def diagnose(root: str | Path = "/", python: Interpreter | None = None) -> Diagnosis:
    """Look at the machine whose files are under ``root``, and at its Python.

    ``python`` is the one to look at: by default the one that runs, or, where ``root`` is of
    another machine, the one found there. Of another machine's Python nothing is loaded.
    """
    root = Path(root)
    if python is None:
        here = root.resolve() == Path("/")
        python = running_interpreter() if here else find_interpreter(root)
    board = identify(root)
    findings = [_python(python, board, root)]
    usable = None if python is None or _is_too_old(python) else python
    if usable:
        findings += _packages(usable, _RUN, "run")
        if board is None:  # a board runs what was exported elsewhere
            findings += _packages(usable, _EXPORT, "export")
        if not usable.running:  # else sounddevice was loaded, which tells
            findings.append(_portaudio(root))
    findings += board_findings(board) if board else _no_board(root, usable)
    if board and usable:
        findings += board_python_findings(board, usable)
    findings += [_cameras(root), _microphones(root)]
    return Diagnosis(board, python is not None, tuple(map(_with_wheel, findings)))


def _with_wheel(finding: Finding) -> Finding:
    """``finding``; where its command names mla-edge, with what to give pip in its place."""
    if _OURS not in finding.fix:
        return finding
    return dataclasses.replace(finding, detail=f"{finding.detail}; {_WHEEL}")


def _python(python: Interpreter | None, board: Board | None, root: Path) -> Finding:
    if python is None:
        detail = f"none found under {root}, so no packages were looked at"
        return Finding("python", "", NOTE, detail, "on that machine: mla-edge doctor")
    detail = f"{python.version} on {platform.machine()}"
    if not python.running:
        detail = f"{python.version} in {python.prefix}, read from its files: nothing was loaded"
    if _is_too_old(python):
        return Finding("python", "run", MISSING, f"{detail}; mla-edge needs 3.8 or later")
    if board is None or python_fits(board, python):
        return Finding("python", "run", OK, detail)
    detail += f"; what JetPack brings is for the system's Python {board.system_python or ''}"
    return Finding("python", "build", MISSING, detail, environment_command(board, python))


def _is_too_old(python: Interpreter) -> bool:
    numbers = [int(number) for number in re.findall(r"\d+", python.minor)]
    return bool(numbers) and numbers < [3, 8]


def _packages(
    python: Interpreter, packages: dict[str, str], needed_for: str
) -> Iterator[Finding]:
    for module, package in packages.items():
        if python.running and needed_for == "run":
            yield _imported(module, package)
        else:
            yield _package(python, module, package, needed_for)


def _package(python: Interpreter, module: str, package: str, needed_for: str) -> Finding:
    """A package that is only looked for, not loaded."""
    if python.running:
        found = "" if importlib.util.find_spec(module) is None else _version(package)
    elif module == "cv2":  # four packages bring it
        seen = python.packages
        found = next((v for name, v in seen.items() if name.split("-")[0] == "opencv"), "")
    else:
        found = python.packages.get(package, "")
    if found:
        return Finding(package, needed_for, OK, found)
    wanted = package if needed_for == "run" else f"'mla-edge[{needed_for}]'"
    fix = f"{python.pip} install {wanted}"
    return Finding(package, needed_for, MISSING, "not installed", fix)


def _imported(module: str, package: str) -> Finding:
    """A package that must really load: a missing system library shows only then."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return Finding(package, "run", MISSING, str(error), f"pip install {package}")
    except OSError as error:
        fix = f"pip install --force-reinstall {package}"
        if package == "sounddevice":  # which needs the system's PortAudio
            fix = "sudo apt-get install libportaudio2"
        return Finding(package, "run", MISSING, str(error), fix)
    except Exception as error:
        # Importing sounddevice starts PortAudio; the class of that failure cannot be imported.
        if type(error).__name__ != "PortAudioError":
            raise
        detail = f"the sound system does not start: {error}"
        fix = "arecord -l must list a microphone; check ~/.asoundrc and /etc/asound.conf"
        return Finding(package, "run", MISSING, detail, fix)
    return Finding(package, "run", OK, _version(package))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the system's own, such as JetPack's OpenCV
        return "installed"


def _portaudio(root: Path) -> Finding:
    """The library that sounddevice needs, as Debian installs it or built by hand."""
    installed = machine_files.packages(root).get("libportaudio2")
    built = [path for lib in ("usr/lib", "usr/local/lib") for path in _portaudios(root / lib)]
    if installed or built:
        return Finding("portaudio", "run", OK, installed or built[0].name)
    fix = "sudo apt-get install libportaudio2"
    return Finding("portaudio", "run", MISSING, "not installed", fix)


def _portaudios(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("libportaudio.so*"))
    yield from sorted(folder.glob("*/libportaudio.so*"))


def _no_board(root: Path, python: Interpreter | None) -> Iterator[Finding]:
    l4t = machine_files.l4t(root)
    if l4t or any(name.startswith("nvidia-l4t-") for name in machine_files.packages(root)):
        detail = (
            f"warning: L4T {l4t or ''} is installed, but nothing under {root} tells which "
            "board this is: a container hides /sys/firmware, and with it the device tree"
        )
        fix = (
            "docker run --runtime nvidia --security-opt systempaths=unconfined "
            "--volume /sys:/sys:ro …"
        )
        yield Finding("board", "", NOTE, detail, fix)
        return
    yield Finding("board", "", NOTE, "not a Jetson: graphs run in ONNX Runtime")
    if python is not None:
        yield _package(python, "tensorrt_rtx_bindings", _RTX, "tensorrt-check")


def _cameras(root: Path) -> Finding:
    found = sorted(path.name for path in (root / "dev").glob("video*"))
    if found:
        return Finding("camera", "", OK, ", ".join(f"/dev/{name}" for name in found))
    return Finding("camera", "", NOTE, "none", "plug one in, or use --camera sim://digits")


def _microphones(root: Path) -> Finding:
    devices = machine_files.read(root, "proc/asound/pcm").splitlines()
    found = [line.split(":")[1].strip() for line in devices if "capture" in line]
    if found:
        return Finding("microphone", "", OK, ", ".join(found))
    return Finding(
        "microphone", "", NOTE, "no sound card", "plug one in, or use --mic sim://digits"
    )
