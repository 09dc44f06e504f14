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
    from mla_edge.profiles import DeviceProfile

OK, MISSING, NOTE = "ok", "missing", "note"
_OWN_PROFILE = "write a profile of your own: see device_profiles/README.md"

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
    needed_for: str  # an extra; empty where it is only said
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


def _installed(module: str, package: str, needed_for: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        fix = f"pip install 'mla-edge[{needed_for}]'"
        return Finding(package, needed_for, MISSING, "not installed", fix)
    return Finding(package, needed_for, OK, _version(package))


def _later(module: str, package: str, fix: str) -> Finding:
    """A package that engines will need, and that run does not need yet."""
    if importlib.util.find_spec(module) is None:
        return Finding(package, "", NOTE, "not in this Python; run does not need it yet", fix)
    return Finding(package, "", OK, _version(package))


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
            _OWN_PROFILE,
        )
        yield _jetpack(board, None)
        yield _tensorrt(board, None)
        return
    profile = load_profile(board.profile)
    detail = f"{profile.title}, {module}: profile {profile.name}"
    if profile.supported:
        yield Finding("board", "run", OK, detail)
    else:
        yield Finding("board", "run", MISSING, f"{detail}: {profile.unsupported_reason}")
    yield _jetpack(board, profile)
    yield Finding("memory", "", NOTE, f"{board.memory_mb or 'unknown'} MB")
    yield Finding("power mode", "", NOTE, board.power_mode or "unknown", "sudo nvpmodel -q")
    yield _tensorrt(board, profile)
    # TensorRT comes with JetPack for the system's Python, not from a package index.
    system = f"python{profile.python} -m venv --system-site-packages .venv"
    yield _later("tensorrt", "tensorrt for Python", system)
    yield _later("pycuda", "pycuda", "pip install 'mla-edge[jetson]'")


def _jetpack(board: Board, profile: DeviceProfile | None) -> Finding:
    detail = f"JetPack {board.jetpack or 'unknown'} (L4T {board.l4t or 'unknown'})"
    if profile and _differs(board.jetpack, profile.jetpack):
        detail = (
            f"warning: {detail}, but profile {profile.name} is for JetPack {profile.jetpack}"
        )
        return Finding("jetpack", "", NOTE, detail, _OWN_PROFILE)
    return Finding("jetpack", "", NOTE, detail)


def _tensorrt(board: Board, profile: DeviceProfile | None) -> Finding:
    if board.tensorrt is None:
        detail = "JetPack's is not there; run does not need it yet"
        return Finding("tensorrt", "", NOTE, detail, "sudo apt-get install nvidia-jetpack")
    detail = f"TensorRT {board.tensorrt}"
    if profile and _differs(board.tensorrt, profile.tensorrt):
        detail = f"warning: {detail}, but profile {profile.name} is for {profile.tensorrt}"
        return Finding("tensorrt", "", NOTE, detail, _OWN_PROFILE)
    return Finding("tensorrt", "", NOTE, detail)


def _differs(version: str | None, wanted: str | None) -> bool:
    """Whether both are known and ``version`` is neither ``wanted`` nor a patch of it."""
    return bool(version and wanted and not f"{version}.".startswith(f"{wanted}."))


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
