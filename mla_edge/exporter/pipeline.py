"""The export, straight down: from a network's name to a bundle that is proven and published."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Mapping

from mla_edge.bundle import Bundle, RouterPolicy, sha256_of
from mla_edge.engines import saturation
from mla_edge.errors import ConfigError
from mla_edge.exporter import report as reporting
from mla_edge.exporter.bundle_files import write_graphs
from mla_edge.exporter.calibration import (
    FILES,
    CalibrationSpec,
    load_calibration,
    load_calibration_spec,
    modes,
)
from mla_edge.exporter.dla import choose_form
from mla_edge.exporter.evidence import gather
from mla_edge.exporter.fingerprints import code_fingerprint, network_code, weights_file
from mla_edge.exporter.goal import LatencyGoal, make_goal
from mla_edge.exporter.held_back import GOLDEN_SAMPLES, hold_back, match_golden, pick_golden
from mla_edge.exporter.int4_weights import OPSET as INT4_OPSET
from mla_edge.exporter.job import Job, minds_sums
from mla_edge.exporter.layers import floating_layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.policy import ModeRouting
from mla_edge.exporter.publishing import (
    check_max_drop,
    check_room,
    check_target,
    created_at,
    disk_errors,
    find_equal,
    output_folder,
    publish,
    room_mb,
)
from mla_edge.exporter.recipe import Recipe, check_tiers, choose_precision, load_recipe
from mla_edge.exporter.refusal import refuse
from mla_edge.exporter.routing import choose_policy
from mla_edge.exporter.shipped_ranges import ranges_sha256
from mla_edge.exporter.shipped_score import attach_score, score_sha256, tiers_of
from mla_edge.exporter.solo import add_solos
from mla_edge.exporter.steps import (
    OnStep,
    StepCache,
    StepEvent,
    Steps,
    hash_folder,
    hash_of,
    partial_folder,
    versions,
)
from mla_edge.exporter.tensorrt_check import tensorrt_version
from mla_edge.exporter.tiers import TierResult, export_tier
from mla_edge.golden import FILE as GOLDEN
from mla_edge.golden import write_golden
from mla_edge.networks import Network, load_network
from mla_edge.profiles import DeviceProfile, load_profile, own_file

MAX_DROP_POINTS = 1.0


@dataclass(frozen=True)
class ExportRequest:
    """What to export, for which device, how, and where to."""

    profile: str
    network: str = "digits"
    recipe: str = "default"
    out: Path = Path("bundles")
    data: Path | None = None
    calibration: str | None = None
    max_drop: float = MAX_DROP_POINTS
    golden: int = GOLDEN_SAMPLES
    keep: bool = False
    dla: bool = False
    target_latency_ms: float | None = None  # of one tier, on one thread of this machine
    target_speedup: float | None = None  # against that tier with nothing pruned
    target_tier: str = ""  # the last one, where a goal is set
    weights: Path | None = None  # of ``mla-edge adapt``, in place of the network's own
    latency_table: Path | None = None  # measured by ``mla-edge build --latency-table``
    latency_parts: bool = False  # put into the bundle what such a measurement needs


@dataclass(frozen=True)
class ExportResult:
    """The published bundle and its report."""

    bundle: Bundle
    report: Mapping[str, Any]
    reused: bool
    kept: Path | None  # where the bundle that was there before went
    replaced: str | None  # when the bundle was made that is gone now
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What an export of a request will work with, and where it will write."""

    profile: DeviceProfile
    recipe: Recipe
    precision: str
    calibration: CalibrationSpec
    network: Network
    target: Path
    own_samples: bool  # the user's: ranges that ship do not count
    dla: str = ""  # the form of INT8 for a DLA, where one is asked for
    goal: LatencyGoal | None = None


def _silent(event: StepEvent) -> None:
    """Nobody listens."""


def export(
    request: ExportRequest, on_step: OnStep = _silent, *, cache: StepCache | None = None
) -> ExportResult:
    """Make, prove and publish a bundle; equal inputs give back the bundle that is there.

    Nothing is published, and nothing half-written stays, when a step fails or is interrupted.
    Raises ConfigError, ExportError (names the step), AccuracyGateError (writes
    ``<name>.failed-report.json`` and ``.html``) and MissingDependency.
    """
    began = time.monotonic()
    steps = Steps(on_step)
    plan = load(request, steps)
    target = plan.target
    with disk_errors(request.out, request.data), output_folder(request.out), partial_folder(
        request.out, target.name
    ) as folder:
        check_room(folder, room_mb(plan.network))
        with steps.step("load_calibration"):
            calibration = load_calibration(plan.calibration, plan.network)
            steps.note(f"{plan.calibration.name}, sha256 {calibration.sha256[:12]}")
        base = hash_network(request, plan)
        inputs = hash_inputs(base, request, plan, calibration.sha256)
        equal = find_equal(target, inputs)
        if equal is not None:
            seconds = time.monotonic() - began
            return ExportResult(equal, reporting.read(target), True, None, None, seconds)
        job = Job(
            profile=plan.profile,
            recipe=plan.recipe,
            precision=plan.precision,
            network=plan.network,
            calibration=calibration,
            own_samples=plan.own_samples,
            trains=request.data is not None,
            base=base,
            steps=steps,
            cache=cache or StepCache(),
            max_drop=request.max_drop,
            dla=plan.dla,
            goal=plan.goal,
            latency_parts=request.latency_parts,
        )
        held = hold_back(job)
        results = [export_tier(job, part, held) for part in plan.network.tiers]
        results, score = attach_score(job, results)
        policy, float_cost_ms, routings = choose_policy(job, results, score)
        solos = add_solos(job, results, policy)
        facts = describe(request, plan, job, results, routings)
        facts["routing"]["cost_ms"] = dict(policy.cost_ms)
        facts["routing"]["solo"] = [dataclasses.asdict(one) for one in solos.tried]
        facts["routing"]["float_cost_ms"] = float_cost_ms
        facts["routing"]["measured_on"] = policy.measured_on
        facts["provenance"]["inputs_sha256"] = inputs
        facts.update(gather(job, results, held, routings))
        if not facts["gate"]["passed"]:
            refuse(plan.target, job, results, held, facts)
        with steps.step("bundle"):
            golden = pick_golden(job, held, request.golden)
            facts["provenance"]["golden"] = match_golden(job, results, golden)
            write_golden(folder / GOLDEN, golden)
            write_graphs(folder, plan.network, results)
            solos.copy_into(folder / "graphs", plan.network)
            if request.profile.endswith(".toml"):
                shutil.copyfile(request.profile, folder / own_file(plan.profile.name))
            reporting.write(folder, facts)
            bundle = write_manifest(folder, plan, solos.policy, facts)
        with steps.step("publish"):
            replaced = None if request.keep else created_at(target)
            kept = publish(folder, target, keep=request.keep)
            reporting.forget_failed(target)
    bundle = dataclasses.replace(bundle, folder=target)
    seconds = time.monotonic() - began
    return ExportResult(bundle, reporting.read(target), False, kept, replaced, seconds)


def load(request: ExportRequest, steps: Steps) -> Plan:
    """Everything the request names, loaded and checked; writes nothing."""
    check_max_drop(request.max_drop)
    with steps.step("load_profile"):
        profile = load_profile(request.profile)
        if not profile.supported:
            raise ConfigError(
                f"{profile.title} is not supported: {profile.unsupported_reason}",
                hint="mla-edge profiles lists the boards and what is true of them",
            )
    with steps.step("load_recipe"):
        recipe = load_recipe(request.recipe)
        calibration = load_calibration_spec(request.calibration or recipe.calibration)
        precision = choose_precision(recipe, profile)
        if precision != recipe.precision:
            steps.note(f"{profile.name} has no {recipe.precision}: {precision}")
        dla = choose_form(profile, precision) if request.dla else ""
    with steps.step("load_network"):
        network = build_network(request)
        names = [part.tier.name for part in network.tiers]
        steps.note(check_tiers(recipe, request.recipe, names))
        goal = make_goal(
            request.target_latency_ms,
            request.target_speedup,
            request.target_tier,
            names,
            profile,
            request.latency_table,
        )
    target = request.out / f"{network.name}-{profile.name}"
    check_target(target)
    given = request.data is not None or request.calibration is not None
    # What a recipe names is the user's only where it is a file of theirs: it must name a set.
    own = given or recipe.calibration.endswith((".toml", *FILES))
    return Plan(profile, recipe, precision, calibration, network, target, own, dla, goal)


def build_network(request: ExportRequest) -> Network:
    """The network of the request, with its data if there are any."""
    if request.data is not None and not request.data.is_dir():
        raise ConfigError(f"{request.data}: no such folder", hint="give --data a folder")
    given = {"weights": request.weights} if request.weights else {}
    return load_network(request.network, data=request.data, **given)


def describe_plan(request: ExportRequest, on_step: OnStep = _silent) -> dict[str, Any]:
    """What ``export`` would do; everything is loaded and checked, nothing is written."""
    plan = load(request, Steps(on_step))
    todo = []
    for part in plan.network.tiers:
        how = plan.recipe.tier(part.tier.name)
        if plan.goal is not None and plan.goal.tier == part.tier.name:
            todo += plan.goal.steps(request.data) + how.plan_sparsity(part.tier.name)
        else:
            todo += how.plan(part.tier.name, part.student is not None, request.data)
        if request.latency_parts:
            todo.append(f"{part.tier.name}: its parts at each width, for a latency table")
        opset = INT4_OPSET if how.weights else plan.profile.opset
        form = f"opset {opset}, {plan.precision}{how.weights_in_words}"
        todo.append(f"{part.tier.name}: to ONNX, {form}")
        todo += plan.recipe.qat.plan(part.tier.name, plan.precision, request.data)
        if plan.dla:
            todo.append(f"{part.tier.name}: plan for the DLA, {plan.dla}")
        todo.append(f"{part.tier.name}: agreement of both graphs, TensorRT check")
    todo.append(
        f"policy for {', '.join('+'.join(mode) for mode in modes(plan.network.inputs))}"
    )
    there = "replaces the bundle that is there" if plan.target.exists() else "new"
    if plan.target.exists() and request.keep:
        there = "the bundle that is there is kept under a dated name"
    todo.append(f"publish {plan.target} ({there}; equal inputs reuse it)")
    return {
        "dry_run": True,
        "bundle": str(plan.target),
        "network": plan.network.name,
        "profile": plan.profile.name,
        "recipe": plan.recipe.name,
        "precision": plan.precision,
        "calibration": dataclasses.asdict(plan.calibration),
        "steps": todo,
    }


def hash_network(request: ExportRequest, plan: Plan) -> str:
    """The sha256 over the network, its code, its data, and our code."""
    data = hash_folder(request.data) if request.data is not None else ""
    code = network_code(plan.network, request.network)
    return hash_of(plan.network.fingerprint, code, data, code_fingerprint())


def hash_inputs(base: str, request: ExportRequest, plan: Plan, calibration_sha256: str) -> str:
    """The sha256 over everything that decides what the bundle holds."""
    ranges = None if plan.own_samples else ranges_sha256(plan.network)
    return hash_of(
        base,
        repr(plan.profile),
        repr(plan.recipe),
        plan.precision,
        minds_sums(plan.profile),
        calibration_sha256,
        ranges,
        score_sha256(plan.network.name),
        tensorrt_version(),
        request.max_drop,
        request.golden,
        request.dla,
        plan.goal and plan.goal.fingerprint,
        request.latency_parts,
    )


def describe(
    request: ExportRequest,
    plan: Plan,
    job: Job,
    results: list[TierResult],
    routings: list[ModeRouting],
) -> dict[str, Any]:
    """Everything the report says, ready for JSON."""
    worst = max(result.worst_drop for result in results)
    return {
        "bundle": plan.target.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "network": {
            "name": plan.network.name,
            "labels": list(plan.network.labels),
            "inputs": [dataclasses.asdict(spec) for spec in plan.network.inputs],
        },
        "profile": {
            key: getattr(plan.profile, key)
            for key in ("name", "title", "tensorrt", "opset", "jetpack", "sm")
        },
        "recipe": {"name": plan.recipe.name, "title": plan.recipe.title},
        "precision": plan.precision,
        "calibration": {
            "name": plan.calibration.name,
            "source": str(plan.calibration.path or plan.calibration.source),
            "data": request.data is not None,
            "sha256": job.calibration.sha256,
            "samples": {
                split: len(getattr(job.calibration, split))
                for split in ("calibrate", "tune", "test")
            },
        },
        "tiers": [result.as_json() for result in results],
        "gate": {
            "max_drop_points": request.max_drop,
            "worst_drop_points": worst,
            "passed": worst <= request.max_drop,
        },
        "routing": {
            "modes": [dataclasses.asdict(routing) for routing in routings],
        },
        "not_proven": reporting.not_proven(plan.profile, plan.precision, results),
        "seconds": {step: round(value, 2) for step, value in job.steps.seconds.items()},
        "provenance": {
            "network_ref": request.network,
            "network_fingerprint": plan.network.fingerprint,
            "weights": weights_file(request.weights) if request.weights else None,
            "calibration_sha256": job.calibration.sha256,
            "recipe": plan.recipe.name,
            "precision": plan.precision,
            saturation.MINDED: minds_sums(plan.profile),
            "opset": plan.profile.opset,
            "dla": job.dla,
            "int4": [t for t, how in plan.recipe.tiers.items() if how.weights],
            "sparse": [r.name for r in results if r.shrunk["sparsity"]],
            "ranges": {r.name: r.ranges.origin for r in results if r.ranges is not None},
            "float_layers": {
                result.name: floating_layers(load_model(result.tensorrt_graph))
                for result in results
            },
            "versions": versions(),
        },
    }


def write_manifest(
    folder: Path, plan: Plan, policy: RouterPolicy, facts: Mapping[str, Any]
) -> Bundle:
    """Hash what is in ``folder`` and write ``bundle.json``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    bundle = Bundle(
        folder=folder,
        name=plan.target.name,
        network=plan.network.name,
        profile=plan.profile.name,
        labels=plan.network.labels,
        inputs=plan.network.inputs,
        tiers=tiers_of(plan.network, policy),
        policy=policy,
        created=facts["created"],
        provenance=dict(facts["provenance"]),
        files={path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
    )
    bundle.write()
    return bundle
