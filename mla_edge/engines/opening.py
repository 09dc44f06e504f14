"""Choose what runs the tiers of a bundle on this machine, and open it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

from mla_edge.bundle import Bundle, RouterPolicy, read_policy
from mla_edge.engines import Engine, open_engine, saturation
from mla_edge.engines.sidecar import FOLDER, check_sidecar, plan_path, read_sidecar
from mla_edge.errors import (
    BundleError,
    ConfigError,
    EngineMismatch,
    InferenceError,
    MissingDependency,
)

if TYPE_CHECKING:
    from mla_edge.engines.bindings import Bindings

ENGINES = ("auto", "onnxruntime", "tensorrt", "ort-tensorrt", "ort-cuda")
BUILD = "build.json"  # in the folder of one machine's engines: the verdict, the policy


@dataclass(frozen=True)
class Opened:
    """An engine for each tier, in words what they are, and how to route between them.

    Also one for each input that is asked alone, where such a graph runs.
    """

    engines: Mapping[str, Engine]
    title: str
    policy: RouterPolicy
    note: str = ""  # why not TensorRT, where there are engines for it; what may go wrong here
    key: str = ""  # of the machine, where they are TensorRT's


def open_tiers(bundle: Bundle, *, engine: str = "auto", threads: int = 0) -> Opened:
    """Open every tier of ``bundle`` with ``engine``, one of ``ENGINES``.

    ``auto`` takes the TensorRT engines that were built on this machine, otherwise ONNX Runtime
    on the processor, and says why. ConfigError: unknown. MissingDependency: not installed.
    EngineMismatch: asked for TensorRT, and no engine was built for this machine.
    """
    if engine not in ENGINES:
        raise ConfigError(
            f"no engine is called {engine!r}", hint=f"one of {', '.join(ENGINES)}"
        )
    if engine == "tensorrt":
        return _open_tensorrt(bundle)
    if engine in ("ort-tensorrt", "ort-cuda"):
        return _open_provider(bundle, engine[4:], threads)
    notes = []
    if engine == "auto" and machines(bundle):
        try:
            return _open_tensorrt(bundle)
        except (MissingDependency, EngineMismatch, InferenceError) as error:
            notes.append(f"the bundle's TensorRT engines are not used: {error} ({error.hint})")
    names = [*(tier.name for tier in bundle.tiers), *bundle.solos]
    opened = _open_all(
        names, lambda tier: open_engine(bundle.graph(tier, cpu=True), threads=threads)
    )
    notes += saturation.warnings(bundle)
    return Opened(opened, "ONNX Runtime", bundle.policy, "\n".join(notes))


def read_build(bundle: Bundle, key: str) -> dict[str, Any]:
    """What ``build`` recorded of the engines of the machine ``key``."""
    path = bundle.folder / FOLDER / key / BUILD
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(
            f"{path}: cannot be read: {error}", hint=f"mla-edge build {bundle.folder}"
        ) from error


def machines(bundle: Bundle) -> list[str]:
    """The keys of the machines that ``bundle`` has engines for."""
    names = {Path(name).parts for name in bundle.files}
    return sorted({parts[1] for parts in names if parts[0] == FOLDER and len(parts) == 3})


def _open_tensorrt(bundle: Bundle) -> Opened:
    from mla_edge.engines.bindings import load_bindings

    keys = machines(bundle)
    if not keys:
        raise EngineMismatch(
            f"{bundle.folder}: has no TensorRT engine",
            hint=f"build them on this machine: mla-edge build {bundle.folder}",
        )
    bindings = load_bindings("rtx" if all(k.startswith("rtx") for k in keys) else "tensorrt")
    key = _matching(bundle, bindings, keys)
    built = read_build(bundle, key)
    policy = read_policy(built["policy"]) if built.get("policy") else bundle.policy
    engines = _open_plans(bundle, bindings, key)
    return Opened(engines, f"{bindings.title}, {key}", policy, key=key)


def _matching(bundle: Bundle, bindings: Bindings, keys: list[str]) -> str:
    """The key of this machine, after comparing every tier's sidecar; EngineMismatch if none."""
    from mla_edge.engines.target import describe_target

    here = describe_target(bindings)
    if here.key not in keys:
        raise EngineMismatch(
            f"{bundle.folder}: its engines are for {', '.join(keys)}; "
            f"this machine is {here.key}",
            hint=f"build them on this machine: mla-edge build {bundle.folder}",
        )
    for tier in bundle.tiers:
        plan = plan_path(bundle, here.key, tier.name)
        check_sidecar(bundle, plan, read_sidecar(plan), here)
    return here.key


def _open_plans(bundle: Bundle, bindings: Bindings, key: str) -> dict[str, Engine]:
    from mla_edge.engines.cuda import hold_gpu
    from mla_edge.engines.trt import TensorRTEngine

    gpu = hold_gpu()  # for as long as engines are being opened
    try:
        return _open_all(
            [tier.name for tier in bundle.tiers],
            lambda tier: TensorRTEngine(plan_path(bundle, key, tier), bindings, gpu),
        )
    finally:
        gpu.release()


def _open_provider(bundle: Bundle, provider: str, threads: int) -> Opened:
    from mla_edge.engines.ort import PROVIDERS, OnnxRuntimeEngine

    def open_one(tier: str) -> Engine:
        graph = bundle.graph(tier, cpu=False)  # symmetric INT8, as the GPU wants it
        return OnnxRuntimeEngine(graph, threads=threads, provider=provider)

    engines = _open_all([tier.name for tier in bundle.tiers], open_one)
    return Opened(engines, f"ONNX Runtime, {PROVIDERS[provider]}", bundle.policy)


def _open_all(names: Sequence[str], open_one: Callable[[str], Engine]) -> dict[str, Engine]:
    """An engine for each graph; where one fails, the others are closed."""
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for name in names:
            engines[name] = open_one(name)
            stack.callback(engines[name].close)
        stack.pop_all()
        return engines
