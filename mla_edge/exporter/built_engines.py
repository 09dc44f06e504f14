"""The engines of one machine in a bundle: whether they are what is asked for, their record."""

from __future__ import annotations

import dataclasses
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

from mla_edge.bundle import Bundle, sha256_of
from mla_edge.engines.opening import BUILD, read_build
from mla_edge.engines.sidecar import FOLDER, Target, check_sidecar, plan_path, read_sidecar
from mla_edge.errors import BundleError
from mla_edge.exporter import report as reporting
from mla_edge.exporter.engine_proof import Proof

if TYPE_CHECKING:
    from mla_edge.engines.bindings import Bindings
    from mla_edge.exporter.engine_build import EngineBuild

TIMING_CACHE = "timing.cache"


def is_built(bundle: Bundle, target: Target, asked: Mapping[str, Any]) -> bool:
    """Whether ``bundle`` has whole engines of every tier for this very machine.

    They must have been built with what is ``asked`` for: values of an EngineBuild; None is any.
    """
    for tier in bundle.tiers:
        plan = plan_path(bundle, target.key, tier.name)
        if plan.relative_to(bundle.folder).as_posix() not in bundle.files:
            return False
        try:
            sidecar = read_sidecar(plan)
            check_sidecar(bundle, plan, sidecar, target)
        except BundleError:
            return False
        built = sidecar.build
        if any(v is not None and built.get(name) != v for name, v in asked.items()):
            return False
    return read_proof(bundle, target.key) is not None


def read_proof(bundle: Bundle, key: str) -> Proof | None:
    """What was recorded of the engines' proof; None where that is of another version."""
    try:
        return Proof.from_json(read_build(bundle, key)["proof"])
    except (BundleError, KeyError, TypeError, AttributeError):
        return None


def copy_without(bundle: Bundle, folder: Path, key: str) -> Bundle:
    """The bundle in ``folder``, without the engines of ``key``; its timing cache stays."""
    old = bundle.folder / FOLDER / key
    left = {name for name in bundle.files if old in (bundle.folder / name).parents}
    left -= {f"{FOLDER}/{key}/{TIMING_CACHE}"}
    return _copy(bundle, folder, [name for name in bundle.files if name not in left])


def copy_whole(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle in ``folder``, with its engines."""
    return _copy(bundle, folder, list(bundle.files))


def describe_engines(
    bindings: Bindings,
    target: Target,
    built: Mapping[str, EngineBuild],
    proof: Proof,
    accuracy: str,
) -> dict[str, Any]:
    """What is recorded of the engines of one machine, ready for JSON."""
    return {
        "built": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "with": bindings.title,
        "target": dataclasses.asdict(target),
        "tiers": {name: dataclasses.asdict(made) for name, made in built.items()},
        **describe_proof(proof, accuracy),
    }


def describe_proof(proof: Proof, accuracy: str) -> dict[str, Any]:
    """The part of it that comes of running the engines; ``accuracy`` as the gate says."""
    return {
        "proof": {**proof.as_json(), "accuracy": accuracy},
        "policy": None if proof.policy is None else dataclasses.asdict(proof.policy),
    }


def record(bundle: Bundle, key: str, facts: Mapping[str, Any]) -> None:
    """Write the verdict beside the engines, into the report, and every hash."""
    reporting.write_json(bundle.folder / FOLDER / key / BUILD, facts)
    try:
        whole = reporting.read(bundle.folder)
        whole["engines"] = {**whole.get("engines", {}), key: facts}
        reporting.write(bundle.folder, whole)
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{bundle.folder}: its report is not of this version: {error!r}",
            hint="export the bundle again",
        ) from error
    files = sorted(path for path in bundle.folder.rglob("*") if path.is_file())
    hashes = {
        path.relative_to(bundle.folder).as_posix(): sha256_of(path)
        for path in files
        if path.name != "bundle.json"
    }
    dataclasses.replace(bundle, files=hashes).write()


def _copy(bundle: Bundle, folder: Path, names: list[str]) -> Bundle:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / name)
    return dataclasses.replace(bundle, folder=folder)
