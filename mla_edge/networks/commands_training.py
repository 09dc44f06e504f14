"""How ``commands`` is trained: its stages, and the batches of each."""

from __future__ import annotations

import json

import numpy as np
import torch
from torch import Tensor

from mla_edge.networks.commands import (
    FRAMES,
    HEIGHT,
    LABELS,
    SAMPLES,
    WIDTH,
    make_full,
    make_lite,
    make_student,
)
from mla_edge.networks.commands_data import CommandsData, CommandsMaker
from mla_edge.networks.plan import Plan, Stage
from mla_edge.networks.training import Batches, Course

SILENT = 0.08  # of the moments, without a word
PLAN = Plan(
    (
        Stage("mouth", 1600, 1.5e-3),
        Stage("audio", 900, 1.5e-3),
        Stage("align", 80, 6e-4),
        Stage("joint", 900, 6e-4),
        Stage("polish", 700, 6e-4),
        Stage("lite", 1000, 3e-3),
        Stage("student", 1600, 1.5e-3),
    )
)

# Shares of both modalities, mouth only and audio only, where the stage drops modalities.
DROPOUT = {
    "joint": (0.5, 0.3, 0.2),
    "lite": (0.5, 0.25, 0.25),
    "student": (0.4, 0.3, 0.3),
}


class CommandsBatches(Batches):
    """Batch ``step`` of a stage, made on the fly."""

    def __init__(self, maker: CommandsMaker, stage: str, plan: Plan) -> None:
        """Draw from ``maker``."""
        self._maker, self._stage, self._plan = maker, stage, plan

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """mouth uint8 [B, 16, 60, 72], audio [B, 10240], present [B, 2], labels [B, 3]."""
        maker, stage, plan = self._maker, self._stage, self._plan
        rng = np.random.default_rng([plan.seed, plan.names.index(stage), step])
        count = plan.batch
        mouth = np.zeros((count, FRAMES, HEIGHT, WIDTH), np.uint8)
        audio = np.zeros((count, SAMPLES), np.float32)
        present = np.ones((count, 2), np.float32)
        if stage in DROPOUT:
            # Equal numbers in all batches: oneDNN prepares itself anew for each size it meets.
            kinds = np.searchsorted(np.cumsum(DROPOUT[stage]), (np.arange(count) + 0.5) / count)
            present[:] = np.array(((1, 1), (1, 0), (0, 1)))[rng.permutation(kinds)]
        labels = np.zeros(count, np.int64)
        for i in range(count):
            silent = rng.random() < SILENT
            moment = maker.any_silence(rng) if silent else maker.any_word(rng)
            pace = float(rng.uniform(0.87, 1.15))
            if stage != "audio" and present[i, 0]:
                mouth[i] = maker.worn_mouth(rng, moment, pace)
            if stage not in ("mouth", "polish") and present[i, 1]:
                audio[i] = maker.worn_sound(rng, moment, pace)
            labels[i] = LABELS.index(moment.word)
        return {
            "mouth": torch.from_numpy(mouth),
            "audio": torch.from_numpy(audio),
            "present": torch.from_numpy(present),
            "labels": torch.from_numpy(np.repeat(labels[:, None], 3, 1)),
        }


def commands_course(data: CommandsData, plan: Plan = PLAN) -> Course:
    """The training of ``commands`` on ``data``."""
    maker = CommandsMaker(data, "train")
    seen = {data.clips.names[i] for split in ("train", "tune") for i in data.splits[split]}
    return Course(
        make_full,
        make_lite,
        make_student,
        lambda stage, plan: CommandsBatches(maker, stage, plan),
        len(LABELS),
        plan,
        data.hashes,
        polished="mouth",
        # What a benchmark must leave out, in whatever folder it finds the clips.
        about={"clips": json.dumps(sorted(seen))},
    )
