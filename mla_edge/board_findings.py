"""What ``doctor`` says of a board: what it is, and what stands in the way there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Iterator

from mla_edge.findings import MISSING, NOTE, OK, Finding
from mla_edge.profiles import load_profile

if TYPE_CHECKING:
    from mla_edge.board import Board
    from mla_edge.interpreter import Interpreter
    from mla_edge.profiles import DeviceProfile

# What building an engine takes beside the workspace: CUDA's context, TensorRT's libraries, the
# builder's own data and the network. An estimate: no board was at hand to measure it.
BUILDER_MB = 1536
_SWAP_FILE = "/mla-edge.swap"
_OWN_PROFILE = "write a profile of your own: see device_profiles/README.md"
_NEWER = f"use it as it is; to have export check for it, {_OWN_PROFILE}"
# Of the boards with JetPack 4 that have a later one, what NVIDIA's SDK Manager calls them.
_FLASH_TARGETS = {
    "agx-xavier": "JETSON_AGX_XAVIER_TARGETS",
    "xavier-nx": "JETSON_XAVIER_NX_TARGETS",
}
_FLASH = (
    "sdkmanager --cli --action install --login-type devzone --product Jetson --target-os Linux "
    "--version 5.1.5 --show-all-versions --target {target} --flash"
)


def board_findings(board: Board) -> Iterator[Finding]:
    """What the board is, and what of its system and its settings is wrong for us."""
    module = board.module or "module unknown"
    if board.profile is None:
        detail = f"{board.model} ({module}, {board.soc}): no profile fits it"
        yield Finding("board", "", NOTE, detail, _OWN_PROFILE)
        profile = None
    else:
        profile = load_profile(board.profile)
        detail = f"{profile.title}, {module}: profile {profile.name}"
        if profile.supported:
            yield Finding("board", "run", OK, detail)
        else:
            yield Finding("board", "run", MISSING, f"{detail}: {profile.unsupported_reason}")
    yield _jetpack(board, profile)
    if _is_jetpack_4(board):
        return
    yield _cuda(board)
    yield _tensorrt(board, profile)
    yield _memory(board, profile)
    yield _swap(board)
    yield _desktop(board)
    yield _power_mode(board)
    yield _clocks(board)


def board_python_findings(board: Board, python: Interpreter) -> Iterator[Finding]:
    """Whether ``python`` can use what JetPack brings: TensorRT, and GStreamer in OpenCV."""
    if _is_jetpack_4(board):
        return
    yield _environment(board, python)
    yield _tensorrt_in(board, python)
    if "pycuda" in python.packages:
        yield Finding("pycuda", "build", OK, python.packages["pycuda"])
    else:
        fix = f"{python.pip} install 'mla-edge[jetson]'"
        detail = "not in this Python; run works without"
        yield Finding("pycuda", "build", MISSING, detail, fix)
    yield _gstreamer(board, python)


def python_fits(board: Board, python: Interpreter) -> bool:
    """Whether ``python`` is, or stands on, the one that JetPack's packages belong to."""
    return python.of_system and board.system_python in (None, python.minor)


def environment_command(board: Board, python: Interpreter) -> str:
    """The command that makes an environment of the system's Python that sees its packages.

    One that stands on that Python is opened where it is and keeps what is in it.
    """
    folder = python.prefix if python.virtual else ".venv"
    version = board.system_python or "3"
    command = f"/usr/bin/python{version} -m venv --system-site-packages"
    if not board.python_venv:
        command = f"sudo apt-get install python{version}-venv && {command}"
    if python.virtual and python_fits(board, python):
        return f"{command} {folder}"
    clear = "--clear " if python.virtual else ""
    return f"{command} {clear}{folder} && {folder}/bin/pip install 'mla-edge[run]'"


def _jetpack(board: Board, profile: DeviceProfile | None) -> Finding:
    detail = f"JetPack {board.jetpack or 'unknown'} (L4T {board.l4t or 'unknown'})"
    if _is_jetpack_4(board):
        detail += " has Python 3.6 and TensorRT 8.2; mla-edge needs Python 3.8, TensorRT 8.5"
        if board.profile not in _FLASH_TARGETS:
            return Finding("jetpack", "run", MISSING, detail)
        detail += ": flash JetPack 5 from a PC, which erases the board"
        fix = _FLASH.format(target=_FLASH_TARGETS[board.profile])
        return Finding("jetpack", "run", MISSING, detail, fix)
    if profile is None or not _differs(board.jetpack, profile.jetpack):
        return Finding("jetpack", "", NOTE, detail)
    detail = f"warning: {detail}, but profile {profile.name} is for JetPack {profile.jetpack}"
    pairs = (
        ("Python", board.system_python, profile.python),
        ("CUDA", board.cuda, profile.cuda),
        ("TensorRT", board.tensorrt, profile.tensorrt),
    )
    others = [
        f"{what} {here}, not {wanted}" for what, here, wanted in pairs if _differs(here, wanted)
    ]
    if others:
        detail += f": here are {'; '.join(others)}"
    newer = _numbers(board.jetpack or "") > _numbers(profile.jetpack or "")
    return Finding("jetpack", "", NOTE, detail, _NEWER if newer else _OWN_PROFILE)


def _cuda(board: Board) -> Finding:
    if board.cuda is None:
        return Finding(
            "cuda", "build", MISSING, "not found", "sudo apt-get install nvidia-jetpack"
        )
    return Finding("cuda", "", NOTE, f"CUDA {board.cuda}")


def _tensorrt(board: Board, profile: DeviceProfile | None) -> Finding:
    if board.tensorrt is None:
        detail = "JetPack's is not there; run works without"
        return Finding(
            "tensorrt", "build", MISSING, detail, "sudo apt-get install nvidia-jetpack"
        )
    detail = f"TensorRT {board.tensorrt}"
    if board.tensorrt_python:
        detail += f", for Python {board.tensorrt_python}"
    if profile is None or not _differs(board.tensorrt, profile.tensorrt):
        return Finding("tensorrt", "", NOTE, detail)
    detail = f"warning: {detail}, but profile {profile.name} is for {profile.tensorrt}"
    newer = _numbers(board.tensorrt) > _numbers(profile.tensorrt or "")
    if newer:
        detail += (
            ": engines are built on the board, so a newer one is fine for that, but export "
            f"checked the operators against {profile.tensorrt}"
        )
    else:
        detail += ": it is older, and may refuse operators that export let pass"
    if board.dla_mhz_by_mode and not _has_dla(board):
        detail += "; it has no DLA for this board, so engines run on the GPU"
    return Finding("tensorrt", "", NOTE, detail, _NEWER if newer else _OWN_PROFILE)


def _memory(board: Board, profile: DeviceProfile | None) -> Finding:
    detail = f"{board.memory_mb or 'unknown'} MB"
    if board.memory_free_mb is None:
        return Finding("memory", "", NOTE, detail)
    detail = f"{board.memory_free_mb} of {detail} free"
    if profile is None or profile.workspace_mb is None:
        return Finding("memory", "", NOTE, detail)
    needed_mb = profile.workspace_mb + BUILDER_MB
    short_mb = needed_mb - board.memory_free_mb - (board.swap_mb or 0)
    if short_mb <= 0:
        return Finding("memory", "build", OK, detail)
    detail += (
        f" and {board.swap_mb or 0} MB of swap: to build an engine takes about {needed_mb} MB "
        f"({profile.workspace_mb} MB, the workspace_mb of profile {profile.name}, and "
        f"{BUILDER_MB} MB for CUDA and the builder)"
    )
    size_gb = max(4, -(-short_mb // 1024))
    fix = (
        f"sudo fallocate -l {size_gb}G {_SWAP_FILE} && sudo chmod 600 {_SWAP_FILE} && "
        f"sudo mkswap {_SWAP_FILE} && sudo swapon {_SWAP_FILE}"
    )
    return Finding("memory", "build", MISSING, detail, fix)


def _swap(board: Board) -> Finding:
    if board.swap_mb is None:
        return Finding("swap", "", NOTE, "unknown")
    if board.swap_mb == 0:
        return Finding("swap", "", NOTE, "none on a disk (zram lies in the same memory)")
    return Finding("swap", "", NOTE, f"{board.swap_mb} MB free on a disk")


def _desktop(board: Board) -> Finding:
    if board.desktop is None:
        return Finding("desktop", "", NOTE, "unknown")
    if not board.desktop:
        return Finding("desktop", "", OK, "not running")
    return Finding(
        "desktop",
        "",
        NOTE,
        "running: it holds memory, and time of the GPU",
        "sudo systemctl isolate multi-user.target",
    )


def _power_mode(board: Board) -> Finding:
    if board.power_mode is None:
        return Finding("power mode", "", NOTE, "unknown", "sudo nvpmodel -q")
    if board.dla_mhz is None or not _has_dla(board):
        return Finding("power mode", "", NOTE, board.power_mode)
    fastest = max(board.dla_mhz_by_mode, key=board.dla_mhz_by_mode.__getitem__)
    best_mhz = board.dla_mhz_by_mode[fastest]
    detail = f"{board.power_mode}: the DLA runs at up to {board.dla_mhz:g} MHz"
    if board.dla_mhz >= best_mhz / 2:
        return Finding("power mode", "", NOTE, detail)
    detail = (
        f"warning: {detail} only, {best_mhz:g} MHz in mode {board.power_modes[fastest]}: "
        "do not use this mode for DLA"
    )
    return Finding("power mode", "", NOTE, detail, f"sudo nvpmodel -m {fastest}")


def _clocks(board: Board) -> Finding:
    if board.clocks_fixed is None:
        return Finding("clocks", "", NOTE, "unknown", "sudo jetson_clocks --show")
    if board.clocks_fixed:
        return Finding("clocks", "", OK, "the GPU's is fixed")
    detail = "the GPU's is not fixed: fix them before a benchmark"
    return Finding("clocks", "", NOTE, detail, "sudo jetson_clocks")


def _environment(board: Board, python: Interpreter) -> Finding:
    if python.sees_system:
        where = python.prefix if python.virtual else "none; this is the system's Python"
        return Finding("virtual environment", "build", OK, where)
    if python.virtual:
        detail = f"{python.prefix} does not see the system's packages, such as TensorRT"
    else:
        detail = f"{python.prefix} is not the system's Python and does not see its packages"
    fix = environment_command(board, python)
    return Finding("virtual environment", "build", MISSING, detail, fix)


def _tensorrt_in(board: Board, python: Interpreter) -> Finding:
    name, needed_for = "tensorrt for Python", "build"
    own = [package for package in python.from_pip if _is_tensorrt(package)]
    if own:
        detail = (
            f"pip's {own[0]} {python.from_pip[own[0]]} hides JetPack's "
            f"{board.tensorrt or 'TensorRT'}, the only one made for this board"
        )
        fix = python.uninstall_command(own)
        return Finding(name, needed_for, MISSING, detail, fix)
    if board.tensorrt_python is None:
        detail = "JetPack's is not there; run works without"
        package = "python3-libnvinfer" if board.tensorrt else "nvidia-jetpack"
        return Finding(name, needed_for, MISSING, detail, f"sudo apt-get install {package}")
    if not python.sees_system or not python_fits(board, python):
        detail = f"JetPack's, for Python {board.tensorrt_python}, is not seen from this Python"
        fix = environment_command(board, python)
        return Finding(name, needed_for, MISSING, detail, fix)
    return Finding(name, needed_for, OK, f"JetPack's {board.tensorrt or ''}".strip())


def _gstreamer(board: Board, python: Interpreter) -> Finding:
    name, needed_for = "gstreamer", "CSI cameras"
    own = [package for package in python.from_pip if package.startswith("opencv-")]
    numpy = python.packages.get("numpy", "")
    fixes = []
    if not own and "opencv" in python.system_packages and _numbers(numpy) >= (2,):
        detail = f"JetPack's OpenCV was built for NumPy 1 and does not load with {numpy}"
    elif python.gstreamer:
        return Finding(name, needed_for, OK, "in OpenCV")
    else:
        detail = "no OpenCV with GStreamer in this Python"
        if own:
            detail = f"pip's {' and '.join(own)} has none, JetPack's OpenCV has"
        if board.opencv is None:
            fixes.append("sudo apt-get install libopencv-python")
        if not python.sees_system or not python_fits(board, python):
            fixes.append(environment_command(board, python))
        if own:
            fixes.append(python.uninstall_command(own))
    if _numbers(numpy) >= (2,):
        fixes.append(f"{python.pip} install 'numpy<2'")
    return Finding(
        name, needed_for, MISSING, f"{detail}; other cameras work", " && ".join(fixes)
    )


def _is_jetpack_4(board: Board) -> bool:
    return (board.l4t or "").startswith("32.")


def _is_tensorrt(package: str) -> bool:
    return re.match(r"tensorrt(-cu\d+)?(-bindings|-libs)?$", package) is not None


def _differs(version: str | None, wanted: str | None) -> bool:
    """Whether both are known and ``version`` is neither ``wanted`` nor a patch of it."""
    return bool(version and wanted and not f"{version}.".startswith(f"{wanted}."))


def _has_dla(board: Board) -> bool:
    """Whether TensorRT drives the accelerators: up to 10.7, and 11.4 on AGX Orin only."""
    numbers = _numbers(board.tensorrt or "")
    if numbers < (10, 8):
        return True
    return numbers >= (11, 4) and (board.profile or "").startswith("agx-orin")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
