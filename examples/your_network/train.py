"""Trains ``alarms.safetensors``: ``python examples/your_network/train.py`` (under a minute)."""

from __future__ import annotations

import numpy as np
import torch
from alarms import LABELS, WEIGHTS, Alarms, samples
from safetensors.torch import save_file

STEPS, BATCH = 400, 64


def batch(split: str, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sounds [count, 6000] and their classes [count]."""
    drawn = [sample.signals["audio"] for sample in samples(split, count, seed)]
    sounds = torch.from_numpy(np.stack([sound.samples for sound in drawn]))
    return sounds, torch.tensor([LABELS.index(sound.truth) for sound in drawn])


def main() -> None:
    """Train, say how good it is on sounds never heard, and write the weights."""
    torch.manual_seed(0)
    module = Alarms()
    optimiser = torch.optim.AdamW(module.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, STEPS)
    for step in range(STEPS):
        sounds, classes = batch("train", BATCH, step)
        loss = torch.nn.functional.cross_entropy(module(sounds), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    module.eval()
    sounds, classes = batch("test", 400, 0)
    with torch.no_grad():
        accuracy = (module(sounds).argmax(1) == classes).float().mean()
    print(f"accuracy {accuracy:.1%}")
    save_file(module.state_dict(), WEIGHTS)


if __name__ == "__main__":
    main()
