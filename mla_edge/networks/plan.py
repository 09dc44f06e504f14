"""How long a training is: its stages, their steps and their learning rates."""

from __future__ import annotations

from dataclasses import asdict, dataclass

STAGES = ("image", "audio", "align", "joint", "refine", "lite", "polish")


@dataclass(frozen=True)
class Plan:
    """How long each stage is, in steps of 64 samples, and its peak learning rate."""

    seed: int = 0
    image_steps: int = 2200
    audio_steps: int = 2000
    align_steps: int = 150
    joint_steps: int = 1200
    refine_steps: int = 1200
    lite_steps: int = 2000
    polish_steps: int = 3000
    rate: float = 1.5e-3
    joint_rate: float = 6e-4
    refine_rate: float = 4e-4
    lite_rate: float = 3e-3
    polish_rate: float = 6e-4

    def steps(self, stage: str) -> int:
        """The steps of ``stage``."""
        return int(getattr(self, f"{stage}_steps"))

    def peak(self, stage: str) -> float:
        """The peak learning rate of ``stage``."""
        rates = {
            "align": self.joint_rate,
            "joint": self.joint_rate,
            "refine": self.refine_rate,
            "lite": self.lite_rate,
            "polish": self.polish_rate,
        }
        return rates.get(stage, self.rate)


def scaled(plan: Plan, effort: float) -> Plan:
    """``plan`` with every stage ``effort`` times as long, at least 20 steps."""
    values = asdict(plan)
    for stage in STAGES:
        values[f"{stage}_steps"] = max(20, round(values[f"{stage}_steps"] * effort))
    return Plan(**values)
