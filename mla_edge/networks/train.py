"""Train: ``python -m mla_edge.networks.train digits --data DIR --out FILE``.

Stages: each modality alone, contrastive alignment of them, all together with modality dropout,
the lite tier distilled from the full one, one encoder once more, and the full tier's student.
Every batch is a function of the seed, the stage and the step, so an interrupted training goes
on exactly where it stopped. ``--start FILE --stages student`` trains single stages on what an
earlier training reached.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from mla_edge.errors import MlaEdgeError
from mla_edge.networks.checkpoint import check_output, read_about, save_weights
from mla_edge.networks.digits_data import DigitsData
from mla_edge.networks.digits_training import digits_course
from mla_edge.networks.plan import scaled
from mla_edge.networks.training import Course, Trainer, keep_memory, say


def _commands(folder: str) -> Course:
    # What reads its clips is not installed with everything.
    from mla_edge.networks.commands_data import CommandsData
    from mla_edge.networks.commands_training import commands_course

    return commands_course(CommandsData.load(folder))


_COURSES: Mapping[str, Callable[[str], Course]] = {
    "commands": _commands,
    "digits": lambda folder: digits_course(DigitsData.load(folder)),
}


def _at_least(least: int) -> Callable[[str], int]:
    """For argparse: a whole number, ``least`` or more."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text}: give {least} or more")
        return value

    parse.__name__ = "whole number"
    return parse


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: give a number above 0")
    return value


def main(argv: list[str] | None = None) -> int:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(prog="python -m mla_edge.networks.train")
    parser.add_argument("network", choices=sorted(_COURSES))
    parser.add_argument(
        "--data", required=True, help="folder of the files in docs/how-to/train.md"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="the .safetensors file to write"
    )
    parser.add_argument("--seed", type=_at_least(0), default=0)
    parser.add_argument("--threads", type=_at_least(1), default=2)
    parser.add_argument(
        "--effort", type=_share, default=1.0, help="scales the steps of every stage"
    )
    parser.add_argument(
        "--start", type=Path, help="weights of an earlier training to go on from"
    )
    parser.add_argument(
        "--stages", default="", help="only these, with commas between; the rest is --start's"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_memory()
    try:
        check_output(args.out)
        course = _COURSES[args.network](args.data)
        plan = scaled(replace(course.plan, seed=args.seed), args.effort)
        course = replace(course, plan=plan)
        stages = tuple(filter(None, args.stages.split(",")))
        for stage in stages:
            plan.stage(stage)  # known, before anything is trained
        trainer = Trainer(course, args.out.with_suffix(".checkpoint"))
        if args.start is not None:
            trainer.start_from(args.start, args.network)
        trainer.run(stages)
        about = {"plan": json.dumps(asdict(plan)), "data": json.dumps(course.hashes)}
        about.update(course.about)
        if args.start is not None:
            about["stages"] = ",".join(trainer.done)
            about["started_from"] = json.dumps(read_about(args.start))
        save_weights(trainer.networks, args.out, about)
    except MlaEdgeError as error:
        say(f"{error}\n  {error.hint}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
