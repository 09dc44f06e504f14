"""Prune one tier until it is as fast as was asked for, with the least loss."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping

from mla_edge.errors import ConfigError, ExportError
from mla_edge.exporter.contest import (
    KNAPSACK,
    SLACK,
    UNIFORM,
    Entrant,
    choose,
    make_graphs,
    score,
    with_widths,
)
from mla_edge.exporter.float_graphs import calibration_feeds, example_feed, without_adapters
from mla_edge.exporter.held_back import hold_back
from mla_edge.exporter.importance import measure_losses
from mla_edge.exporter.int8 import choose_cpu_graph
from mla_edge.exporter.job import kept_json
from mla_edge.exporter.latency_table import Idle, LatencyTable
from mla_edge.exporter.runs import machine, time_runs
from mla_edge.exporter.steps import hash_of
from mla_edge.exporter.table_file import check_fit, table_of
from mla_edge.exporter.tier_widths import find_options, make_width_graphs, rounding
from mla_edge.exporter.width_search import (
    Attempt,
    Found,
    Times,
    by_table,
    cheapest_widths,
    find_uniform,
    find_widths,
    measured_ms,
)
from mla_edge.exporter.width_timer import WidthTimer

if TYPE_CHECKING:
    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.exporter.pruning import Group
    from mla_edge.exporter.table_file import TableFile
    from mla_edge.networks import TierNetwork

_SAMPLES = 32  # through the network for each width of each group


@dataclass(frozen=True)
class Reached:
    """What pruning a tier to its goal came to."""

    facts: Mapping[str, Any]  # for the report
    table: LatencyTable
    whole: Path | None  # the graph for a processor, nothing pruned; None: not timed here
    target_ms: float
    expected_ms: float  # of the widths chosen, by the table


def shrink_to_goal(job: Job, part: TierNetwork, held: HeldBack) -> tuple[Job, Reached]:
    """The job with the tier's widths chosen by its goal, and how they were.

    ConfigError for a goal that no widths reach: it names the best that they do.
    """
    goal = job.goal
    assert goal is not None
    name, part = part.tier.name, without_adapters(part)
    whole_job = with_widths(job, name, {})
    groups, options = _options(job, part)
    whole_graph: Path | None = None
    with tempfile.TemporaryDirectory() as folder:
        if goal.given is not None:
            table = _given_table(job, part, goal.given, options)
            form, time_widths = table.precision, by_table(table)
            least_ms = table.expect(cheapest_widths(table))
        else:
            whole_graph, form = _whole_graph(whole_job, part, held)
            timer = make_width_graphs(
                WidthTimer, whole_job, part, groups, options, form, Path(folder)
            )
            table, least_ms = _table(whole_job, part, timer, options, form)
            time_widths = timer.time
        target_ms = goal.target_ms(table.whole_ms)
        facts: dict[str, Any] = {
            "wanted": str(goal),
            "target_ms": target_ms,
            "whole_ms": table.whole_ms,
            "least_ms": least_ms,
            "precision": form,
            "threads": table.threads,
            "measured_on": table.measured_on,
            "timed_here": goal.given is None,
            "left_out": list(table.left_out),
            "attempts": [],
            "rolled_back": [],
            "networks": [],
            "kept": "",
            "verdict": "it is as fast as that with nothing pruned",
        }
        if target_ms >= table.whole_ms:
            return whole_job, Reached(facts, table, whole_graph, target_ms, table.whole_ms)
        if least_ms > target_ms:
            where = "here" if goal.given is None else f"on {table.measured_on}"
            times = math.floor(100 * table.whole_ms / least_ms) / 100
            raise ConfigError(
                f"{name} cannot become {goal}: with nothing pruned it takes "
                f"{table.whole_ms:.2f} ms {where}, and with the narrowest widths "
                f"{least_ms:.2f} ms ({times:.2f} times faster)",
                hint="ask for less, or for a smaller network",
            )
        losses = _losses(job, part, groups, options, table)
        found, uniform = _search(job, part, groups, time_widths, table, losses, target_ms)
    entrants = [_entrant(KNAPSACK, found.chosen, whole_graph)]
    if uniform is not None:
        entrants.append(_entrant(UNIFORM, uniform[1], whole_graph, uniform[0]))
    tuned = hold_back(job, "tune")
    scores = score(job, part, form, (whole_graph, table.whole_ms), entrants, held, tuned)
    kept, verdict = choose(scores, target_ms)
    facts.update(
        attempts=[
            {"predicted_ms": a.predicted_ms, "measured_ms": a.measured_ms}
            for a in found.attempts
        ],
        rolled_back=[asdict(cut) for cut in (*found.undone, *table.idle)],
        networks=[one.facts for one in scores.values()],
        kept=kept,
        verdict=verdict,
    )
    widths = next(entrant.widths for entrant in entrants if entrant.name == kept)
    reached = Reached(facts, table, whole_graph, target_ms, table.expect(widths))
    return with_widths(job, name, widths), reached


def _entrant(
    name: str, attempt: Attempt, whole: Path | None, share: float | None = None
) -> Entrant:
    expected_ms = attempt.measured_ms if whole is None else None
    return Entrant(name, attempt.widths, attempt.predicted_ms, share, expected_ms)


def check_reached(job: Job, part: TierNetwork, reached: Reached, graph: Path) -> Reached:
    """Time the graph that goes into the bundle; ExportError if it is not as fast as asked for.

    Layers that INT8 breaks may have come to be in float since the widths were chosen. By a
    table of elsewhere nothing is timed here: what it expects is said, and the machine that it
    is of measures it with ``mla-edge build`` or ``bench``.
    """
    name = part.tier.name
    if reached.whole is None:
        return replace(reached, facts={**reached.facts, "reached_ms": reached.expected_ms})
    with job.steps.step("check_latency", name):
        feed = example_feed(job, part)
        taken = time_runs({"": (reached.whole, feed), name: (graph, feed)}, sessions=16)
        reached_ms = measured_ms(reached.table, taken, name)
        job.steps.note(f"{reached_ms:.2f} ms of {reached.target_ms:.2f} ms")
    if reached_ms > reached.target_ms * SLACK:
        raise ExportError(
            f"check_latency: {name} takes {reached_ms:.2f} ms, {reached.target_ms:.2f} ms were "
            "asked for: layers that INT8 breaks had to stay in float, or the machine was busy",
            hint="export again when nothing else runs, or ask for less",
        )
    return replace(reached, facts={**reached.facts, "reached_ms": reached_ms})


def _whole_graph(job: Job, part: TierNetwork, held: HeldBack) -> tuple[Path, str]:
    """The tier's graph for a processor with nothing pruned, and its precision."""
    folder, graph = make_graphs(job, part, job.precision)
    if job.precision != "int8":
        return graph, "fp32"
    chosen, form, _ = choose_cpu_graph(job, part, folder, graph.parent, held)
    return chosen, form


def _options(job: Job, part: TierNetwork) -> tuple[list[Group], dict[str, list[int]]]:
    """`find_options`; ConfigError where the tier has none."""
    groups, options = find_options(job, part)
    if not groups:
        raise ConfigError(
            f"{part.tier.name}: no width of this tier can be pruned",
            hint="export without --target-speedup and --target-latency-ms",
        )
    return groups, options


def _table(
    job: Job,
    part: TierNetwork,
    timer: WidthTimer,
    options: Mapping[str, list[int]],
    form: str,
) -> tuple[LatencyTable, float]:
    """The latency table, and what the tier takes with the narrowest widths."""
    name = part.tier.name

    def measure() -> dict[str, Any]:
        table = timer.measure(name, options)
        job.steps.note(f"{table.whole_ms:.2f} ms, {len(table.rows)} groups")
        least = {"least": cheapest_widths(table)}
        return {"table": table.to_json(), "ms": measured_ms(table, timer.time(least), "least")}

    opset, keep = job.profile.opset, job.recipe.tier(name).keep_float
    key = hash_of("latency_table", job.base, name, options, form, opset, keep, machine())
    found = kept_json(job, "latency_table", name, key, measure)
    return LatencyTable.from_json(found["table"]), float(found["ms"])


def _given_table(
    job: Job, part: TierNetwork, given: TableFile, options: Mapping[str, list[int]]
) -> LatencyTable:
    """The tier's table among those that were ``given``; ConfigError where it is of another."""
    name = part.tier.name
    table = table_of(given, name, job.profile.name)
    # For a processor an export may choose float where INT8 is slower: so may its parts be.
    either = [job.precision, *(["fp32"] if job.profile.tensorrt is None else [])]
    shapes = {key: value.shape for key, value in example_feed(job, part).items()}
    check_fit(table, given.inputs[name], shapes, options, either)
    with job.steps.step("latency_table", name):
        job.steps.note(f"{table.whole_ms:.2f} ms, measured on {table.measured_on}")
    return table


def _losses(
    job: Job,
    part: TierNetwork,
    groups: list[Group],
    options: Mapping[str, list[int]],
    table: LatencyTable,
) -> dict[str, dict[int, float]]:
    """What is lost with each width of each group of the table, on calibration samples."""
    timed = [group for group in groups if group.layer in table.rows]

    def measure() -> dict[str, Any]:
        samples = calibration_feeds(job, part)[:_SAMPLES]
        inputs, say = part.tier.inputs, job.steps.progress
        return dict(measure_losses(part.module, timed, options, samples, inputs, say))

    names = [group.layer for group in timed]
    key = hash_of(
        "importance", job.base, part.tier.name, names, options, job.calibration.sha256
    )
    found = kept_json(job, "importance", part.tier.name, key, measure)
    return {g: {int(w): float(loss) for w, loss in row.items()} for g, row in found.items()}


def _search(  # noqa: PLR0913 - what is known of the widths, and what they are to reach
    job: Job,
    part: TierNetwork,
    groups: list[Group],
    time_widths: Times,
    table: LatencyTable,
    losses: Mapping[str, Mapping[int, float]],
    target_ms: float,
) -> tuple[Found, tuple[float, Attempt] | None]:
    """The widths by the table, and one share of all widths, that both reach the target."""
    heads = [group.layer for group in groups if group.kind == "heads"]
    parts = {group.layer: group.part for group in groups}
    channels = rounding(job.profile, job.precision)

    def search() -> dict[str, Any]:
        found = find_widths(table, losses, parts, target_ms, time_widths)
        if found is None:
            raise ExportError(
                f"knapsack: {part.tier.name} reached {target_ms:.2f} ms when the table was "
                "measured, and now no widths do",
                hint="export again when nothing else runs on this machine, or ask for less",
            )
        uniform = find_uniform(table, heads, channels, target_ms, time_widths)
        chosen = found.chosen
        job.steps.note(
            f"{chosen.measured_ms:.2f} ms measured, {chosen.predicted_ms:.2f} ms by the table, "
            f"rolled back: {', '.join(cut.what for cut in found.undone) or 'nothing'}"
        )
        return {"found": asdict(found), "uniform": uniform and [uniform[0], asdict(uniform[1])]}

    key = hash_of(
        "knapsack", table.to_json(), losses, target_ms, heads, channels, str(job.goal)
    )
    kept = kept_json(job, "knapsack", part.tier.name, key, search)
    found = Found(
        Attempt(**kept["found"]["chosen"]),
        tuple(Attempt(**attempt) for attempt in kept["found"]["attempts"]),
        tuple(Idle(**cut) for cut in kept["found"]["undone"]),
    )
    uniform = kept["uniform"] and (kept["uniform"][0], Attempt(**kept["uniform"][1]))
    return found, uniform
