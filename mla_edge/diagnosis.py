"""What this machine has and lacks, and the command that puts each thing right."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from mla_edge.board import identify
from mla_edge.profiles import load_profile

if TYPE_CHECKING:
    from mla_edge.board import Board

OK, MISSING, NOTE = "ok", "missing", "note"

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


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``fix`` is the command, or the advice, that mends it."""

    name: str
    needed_for: str  # an extra, or "tensorrt"; empty where it is only said
    status: str  # OK, MISSING or NOTE
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The board, if this is one, and every finding."""

    board: Board | None
    findings: tuple[Finding, ...]

    @property
    def can_run(self) -> bool:
        """Whether ``mla-edge run`` has what it needs."""
        return not any(f.needed_for == "run" and f.status == MISSING for f in self.findings)


def diagnose(root: str | Path = "/") -> Diagnosis:
    """Look at this Python and at the machine whose files are under ``root``."""
    root = Path(root)
    board = identify(root)
    findings = [
        Finding("python", "run", OK, f"{platform.python_version()} on {platform.machine()}"),
        *(_imported(module, package) for module, package in _RUN.items()),
        *(_installed(module, package, "export") for module, package in _EXPORT.items()),
        *(_of_board(board) if board else _of_workstation()),
        _cameras(root),
        _microphones(root),
    ]
    return Diagnosis(board, tuple(findings))


def _imported(module: str, package: str) -> Finding:
    """A package that must really load: a missing system library shows only then."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        return Finding(package, "run", MISSING, str(error), f"pip install {package}")
    except OSError as error:  # sounddevice without PortAudio
        fix = "sudo apt-get install libportaudio2"
        return Finding(package, "run", MISSING, str(error), fix)
    return Finding(package, "run", OK, _version(package))


def _installed(module: str, package: str, needed_for: str, fix: str = "") -> Finding:
    if importlib.util.find_spec(module) is None:
        extra = "jetson" if package == "pycuda" else needed_for
        fix = fix or f"pip install 'mla-edge[{extra}]'"
        return Finding(package, needed_for, MISSING, "not installed", fix)
    return Finding(package, needed_for, OK, _version(package))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the system's own, such as JetPack's OpenCV
        return "installed"


def _of_workstation() -> Iterator[Finding]:
    yield Finding("board", "", NOTE, "not a Jetson: graphs run in ONNX Runtime")
    yield _installed("tensorrt_rtx_bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-check")


def _of_board(board: Board) -> Iterator[Finding]:
    module = board.module or "module unknown"
    if board.profile is None:
        yield Finding(
            "board",
            "",
            NOTE,
            f"{board.model} ({module}, {board.soc}): no profile fits it",
            "write a profile of your own: see device_profiles/README.md",
        )
        return
    profile = load_profile(board.profile)
    detail = f"{profile.title}, {module}: profile {profile.name}"
    if profile.supported:
        yield Finding("board", "run", OK, detail)
    else:
        yield Finding("board", "run", MISSING, f"{detail}: {profile.unsupported_reason}")
    jetpack = f"JetPack {board.jetpack or 'unknown'} (L4T {board.l4t or 'unknown'})"
    yield Finding("jetpack", "", NOTE, jetpack)
    yield Finding("memory", "", NOTE, f"{board.memory_mb or 'unknown'} MB")
    yield Finding("power mode", "", NOTE, board.power_mode or "unknown", "sudo nvpmodel -q")
    if board.tensorrt is None:
        fix = "sudo apt-get install nvidia-jetpack"
        yield Finding("tensorrt", "tensorrt", MISSING, "JetPack's TensorRT is not there", fix)
        return
    yield _installed(
        "tensorrt",
        "tensorrt",
        "tensorrt",
        # TensorRT comes with JetPack for the system's Python, not from a package index.
        f"python{profile.python} -m venv --system-site-packages .venv",
    )
    yield _installed("pycuda", "pycuda", "tensorrt")


def _cameras(root: Path) -> Finding:
    found = sorted(path.name for path in (root / "dev").glob("video*"))
    if found:
        return Finding("camera", "", OK, ", ".join(f"/dev/{name}" for name in found))
    return Finding("camera", "", NOTE, "none", "plug one in, or use --camera sim://digits")


def _microphones(root: Path) -> Finding:
    try:
        devices = (root / "proc/asound/pcm").read_text(encoding="utf-8").splitlines()
    except OSError:
        devices = []
    found = [line.split(":")[1].strip() for line in devices if "capture" in line]
    if found:
        return Finding("microphone", "", OK, ", ".join(found))
    return Finding(
        "microphone", "", NOTE, "no sound card", "plug one in, or use --mic sim://digits"
    )
