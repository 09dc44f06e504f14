"""The trainer of any network of the family: its stages, its checkpoints.

Shapes: B batch, M modalities, N tokens, C channels.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mla_edge.errors import ConfigError
from mla_edge.networks.checkpoint import (
    State,
    load_weights,
    read_checkpoint,
    set_aside,
    write_checkpoint,
)
from mla_edge.networks.encoders import HybridEncoder
from mla_edge.networks.losses import aligned, classified, distilled
from mla_edge.networks.multimodal import MultimodalNetwork
from mla_edge.networks.network import student_of
from mla_edge.networks.plan import Plan
from mla_edge.networks.precision import mixed_precision
from mla_edge.networks.student import inherit

SAVE_EVERY = 250  # steps
Loss = Callable[["dict[str, Tensor]"], "tuple[Tensor, float]"]
"""From a batch to its loss and the share that is right."""
Batches = torch.utils.data.Dataset["dict[str, Tensor]"]
"""Batch ``step`` of a stage: each modality's raw tensor (pictures as uint8 [B, height, width,
3]), present [B, M], and int64 labels [B, M + 1], each modality's and then the moment's."""


@dataclass(frozen=True)
class Course:
    """What one network trains on, and for how long.

    A stage called as a modality trains that encoder alone with a throw-away head; ``align``,
    ``joint``, ``refine``, ``lite``, ``polish`` and ``student`` are the trainer's.
    """

    make_full: Callable[[], MultimodalNetwork]
    make_lite: Callable[[], MultimodalNetwork]
    make_student: Callable[[], MultimodalNetwork]
    batches: Callable[[str, Plan], Batches]  # of a stage
    classes: int
    plan: Plan
    hashes: Mapping[str, str]  # sha256 of the data, by file
    polished: str = ""  # the modality of the stage ``polish``
    about: Mapping[str, str] = field(default_factory=dict)  # more for the weights' header


class Probe(nn.Module):
    """A throw-away head that lets one encoder learn alone."""

    def __init__(self, width: int, classes: int) -> None:
        """Mean of the tokens, then a linear layer."""
        super().__init__()
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, C] → [B, classes]."""
        return self.head(tokens.mean(1))


def encode(network: MultimodalNetwork, batch: dict[str, Tensor], name: str) -> Tensor:
    """The tokens of one modality; the front in float32, the rest in mixed precision."""
    raw, encoder = batch[name], network.encoders[name]
    if raw.dtype == torch.uint8 and raw.shape[-1] == 3:  # pictures, as a camera gives them
        raw = raw.permute(0, 3, 1, 2)
    features = encoder.front(raw.float())  # type: ignore[operator]
    if features.shape[1] > 1:
        features = features.contiguous(memory_format=torch.channels_last)
    with mixed_precision():
        return encoder.encode(features)  # type: ignore[operator,no-any-return]


def encode_present(network: MultimodalNetwork, batch: dict[str, Tensor], name: str) -> Tensor:
    """As ``encode`` where the modality is there, zeros elsewhere: absent is masked later.

    Besides the time, this keeps empty pictures and dead silence out of the batch statistics.
    """
    there = batch["present"][:, network.names.index(name)] > 0
    if there.all() or not there.any():
        return encode(network, batch, name)
    part = encode(network, {name: batch[name][there]}, name)
    tokens = part.new_zeros(len(there), *part.shape[1:])
    tokens[there] = part
    return tokens


def fused(network: MultimodalNetwork, batch: dict[str, Tensor]) -> Any:
    """Everything the network gives for a batch, in mixed precision."""
    tokens = {name: encode_present(network, batch, name) for name in network.names}
    with mixed_precision():
        return network.fuse(tokens, batch["present"])


class Trainer:
    """Runs the stages and keeps a checkpoint beside the output."""

    def __init__(self, course: Course, checkpoint: Path | None) -> None:
        """Go on from ``checkpoint`` if it is there, of the same plan and data.

        One of another plan, or of other data, is kept under another name. ConfigError if it is
        damaged.
        """
        torch.manual_seed(course.plan.seed)
        self.plan = course.plan
        self.full, self.lite = course.make_full(), course.make_lite()
        self.student = course.make_student()
        for network in self.networks.values():
            for encoder in network.encoders.values():
                if isinstance(encoder, HybridEncoder) and encoder.config.in_channels > 1:
                    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        width = self.full.width
        self.probes = nn.ModuleDict(
            {name: Probe(width, course.classes) for name in self.full.names}
        )
        self.done: list[str] = []
        self._course = course
        self._checkpoint = checkpoint
        self._hashes = dict(course.hashes)
        self._resume: Mapping[str, Any] | None = None
        self._student_knows = False  # something, so that it need not begin as its teacher
        if checkpoint is not None and checkpoint.exists():
            self._go_on(checkpoint)

    @property
    def networks(self) -> dict[str, MultimodalNetwork]:
        """What is trained and kept, by name."""
        return {"full": self.full, "lite": self.lite, student_of("full"): self.student}

    def start_from(self, weights: Path, network: str) -> None:
        """Take the weights of an earlier training, unless a checkpoint went on already.

        Modules that the file has not stay untrained, for their stage to train. ConfigError if
        it is of another network.
        """
        if not self.done and self._resume is None:
            found = load_weights(weights, self.networks, network, partly=True)
            self._student_knows = student_of("full") in found

    def _go_on(self, checkpoint: Path) -> None:
        state = read_checkpoint(checkpoint)
        if state.plan != asdict(self.plan) or state.data != self._hashes:
            what = "other data" if state.plan == asdict(self.plan) else "another plan"
            kept = set_aside(checkpoint)
            say(f"{checkpoint} is of {what}; it is now {kept}, and training begins anew")
            return
        try:
            self._modules().load_state_dict(state.modules)
        except RuntimeError as error:
            raise ConfigError(
                f"{checkpoint}: its weights are not of this version's networks",
                hint="remove it to train from the beginning, or give another --out",
            ) from error
        self.done, self._resume = state.done, state.running

    def _modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({**self.networks, "probes": self.probes})

    def run(self, stages: tuple[str, ...] = ()) -> None:
        """Every stage that is not done, or those of ``stages``."""
        for stage in stages or self.plan.names:
            if stage not in self.done:
                self._run_stage(stage)
                self.done.append(stage)
                self._save(None)

    def _run_stage(self, stage: str) -> None:
        planned = self.plan.stage(stage)
        steps = planned.steps
        loss_of, trained = self._task(stage)
        optimizer = torch.optim.AdamW(trained.parameters(), weight_decay=0.02, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, planned.rate, total_steps=steps, pct_start=0.1
        )
        first = 0
        if self._resume is not None and self._resume["stage"] == stage:
            optimizer.load_state_dict(self._resume["optimizer"])
            schedule.load_state_dict(self._resume["schedule"])
            first = self._resume["step"]
        self._resume = None
        trained.train()
        started, losses, rights = time.monotonic(), [], []
        for step, batch in enumerate(self._batches(stage, first), first):
            loss, right = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained.parameters(), 2.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            rights.append(right)
            if (step + 1) % 100 == 0 or step + 1 == steps:
                rate = (step + 1 - first) * self.plan.batch / (time.monotonic() - started)
                say(
                    f"{stage} {step + 1}/{steps} loss {np.mean(losses[-100:]):.3f} "
                    f"right {100 * np.mean(rights[-100:]):.1f} % · {rate:.0f} samples/s"
                )
            if (step + 1) % SAVE_EVERY == 0:
                self._save(
                    {
                        "stage": stage,
                        "step": step + 1,
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                    }
                )
        trained.eval()

    def _batches(self, stage: str, first: int) -> Iterator[dict[str, Tensor]]:
        return iter(
            torch.utils.data.DataLoader(
                self._course.batches(stage, self.plan),
                batch_size=None,
                sampler=range(first, self.plan.stage(stage).steps),
                num_workers=2,
                worker_init_fn=_yield_to_training,
            )
        )

    def _task(self, stage: str) -> tuple[Loss, nn.Module]:
        """The loss of a stage, and what it trains."""
        full = self.full
        if stage in full.names:
            return self._alone(stage), nn.ModuleList([full.encoders[stage], self.probes[stage]])
        if stage == "align":
            return self._align, full
        if stage in ("joint", "refine"):
            return self._joint, full
        full.eval()
        if stage == "lite":
            return self._distil(self.lite), self.lite
        if stage == "student":
            if self._resume is None and not self._student_knows:
                inherit(self.student, full)
            return self._distil(self.student), self.student
        # One may need more samples; with the rest frozen, the others keep what they learnt.
        full.requires_grad_(False)
        return self._polish, full.encoders[self._course.polished].requires_grad_(True)

    def _alone(self, name: str) -> Loss:
        column = self.full.names.index(name)

        def loss(batch: dict[str, Tensor]) -> tuple[Tensor, float]:
            logits = self.probes[name](encode(self.full, batch, name))
            return classified(logits, batch["labels"][:, column])

        return loss

    def _align(self, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        full, labels = self.full, batch["labels"][:, -1]
        assert full.bridge is not None
        sides = [
            full.bridge.project(encode(full, batch, n).float()).mean(1) for n in full.names
        ]
        left, right = (functional.normalize(side, dim=1) for side in sides)
        matched = labels[(left @ right.T).argmax(1)] == labels
        return aligned(left, right, labels), float(matched.float().mean())

    def _joint(self, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        return classified(fused(self.full, batch).logits, batch["labels"][:, -1])

    def _distil(self, network: MultimodalNetwork) -> Loss:
        def loss(batch: dict[str, Tensor]) -> tuple[Tensor, float]:
            with torch.no_grad():
                teacher = fused(self.full, batch).logits.float()
            student = fused(network, batch).logits.float()
            hard, right = classified(student, batch["labels"][:, -1])
            return 0.4 * hard + distilled(student, teacher), right

        return loss

    def _polish(self, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        name = self._course.polished
        tokens = encode(self.full, batch, name)
        with mixed_precision():
            logits = self.full.alone(name, tokens)
        return classified(logits, batch["labels"][:, self.full.names.index(name)])

    def _save(self, running: dict[str, Any] | None) -> None:
        if self._checkpoint is None:
            return
        modules = self._modules().state_dict()
        state = State(asdict(self.plan), self._hashes, modules, self.done, running)
        write_checkpoint(self._checkpoint, state)


def keep_memory() -> None:
    """Let glibc keep what a step frees for the next, instead of asking for zeroed pages."""
    mmap_threshold, trim_threshold = -3, -1  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return  # another C library
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


def _yield_to_training(_: int) -> None:
    """Draw only in the gaps: a step lasts as long as the slower of its threads."""
    os.nice(19)


def say(text: str) -> None:
    """One line of progress."""
    sys.stderr.write(text + "\n")
