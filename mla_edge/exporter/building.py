"""Build a bundle's engines on this machine, prove them, and publish the bundle with them."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

from mla_edge import machine_files
from mla_edge.board import Board, identify
from mla_edge.board_findings import BUILDER_MB
from mla_edge.bundle import Bundle, sha256_of
from mla_edge.engines.bindings import Bindings, flavour_of, load_bindings
from mla_edge.engines.opening import read_build
from mla_edge.engines.sidecar import FOLDER, Sidecar, Target, plan_path, write_sidecar
from mla_edge.engines.target import RTX_CAPABILITIES, describe_target
from mla_edge.errors import (
    BundleError,
    ConfigError,
    ExportError,
    InferenceError,
    MissingDependency,
)
from mla_edge.exporter.built_engines import (
    TIMING_CACHE,
    copy_whole,
    copy_without,
    describe_engines,
    describe_proof,
    is_built,
    read_proof,
    record,
)
from mla_edge.exporter.engine_build import MIN_WORKSPACE_MB, BuildSpec, EngineBuild
from mla_edge.exporter.engine_process import run_build
from mla_edge.exporter.engine_proof import check_gate, prove
from mla_edge.exporter.publishing import check_max_drop, check_room, disk_errors, publish
from mla_edge.exporter.steps import OnStep, StepEvent, Steps, partial_folder
from mla_edge.exporter.tensorrt_cache import read_cache, write_cache
from mla_edge.profiles import DeviceProfile, load_profile_of

_WORKSPACE_SHARE = 0.5  # of the memory that is free
_STAY = "the bundle still has these engines, of an earlier build: --again builds them anew"


@dataclass(frozen=True)
class BuildRequest:
    """Which bundle to build for this machine, and how."""

    bundle: Path
    max_drop: float = 1.0
    workspace_mb: int | None = None  # None: the profile's, at most half of what is free
    optimisation_level: int | None = None
    dla: bool = False  # let the DLA take what it can
    again: bool = False  # also where equal engines are there
    root: Path = Path("/")

    @property
    def asked(self) -> dict[str, Any]:
        """What equal engines must have been built with; None is any."""
        return {
            "dla": self.dla,
            "workspace_mb": self.workspace_mb,
            "optimisation_level": self.optimisation_level,
        }


@dataclass(frozen=True)
class BuildResult:
    """The bundle with its engines, and what is known of them."""

    bundle: Bundle
    key: str
    facts: Mapping[str, Any]
    reused: bool
    seconds: float


def _silent(event: StepEvent) -> None:
    """Nobody listens."""


def build(request: BuildRequest, on_step: OnStep = _silent) -> BuildResult:
    """Build every tier for this machine, prove the engines, and publish the bundle with them.

    Nothing changes when a step fails or is interrupted. BundleError: the bundle is for another
    machine, or for none with TensorRT. ExportError: TensorRT refuses, or there is too little
    memory. AccuracyGateError: an engine lost more than ``max_drop`` points. MissingDependency.
    """
    began = time.monotonic()
    steps = Steps(on_step)
    bundle, profile, bindings, target = recognise(request, steps)
    if not request.again and is_built(bundle, target, request.asked):
        facts = reuse(bundle, bindings, target, request, steps)
        bundle = Bundle.read(request.bundle)
        return BuildResult(bundle, target.key, facts, True, time.monotonic() - began)
    workspace_mb = choose_workspace(request, profile)
    parent = request.bundle.resolve().parent
    with disk_errors(parent), partial_folder(parent, bundle.name) as folder:
        check_room(parent, _room_mb(bundle))
        new = copy_without(bundle, folder, target.key)
        with_engines = build_tiers(new, bindings, target, profile, request, workspace_mb, steps)
        with steps.step("prove"):
            proof = prove(new, bindings, target)
            steps.note(proof.in_words)
        accuracy = check_gate(new, proof, request.max_drop)
        facts = describe_engines(bindings, target, with_engines, proof, accuracy)
        with steps.step("publish"):
            record(new, target.key, facts)
            publish(folder, request.bundle.resolve(), keep=False)
    bundle = Bundle.read(request.bundle)
    return BuildResult(bundle, target.key, facts, False, time.monotonic() - began)


def reuse(
    bundle: Bundle, bindings: Bindings, target: Target, request: BuildRequest, steps: Steps
) -> dict[str, Any]:
    """What is known of the engines that are there, held against this request's gate.

    Those that could not be run when they were built are proven now where there is a GPU, and
    the proof is published.
    """
    facts = read_build(bundle, target.key)
    known = proof = read_proof(bundle, target.key)
    assert known is not None and proof is not None  # is_built has read it
    if known.reason:
        with steps.step("prove"):
            proof = prove(bundle, bindings, target)
            steps.note(proof.in_words)
    accuracy = check_gate(bundle, proof, request.max_drop, outcome=_STAY)
    if proof.reason or not known.reason:
        return {**facts, "proof": {**facts["proof"], "accuracy": accuracy}}
    facts.update(describe_proof(proof, accuracy))
    parent = request.bundle.resolve().parent
    with disk_errors(parent), partial_folder(parent, bundle.name) as folder:
        check_room(parent, _room_mb(bundle))
        with steps.step("publish"):
            record(copy_whole(bundle, folder), target.key, facts)
            publish(folder, request.bundle.resolve(), keep=False)
    return facts


def recognise(
    request: BuildRequest, steps: Steps
) -> tuple[Bundle, DeviceProfile, Bindings, Target]:
    """The bundle, whole; the device it is for; the TensorRT and the machine that are here."""
    check_max_drop(request.max_drop)
    with steps.step("recognise"):
        bundle = Bundle.read(request.bundle)
        bundle.check_hashes()
        profile = load_profile_of(bundle)
        board = identify(request.root)
        check_board(bundle, profile, board)
        if request.dla and not bundle.provenance.get("dla"):
            raise ConfigError(
                f"{bundle.folder}: was not exported for a DLA",
                hint=f"mla-edge export --profile {bundle.profile} --dla",
            )
        try:
            bindings = load_bindings(flavour_of(profile.tensorrt))
            target = describe_target(bindings, request.root)
        except (MissingDependency, InferenceError) as error:
            if profile.soc is not None and board is None:
                raise _no_jetson(bundle, profile) from error
            raise
        # In a container the files that tell a board may be missing; its GPU is not.
        if profile.soc is not None and board is None and target.sm != profile.sm:
            raise _no_jetson(bundle, profile)
        steps.note(f"{profile.title}, {bindings.title}, {target.key}")
    return bundle, profile, bindings, target


def describe(request: BuildRequest, on_step: OnStep = _silent) -> dict[str, Any]:
    """What ``build`` would do; everything is read and checked, nothing is written."""
    bundle, profile, bindings, target = recognise(request, Steps(on_step))
    there = is_built(bundle, target, request.asked) and not request.again
    workspace_mb = choose_workspace(request, profile)
    built = [f"{tier.name}: build, workspace {workspace_mb} MB" for tier in bundle.tiers]
    return {
        "dry_run": True,
        "bundle": str(bundle.folder),
        "engines": str(bundle.folder / FOLDER / target.key),
        "with": bindings.title,
        "target": dataclasses.asdict(target),
        "reused": there,
        "steps": _steps_of_reuse(bundle, target) if there else [*built, "prove", "publish"],
    }


def _steps_of_reuse(bundle: Bundle, target: Target) -> list[str]:
    proof = read_proof(bundle, target.key)
    if proof is not None and proof.reason:
        return ["prove the engines that are there, if a GPU can be used now"]
    return ["nothing: equal engines are there"]


def check_board(bundle: Bundle, profile: DeviceProfile, board: Board | None) -> None:
    """BundleError, naming both, if ``bundle`` is for another board than this one."""
    if profile.tensorrt is None:
        raise BundleError(
            f"{bundle.folder}: is for {profile.title}, which runs no TensorRT: there is no "
            "engine to build",
            hint="run it as it is, or export for a board: mla-edge export --profile NAME",
        )
    # A profile without a SoC is for any machine that has its TensorRT.
    if profile.soc is None or board is None or _covers(profile, board):
        return
    here = board.profile or f"{board.model} ({board.module or board.soc})"
    again = board.profile or "NAME, with a profile of your own"
    raise BundleError(
        f"{bundle.folder}: is for {profile.name} ({profile.title}), and this is {here}",
        hint=f"export it for this board: mla-edge export --profile {again}",
    )


def _covers(profile: DeviceProfile, board: Board) -> bool:
    """By what the profile says, for it may be a user's own copy under another name."""
    if board.soc != profile.soc:
        return False
    return not profile.modules or board.module in profile.module


def _no_jetson(bundle: Bundle, profile: DeviceProfile) -> BundleError:
    return BundleError(
        f"{bundle.folder}: is for {profile.title}, and this machine is no Jetson",
        hint="copy the bundle to the board and build it there; here it runs as it is",
    )


def choose_workspace(request: BuildRequest, profile: DeviceProfile) -> int:
    """How much memory to try layers in, in MB; ExportError where too little is free."""
    free_mb = machine_files.memory_mb(request.root, "MemAvailable")
    swap_mb = machine_files.swap_mb(request.root) or 0
    if free_mb is not None and free_mb + swap_mb < BUILDER_MB:
        raise ExportError(
            f"build: {free_mb} MB of memory and {swap_mb} MB of swap are free, a build needs "
            f"about {BUILDER_MB} MB",
            hint="stop the desktop: sudo systemctl isolate multi-user.target; or add swap",
        )
    if request.workspace_mb is not None:
        return request.workspace_mb
    wanted = profile.workspace_mb or 1024
    if free_mb is None:
        return wanted
    return max(MIN_WORKSPACE_MB, min(wanted, int(free_mb * _WORKSPACE_SHARE)))


def build_tiers(  # noqa: PLR0913 - what every tier shares
    bundle: Bundle,
    bindings: Bindings,
    target: Target,
    profile: DeviceProfile,
    request: BuildRequest,
    workspace_mb: int,
    steps: Steps,
) -> dict[str, EngineBuild]:
    """Write a plan and its sidecar for every tier; what each build gave."""
    folder = bundle.folder / FOLDER / target.key
    folder.mkdir(parents=True, exist_ok=True)  # its timing cache may be there
    built = {}
    with tempfile.TemporaryDirectory() as scratch:
        for tier in bundle.tiers:
            spec = dataclasses.replace(
                describe_build(bundle, tier.name, bindings, request, Path(scratch)),
                workspace_mb=workspace_mb,
                optimisation_level=request.optimisation_level,
                timing_cache=None if target.flavour == "rtx" else str(folder / TIMING_CACHE),
                capabilities=RTX_CAPABILITIES if target.flavour == "rtx" else (),
            )
            plan = plan_path(bundle, target.key, tier.name)
            with steps.step("build", tier.name):
                made = run_build(target.flavour, spec, plan, steps.progress)
                steps.note(_in_words(made))
            graph = Path(spec.graph).relative_to(bundle.folder).as_posix()
            write_sidecar(
                plan,
                Sidecar(
                    tier=tier.name,
                    target=target,
                    graph=graph,
                    onnx_sha256=bundle.files[graph],
                    plan_sha256=sha256_of(plan),
                    build=dataclasses.asdict(made),
                ),
            )
            built[tier.name] = made
    return built


def describe_build(
    bundle: Bundle, tier: str, bindings: Bindings, request: BuildRequest, scratch: Path
) -> BuildSpec:
    """What the bundle says of how a tier is built.

    A DLA up to TensorRT 10.7 takes a graph without Q/DQ and a calibration cache, which is
    written again in ``scratch`` for the TensorRT that is here: it may refuse another's.
    """
    precision = str(bundle.provenance.get("precision", "fp32"))
    floating = bundle.provenance.get("float_layers", {})
    graph = bundle.graph(tier, cpu=False)
    cache = None
    plain = f"graphs/{tier}.dla.onnx"
    takes_cache = hasattr(bindings.trt, "IInt8EntropyCalibrator2")
    if request.dla and takes_cache and plain in bundle.files:
        graph = bundle.folder / plain
        _, scales = read_cache(
            (bundle.folder / f"calibration/{tier}.cache").read_text(encoding="utf-8")
        )
        cache = scratch / f"{tier}.cache"
        version = ".".join(bindings.version.split(".")[:3])
        cache.write_text(write_cache(scales, version), encoding="utf-8")
    return BuildSpec(
        graph=str(graph),
        precision=precision,
        carries_types=precision == "fp16",
        float_layers=tuple(floating.get(tier, ())),
        sparse=tier in bundle.provenance.get("sparse", ()),
        dla=request.dla,
        calibration_cache=None if cache is None else str(cache),
    )


def _in_words(made: EngineBuild) -> str:
    warned = f", {len(made.warnings)} warnings" if made.warnings else ""
    return (
        f"{made.layers} layers, {made.typing}ly typed, {made.plan_bytes / 1e6:.2f} MB{warned}"
    )


def _room_mb(bundle: Bundle) -> float:
    """A copy of the bundle, and engines about as large as their graphs in float."""
    sizes = sum((bundle.folder / name).stat().st_size for name in bundle.files)
    return 64.0 + 5 * sizes / 1e6
