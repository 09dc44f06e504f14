"""For what an engine was built: ``<tier>.json`` beside ``<tier>.plan``.

Engines are native code for one GPU and one TensorRT, and TensorRT says little when they do not
fit. So the machine is compared with the sidecar before a plan is loaded. Nothing is ever
written into a plan.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Mapping

from mla_edge.bundle import Bundle, write_atomically
from mla_edge.errors import BundleError, EngineMismatch

FOLDER = "engines"
FORMAT = 1
_TEXTS = ("tier", "graph", "onnx_sha256", "plan_sha256")


@dataclass(frozen=True)
class Target:
    """The machine that engines are for; None is what could not be read, and is not compared."""

    flavour: str  # tensorrt or rtx
    tensorrt: str  # with its patch
    sm: int | None  # None for RTX: its engines are for every RTX GPU
    sm_count: int | None
    gpu: str | None
    module: str | None  # a Jetson's p-number
    power_mode: str | None  # noted: another one changes speed, not whether it loads

    @property
    def key(self) -> str:
        """The name of the folder of engines for it."""
        if self.flavour == "rtx":
            return f"rtx{self.tensorrt}"
        return f"sm{self.sm}-trt{self.tensorrt}"


@dataclass(frozen=True)
class Sidecar:
    """What one plan was built from and for."""

    tier: str
    target: Target
    graph: str  # in the bundle
    onnx_sha256: str
    plan_sha256: str
    build: Mapping[str, Any]  # how it was built: typing, flags, seconds, warnings


def plan_path(bundle: Bundle, key: str, tier: str) -> Path:
    """Where the engine of ``tier`` for the machine ``key`` is, or would be."""
    return bundle.folder / FOLDER / key / f"{tier}.plan"


def write_sidecar(plan: Path, sidecar: Sidecar) -> None:
    """Write ``sidecar`` beside ``plan``."""
    text = json.dumps({"format": FORMAT, **asdict(sidecar)}, indent=2, sort_keys=True)
    write_atomically(plan.with_suffix(".json"), (text + "\n").encode())


def read_sidecar(plan: Path) -> Sidecar:
    """The sidecar of ``plan``; BundleError where it is missing or damaged."""
    path = plan.with_suffix(".json")
    again = f"build it again: mla-edge build {plan.parents[2]}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise BundleError(
                f"{path}: format {found['format']!r}, this version reads {FORMAT}", hint=again
            )
        target = Target(**{field.name: found["target"][field.name] for field in fields(Target)})
        texts = {name: str(found[name]) for name in _TEXTS}
        return Sidecar(target=target, build=dict(found["build"]), **texts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: cannot be read: {error!r}", hint=again) from error


def check_sidecar(bundle: Bundle, plan: Path, sidecar: Sidecar, here: Target) -> None:
    """EngineMismatch, with everything that differs, unless ``plan`` is for ``here``.

    Its graph must be the bundle's. The power mode may differ: it changes how fast the engine
    is, not whether it runs.
    """
    there = sidecar.target
    rows = (
        ("TensorRT", f"{there.flavour} {there.tensorrt}", f"{here.flavour} {here.tensorrt}"),
        ("compute capability", there.sm, here.sm),
        ("multiprocessors", there.sm_count, here.sm_count),
        ("module", there.module, here.module),
        ("graph", sidecar.onnx_sha256[:12], bundle.files.get(sidecar.graph, "none")[:12]),
    )
    differs = [
        f"{what} {built}, here {found}"
        for what, built, found in rows
        if built is not None and found is not None and built != found
    ]
    if differs:
        raise EngineMismatch(
            f"{plan}: the engine was built for another machine or graph: {'; '.join(differs)}",
            hint=f"build it on this machine: mla-edge build {plan.parents[2]}",
        )
