"""Measure a bundle on its sources: how long, how old, how regular, and what it costs.

Open loop: with a rate, decisions are due at moments that do not wait for those before. One that
comes too late for its moment is counted as missed, so a slow stretch does not hide itself.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from mla_edge import health, machine_files
from mla_edge.engines import Engine
from mla_edge.errors import CaptureError
from mla_edge.runtime.capture import Camera, Microphone, Prepares, Watched
from mla_edge.runtime.loading import Instrument, Parts
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import Router, Verdict
from mla_edge.runtime.session import run
from mla_edge.signals import Prediction, Tensors, find_inputs

QUANTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
WARM_UP = 5  # decisions that are not counted: engines allocate on their first runs
_PATIENCE_S = 15.0  # for the first decisions; then sources that give nothing end it
_LOOK_S = 1.0  # between looks at the board, which take some milliseconds
_BUSY = 0.1  # cores that others may use


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    duration_s: float = 10.0
    rate_hz: float | None = None  # None: a decision for each new frame
    deadline_ms: float = 100.0  # from capture to decision; flat out, of the latency
    flat_out: bool = False  # files and simulators, as fast as they can be judged


class Stages:
    """Adds up, for the decision at hand, the seconds of each stage."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._now: dict[str, float] = {}
        self.of_each: list[dict[str, float]] = []

    def timed(self, stage: str, function: Callable[..., Any], *, cpu: bool = False) -> Any:
        """``function``, its time added to ``stage``: on the wall, or of this thread's work."""
        clock = time.thread_time if cpu else time.perf_counter

        def call(*arguments: Any, **keywords: Any) -> Any:
            began = clock()
            try:
                return function(*arguments, **keywords)
            finally:
                self._now[stage] = self._now.get(stage, 0.0) + clock() - began

        return call

    def next(self) -> None:
        """The decision is made: begin the next one."""
        self.of_each.append(self._now)
        self._now = {}


class TimedEngine:
    """An engine whose runs are a stage."""

    def __init__(self, engine: Engine, stage: str, stages: Stages) -> None:
        """Run ``engine``."""
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.close = engine.close
        self.run: Callable[[Tensors], Tensors] = stages.timed(stage, engine.run)


class TimedRouter:
    """A router whose judgements are the stage ``route``."""

    def __init__(self, router: Router, stages: Stages) -> None:
        """Ask ``router``."""
        self.skip: Callable[[str], str | None] = stages.timed("route", router.skip)
        self.solo = router.solo
        self.judge_solo: Callable[[str, np.ndarray], Verdict] = stages.timed(
            "route", router.judge_solo
        )
        self._judge = stages.timed("route", router.judge)
        self.reset = router.reset

    def judge(
        self, mode: str, logits: np.ndarray, learned: np.ndarray | None = None
    ) -> Verdict:
        """What the router says."""
        verdict: Verdict = self._judge(mode, logits, learned)
        return verdict


class TimedSource:
    """A camera or microphone whose work is the stage ``capture``; waiting for it is not."""

    def __init__(self, source: Any, stages: Stages) -> None:
        """Read ``source``."""
        self.drops = 0  # ask the source itself
        self.read = stages.timed("capture", source.read, cpu=True)
        self.close = source.close
        if isinstance(source, Watched):  # its own thread works then, and no decision waits
            self.watch = source.watch
        if isinstance(source, Prepares):
            self.prepare_by = source.prepare_by


@dataclass
class _Seen:
    """What one measurement gathers."""

    decisions: list[Prediction] = field(default_factory=list)
    temperatures_c: list[float] = field(default_factory=list)
    powers_w: list[float] = field(default_factory=list)
    throttled_by: set[str] = field(default_factory=set)
    looked_s: float = 0.0


def bench(
    open_model: Callable[[Instrument], FusedModel],
    camera: Camera | None,
    microphone: Microphone | None,
    plan: Plan,
    *,
    emit: Callable[[Prediction], object],
    root: Path = Path("/"),
) -> dict[str, Any]:
    """One measurement, ready for JSON; milliseconds, MB, degrees Celsius, watts, joules.

    ``open_model`` loads the model with the instrument that it is given; what ``emit`` does with
    a decision is the last stage. CaptureError: nothing was decided.
    """
    stages, seen = Stages(), _Seen()
    began_s = time.perf_counter()

    def instrument(parts: Parts) -> Parts:
        return Parts(
            {name: TimedEngine(engine, name, stages) for name, engine in parts.engines.items()},
            TimedRouter(parts.router, stages),
            stages.timed("preprocess", parts.preprocess),
            parts.policy,
        )

    with open_model(instrument) as model:
        eye = None if camera is None else TimedSource(camera, stages)
        ear = None if microphone is None else TimedSource(microphone, stages)
        show = stages.timed("emit", emit)
        predictions = run(
            model,
            eye,
            ear,
            rate_hz=plan.rate_hz,
            as_fast_as_possible=plan.flat_out,
            duration_s=None if plan.flat_out else plan.duration_s + _PATIENCE_S,
        )
        first_s, start = 0.0, _Mark.now(root)
        with closing(predictions):
            for number, prediction in enumerate(predictions):
                show(prediction)
                stages.next()
                if number == 0:
                    first_s = time.perf_counter() - began_s
                if number < WARM_UP:
                    stages.of_each.clear()
                    start = _Mark.now(root)
                    continue
                seen.decisions.append(prediction)
                if time.perf_counter() - seen.looked_s >= _LOOK_S:
                    _look(seen, root)
                if time.perf_counter() - start.wall_s >= plan.duration_s:
                    break
        end = _Mark.now(root)
        specs = find_inputs(model.bundle.inputs)
        sources = {"camera": camera, "microphone": microphone}
        drops = {specs[s].name: source.drops for s, source in sources.items() if source}
        runs_on, bundle = model.runs_on, model.bundle.name
    if not seen.decisions:
        raise CaptureError(
            f"fewer than {WARM_UP + 1} decisions were made: nothing to measure",
            hint="give a longer --duration, or look at the devices: mla-edge doctor",
        )
    _look(seen, root)
    return {
        "bundle": bundle,
        "runs_on": runs_on,
        **_times(seen, stages, plan, end.wall_s - start.wall_s),
        "first_decision_s": round(first_s, 3),
        "drops": drops,
        **_costs(seen, start, end),
        "warnings": warnings(start, end, root, sorted(seen.throttled_by)),
    }


@dataclass(frozen=True)
class _Mark:
    """Clocks at one moment."""

    wall_s: float
    own_s: float  # of work, all threads of this process
    all_s: float | None  # of the whole machine
    over_currents: int | None = None

    @classmethod
    def now(cls, root: Path) -> _Mark:
        return cls(
            time.perf_counter(),
            time.process_time(),
            health.busy_s(root),
            health.over_currents(root),
        )


def warnings(
    start: _Mark, end: _Mark, root: Path, throttled_by: Sequence[str] = ()
) -> list[str]:
    """Why these figures may not come out again."""
    found = []
    if machine_files.clocks_fixed(root) is False:
        found.append("the GPU's clock is not fixed: sudo jetson_clocks")
    governors = sorted(set(machine_files.loose_cpu_clocks(root).values()))
    if governors:
        is_jetson = machine_files.l4t(root) is not None
        fix = "jetson_clocks" if is_jetson else "cpupower frequency-set -g performance"
        found.append(f"the CPU's clock is not fixed ({', '.join(governors)}): sudo {fix}")
    if throttled_by:
        found.append(f"the board was too hot and lowered its clocks: {', '.join(throttled_by)}")
    if (end.over_currents or 0) > (start.over_currents or 0):
        found.append("the board drew too much meanwhile, and lowered its clocks for moments")
    if start.all_s is not None and end.all_s is not None:
        others = (end.all_s - start.all_s) - (end.own_s - start.own_s)
        cores = others / max(end.wall_s - start.wall_s, 1e-9)
        if cores > _BUSY:
            found.append(f"other programs used {cores:.1f} cores meanwhile")
    return found


def spread(values: Any) -> dict[str, float | None]:
    """Percentiles and the largest of ``values``, to three decimals; None without any."""
    if not len(values):
        return dict.fromkeys((*QUANTILES, "max"))
    found = np.percentile(values, list(QUANTILES.values()))
    named = {name: round(float(value), 3) for name, value in zip(QUANTILES, found)}
    return {**named, "max": round(float(np.max(values)), 3)}


def _look(seen: _Seen, root: Path) -> None:
    hottest = max(health.temperatures_c(root).values(), default=None)
    if hottest is not None:
        seen.temperatures_c.append(hottest)
    seen.throttled_by.update(health.throttled_by(root))
    seen.looked_s = time.perf_counter()
    power = health.power_w(root)
    if power is not None:
        seen.powers_w.append(power)


def _times(seen: _Seen, stages: Stages, plan: Plan, seconds: float) -> dict[str, Any]:
    latency = np.array([p.latency_ms for p in seen.decisions])
    made_s = np.array([p.decision_time_s for p in seen.decisions])
    gaps_ms = np.diff(made_s) * 1e3
    age = latency if plan.flat_out else np.array([p.age_ms for p in seen.decisions])
    late = age > plan.deadline_ms
    names = sorted({name for each in stages.of_each for name in each})
    tiers = [p.tier for p in seen.decisions]
    due = round(seconds * plan.rate_hz) if plan.rate_hz else None
    return {
        "seconds": round(seconds, 3),
        "decisions": len(latency),
        "rate_hz": round(len(latency) / seconds, 3),
        "missed": None if due is None else max(0, due - len(latency)),
        "tiers": {
            name: round(tiers.count(name) / len(tiers), 5) for name in sorted(set(tiers))
        },
        "latency_ms": spread(latency),
        "age_ms": spread([] if plan.flat_out else age),
        # How far a decision is from where an even pace would have it.
        "jitter_ms": spread(np.abs(gaps_ms - np.median(gaps_ms)) if len(gaps_ms) else gaps_ms),
        "deadline": {
            "ms": plan.deadline_ms,
            "missed": int(late.sum()),
            "longest_run": _longest(late),
        },
        "stages_ms": {
            name: spread(1e3 * np.array([each.get(name, 0.0) for each in stages.of_each]))
            for name in names
        },
        "curves": {
            name: [round(float(v), 3) for v in np.percentile(values, np.arange(101))]
            for name, values in (("latency_ms", latency), ("age_ms", age))
        },
    }


def _longest(late: np.ndarray) -> int:
    longest = here = 0
    for missed in late:
        here = here + 1 if missed else 0
        longest = max(longest, here)
    return longest


def _costs(seen: _Seen, start: _Mark, end: _Mark) -> dict[str, Any]:
    seconds = end.wall_s - start.wall_s
    power = float(np.mean(seen.powers_w)) if seen.powers_w else None
    joules = None if power is None else power * seconds / len(seen.decisions)
    return {
        "cores": round((end.own_s - start.own_s) / seconds, 3),
        "memory_mb": memory_mb(),
        "temperature_c": max(seen.temperatures_c, default=None),
        "power_w": None if power is None else round(power, 3),
        "joules_per_decision": None if joules is None else round(joules, 5),
    }


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def compare(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Each figure that both have: the median and range of the runs, and after over before."""
    rows = []
    left, right = ([_flat(run) for run in runs] for runs in (before, after))
    for name in left[0]:
        a = [run[name] for run in left if name in run]
        b = [run[name] for run in right if name in run]
        if a and b:
            one, other = float(np.median(a)), float(np.median(b))
            rows.append(
                {
                    "figure": name,
                    "before": {"median": one, "low": min(a), "high": max(a)},
                    "after": {"median": other, "low": min(b), "high": max(b)},
                    "ratio": round(other / one, 4) if one else None,
                    "apart": max(a) < min(b) or max(b) < min(a),
                }
            )
    return rows


def _flat(run: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in run.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found
