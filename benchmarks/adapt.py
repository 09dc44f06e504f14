"""What ``mla-edge adapt`` makes of a speaker whom the network never heard, from 50 examples.

    python benchmarks/adapt.py --data DIR --speaker NAME --base FILE [--seeds 0 1 2] [--json]

Of ``digits``: its tier lite, its tier full, and full's student, which is what ships as full.

DIR is that of benchmarks/digits.py. The shipped weights have heard every speaker of it, so the
start is a network that has not: the stages ``audio``, ``joint``, ``lite`` and ``student`` of
the training, shortened, without that speaker. They begin with untrained weights, but for the
shipped encoders of pictures, which take no sound. FILE keeps that network, and is used again
where it is there.

The speaker's takes are drawn anew for each of ``--seeds``: as many as ``--examples`` says
become a folder as a user makes it, equally of every digit, which ``adapt`` splits into what it
learns from and what it holds out. All the other takes measure, by the microphone alone, each
once, somewhere in a second of silence. What is remembered, and measured of others, is of the
other speakers. Uses one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.exporter.adapting import AdaptRequest, adapt_network, measure
from mla_edge.exporter.steps import StepEvent, Steps
from mla_edge.networks import Network, load_network
from mla_edge.networks.adaptation import AdaptationPlan
from mla_edge.networks.checkpoint import check_output, read_about, save_weights
from mla_edge.networks.digits import RATE_HZ
from mla_edge.networks.digits_data import DigitsData, place, samples_of
from mla_edge.networks.digits_training import digits_course
from mla_edge.networks.plan import Plan, Stage
from mla_edge.networks.training import Trainer, keep_memory
from mla_edge.signals import Sample, Sound

BASE = Plan(
    (
        Stage("audio", 600, 1.5e-3),
        Stage("joint", 300, 6e-4),
        Stage("lite", 400, 3e-3),
        Stage("student", 600, 1.5e-3),
    )
)

TIERS = {"full-student": "full's student, which ships", "full": "full", "lite": "lite"}
WHO = {"speaker": "the new speaker", "others": "other speakers", "worn": "worn samples"}

Takes = list[tuple[int, np.ndarray]]
"""Each with its digit."""


def split_speakers(folder: Path, speaker: str) -> tuple[DigitsData, DigitsData]:
    """The recordings of ``speaker``, and those of all others."""
    with np.load(folder / "spoken_digits.npz", allow_pickle=False) as file:
        speakers = sorted({str(name) for name in file["speakers"]})
    if speaker not in speakers or len(speakers) < 2:
        raise ConfigError(
            f"{folder}: no speaker {speaker!r} among others",
            hint=f"--speaker is one of {', '.join(speakers)}",
        )
    others = tuple(name for name in speakers if name != speaker)
    return (
        DigitsData.load(folder, speakers=(speaker,)),
        DigitsData.load(folder, speakers=others),
    )


def make_base(data: DigitsData, speaker: str, path: Path) -> None:
    """Train what hears, without ``speaker``, and write it to ``path``."""
    check_output(path)
    if path.exists():
        if read_about(path).get("without") != speaker:
            raise ConfigError(f"{path}: not trained without {speaker}", hint="name another")
        return
    began = time.monotonic()
    trainer = Trainer(digits_course(data, BASE), path.with_suffix(".checkpoint"))
    if not trainer.done:
        for network, part in zip((trainer.lite, trainer.full), load_network("digits").tiers):
            shipped: Any = part.module
            network.encoders["image"].load_state_dict(shipped.encoders["image"].state_dict())
    trainer.run()
    about = {"without": speaker, "seconds": f"{time.monotonic() - began:.0f}"}
    save_weights(trainer.networks, path, about)


def takes_of(data: DigitsData, *splits: str) -> Takes:
    """The recordings of some splits."""
    recordings = data.recordings
    return [(d, clip) for d in range(10) for s in splits for clip in recordings[s][d]]


def choose(takes: Takes, count: int, rng: np.random.Generator) -> tuple[Takes, Takes]:
    """``count`` of ``takes``, as many of every digit, and the others."""
    chosen: set[int] = set()
    for digit in range(10):
        mine = [i for i, (said, _) in enumerate(takes) if said == digit]
        if count % 10 or not 20 <= count < 10 * len(mine):
            raise ConfigError(
                f"--examples {count}: every digit wants two or more, and fewer than all "
                f"{len(mine)}",
                hint="50 is five of each",
            )
        chosen |= set(rng.permutation(mine)[: count // 10].tolist())
    rest = [take for i, take in enumerate(takes) if i not in chosen]
    return [takes[i] for i in sorted(chosen)], rest


def write_folder(folder: Path, takes: Takes) -> None:
    """``takes`` as a user's folder of examples."""
    (folder / "audio").mkdir(parents=True)
    lines = ["id,label"]
    for i, (digit, clip) in enumerate(takes):
        lines.append(f"take-{i},{digit}")
        with wave.open(str(folder / "audio" / f"take-{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes((clip * 32768).astype("<i2").tobytes())
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def heard(takes: Takes, seed: int) -> list[Sample]:
    """Every take once, by the microphone alone."""
    rng = np.random.default_rng(seed)
    return [
        Sample({"audio": Sound(place(clip, rng), RATE_HZ, 0.0, str(digit))})
        for digit, clip in takes
    ]


def percent(network: Network, samples: list[Sample]) -> dict[str, float]:
    """Accuracy of every tier in per cent."""
    return {n: round(100 * s.accuracy, 2) for n, s in measure(network, samples).items()}


def tell(event: StepEvent) -> None:
    """Steps that are done, on stderr."""
    if event.seconds is not None:
        print(f"{event.step} {event.tier}: {event.note}", file=sys.stderr)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The base, what it learns from each draw of examples, and what came of it."""
    own, others = split_speakers(args.data, args.speaker)
    make_base(others, args.speaker, args.base)
    network = load_network("digits", weights=args.base)
    network = replace(network, tiers=network.learners, samples=samples_of(others))
    draws = [adapt_once(network, own, others, args, seed) for seed in args.seeds]
    return {
        "speaker": args.speaker,
        "examples": args.examples,
        "steps": args.steps,
        "base": read_about(args.base),
        "draws": draws,
    }


def adapt_once(
    network: Network, own: DigitsData, others: DigitsData, args: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """What one draw of the examples makes of every tier and student, in per cent right.

    A tier that stays as it was, because it was no better or forgot too much, has the same
    figures before and after, as it would ship.
    """
    rng = np.random.default_rng(seed)
    shown, rest = choose(takes_of(own, "train", "tune", "test"), args.examples, rng)
    measured = {"speaker": heard(rest, seed), "others": heard(takes_of(others, "test"), seed)}
    before = {who: percent(network, samples) for who, samples in measured.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "examples"
        write_folder(folder, shown)
        plan = AdaptationPlan(steps=args.steps, seed=seed)
        request = AdaptRequest("digits", folder, Path(scratch) / "out", plan=plan)
        adapted = adapt_network(network, request, Steps(tell))
    after = {who: percent(adapted.network, samples) for who, samples in measured.items()}
    for when, found in ((0, before), (1, after)):
        found["worn"] = {
            tier.name: round(100 * tier.old[0 if tier.refused else when].accuracy, 2)
            for tier in adapted.tiers
        }
    return {
        "seed": seed,
        "measured": {who: len(samples) for who, samples in measured.items()},
        "before": before,
        "after": after,
        "adapted": adapted.as_json(),
    }


def to_table(found: dict[str, Any]) -> str:
    """Every draw's figures, before and after, and what was trained."""
    draws = found["draws"]
    seeds = ", ".join(str(draw["seed"]) for draw in draws)
    lines = [
        f"{found['examples']} examples of {found['speaker']}, {found['steps']} steps, "
        f"seeds {seeds}",
        "",
        "| | before | after |",
        "|---|---|---|",
    ]
    for tier, named in TIERS.items():
        for who, of in WHO.items():
            cells = [
                ", ".join(f"{draw[when][who][tier]:.1f}" for draw in draws)
                for when in ("before", "after")
            ]
            lines.append(f"| {named}, {of} | {cells[0]} | {cells[1]} |")
    lines.append("")
    for tier, named in TIERS.items():
        facts = [draw["adapted"]["tiers"][tier] for draw in draws]
        kept = sum(fact["adapted"] for fact in facts)
        lines.append(
            f"{named}: {facts[0]['trainable']:,} of {facts[0]['parameters']:,} parameters "
            f"({facts[0]['trainable_share']:.2%}), adapted in {kept} of {len(facts)} draws"
        )
        lines += [f"  refused: {fact['refused']}" for fact in facts if fact["refused"]]
    taken = sum(draw["adapted"]["seconds"] for draw in draws) / len(draws) / 60
    return "\n".join([*lines, f"{taken:.1f} minutes a draw, all three"])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--speaker", required=True, help="whom the start never heard")
    parser.add_argument(
        "--base", required=True, type=Path, help="the start: made, or used again"
    )
    parser.add_argument("--examples", type=int, default=50, help="of the speaker, in all")
    parser.add_argument("--steps", type=int, default=AdaptationPlan.steps, help="for each tier")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="a draw of examples for each"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    try:
        found = run(args)
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(found, indent=1) if args.json else to_table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
