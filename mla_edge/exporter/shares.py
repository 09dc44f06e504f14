"""Roll back the shares of a recipe that make a tier no faster, before anything is taught.

A goal of latency times what it tries; a share (``prune = 0.15``) is a guess. Each is held
against the tier without it, in the form that runs here.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Mapping

import numpy as np

from mla_edge.exporter.float_graphs import (
    calibration_feeds,
    make_float_graphs,
    takes_student,
)
from mla_edge.exporter.int8 import SLOWER, matching
from mla_edge.exporter.job import kept_json
from mla_edge.exporter.latency_table import Idle
from mla_edge.exporter.quantization import calibrate, quantize
from mla_edge.exporter.runs import machine, saving, time_runs
from mla_edge.exporter.steps import Steps, hash_of

if TYPE_CHECKING:
    from mla_edge.exporter.job import Job
    from mla_edge.networks import TierNetwork

Shares = Mapping[str, float]  # by the recipe's name of them; what is not cut is not in it
Times = Callable[[Mapping[str, Shares]], Mapping[str, np.ndarray]]

_WORDS = {
    "prune": "inner channels",
    "prune_heads": "attention heads",
    "prune_residual": "residual streams",
}
_SESSIONS, _FEW_SESSIONS = 16, 3
_SAMPLES = 32  # set the ranges of INT8: how long a graph takes hardly depends on them


def keep_what_pays(job: Job, part: TierNetwork) -> tuple[Job, dict[str, Any] | None]:
    """The job without the shares that make the tier no faster here, and what was measured.

    None where the recipe has no shares of this tier, or takes its student.
    """
    name = part.tier.name
    how = job.recipe.tier(name)
    cut = {field: getattr(how, field) for field in _WORDS if getattr(how, field)}
    if not cut or takes_student(part, how):
        return job, None

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            trial = _Trial(job, part, Path(folder))
            kept, undone, taken = drop_idle(cut, trial.time)
        whole_ms, ms = (float(np.median(taken[choice])) for choice in ("", "kept"))
        back = ", ".join(idle.what for idle in undone) or "nothing"
        faster = f"{whole_ms / ms:.2f} times faster, " if kept else ""
        job.steps.note(f"{faster}rolled back: {back}")
        return {
            "asked": dict(cut),
            "kept": dict(kept),
            "rolled_back": [asdict(idle) for idle in undone],
            "whole_ms": whole_ms,
            "ms": ms,
            "precision": trial.form,
            "measured_on": machine(),
        }

    opset = job.profile.opset
    key = hash_of(
        "shares", job.base, name, cut, job.precision, opset, how.keep_float, how.weights,
        how.sparsity, machine(),
    )  # fmt: skip
    facts = kept_json(job, "time_pruned", name, key, measure)
    shares = {field: facts["kept"].get(field, 0.0) for field in _WORDS}
    return _with_shares(job, name, shares), facts


def drop_idle(
    cut: Shares, time_shares: Times
) -> tuple[dict[str, float], list[Idle], Mapping[str, np.ndarray]]:
    """The shares that each save time beside the others, those that do not, and the last times.

    What saves least goes first, and the rest is timed again: two that cost each other their
    gain are not both undone. It does as well where all of them save nothing together. The times
    are of the tier with nothing cut (``""``) and with what is ``kept``.
    """
    kept = dict(cut)
    undone: list[Idle] = []
    while True:
        fewer = {field: _without(kept, field) for field in kept}
        taken = time_shares({"": {}, "kept": kept, **fewer})
        savings = [
            (Idle(_in_words(field, kept[field]), *saving(taken[field], taken["kept"])), field)
            for field in kept
        ]
        together_ms, noise_ms = saving(taken[""], taken["kept"])
        pays = together_ms > noise_ms
        idle = [cut for cut in savings if not pays or cut[0].saved_ms <= cut[0].noise_ms]
        if not idle:
            return kept, undone, taken
        least, field = min(idle, key=lambda cut: cut[0].saved_ms)
        undone.append(least)
        del kept[field]


class _Trial:
    """Times a tier with any shares, untaught, in the form that runs here."""

    def __init__(self, job: Job, part: TierNetwork, folder: Path) -> None:
        """Graphs in INT8 go to ``folder``."""
        # The steps of making its graphs are those of one that is running.
        self._job = dataclasses.replace(
            job, trains=False, precision="fp32", steps=Steps(lambda event: None)
        )
        self._part = part
        self._folder = folder
        self._feeds = calibration_feeds(job, part)[:_SAMPLES]
        self._graphs: dict[tuple[str, str], Path] = {}
        self.form = "fp32"  # in which the graphs run
        if job.precision == "int8":
            cases = {form: (self._graph({}, form), self._feeds[0]) for form in ("fp32", "int8")}
            taken = time_runs(cases, sessions=_FEW_SESSIONS)
            if np.median(taken["int8"]) <= np.median(taken["fp32"]) * SLOWER:
                self.form = "int8"

    def time(self, choices: Mapping[str, Shares]) -> dict[str, np.ndarray]:
        """Milliseconds of one run, [sessions] by choice."""
        cases = {
            name: (self._graph(shares, self.form), self._feeds[0])
            for name, shares in choices.items()
        }
        return time_runs(cases, sessions=_SESSIONS)

    def _graph(self, shares: Shares, form: str) -> Path:
        key = form, str(sorted(shares.items()))
        if key not in self._graphs:
            name = self._part.tier.name
            job = _with_shares(self._job, name, {**dict.fromkeys(_WORDS, 0.0), **shares})
            graph = make_float_graphs(job, self._part) / "float.onnx"
            if form == "int8":
                whole, graph = graph, self._folder / f"{len(self._graphs)}.onnx"
                quantize(
                    whole,
                    graph,
                    calibrate(whole, self._feeds, method="max"),
                    style="cpu",
                    keep_float=matching(whole, job.recipe.tier(name).keep_float),
                    int4=bool(job.recipe.tier(name).weights),
                )
            self._graphs[key] = graph
        return self._graphs[key]


def _with_shares(job: Job, tier: str, shares: Shares) -> Job:
    """The job with ``shares`` of the tier cut, each of them given."""
    how = dataclasses.replace(job.recipe.tier(tier), **shares)  # type: ignore[arg-type]
    tiers = {**job.recipe.tiers, tier: how}
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, tiers=tiers))


def _without(shares: Shares, field: str) -> dict[str, float]:
    return {other: share for other, share in shares.items() if other != field}


def _in_words(field: str, share: float) -> str:
    return f"{share:.0%} of the {_WORDS[field]}"
