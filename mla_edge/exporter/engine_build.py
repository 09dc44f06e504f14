"""Build one engine from one ONNX graph, with whatever TensorRT is here: 8.5 to 11, and RTX.

Needs numpy and TensorRT, and runs on Python 3.8. ``python -m mla_edge.exporter.engine_build``
is how `engine_process` calls it: a build may take minutes, hold much memory and be killed for
it, so it has a process of its own.

Typing follows what the builder offers and what the graph says. A graph that carries its types
(FP16), and every graph where the flags for INT8 and FP16 are gone (TensorRT 11, RTX), is built
strongly typed. A float graph with Q/DQ is built weakly typed where that exists, with FP16 for
all that is not INT8: strongly typed it would run the rest in FP32. Where it does not exist, the
export writes FP16 beside the Q/DQ (opset 19).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable, TypeVar

from mla_edge.engines.bindings import Bindings, load_bindings
from mla_edge.errors import ExportError, MlaEdgeError

OnPhase = Callable[[str, float], None]
"""Told the phase that runs and the share of it that is done, 0 to 1."""

_Value = TypeVar("_Value", "BuildSpec", "EngineBuild")

MIN_WORKSPACE_MB = 64
_PR_SET_PDEATHSIG = 1
# Sums and exponentials lose too much in FP16; so do the modules that a network marks.
_FLOAT_LAYERS = ("REDUCE", "SOFTMAX", "UNARY", "NORMALIZATION")


@dataclass(frozen=True)
class BuildSpec:
    """How to build one graph."""

    graph: str
    precision: str = "fp32"  # of the recipe: fp32, fp16 or int8
    carries_types: bool = False  # the graph is in FP16 where it is to run in FP16
    float_layers: tuple[str, ...] = ()  # nodes that stay FP32
    workspace_mb: int = 1024
    optimisation_level: int | None = None
    timing_cache: str | None = None  # file, read if there, written after the build
    capabilities: tuple[str, ...] = ()  # of RTX: SM86, …; empty takes the GPU that is here
    sparse: bool = False  # half of the weights are zero, 2:4
    dla: bool = False
    calibration_cache: str | None = None  # file, for a DLA that takes no Q/DQ


@dataclass(frozen=True)
class EngineBuild:
    """What a build gave beside the plan itself."""

    tensorrt: str
    typing: str  # strong or weak
    flags: tuple[str, ...]
    layers: int  # of the network, before fusion
    seconds: float
    phases: dict[str, float]  # seconds of each; empty where TensorRT reports none
    workspace_mb: int
    plan_bytes: int
    warnings: tuple[str, ...]
    optimisation_level: int | None = None  # that was asked for
    dla: bool = False
    held_float: tuple[str, ...] = field(default=())  # layers that were told to stay FP32


def build_engine(
    bindings: Bindings, spec: BuildSpec, on_phase: OnPhase | None = None
) -> tuple[bytes, EngineBuild]:
    """The serialized engine of ``spec.graph``, and what there is to say of its build.

    ExportError names what TensorRT refused: the node with its operator, or the builder's own
    last error, and says what to do.
    """
    trt = bindings.trt
    began = time.monotonic()
    strong = _is_strong(trt, spec)
    builder, network, _parser = parse_network(bindings, Path(spec.graph), strong=strong)
    _check_shapes(network, spec)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, spec.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if spec.optimisation_level is not None and hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = spec.optimisation_level
    flags: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    if not strong:
        flags = _weak_flags(trt, builder, config, spec)
        held = _hold_float(trt, network, config, spec) if "FP16" in flags else ()
    if spec.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        flags = (*flags, "SPARSE_WEIGHTS")
    calibrator = _place_on_dla(bindings, builder, config, spec) if spec.dla else None
    for capability in _capabilities(bindings, config, spec):
        flags = (*flags, capability)
    cache = _read_timing_cache(bindings, config, spec)
    phases: dict[str, float] = {}
    monitor = _watch(trt, config, on_phase, phases)
    plan = builder.build_serialized_network(network, config)
    del monitor, calibrator  # TensorRT keeps no reference of its own to these
    if plan is None:
        raise _refused(bindings, spec)
    if cache is not None:
        _write_timing_cache(config, Path(str(spec.timing_cache)))
    data = bytes(plan)
    return data, EngineBuild(
        tensorrt=bindings.version,
        typing="strong" if strong else "weak",
        flags=flags,
        layers=network.num_layers,
        seconds=round(time.monotonic() - began, 3),
        phases=phases,
        workspace_mb=spec.workspace_mb,
        plan_bytes=len(data),
        warnings=tuple(dict.fromkeys(bindings.log.warnings)),
        optimisation_level=spec.optimisation_level,
        dla=spec.dla,
        held_float=held,
    )


def parse_network(bindings: Bindings, graph: Path, *, strong: bool = True) -> tuple[Any, ...]:
    """The builder, the network of ``graph`` and the parser, which must outlive the network.

    ExportError names the node that the parser refuses.
    """
    trt = bindings.trt
    bindings.log.clear()
    try:
        builder = trt.Builder(bindings.logger)
    except TypeError as error:  # all that pybind11 says when CUDA does not start
        raise ExportError(
            f"build: {bindings.title} does not start: {bindings.log.last_error or error}",
            hint="free memory, and see whether there is a GPU: mla-edge doctor",
        ) from error
    network = builder.create_network(_creation_flags(trt, strong))
    parser = trt.OnnxParser(network, bindings.logger)
    if parser.parse(graph.read_bytes()):
        return builder, network, parser
    found = [_described(parser.get_error(i)) for i in range(parser.num_errors)]
    raise ExportError(
        f"build: {bindings.title} does not take {graph.name}: "
        f"{'; '.join(found) or bindings.log.last_error or 'the parser gives no reason'}",
        hint="export again for this board: mla-edge export --profile NAME; "
        "its operators are checked against the table of the board's TensorRT",
    )


def _is_strong(trt: Any, spec: BuildSpec) -> bool:
    """Whether to build strongly typed: see the top of this module."""
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return False
    if not hasattr(trt.BuilderFlag, "INT8"):
        return True
    return spec.carries_types and not spec.dla


def _creation_flags(trt: Any, strong: bool) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if strong:
        return 1 << int(flags.STRONGLY_TYPED)
    # Gone where it is the only way; before TensorRT 10 the ONNX parser demands it.
    return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0


def _described(error: Any) -> str:
    """A parser error with its node; TensorRT 8 knows only the node's number."""
    if hasattr(error, "node_name"):
        return f"{error.node_name()} ({error.node_operator()}): {error.desc()}"
    return f"node {error.node()}: {error.desc()}"


def _check_shapes(network: Any, spec: BuildSpec) -> None:
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if any(size < 0 for size in tensor.shape):
            raise ExportError(
                f"build: input {tensor.name!r} of {Path(spec.graph).name} has the shape "
                f"{list(tensor.shape)}: shapes must be fixed",
                hint="export the bundle again: mla-edge export writes fixed shapes",
            )


def _weak_flags(trt: Any, builder: Any, config: Any, spec: BuildSpec) -> tuple[str, ...]:
    """Set the flags of a weakly typed build: FP16 beside INT8, or all the rest is FP32."""
    wanted = {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}[spec.precision]
    probes = {"FP16": "platform_has_fast_fp16", "INT8": "platform_has_fast_int8"}
    taken = []
    for flag in wanted:
        if getattr(builder, probes[flag], True):
            config.set_flag(getattr(trt.BuilderFlag, flag))
            taken.append(flag)
        elif flag == "INT8":
            raise ExportError(
                "build: this GPU has no fast INT8, and the bundle is INT8",
                hint="export for it with --recipe fp16",
            )
    return tuple(taken)


def _hold_float(trt: Any, network: Any, config: Any, spec: BuildSpec) -> tuple[str, ...]:
    """Keep FP16 away from layers that need FP32, as far as TensorRT can obey."""
    kinds = {getattr(trt.LayerType, kind) for kind in _FLOAT_LAYERS
             if hasattr(trt.LayerType, kind)}  # fmt: skip
    named = set(spec.float_layers)
    held = []
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        floats = layer.num_outputs and layer.get_output(0).dtype == trt.float32
        if floats and (layer.type in kinds or layer.name in named):
            layer.precision = trt.float32
            layer.set_output_type(0, trt.float32)
            held.append(layer.name)
    if held:
        config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    return tuple(held)


def _place_on_dla(bindings: Bindings, builder: Any, config: Any, spec: BuildSpec) -> Any:
    """Let the DLA take what it can and the GPU the rest; returns the calibrator, if any."""
    trt = bindings.trt
    if not builder.num_DLA_cores:
        raise ExportError(
            f"build: {bindings.title} finds no DLA on this machine",
            hint="export without --dla, or build on a board that has one",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = 0
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if spec.calibration_cache is None or not hasattr(trt, "IInt8EntropyCalibrator2"):
        return None  # the graph's own Q/DQ
    calibrator = _make_calibrator(trt, Path(spec.calibration_cache).read_bytes())
    config.int8_calibrator = calibrator
    return calibrator


def _make_calibrator(trt: Any, cache: bytes) -> Any:
    class FromCache(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        """Gives the scales that the export chose; it never sees a sample here."""

        def __init__(self) -> None:
            super().__init__()

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, written: bytes) -> None:
            """Nothing to keep: the cache is the bundle's."""

    return FromCache()


def _capabilities(bindings: Bindings, config: Any, spec: BuildSpec) -> tuple[str, ...]:
    """Say for which GPUs to build; only RTX can, and without a GPU it must be told."""
    if not spec.capabilities:
        return ()
    trt = bindings.trt
    config.num_compute_capabilities = len(spec.capabilities)
    for i, name in enumerate(spec.capabilities):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), i)
    return spec.capabilities


def _read_timing_cache(bindings: Bindings, config: Any, spec: BuildSpec) -> Any:
    """Measurements of an earlier build; RTX asks for a GPU to make one, and has no need."""
    if spec.timing_cache is None or bindings.flavour == "rtx":
        return None
    path = Path(spec.timing_cache)
    for data in (path.read_bytes() if path.is_file() else b"", b""):
        cache = config.create_timing_cache(data)
        # One that was measured on another GPU or driver is not taken: then a new one.
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return cache
    return None


def _write_timing_cache(config: Any, path: Path) -> None:
    path.write_bytes(bytes(config.get_timing_cache().serialize()))


def _watch(trt: Any, config: Any, on_phase: OnPhase | None, phases: dict[str, float]) -> Any:
    """Report the builder's phases where it tells them."""
    if not hasattr(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Times each phase and passes on how far it is."""

        def __init__(self) -> None:
            super().__init__()
            self._began: dict[str, tuple[float, int]] = {}

        def phase_start(self, phase_name: str, parent_phase: Any, num_steps: int) -> None:
            self._began[phase_name] = (time.monotonic(), num_steps)
            if on_phase is not None:
                on_phase(phase_name, 0.0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = max(1, self._began.get(phase_name, (0.0, 1))[1])
            if on_phase is not None:
                on_phase(phase_name, min(1.0, (step + 1) / steps))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            start, _ = self._began.pop(phase_name, (time.monotonic(), 1))
            taken = phases.get(phase_name, 0.0) + time.monotonic() - start
            phases[phase_name] = round(taken, 3)

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor


def _refused(bindings: Bindings, spec: BuildSpec) -> ExportError:
    reason = "; ".join(dict.fromkeys(bindings.log.errors)) or "the builder gives no reason"
    lower = reason.lower()
    hint = "see what TensorRT says above; mla-edge doctor looks at this machine"
    if "out of memory" in lower or "outofmemory" in lower or "alloc" in lower:
        hint = (
            "free memory (stop the desktop: sudo systemctl isolate multi-user.target), add "
            "swap, or give --workspace-mb less"
        )
    return ExportError(
        f"build: {bindings.title} cannot build {Path(spec.graph).name}: {reason}", hint=hint
    )


def from_json(kind: type[_Value], values: dict[str, Any]) -> _Value:
    """A BuildSpec or EngineBuild that went through JSON, which knows no tuples."""
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    return kind(**given)


def main() -> int:
    """Build what stdin says (JSON: flavour, plan, spec, parent); tell stdout how it goes."""

    def tell(**event: Any) -> None:
        # A line of its own, also where a library has just begun one.
        sys.stdout.write(f"\n{json.dumps(event)}\n")
        sys.stdout.flush()

    order = json.loads(sys.stdin.read())
    _end_with(order["parent"])
    spec = from_json(BuildSpec, order["spec"])
    try:
        bindings = load_bindings(order["flavour"])
        plan, built = build_engine(
            bindings, spec, lambda phase, share: tell(phase=phase, share=share)
        )
        Path(order["plan"]).write_bytes(plan)
    except MlaEdgeError as error:
        tell(error=str(error), hint=error.hint, kind=type(error).__name__)
        return error.exit_code
    except OSError as error:
        where = error.filename or order["plan"]
        hint = "see that the file is there and that this user may write beside it"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space on that disk: an engine takes about as much as its graph"
        tell(error=f"build: {where}: {error.strerror}", hint=hint, kind=ExportError.__name__)
        return ExportError.exit_code
    tell(built=asdict(built))
    return 0


def _end_with(parent: int) -> None:
    """Let the system end this process with ``parent``: nobody else would after a SIGKILL."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # of Linux
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that
        sys.exit(ExportError.exit_code)


if __name__ == "__main__":
    sys.exit(main())
