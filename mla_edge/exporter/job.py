"""What every step of one export shares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Mapping

from mla_edge.engines.saturation import saturates

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from mla_edge.exporter.calibration import CalibrationSet
    from mla_edge.exporter.goal import LatencyGoal
    from mla_edge.exporter.recipe import Recipe
    from mla_edge.exporter.steps import StepCache, Steps
    from mla_edge.networks import Network
    from mla_edge.profiles import DeviceProfile
    from mla_edge.signals import Tensors


@dataclass(frozen=True)
class Job:
    """What every tier of one export shares."""

    profile: DeviceProfile
    recipe: Recipe
    precision: str
    network: Network
    calibration: CalibrationSet
    own_samples: bool  # the user gave data or a calibration set: shipped ranges do not count
    trains: bool  # there is training data
    base: str  # sha256 over the network, its code, the data and our code
    steps: Steps
    cache: StepCache
    max_drop: float = 1.0  # points of accuracy that each graph may lose
    dla: str = ""  # the form of INT8 for a DLA, where one is asked for
    goal: LatencyGoal | None = None  # how fast one tier is to become
    latency_parts: bool = False  # put into the bundle what a board needs to measure a table

    @property
    def threads(self) -> int:
        """ONNX Runtime's threads here; a board's number says nothing about this machine."""
        return self.profile.threads_here if self.profile.tensorrt is None else 0

    def exact(self, form: str) -> bool:
        """Whether answers of the graphs of ``form`` are computed without INT8 kernels.

        So where this processor's cut off sums and the graphs are not for it: neither TensorRT
        nor a board's processor does that, and what is measured here is said of them.
        """
        return saturates() and not (form == "cpu" and minds_sums(self.profile))


def minds_sums(profile: DeviceProfile) -> bool:
    """Whether an export for ``profile`` is for this processor, and its sums are cut off."""
    return profile.tensorrt is None and saturates()


@dataclass(frozen=True)
class HeldBack:
    """Test samples in every mode in turn, and what the float network says to them."""

    graphs: Mapping[str, Path]  # the float network's, nothing pruned, by tier
    feeds: list[Tensors]  # with the outputs that later tiers take
    labels: np.ndarray
    modes: list[str]
    logits: Mapping[str, np.ndarray]  # by tier, [samples, classes]


def kept_json(
    job: Job, step: str, tier: str, key: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What ``make`` gives in a step of its own, as JSON, or what it gave an earlier export."""
    entry = job.cache.find(key)
    if entry is not None:
        job.steps.reused(step, tier)
    else:
        with job.steps.step(step, tier):
            text = json.dumps(make())

            def write(folder: Path) -> None:
                (folder / "found.json").write_text(text, encoding="utf-8")

            entry = job.cache.store(key, write)
    return dict(json.loads((entry / "found.json").read_text(encoding="utf-8")))
