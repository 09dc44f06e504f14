"""Whether the engines of a bundle fit each other, and which takes what from which."""

from __future__ import annotations

from typing import Mapping, Sequence

from mla_edge.bundle import Bundle
from mla_edge.engines import Engine
from mla_edge.errors import BundleError
from mla_edge.signals import PRESENT, Tier

LOGITS = "logits"


def check_engines(bundle: Bundle, engines: Sequence[Engine]) -> list[dict[str, int | None]]:
    """For each tier, where each input comes from: an earlier tier, or None for a sample.

    BundleError says where a graph does not fit.
    """
    shapes = {spec.name: spec.shape for spec in bundle.inputs}
    if len(bundle.inputs) > 1:
        shapes[PRESENT] = (1, len(bundle.inputs))
    made: dict[str, int | None] = dict.fromkeys(shapes)
    plan: list[dict[str, int | None]] = []
    for number, (tier, engine) in enumerate(zip(bundle.tiers, engines)):
        problem = _misfit(tier, engine, shapes, len(bundle.labels))
        if problem:
            raise BundleError(
                f"{bundle.folder}: tier {tier.name!r}: its graph {problem}",
                hint="export the bundle again: mla-edge export",
            )
        plan.append({spec.name: made[spec.name] for spec in engine.inputs})
        for output in engine.outputs:
            if output.name in tier.outputs:
                shapes[output.name], made[output.name] = output.shape, number
    return plan


def check_solos(bundle: Bundle, engines: Mapping[str, Engine]) -> dict[str, Engine]:
    """The engines that take one input alone, by its name; those that are not open are left out.

    BundleError says where a graph does not fit.
    """
    shapes = {spec.name: spec.shape for spec in bundle.inputs}
    solos = {}
    for graph, name in bundle.solos.items():
        engine = engines.get(graph)
        if engine is None:
            continue
        problem = _misfit(Tier(graph, (name,), (LOGITS,)), engine, shapes, len(bundle.labels))
        if problem:
            raise BundleError(
                f"{bundle.folder}: {graph!r}: its graph {problem}",
                hint="export the bundle again: mla-edge export",
            )
        solos[name] = engine
    return solos


def _misfit(
    tier: Tier, engine: Engine, shapes: Mapping[str, tuple[int, ...]], labels: int
) -> str | None:
    """What is wrong between ``engine`` and ``tier``, which can take tensors of ``shapes``."""
    for spec in engine.inputs:
        if spec.name not in tier.inputs or spec.name not in shapes:
            return f"takes {spec.name!r}, which nothing gives"
        if spec.shape != shapes[spec.name]:
            return f"takes {spec.name!r} as {spec.shape}, but it is {shapes[spec.name]}"
    given = {spec.name: spec.shape for spec in engine.outputs}
    for name in tier.outputs:
        if name not in given:
            return f"does not give {name!r}"
    if given.get(LOGITS) != (1, labels):
        return f"gives {LOGITS} {given.get(LOGITS)} for {labels} labels"
    return None
