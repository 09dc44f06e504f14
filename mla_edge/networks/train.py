"""Train: ``python -m mla_edge.networks.train digits --data DIR --out FILE``.

Stages: each modality alone, contrastive alignment of the two, both together with modality
dropout, the lite tier distilled from the full one, the picture encoder once more. Every batch
is a function of the seed, the stage and the step, so an interrupted training goes on exactly
where it stopped.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.networks.checkpoint import (
    State,
    check_output,
    read_checkpoint,
    save_weights,
    set_aside,
    write_checkpoint,
)
from mla_edge.networks.digits import make_full, make_lite
from mla_edge.networks.digits_data import DigitsData, DigitsMaker
from mla_edge.networks.losses import aligned, classified, distilled
from mla_edge.networks.multimodal import MultimodalNetwork
from mla_edge.networks.plan import STAGES, Plan, scaled

BATCH = 64
SAVE_EVERY = 250  # steps
NONE = 10  # label of "no digit"
QUIET = 0.12  # of what the whole network hears with the microphone alone, made no word
Loss = Callable[["dict[str, Tensor]"], "tuple[Tensor, float]"]
"""From a batch to its loss and the share that is right."""

# Shares of both modalities, image only and audio only, where the stage drops modalities.
DROPOUT = {"joint": (0.5, 0.22, 0.28), "refine": (0.4, 0.4, 0.2), "lite": (0.5, 0.22, 0.28)}


class Batches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Batch ``step`` of a stage, made on the fly."""

    def __init__(self, maker: DigitsMaker, stage: str, plan: Plan) -> None:
        """Draw from ``maker``."""
        self._maker, self._stage, self._plan = maker, stage, plan

    def __len__(self) -> int:
        """How many batches the stage has."""
        return self._plan.steps(self._stage)

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """image uint8 [B, 128, 128, 3], audio [B, 8000], present [B, 2], labels int64 [B, 3].

        The labels are the picture's, the sound's and the moment's.
        """
        rng = np.random.default_rng([self._plan.seed, STAGES.index(self._stage), step])
        maker, stage = self._maker, self._stage
        image = np.zeros((BATCH, 128, 128, 3), np.uint8)
        audio = np.zeros((BATCH, 8000), np.float32)
        present = np.ones((BATCH, 2), np.float32)
        if stage in DROPOUT:
            # Equal numbers in all batches: oneDNN prepares itself anew for each size it meets.
            kinds = np.searchsorted(np.cumsum(DROPOUT[stage]), (np.arange(BATCH) + 0.5) / BATCH)
            present[:] = np.array(((1, 1), (1, 0), (0, 1)))[rng.permutation(kinds)]
        labels = np.full((BATCH, 3), NONE)
        for i in range(BATCH):
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
    """The tokens of one modality; the front in float32, the rest in bfloat16."""
    raw = batch[name]
    if name == "image":
        raw = raw.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    encoder = network.encoders[name]
    features = encoder.front(raw)  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
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
    """Everything the network gives for a batch, under bfloat16."""
    tokens = {name: encode_present(network, batch, name) for name in network.names}
    with torch.autocast("cpu", torch.bfloat16):
        return network.fuse(tokens, batch["present"])


class Trainer:
    """Runs the stages and keeps a checkpoint beside the output."""

    def __init__(self, data: DigitsData, plan: Plan, checkpoint: Path | None) -> None:
        """Go on from ``checkpoint`` if it is there, of the same plan and data.

        One of another plan, or of other data, is kept under another name. ConfigError if it is
        damaged.
        """
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.full, self.lite = make_full(), make_lite()
        for network in (self.full, self.lite):
            network.encoders["image"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        width = self.full.width
        self.probes = nn.ModuleDict({name: Probe(width, 11) for name in ("image", "audio")})
        self.done: list[str] = []
        self._maker = DigitsMaker(data, "train")
        self._checkpoint = checkpoint
        self._hashes = data.hashes
        self._resume: Mapping[str, Any] | None = None
        if checkpoint is not None and checkpoint.exists():
            self._go_on(checkpoint)

    def _go_on(self, checkpoint: Path) -> None:
        state = read_checkpoint(checkpoint)
        if state.plan != asdict(self.plan) or state.data != self._hashes:
            what = "other data" if state.plan == asdict(self.plan) else "another plan"
            kept = set_aside(checkpoint)
            _say(f"{checkpoint} is of {what}; it is now {kept}, and training begins anew")
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
        return nn.ModuleDict({"full": self.full, "lite": self.lite, "probes": self.probes})

    def run(self, stages: tuple[str, ...] = STAGES) -> None:
        """Every stage that is not done."""
        for stage in stages:
            if stage not in self.done:
                self._run_stage(stage)
                self.done.append(stage)
                self._save(None)

    def _run_stage(self, stage: str) -> None:
        plan, steps = self.plan, self.plan.steps(stage)
        loss_of, trained = self._task(stage)
        optimizer = torch.optim.AdamW(trained.parameters(), weight_decay=0.02, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, plan.peak(stage), total_steps=steps, pct_start=0.1
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
                rate = (step + 1 - first) * BATCH / (time.monotonic() - started)
                _say(
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
        batches = Batches(self._maker, stage, self.plan)
        return iter(
            torch.utils.data.DataLoader(
                batches,
                batch_size=None,
                sampler=range(first, len(batches)),
                num_workers=2,
                worker_init_fn=_yield_to_training,
            )
        )

    def _task(self, stage: str) -> tuple[Loss, nn.Module]:
        """The loss of a stage, and what it trains."""
        full = self.full
        if stage in ("image", "audio"):
            return self._alone(stage), nn.ModuleList([full.encoders[stage], self.probes[stage]])
        if stage == "align":
            return self._align, full
        if stage in ("joint", "refine"):
            return self._joint, full
        full.eval()
        if stage == "lite":
            return self._distil, self.lite
        # Pictures need the most samples; with the rest frozen, sound keeps what it learnt.
        full.requires_grad_(False)
        return self._polish, full.encoders["image"].requires_grad_(True)

    def _alone(self, name: str) -> Loss:
        column = 0 if name == "image" else 1

        def loss(batch: dict[str, Tensor]) -> tuple[Tensor, float]:
            logits = self.probes[name](encode(self.full, batch, name))
            return classified(logits, batch["labels"][:, column])

        return loss

    def _align(self, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        full, labels = self.full, batch["labels"][:, 2]
        assert full.bridge is not None
        sides = [
            full.bridge.project(encode(full, batch, n).float()).mean(1) for n in full.names
        ]
        left, right = (functional.normalize(side, dim=1) for side in sides)
        matched = labels[(left @ right.T).argmax(1)] == labels
        return aligned(left, right, labels), float(matched.float().mean())

    def _joint(self, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        return classified(fused(self.full, batch).logits, batch["labels"][:, 2])

    def _distil(self, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        with torch.no_grad():
            teacher = fused(self.full, batch).logits.float()
        student = fused(self.lite, batch).logits.float()
        loss, right = classified(student, batch["labels"][:, 2])
        return 0.4 * loss + distilled(student, teacher), right

    def _polish(self, batch: dict[str, Tensor]) -> tuple[Tensor, float]:
        image = encode(self.full, batch, "image")
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.full.alone("image", image)
        return classified(logits, batch["labels"][:, 0])

    def _save(self, running: dict[str, Any] | None) -> None:
        if self._checkpoint is None:
            return
        modules = self._modules().state_dict()
        state = State(asdict(self.plan), self._hashes, modules, self.done, running)
        write_checkpoint(self._checkpoint, state)


def _keep_memory() -> None:
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


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


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
    parser.add_argument("network", choices=["digits"])
    parser.add_argument(
        "--data", required=True, help="folder of mnist.npz, spoken_digits.npz, noise.npz"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="the .safetensors file to write"
    )
    parser.add_argument("--seed", type=_at_least(0), default=0)
    parser.add_argument("--threads", type=_at_least(1), default=2)
    parser.add_argument(
        "--effort", type=_share, default=1.0, help="scales the steps of every stage"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    _keep_memory()
    plan = scaled(Plan(seed=args.seed), args.effort)
    try:
        check_output(args.out)
        data = DigitsData.load(args.data)
        checkpoint = args.out.with_suffix(".checkpoint")
        trainer = Trainer(data, plan, checkpoint)
        trainer.run()
        about = {"plan": json.dumps(asdict(plan)), "data": json.dumps(data.hashes)}
        save_weights(trainer.full, trainer.lite, args.out, about)
    except MlaEdgeError as error:
        _say(f"{error}\n  {error.hint}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
