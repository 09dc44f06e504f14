"""What routing between lite and full gains and loses on real digits, and what certifies it.

    python benchmarks/routing.py BUNDLE --data DIR [--epsilon 0.01] [--splits 100] [--json]

Moments are made of pictures and recordings that training never saw, each used once: a unit is a
handwritten picture (camera), or a take of a speaker (microphone, both). Each moment is worn as
in the training: light, clutter, blur and covers; sound at -10 to 30 dB. BUNDLE should be an
export without --data, so that the moments chose nothing in it either.

Three things come of it for each mode:

* **baselines**: accuracy and processor time of lite alone, full alone, the bundle's own router
  and the certified one, whole decisions through the runtime, processor time by the operating
  system's account, one thread; in turns of 50 moments, so that all see the same machine;
* **score**: the area between the accuracy-cost curve of the score that routes, or of lite's
  confidence, and that of choosing at random, over the same area of an oracle that asks full
  only where that helps (1 is the oracle, 0 is chance);
* **certificate**: over random halves, one half certifies and the other is watched: the share of
  the decisions that lite keeps, and how often the other half loses more than epsilon. That half
  is a sample as well, so a threshold that just holds is above epsilon there now and then. The
  smallest epsilon that so many units allow is taken where the given one is smaller.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from mla_edge.bundle import CONFIDENCE, ModePolicy, RouterPolicy
from mla_edge.certify import certify_threshold, fewest_units
from mla_edge.errors import MlaEdgeError
from mla_edge.exporter.policy import NEVER
from mla_edge.exporter.score import normalised_score
from mla_edge.networks.digits_data import (
    RATE_HZ,
    SIZE,
    DigitsData,
    DigitsMaker,
    place,
)
from mla_edge.networks.sound_wear import add_noise
from mla_edge.recordings import Recording
from mla_edge.runtime.certification import Heard, Listener, hear
from mla_edge.runtime.model import FusedModel, open_model
from mla_edge.runtime.routing import CascadeRouter
from mla_edge.signals import Frame, Sample, Signal, Sound
from mla_edge.simulator.scene import compose, degrade

TURN = 50
MODES = ("image", "audio", "image+audio")


def moments(data: DigitsData, mode: str, rng: np.random.Generator) -> Recording:
    """A moment for each unit of ``mode``, worn; takes meet pictures of their digit in turn."""
    maker = DigitsMaker(data, "test")
    pictures = {d: [] for d in range(10)}  # type: dict[int, list[np.ndarray]]
    for split in ("tune", "test"):
        for ink, digit in zip(*data.pictures[split]):
            pictures[int(digit)].append(ink)
    clips = {d: data.recordings["tune"][d] + data.recordings["test"][d] for d in range(10)}
    samples, labels = [], []
    for digit in range(10):
        for turn in range(len(pictures[digit]) if mode == "image" else len(clips[digit])):
            signals: dict[str, Signal] = {}
            if "image" in mode:
                ink = pictures[digit][turn % len(pictures[digit])].astype(np.float32) / 255
                signals["image"] = Frame(_worn(ink, rng), 0.0)
            if "audio" in mode:
                sound = place(clips[digit][turn], rng)
                noisy = add_noise(sound, maker.noise(rng), float(rng.uniform(-10, 30)))
                noisy = noisy / max(1.0, float(np.abs(noisy).max()))
                signals["audio"] = Sound(noisy.astype(np.float32), RATE_HZ, 0.0)
            samples.append(Sample(signals))
            labels.append(str(digit))
    order = rng.permutation(len(samples))
    return Recording(
        tuple(samples[i] for i in order),
        tuple(labels[i] for i in order),
        np.arange(len(samples)),
        told_units=True,
        sha256="",
    )


def _worn(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picture = compose(rng, ink, SIZE, SIZE, level=float(rng.uniform(0.1, 1)))
    wear = rng.random()
    if wear < 0.12:
        return degrade(picture, rng, blur_px=float(rng.uniform(0.5, 3)))
    if wear < 0.24:
        return degrade(picture, rng, occlude=float(rng.uniform(0.1, 0.55)))
    return picture


def resplit(
    heard: Heard, grid: Sequence[float], epsilon: float, delta: float, splits: int
) -> dict[str, Any]:
    """Certify on random halves, and watch the other halves."""
    count = len(heard.scores)
    half = count // 2
    allowed = 1 - delta ** (1 / half)  # with no loss at all
    used = (
        epsilon if fewest_units(epsilon, delta) <= half else float(np.ceil(1e3 * allowed)) / 1e3
    )
    rng = np.random.default_rng(0)
    kept, lost, none = [], [], 0
    for _ in range(splits):
        order = rng.permutation(count)
        one, other = order[:half], order[half:]
        found = certify_threshold(
            heard.scores[one], heard.regrets[one], grid, epsilon=used, delta=delta
        )
        none += found.threshold is None
        keeps = heard.scores[other] >= (np.inf if found.threshold is None else found.threshold)
        kept.append(float(np.mean(keeps)))
        lost.append(float(np.mean(keeps & heard.regrets[other])))
    return {
        "epsilon": used,
        "delta": delta,
        "units_of_a_half": half,
        "units_for_epsilon": fewest_units(epsilon, delta),
        "nothing_certified": none / splits,
        "kept_median": float(np.median(kept)),
        "lost_median": float(np.median(lost)),
        "other_half_above_epsilon": float(np.mean(np.array(lost) > used)),
    }


def timed(models: dict[str, FusedModel], data: Recording, rows: range) -> dict[str, Any]:
    """Accuracy, share of full and processor milliseconds a decision of every model."""
    seconds = dict.fromkeys(models, 0.0)
    right = dict.fromkeys(models, 0)
    full = dict.fromkeys(models, 0)
    for model in models.values():
        for row in range(5):
            model.infer(data.samples[row])
    for first in range(rows.start, rows.stop, TURN):
        turn = range(first, min(first + TURN, rows.stop))
        for name, model in models.items():
            began = time.process_time()
            said = [model.infer(data.samples[row]) for row in turn]
            seconds[name] += time.process_time() - began
            right[name] += sum(p.label == data.labels[row] for p, row in zip(said, turn))
            full[name] += sum(p.tier == "full" for p in said)
    ms = {name: 1e3 * spent / len(rows) for name, spent in seconds.items()}
    return {
        name: {
            "accuracy": right[name] / len(rows),
            "share_of_full": full[name] / len(rows),
            "cpu_ms": ms[name],
            "less_cpu_than_full": 1 - ms[name] / ms["always full"],
        }
        for name in models
    }


def measure(
    folder: Path, data: DigitsData, args: argparse.Namespace, mode: str
) -> dict[str, Any]:
    """All figures of one mode."""
    made = moments(data, mode, np.random.default_rng([args.seed, MODES.index(mode)]))
    count, half = len(made.samples), len(made.samples) // 2
    listener = Listener(RouterPolicy({}))
    with open_model(folder, threads=1, instrument=listener.hear) as model:
        policy = model.bundle.policy
        heard = hear(model, listener, made, range(count), mode, lambda *_: None)
    grid = listener.thresholds(mode)
    split = resplit(heard, grid, args.epsilon, args.delta, args.splits)
    certified = certify_threshold(
        heard.scores[:half],
        heard.regrets[:half],
        grid,
        epsilon=split["epsilon"],
        delta=args.delta,
    ).threshold
    chosen = policy.modes[mode]
    thresholds = {
        "always full": NEVER,
        "always lite": 0.0,
        "as exported": chosen.threshold,
        "certified": NEVER if certified is None else certified,
    }
    models = {
        name: open_model(folder, threads=1, instrument=_routes(mode, chosen, threshold))
        for name, threshold in thresholds.items()
    }
    try:
        table = timed(models, made, range(half, count))
    finally:
        for each in models.values():
            each.close()
    return {
        "units": count,
        "score": normalised_score(heard.scores, heard.lite_right, heard.full_right),
        "score_of_confidence": normalised_score(
            heard.confidences, heard.lite_right, heard.full_right
        ),
        "routes_by": policy.modes[mode].score,
        "oracle_accuracy": float(np.mean(heard.lite_right | heard.full_right)),
        "thresholds": thresholds,
        "on_the_other_half": table,
        "certificate": split,
    }


def _routes(mode: str, chosen: ModePolicy, threshold: float) -> Any:
    policy = RouterPolicy({mode: dataclasses.replace(chosen, threshold=threshold)})

    def instrument(parts: Any) -> Any:
        return type(parts)(parts.engines, CascadeRouter(policy), parts.preprocess, policy)

    return instrument


def words(mode: str, found: dict[str, Any]) -> list[str]:
    """One mode as lines of a table and of text."""
    split = found["certificate"]
    heads = (mode, "accuracy", "full asked", "CPU ms", "less CPU than full")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, row in found["on_the_other_half"].items():
        lines.append(
            f"| {name} | {row['accuracy']:.2%} | {row['share_of_full']:.1%} | "
            f"{row['cpu_ms']:.2f} | {row['less_cpu_than_full']:.0%} |"
        )
    shown = "-" if found["score"] is None else f"{found['score']:.2f} ({found['routes_by']})"
    if found["routes_by"] != CONFIDENCE and found["score_of_confidence"] is not None:
        shown += f", of confidence {found['score_of_confidence']:.2f}"
    return [
        *lines,
        "",
        f"{found['units']} units; score {shown}; the oracle is right in "
        f"{found['oracle_accuracy']:.2%}. Certified at epsilon {split['epsilon']:.1%} by "
        f"halves of {split['units_of_a_half']}: {split['kept_median']:.1%} kept and "
        f"{split['lost_median']:.2%} lost (medians), "
        f"{split['other_half_above_epsilon']:.0%} of the other halves above epsilon, nothing "
        f"certified in {split['nothing_certified']:.0%}.",
        "",
    ]


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epsilon", type=float, default=0.01)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print JSON, not Markdown")
    args = parser.parse_args()
    try:
        data = DigitsData.load(args.data)
        result = {mode: measure(args.bundle, data, args, mode) for mode in MODES}
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        for mode, found in result.items():
            print("\n".join(words(mode, found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
