"""How long a training is: its stages, their steps and their learning rates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mla_edge.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """One stage: how many steps of a batch it has, and its peak learning rate."""

    name: str
    steps: int
    rate: float


@dataclass(frozen=True)
class Plan:
    """The stages of a training, in their order, and the seed of all that is drawn."""

    stages: tuple[Stage, ...]
    seed: int = 0
    batch: int = 64  # samples a step

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names, in their order."""
        return tuple(stage.name for stage in self.stages)

    def stage(self, name: str) -> Stage:
        """The stage called ``name``."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise ConfigError(f"no stage {name!r}", hint=f"there are {', '.join(self.names)}")


def scaled(plan: Plan, effort: float) -> Plan:
    """``plan`` with every stage ``effort`` times as long, at least 20 steps."""
    stages = (replace(s, steps=max(20, round(s.steps * effort))) for s in plan.stages)
    return replace(plan, stages=tuple(stages))
