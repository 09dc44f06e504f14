"""The learned score that ships for a network, and how it gets into the graphs of lite.

``calibration/<network>-score.json`` holds its head, and what it and confidence reached in each
mode, with the fingerprint of the network and the pruning that it is for. Written by
``python -m mla_edge.exporter.score_cache NETWORK --data DIR``.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from mla_edge._content import content_dir
from mla_edge.bundle import LEARNED, sha256_of, write_atomically
from mla_edge.errors import ConfigError
from mla_edge.exporter.operators import check_operators
from mla_edge.exporter.score import ModeScore, ScoreHead
from mla_edge.exporter.score_graph import add_score
from mla_edge.exporter.shipped_ranges import make_key
from mla_edge.exporter.steps import hash_of
from mla_edge.exporter.tiers import check_tensorrt
from mla_edge.signals import SCORE

if TYPE_CHECKING:
    from mla_edge.bundle import RouterPolicy
    from mla_edge.exporter.job import Job
    from mla_edge.exporter.tiers import TierResult
    from mla_edge.networks import Network
    from mla_edge.signals import Tier

_TIERS = 2  # the score is of one tier against one other


@dataclass(frozen=True)
class ShippedScore:
    """A head, and how it did in each mode; ``source`` says on what."""

    head: ScoreHead
    modes: Mapping[str, ModeScore]
    source: str

    @property
    def is_used(self) -> bool:
        """Whether any mode routes by it."""
        return any(mode.score == LEARNED for mode in self.modes.values())


def find_score(job: Job) -> ShippedScore | None:
    """The score for exactly these tiers; None if there is none."""
    return _find(job)[0]


def _find(job: Job) -> tuple[ShippedScore | None, str]:
    """The score for exactly these tiers, and why not the one that ships and would route."""
    path = _path(content_dir("calibration"), job.network.name)
    if len(job.network.tiers) != _TIERS or not path.is_file():
        return None, ""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        modes = {
            mode: ModeScore(**{**values, "thresholds": tuple(values["thresholds"])})
            for mode, values in found["modes"].items()
        }
        head, key = ScoreHead.from_json(found["head"]), found["key"]
        score = ShippedScore(head, modes, str(found["source"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a file of a learned score: {error!r}", hint="reinstall mla-edge"
        ) from error
    misfit = _misfit(job, key)
    return (None, misfit if score.is_used else "") if misfit else (score, "")


def _misfit(job: Job, key: str) -> str:
    """Why a score of this ``key`` is not for the tiers that come of ``job``; empty if it is."""
    if job.goal is not None:
        return f"the goal gives {job.goal.tier} other widths than the score that ships knows"
    if key == score_key(job):
        return ""
    for part in job.network.tiers:
        sparsity = job.recipe.tier(part.tier.name).sparsity
        if sparsity:
            return f"the score that ships knows no {part.tier.name} with {sparsity} sparsity"
    return "the score that ships is for other weights, or for another recipe of a tier"


def score_key(job: Job) -> str:
    """What a score is for: the network, and what the recipe makes of each tier."""
    whole = []
    for part in job.network.tiers:
        how = job.recipe.tier(part.tier.name)
        made: dict[str, Any] = {"sparsity": how.sparsity, "widths": dict(how.widths)}
        made = {name: value for name, value in made.items() if value}
        whole.append({**make_key(job.network.fingerprint, how), **made})
    return hash_of([json.dumps(each, sort_keys=True) for each in whole])


def score_sha256(network: str) -> str:
    """Of the file that ships for ``network``; empty for none."""
    path = _path(content_dir("calibration"), network)
    return sha256_of(path) if path.is_file() else ""


def write_score(folder: Path, job: Job, score: ShippedScore) -> Path:
    """Write the score of the job's network; ``find_score`` reads it."""
    path = _path(folder, job.network.name)
    content = {
        "key": score_key(job),
        "source": score.source,
        "modes": {mode: dataclasses.asdict(each) for mode, each in score.modes.items()},
        "head": score.head.to_json(),
    }
    write_atomically(path, (json.dumps(content) + "\n").encode())
    return path


def attach_score(
    job: Job, results: Sequence[TierResult]
) -> tuple[list[TierResult], ShippedScore | None]:
    """``results`` whose first tier's graphs also give the score that ships, and that.

    They do if a mode is to route by it. None: there is no score for these tiers; where one
    ships for others of this network, a note says why it is not taken.

    ExportError where the board's TensorRT does not take the head's operators.
    """
    score, misfit = _find(job)
    first = results[0]
    whole = [r.name for r in results if r.shares and r.shares["rolled_back"]]
    if score is not None and score.is_used and whole:
        score, misfit = None, f"a share of {whole[0]} was rolled back, so it has other widths"
    if misfit:
        with job.steps.step("score", first.name):
            job.steps.note(f"none: {misfit}")
    if score is None or not score.is_used:
        return list(results), score
    part = job.network.tiers[0]
    pooled = pooled_by(part.module)
    graphs = {"tensorrt": first.tensorrt_graph, "cpu": first.cpu_graph}
    data = {form: path.read_bytes() for form, path in graphs.items()}
    key = hash_of("score", job.base, *data.values(), json.dumps(score.head.to_json()))
    entry = job.cache.find(key)
    if entry is None:

        def write(folder: Path) -> None:
            for form, graph in data.items():
                (folder / f"{form}.onnx").write_bytes(add_score(graph, score.head, pooled))

        with job.steps.step("score", first.name):
            entry = job.cache.store(key, write)
    else:
        job.steps.reused("score", first.name)
    if job.profile.tensorrt is not None:
        check_operators(entry / "tensorrt.onnx", job.profile.tensorrt)
    verdict = check_tensorrt(job, part, entry / "tensorrt.onnx")
    changed = dataclasses.replace(
        first,
        tensorrt_graph=entry / "tensorrt.onnx",
        cpu_graph=entry / "cpu.onnx",
        tensorrt=verdict,
    )
    return [changed, *results[1:]], score


def tiers_of(network: Network, policy: RouterPolicy) -> tuple[Tier, ...]:
    """The tiers as a bundle has them: the first with the score, where ``policy`` takes it."""
    first, *rest = (part.tier for part in network.tiers)
    if any(mode.score == LEARNED for mode in policy.modes.values()):
        first = dataclasses.replace(first, outputs=(*first.outputs, SCORE))
    return (first, *rest)


def pooled_by(module: Any) -> str:
    """The part of a tier's ``module`` that gives its pooled features; empty for none."""
    return str(getattr(module, "pooled", ""))


def _path(folder: Path, network: str) -> Path:
    return folder / f"{network}-score.json"
