"""How ``digits`` is trained: its stages, and the batches of each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mla_edge.networks.digits import LABELS, make_full, make_lite, make_student
from mla_edge.networks.digits_data import DigitsData, DigitsMaker
from mla_edge.networks.plan import Plan, Stage
from mla_edge.networks.training import Batches, Course

NONE = 10  # label of "no digit"
QUIET = 0.12  # of what the whole network hears with the microphone alone, made no word
PLAN = Plan(
    (
        Stage("image", 2200, 1.5e-3),
        Stage("audio", 2000, 1.5e-3),
        Stage("align", 150, 6e-4),
        Stage("joint", 1200, 6e-4),
        Stage("refine", 1200, 4e-4),
        Stage("lite", 2000, 3e-3),
        Stage("polish", 3000, 6e-4),
        Stage("student", 3000, 1.5e-3),
    )
)

# Shares of both modalities, image only and audio only, where the stage drops modalities.
DROPOUT = {
    "joint": (0.5, 0.22, 0.28),
    "refine": (0.4, 0.4, 0.2),
    "lite": (0.5, 0.22, 0.28),
    "student": (0.34, 0.42, 0.24),
}


def digits_course(data: DigitsData, plan: Plan = PLAN) -> Course:
    """The training of ``digits`` on ``data``."""
    maker = DigitsMaker(data, "train")
    return Course(
        make_full,
        make_lite,
        make_student,
        lambda stage, plan: DigitsBatches(maker, stage, plan),
        len(LABELS),
        plan,
        data.hashes,
        polished="image",
    )


class DigitsBatches(Batches):
    """Batch ``step`` of a stage, made on the fly."""

    def __init__(self, maker: DigitsMaker, stage: str, plan: Plan) -> None:
        """Draw from ``maker``."""
        self._maker, self._stage, self._plan = maker, stage, plan

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """image uint8 [B, 128, 128, 3], audio [B, 8000], present [B, 2], labels int64 [B, 3].

        The labels are the picture's, the sound's and the moment's.
        """
        maker, stage, plan = self._maker, self._stage, self._plan
        rng = np.random.default_rng([plan.seed, plan.names.index(stage), step])
        count = plan.batch
        image = np.zeros((count, 128, 128, 3), np.uint8)
        audio = np.zeros((count, 8000), np.float32)
        present = np.ones((count, 2), np.float32)
        if stage in DROPOUT:
            # Equal numbers in all batches: oneDNN prepares itself anew for each size it meets.
            kinds = np.searchsorted(np.cumsum(DROPOUT[stage]), (np.arange(count) + 0.5) / count)
            present[:] = np.array(((1, 1), (1, 0), (0, 1)))[rng.permutation(kinds)]
        labels = np.full((count, 3), NONE)
        for i in range(count):
            drawn = int(rng.integers(11))
            digit = drawn if drawn < NONE else None
            # What is no word has more forms than any word: an ear alone meets it more often.
            if not present[i, 0] and rng.random() < QUIET:
                digit = None
            # With both there, the digit may be only shown or only said.
            silent = present[i].all() and stage in DROPOUT and rng.random() < 0.2
            shown, said = digit, digit
            if silent:
                shown, said = (digit, None) if rng.random() < 0.5 else (None, digit)
            if stage != "audio" and present[i, 0]:
                image[i] = maker.worn_picture(rng, shown)
            if stage not in ("image", "polish") and present[i, 1]:
                audio[i] = maker.worn_sound(rng, said)
            labels[i] = [NONE if d is None else d for d in (shown, said, digit)]
        return {
            "image": torch.from_numpy(image),
            "audio": torch.from_numpy(audio),
            "present": torch.from_numpy(present),
            "labels": torch.from_numpy(labels),
        }
