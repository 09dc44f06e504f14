"""What routing between lite and full gains and loses on real moments, and what certifies it.

    python benchmarks/routing.py --network digits|commands --data DIR [--bundle DIR] [--json]

Moments are made of pictures, recordings and clips that training never saw, with sound at -10 to
30 dB. What belongs together is one unit: a handwritten picture, a take of a speaker, a clip
with its six words. The bundle of ``digits`` should be an export without --data: then its
moments, which are those of test and tune without the 51 pictures and 68 takes that chose among
the INT8 ranges that ship, have chosen nothing but that confidence routes. The bundle of
``commands`` needs the folder, whose test clips choose nothing.

For each mode:

* **ways to choose**: accuracy, share of full and processor time (by the operating system's
  account, one thread) of both tiers alone, the bundle's own router, the certified one, the same
  share of full by chance and in turns, and an oracle that asks full only where that helps;
  whole decisions through the runtime, in turns of 50. Where a learned score routes, what
  confidence certifies stands beside it. The static mix is the best that does not look at the
  cost of the certified one: the bundle has no other network, so it is lite and full in turns.
* **certified** at each epsilon: by one half of the units and measured on the other, where a
  half is enough for --epsilon; otherwise by all units, on which it is measured too. Where even
  all are too few, how many are missing.
* **score**: where lite's confidence, and the learned score if the bundle routes by one, lies
  between chance (0) and the oracle (1), by areas under accuracy against the share that goes on
  to full.
* **resplits**: certified on random halves of the units, how often all units, or the other
  half, lose more than epsilon.
* **levels**: accuracy at each level of noise, as certified. These are the same units again.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Iterator

import numpy as np
from routing_baselines import (
    FULL,
    Beforehand,
    Oracle,
    Switch,
    Thresholds,
    always,
    plain,
    static_mix,
)
from routing_baselines import measure as measure_routers
from routing_certificate import Evidence, resplit
from routing_moments import LEVELS_DB, World, open_world
from routing_picture import draw

from mla_edge.bundle import CONFIDENCE, NEVER, ModePolicy, RouterPolicy, write_atomically
from mla_edge.certify import THRESHOLDS
from mla_edge.errors import MlaEdgeError
from mla_edge.exporter.score import normalised_score
from mla_edge.recordings import Recording
from mla_edge.runtime.listening import Heard, Listener, hear
from mla_edge.runtime.loading import Parts, open_model
from mla_edge.runtime.model import FusedModel
from mla_edge.runtime.routing import CascadeRouter, Router

EPSILONS = (0.005, 0.01, 0.02, 0.04, 0.05)
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of full, along the curve
CERTIFIED = "certified"


@dataclass
class Bench:
    """The model that routes, who routes in it, and who listens to each score."""

    model: FusedModel
    switch: Switch
    ears: dict[bool, tuple[FusedModel, Listener]]  # True: of confidence, whatever routes
    world: World
    args: argparse.Namespace

    def hear(self, data: Recording, mode: str, by: str) -> Heard:
        """What both tiers say of all of ``data``, with lite's score ``by``."""
        model, listener = self.ears[by == CONFIDENCE]
        return hear(model, listener, data, range(len(data.samples)), mode, lambda *_: None)

    def scores(self, mode: str) -> dict[str, ModePolicy]:
        """Confidence, and last the bundle's way to score in ``mode``, if that is another."""
        chosen = self.model.bundle.policy.modes[mode]
        first = f", {chosen.solo.input} alone first" if chosen.solo else ""
        return {CONFIDENCE: plain(chosen), f"{chosen.score}{first}": chosen}


@dataclass(frozen=True)
class Part:
    """What one score certifies: a threshold (or None) by epsilon."""

    chosen: ModePolicy
    evidence: Evidence
    found: dict[float, float | None]

    def router(self, mode: str, epsilon: float) -> Thresholds:
        """As certified."""
        return Thresholds(mode, self.chosen, _threshold(self.found[epsilon]))


def measure(bench: Bench, mode: str) -> dict[str, Any]:
    """All figures of one mode."""
    args, number = bench.args, bench.world.modes.index(mode)
    rng = np.random.default_rng([args.seed, number])
    data = bench.world.make(mode, rng, rows=args.rows)
    scores = bench.scores(mode)
    evidences = {
        by: Evidence(bench.hear(data, mode, by), data.units, chosen.thresholds or THRESHOLDS)
        for by, chosen in scores.items()
    }
    evidence = evidences[list(scores)[-1]]
    order = rng.permutation(evidence.members)
    halves = len(order) // 2 >= evidence.fewest(args.epsilon, args.delta)
    proving = order[: len(order) // 2] if halves else order
    watched = order[len(order) // 2 :] if halves else order
    main = max(args.epsilon, evidence.least_epsilon(len(proving), args.delta))
    epsilons = [
        epsilon
        for epsilon in sorted({*EPSILONS, main})
        if evidence.fewest(epsilon, args.delta) <= len(proving)
    ]
    parts = {
        by: Part(scores[by], of, {e: of.certify(proving, e, args.delta) for e in epsilons})
        for by, of in evidences.items()
    }
    heard, own = evidence.heard, list(parts.values())[-1]
    rows = [int(row) for row in evidence.rows_of(watched)]
    result: dict[str, Any] = {
        "units": len(order),
        "unit": bench.world.unit(mode),
        "moments": len(data.samples),
        "certified_by": len(proving),
        "measured_on": "the other half" if halves else "the same units",
        "epsilon": main,
        "routes_by": list(parts)[-1],
        "score": {
            by: normalised_score(of.heard.scores, of.heard.lite_right, of.heard.full_right)
            for by, of in evidences.items()
        },
        "oracle_accuracy": float(np.mean(heard.lite_right | heard.full_right)),
        **_ways(bench, mode, data, rows, parts, main),
        "missing": {
            f"{epsilon:g}": evidence.fewest(epsilon, args.delta) - len(proving)
            for epsilon in EPSILONS
            if epsilon not in epsilons
        },
        "resplits": resplit(evidence, args.epsilon, args.delta, args.splits),
    }
    if "audio" in mode and not args.no_levels:
        result["levels"] = levels(bench, mode, own.router(mode, main))
    return result


def _ways(  # noqa: PLR0913 - a mode, its moments and what they certify
    bench: Bench,
    mode: str,
    data: Recording,
    rows: list[int],
    parts: dict[str, Part],
    main: float,
) -> dict[str, Any]:
    """The table of the ways to choose, the certified costs, and the curves."""
    own, heard = list(parts.values())[-1], list(parts.values())[-1].evidence.heard
    measuring = partial(measure_routers, bench.model, bench.switch, data=data, rows=rows)
    once = measuring({CERTIFIED: own.router(mode, main)}, least=len(rows))[CERTIFIED]
    share, chance = once.share_of_full, np.random.default_rng(bench.args.seed)
    ways = {
        **always(mode, own.chosen),
        "as exported": Thresholds(mode, own.chosen, own.chosen.threshold),
        "random, equal share": Beforehand(mode, own.chosen, share, chance),
        "periodic, equal share": Beforehand(mode, own.chosen, share, None),
        "oracle": Oracle(mode, own.chosen, heard.regrets),
        **{f"{CERTIFIED} at {e:.1%}": own.router(mode, e) for e in own.found},
        **{
            f"{by} {CERTIFIED} at {main:.1%}": part.router(mode, main)
            for by, part in parts.items()
            if part is not own
        },
    }
    curves = {
        f"{by} {asked}": Thresholds(
            mode, part.chosen, float(np.quantile(part.evidence.heard.scores[rows], asked))
        )
        for by, part in parts.items()
        for asked in SHARES
    }
    measured = measuring({**ways, **curves}, least=bench.args.decisions)
    shown = {name: each.to_dict(measured[FULL].cpu_ms) for name, each in measured.items()}
    mine = measured[f"{CERTIFIED} at {main:.1%}"]
    full_right = heard.full_right[rows]
    return {
        "ways": {
            **{name: shown[name] for name in ways},
            "static mix, equal cost": {
                "accuracy": static_mix(measured, mine.cpu_ms),
                "cpu_ms": mine.cpu_ms,
            },
        },
        CERTIFIED: [
            {
                "epsilon": epsilon,
                "threshold": at,
                "lost": float(np.mean(full_right & ~measured[name].right)),
                **shown[name],
            }
            for epsilon, at in own.found.items()
            for name in [f"{CERTIFIED} at {epsilon:.1%}"]
        ],
        "curves": {by: [shown[f"{by} {asked}"] for asked in SHARES] for by in parts},
    }


def levels(bench: Bench, mode: str, router: Router) -> list[dict[str, float]]:
    """Accuracy at each level of noise: lite, full, and as ``router`` chooses."""
    found = []
    for number, level in enumerate(LEVELS_DB):
        rng = np.random.default_rng([bench.args.seed, 100, number])
        data = bench.world.make(mode, rng, rows=1, snr_db=level)
        heard = bench.hear(data, mode, CONFIDENCE)
        rows = range(len(data.samples))
        routed = measure_routers(
            bench.model, bench.switch, {"routed": router}, data=data, rows=rows, least=1
        )["routed"]
        found.append({
            "snr_db": level,
            "lite": float(np.mean(heard.lite_right)),
            "full": float(np.mean(heard.full_right)),
            "routed": routed.accuracy,
            "oracle": float(np.mean(heard.lite_right | heard.full_right)),
            "share_of_full": routed.share_of_full,
        })  # fmt: skip
    return found


@contextmanager
def listening(folder: Path, is_plain: bool) -> Iterator[tuple[FusedModel, Listener]]:
    """A model whose lite tier is scored by confidence, or as its policy says."""
    listener = Listener(RouterPolicy({}))

    def instrument(parts: Parts) -> Parts:
        policy = parts.policy
        if is_plain:
            modes = {mode: plain(chosen) for mode, chosen in policy.modes.items()}
            policy = replace(policy, modes=modes)
        return listener.hear(replace(parts, policy=policy, router=CascadeRouter(policy)))

    with open_model(folder, threads=1, instrument=instrument) as model:
        yield model, listener


def _threshold(found: float | None) -> float:
    return NEVER if found is None else found


def words(mode: str, found: dict[str, Any]) -> list[str]:
    """One mode as tables and text."""
    heads = (mode, "accuracy", "full asked", "CPU ms", "less CPU than full")
    lines = _table(heads, [
        (
            name,
            f"{row['accuracy']:.2%}",
            f"{row['share_of_full']:.1%}" if "share_of_full" in row else "",
            f"{row['cpu_ms']:.2f}",
            f"{row['less_cpu_than_full']:.0%}" if "less_cpu_than_full" in row else "",
        )
        for name, row in found["ways"].items()
    ])  # fmt: skip
    split = found["resplits"]
    shown = ", ".join(
        f"{by} {'-' if value is None else f'{value:.2f}'}"
        for by, value in found["score"].items()
    )
    missing = ", ".join(f"{count} for {float(e):.1%}" for e, count in found["missing"].items())
    lines += [
        f"{found['units']} {found['unit']}, {found['moments']} moments; certified by "
        f"{found['certified_by']} {found['unit']}, measured on {found['measured_on']}; score "
        f"of {shown}; the oracle is right in "
        f"{found['oracle_accuracy']:.2%}.",
        *([f"Missing {found['unit']}: {missing} if none is lost."] if missing else []),
        f"{split['splits']} re-splits at epsilon {split['epsilon']:.1%} by halves of "
        f"{split['units_of_a_half']}: {split['kept_median']:.1%} kept and "
        f"{split['lost_median']:.2%} lost by the others (medians); all units lose more than "
        f"epsilon in {split['violations']:.0%}, the other half in "
        f"{split['other_half_above']:.0%}; nothing certified in "
        f"{split['nothing_certified']:.0%}.",
        "",
    ]
    if "levels" in found:
        of_levels = (f"{mode}, noise", "lite", "full", "routed", "oracle", "full asked")
        lines += _table(of_levels, [
            (
                f"{row['snr_db']:.0f} dB",
                *(f"{row[name]:.1%}" for name in ("lite", "full", "routed", "oracle")),
                f"{row['share_of_full']:.1%}",
            )
            for row in found["levels"]
        ])  # fmt: skip
    return lines


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=("digits", "commands"), default="digits")
    parser.add_argument("--bundle", type=Path, help="bundles/<network>-host if not given")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epsilon", type=float, default=0.01)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--rows", type=int, help="moments of a take (8) or of a word (2)")
    parser.add_argument("--decisions", type=int, default=1500, help="of each way, at least")
    parser.add_argument("--units", type=int, help="so many only")
    parser.add_argument("--mode", action="append", help="this one only; may come again")
    parser.add_argument("--no-levels", action="store_true", help="no table of noise levels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="an SVG of accuracy over CPU time")
    parser.add_argument("--json", action="store_true", help="print JSON, not Markdown")
    args = parser.parse_args()
    args.rows = args.rows or {"digits": 8, "commands": 2}[args.network]
    folder = args.bundle or Path("bundles") / f"{args.network}-host"
    switch = Switch()
    try:
        world = open_world(args.network, args.data, args.units)
        with ExitStack() as stack:
            model = stack.enter_context(
                open_model(folder, threads=1, instrument=switch.instrument)
            )
            ears = {by: stack.enter_context(listening(folder, by)) for by in (True, False)}
            bench = Bench(model, switch, ears, world, args)
            result = {mode: measure(bench, mode) for mode in args.mode or world.modes}
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    if args.picture:
        write_atomically(args.picture, draw(result, args.network).encode())
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(line for mode, found in result.items() for line in words(mode, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
