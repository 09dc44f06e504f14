"""``profiles`` and ``doctor``: what mla-edge knows of boards, and of this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Optional

import typer
from typing_extensions import Annotated

from mla_edge.diagnosis import diagnose
from mla_edge.errors import MissingDependency
from mla_edge.findings import MISSING, NOTE, OK
from mla_edge.profiles import DeviceProfile, all_profiles, load_profile

_MARKS = {OK: "ok", MISSING: "--", NOTE: "  "}


def profiles(
    name: Annotated[
        Optional[str], typer.Argument(help="Show only this one: a name, or a .toml file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the devices that can be exported for."""
    chosen = all_profiles() if name is None else [load_profile(name)]
    if as_json:
        typer.echo(json.dumps([asdict(profile) for profile in chosen], indent=2))
    elif name is None:
        row = "{:<16}{:<32}{:<10}{:<10}{}"
        typer.echo(row.format("NAME", "DEVICE", "TENSORRT", "JETPACK", "PRECISIONS"))
        for profile in chosen:
            precisions = " ".join(profile.precisions) if profile.supported else "not supported"
            tensorrt, jetpack = profile.tensorrt or "-", profile.jetpack or "-"
            typer.echo(row.format(profile.name, profile.title, tensorrt, jetpack, precisions))
    else:
        typer.echo("\n".join(_describe(chosen[0])))


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    root: Annotated[
        Path, typer.Option(help="Look at the machine whose files are here.")
    ] = Path("/"),
) -> None:
    """Say what is installed, what is missing, and the command that fixes it.

    With `--root` nothing of this machine is said: the Python is the one among those files.
    Exits with 3 if `run` lacks something it needs, otherwise with 0.
    """
    diagnosis = diagnose(root)
    shown = {"can_run": diagnosis.can_run, **asdict(diagnosis)}
    lacking = diagnosis.can_run is False
    if as_json and not lacking:
        typer.echo(json.dumps(shown, indent=2))
    elif not as_json:
        for finding in diagnosis.findings:
            purpose = f" (for {finding.needed_for})" if finding.needed_for else ""
            mark = _MARKS[finding.status]
            typer.echo(f"{mark} {finding.name}{purpose}: {finding.detail}")
            if finding.status != OK and finding.fix:
                typer.echo(f"     {finding.fix}")
    if lacking:
        problem = MissingDependency(
            "`mla-edge run` cannot work here yet",
            hint="run the commands above, then `mla-edge doctor` again",
        )
        problem.details.update(shown)
        raise problem


def _describe(profile: DeviceProfile) -> "list[str]":
    def known(value: object) -> str:
        if value is None:
            return "unknown"
        return f"{value:g}" if isinstance(value, float) else str(value)

    lines = [
        f"{profile.name}: {profile.title}",
        *([f"  not supported: {profile.unsupported_reason}"] if not profile.supported else []),
        f"  TensorRT {profile.tensorrt or 'none'}, ONNX opset {known(profile.opset)}",
        f"  precisions: {' '.join(profile.precisions)}",
    ]
    if profile.jetpack:
        lines.append(
            f"  JetPack {profile.jetpack}: Python {profile.python}, CUDA {profile.cuda}, "
            f"compute capability {profile.sm}"
        )
    for module in profile.modules:
        lines.append(
            f"  module {module.number}: {module.memory_gb} GB, {module.sm_count} SM, "
            f"{module.dla_cores} DLA"
        )
    for mode in profile.power_modes:
        only = f", {mode.memory_gb} GB module" if mode.memory_gb else ""
        default = ", default" if mode.default else ""
        lines.append(
            f"  power mode {mode.id} {mode.name}: {known(mode.watts)} W, "
            f"GPU {known(mode.gpu_mhz)} MHz, {known(mode.cpu_cores)} cores{only}{default}"
        )
    return lines
