"""What routing between lite and full gains and loses on real moments, and what certifies it.

    python benchmarks/routing.py --network digits|commands --data DIR [--bundle DIR] [--json]

Moments are made of pictures, recordings and clips that training never saw, with sound at -10 to
30 dB. What belongs together is one unit: a handwritten picture, a take of a speaker, a clip
with its six words. The bundle of ``digits`` should be an export without --data, so that the
moments chose nothing in it either; the one of ``commands`` needs the folder, whose test clips
choose nothing.

For each mode:

* **ways to choose**: accuracy, share of full and processor time (by the operating system's
  account, one thread) of both tiers alone, the bundle's own router, the certified one, the same
  share of full by chance and in turns, and an oracle that asks full only where that helps;
  whole decisions through the runtime, in turns of 50. Beside the certified one stands the best
  that does not look: lite and full mixed at equal cost.
* **certified** at each epsilon: by one half of the units and measured on the other, where a
  half is enough for --epsilon; otherwise by all units, on which it is measured too. Where even
  all are too few, how many are missing.
* **score**: of lite's confidence between chance (0) and the oracle (1), by areas under accuracy
  against the share that goes on to full.
* **resplits**: certified on random halves of the units, how often all units, or the other
  half, lose more than epsilon.
* **levels**: accuracy at each level of noise, as certified. These are the same units again.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from routing_baselines import (
    FULL,
    Beforehand,
    Oracle,
    Switch,
    Thresholds,
    always,
    static_mix,
)
from routing_baselines import measure as measure_routers
from routing_certificate import Evidence, resplit, score
from routing_moments import LEVELS_DB, World, open_world
from routing_picture import draw

from mla_edge.bundle import ModePolicy, RouterPolicy, write_atomically
from mla_edge.errors import MlaEdgeError
from mla_edge.exporter.policy import NEVER
from mla_edge.recordings import Recording
from mla_edge.runtime.certification import Heard, Listener, hear
from mla_edge.runtime.loading import open_model
from mla_edge.runtime.model import FusedModel

EPSILONS = (0.005, 0.01, 0.02, 0.05)
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of full, along the curve
CERTIFIED = "certified"


@dataclass
class Bench:
    """The model, who listens to it, and who routes in it."""

    listening: FusedModel
    listener: Listener
    model: FusedModel
    switch: Switch
    world: World
    args: argparse.Namespace

    def hear(self, data: Recording, mode: str) -> Heard:
        """What both tiers say of all of ``data``."""
        rows = range(len(data.samples))
        return hear(self.listening, self.listener, data, rows, mode, lambda *_: None)


def measure(bench: Bench, mode: str) -> dict[str, Any]:
    """All figures of one mode."""
    args, number = bench.args, bench.world.modes.index(mode)
    rng = np.random.default_rng([args.seed, number])
    data = bench.world.make(mode, rng, rows=args.rows)
    evidence = Evidence(bench.hear(data, mode), data.units)
    chosen = bench.model.bundle.policy.modes[mode]
    order, heard = rng.permutation(evidence.members), evidence.heard
    halves = len(order) // 2 >= evidence.fewest(args.epsilon, args.delta)
    proving = order[: len(order) // 2] if halves else order
    watched = order[len(order) // 2 :] if halves else order
    rows = [int(row) for row in evidence.rows_of(watched)]
    main = max(args.epsilon, evidence.least_epsilon(len(proving), args.delta))
    found = {
        epsilon: evidence.certify(proving, epsilon, args.delta)
        for epsilon in sorted({*EPSILONS, main})
        if evidence.fewest(epsilon, args.delta) <= len(proving)
    }
    result: dict[str, Any] = {
        "units": len(order),
        "unit": bench.world.unit(mode),
        "moments": len(data.samples),
        "certified_by": len(proving),
        "measured_on": "the other half" if halves else "the same units",
        "epsilon": main,
        "score": score(heard),
        "oracle_accuracy": float(np.mean(heard.lite_right | heard.full_right)),
    }
    result.update(_ways(bench, mode, chosen, data, evidence, rows, found, main))
    result["missing"] = {
        f"{epsilon:g}": evidence.fewest(epsilon, args.delta) - len(proving)
        for epsilon in EPSILONS
        if epsilon not in found
    }
    result["resplits"] = resplit(evidence, args.epsilon, args.delta, args.splits)
    if "audio" in mode and not args.no_levels:
        result["levels"] = levels(bench, mode, _threshold(found[main]))
    return result


def _ways(  # noqa: PLR0913 - a mode, its moments and what they certify
    bench: Bench,
    mode: str,
    chosen: ModePolicy,
    data: Recording,
    evidence: Evidence,
    rows: list[int],
    found: dict[float, float | None],
    main: float,
) -> dict[str, Any]:
    """The table of the ways to choose, the certified costs, and the curve."""
    scores, threshold = evidence.heard.scores, _threshold(found[main])
    share = float(np.mean(scores[rows] < threshold))
    chance = np.random.default_rng(bench.args.seed)
    routers = {
        **always(mode, chosen),
        "as exported": Thresholds(mode, chosen, chosen.threshold),
        "random, equal share": Beforehand(mode, chosen, share, chance),
        "periodic, equal share": Beforehand(mode, chosen, share, None),
        "oracle": Oracle(mode, chosen, evidence.heard.regrets),
    }
    certified = {
        f"{CERTIFIED} at {epsilon:.1%}": Thresholds(mode, chosen, _threshold(at))
        for epsilon, at in found.items()
    }
    curve = {
        f"{asked}": Thresholds(mode, chosen, float(np.quantile(scores[rows], asked)))
        for asked in SHARES
    }
    everything = {**routers, **certified, **curve}
    measured = measure_routers(
        bench.model, bench.switch, everything, data, rows, bench.args.decisions
    )
    shown = {name: each.to_dict(measured[FULL].cpu_ms) for name, each in measured.items()}
    own = measured[f"{CERTIFIED} at {main:.1%}"]
    heard = evidence.heard
    return {
        "ways": {
            **{name: shown[name] for name in (*routers, *certified)},
            "static mix, equal cost": {
                "accuracy": static_mix(measured, own.cpu_ms),
                "cpu_ms": own.cpu_ms,
            },
        },
        CERTIFIED: [
            {
                "epsilon": epsilon,
                "threshold": at,
                "kept": float(np.mean(scores[rows] >= _threshold(at))),
                "lost": float(np.mean(heard.regrets[rows] & (scores[rows] >= _threshold(at)))),
                **shown[f"{CERTIFIED} at {epsilon:.1%}"],
            }
            for epsilon, at in found.items()
        ],
        "curve": [shown[name] for name in curve],
    }


def levels(bench: Bench, mode: str, threshold: float) -> list[dict[str, float]]:
    """Accuracy at each level of noise: lite, full, routed by ``threshold``."""
    found = []
    for number, level in enumerate(LEVELS_DB):
        rng = np.random.default_rng([bench.args.seed, 100, number])
        heard = bench.hear(bench.world.make(mode, rng, rows=1, snr_db=level), mode)
        keeps = heard.scores >= threshold
        found.append({
            "snr_db": level,
            "lite": float(np.mean(heard.lite_right)),
            "full": float(np.mean(heard.full_right)),
            "routed": float(np.mean(np.where(keeps, heard.lite_right, heard.full_right))),
            "oracle": float(np.mean(heard.lite_right | heard.full_right)),
            "share_of_full": float(np.mean(~keeps)),
        })  # fmt: skip
    return found


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
    split, shown = found["resplits"], found["score"]
    missing = ", ".join(f"{count} for {float(e):.1%}" for e, count in found["missing"].items())
    lines += [
        f"{found['units']} {found['unit']}, {found['moments']} moments; certified by "
        f"{found['certified_by']} {found['unit']}, measured on {found['measured_on']}; score "
        f"{'-' if shown is None else f'{shown:.2f}'}; the oracle is right in "
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
        heads = (f"{mode}, noise", "lite", "full", "routed", "oracle", "full asked")
        lines += _table(heads, [
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
    listener, switch = Listener(RouterPolicy({})), Switch()
    try:
        world = open_world(args.network, args.data, args.units)
        with ExitStack() as stack:
            listening, model = (
                stack.enter_context(open_model(folder, threads=1, instrument=instrument))
                for instrument in (listener.hear, switch.instrument)
            )
            bench = Bench(listening, listener, model, switch, world, args)
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
