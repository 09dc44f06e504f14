"""The float graphs of a tier, pruned or whole, and the samples as a tier takes them."""

from __future__ import annotations

import copy
import dataclasses
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np
import torch

from mla_edge.exporter.calibration import over_modes, to_examples
from mla_edge.exporter.distillation import distil
from mla_edge.exporter.int4_weights import SOURCE_OPSET
from mla_edge.exporter.onnx_graph import to_onnx
from mla_edge.exporter.operators import is_only_strongly_typed
from mla_edge.exporter.pruning import Pruned, prune
from mla_edge.exporter.quantization import HALF_SCALES
from mla_edge.exporter.ranges import check_samples
from mla_edge.exporter.runs import open_engines, run_tiers
from mla_edge.exporter.sampling import draw_samples
from mla_edge.exporter.sparsity import held_sparse
from mla_edge.exporter.steps import hash_of
from mla_edge.networks.lora import ADAPTED, merge_lora
from mla_edge.signals import Tensors, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.job import Job
    from mla_edge.exporter.recipe import TierRecipe
    from mla_edge.networks import TierNetwork

_WEIGHTS = "weights.npz"  # of a tier that was taught: the only ones that cannot be made again


PRUNED = "pruned.onnx"


def reference_graphs(job: Job) -> dict[str, Path]:
    """The float graph of every tier, nothing pruned: what all else is compared with."""
    whole = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, tiers={}))
    whole = dataclasses.replace(whole, precision="fp32")
    return {
        part.tier.name: make_float_graphs(whole, part) / "float.onnx"
        for part in job.network.tiers
    }


def make_float_graphs(job: Job, part: TierNetwork) -> Path:
    """A folder with ``float.onnx``, ``half.onnx`` where FP16 is, and ``shrunk.json``.

    Where distillation made it better, ``pruned.onnx`` is what it was before.
    """
    steps, name = job.steps, part.tier.name
    how = job.recipe.tier(name)
    student = takes_student(part, how)
    shrinks = not student and _shrinks(how)
    half = job.precision == "fp16" or mixes(job, name)
    opset = SOURCE_OPSET if how.weights else int(job.profile.opset or 0)
    learning = repr(job.recipe.distillation) if job.trains and shrinks else ""
    shares = how.prune, how.prune_heads, how.prune_residual, how.sparsity
    key = hash_of("graphs", job.base, name, student, shares, how.widths, learning, opset, half)
    entry = job.cache.find(key)
    if entry is not None:
        done = [
            ("student", student),
            ("prune", shrinks),
            ("distil", bool(learning)),
            ("to_onnx", True),
        ]
        for step in (step for step, was_needed in done if was_needed):
            steps.reused(step, name)
        return entry
    part = without_adapters(part)
    untaught: torch.nn.Module | None = None
    if student:
        module, shrunk = _student(job, part)
    elif shrinks:
        module, untaught, shrunk = _shrink(job, part, how)
    else:
        module, shrunk = part.module, _whole(part.module)
    with steps.step("to_onnx", name):

        def make(folder: Path) -> None:
            write_graphs(job, dataclasses.replace(part, module=module), folder)
            if untaught is not None:
                before = dataclasses.replace(part, module=untaught)
                to_onnx(job.network, before, folder / PRUNED, opset=opset)
            (folder / "shrunk.json").write_text(json.dumps(shrunk), encoding="utf-8")
            if learning:
                state = {key: value.numpy() for key, value in module.state_dict().items()}
                np.savez(folder / _WEIGHTS, **state)

        return job.cache.store(key, make)


def write_graphs(job: Job, part: TierNetwork, folder: Path) -> None:
    """Write ``float.onnx`` of the tier as it is, and ``half.onnx`` where FP16 is."""
    name = part.tier.name
    opset = SOURCE_OPSET if job.recipe.tier(name).weights else int(job.profile.opset or 0)
    to_onnx(job.network, part, folder / "float.onnx", opset=opset)
    if job.precision == "fp16" or mixes(job, name):
        to_onnx(job.network, part, folder / "half.onnx", opset=opset, half=True)


def float_module(job: Job, part: TierNetwork, graphs: Path) -> torch.nn.Module:
    """The module behind the tier's float ``graphs``: pruned and taught as they are."""
    how, taught = job.recipe.tier(part.tier.name), graphs / _WEIGHTS
    part = without_adapters(part)
    if takes_student(part, how):
        return part.modules[-1]
    if not _shrinks(how):
        return part.module
    module = _prune(job, part, how).module
    if taught.exists():
        with np.load(taught) as state:
            module.load_state_dict({key: torch.from_numpy(state[key]) for key in state})
    return module


def training_feeds(job: Job, part: TierNetwork, count: int) -> list[Tensors]:
    """``count`` training samples in every mode in turn, as the tier takes them."""
    network = job.network
    samples = draw_samples(network, "train", count, job.calibration.spec.seed)
    spread = over_modes(to_examples(samples, network.inputs), network.inputs)
    feeds = [example.tensors for example in spread]
    if not set(part.tier.inputs) <= set(feeds[0]):
        feeds = with_earlier_outputs(job, feeds)
    return feeds


def calibration_feeds(job: Job, part: TierNetwork) -> list[Tensors]:
    """The calibration samples in every mode in turn, as the tier takes them."""
    network = job.network
    whole = [example.tensors for example in job.calibration.calibrate]
    check_samples(whole, [TensorSpec(s.name, "float32", s.shape) for s in network.inputs])
    spread = over_modes(job.calibration.calibrate, network.inputs)
    feeds = [example.tensors for example in spread]
    if not set(part.tier.inputs) <= set(feeds[0]):
        feeds = with_earlier_outputs(job, feeds)
    return [{name: feed[name] for name in part.tier.inputs} for feed in feeds]


def tune_feeds(job: Job, part: TierNetwork, count: int) -> list[Tensors]:
    """The first tune samples in every mode in turn, as the tier takes them."""
    few = over_modes(job.calibration.tune[:count], job.network.inputs)
    feeds = [example.tensors for example in few]
    if not set(part.tier.inputs) <= set(feeds[0]):
        feeds = with_earlier_outputs(job, feeds)
    return [{name: feed[name] for name in part.tier.inputs} for feed in feeds]


def example_feed(job: Job, part: TierNetwork) -> Tensors:
    """One calibration sample as the tier takes it."""
    feed = job.calibration.calibrate[0].tensors
    if not set(part.tier.inputs) <= set(feed):
        feed = with_earlier_outputs(job, [feed])[0]
    return {name: feed[name] for name in part.tier.inputs}


def with_earlier_outputs(job: Job, samples: Sequence[Tensors]) -> list[Tensors]:
    """The samples with what a later tier takes from earlier ones."""
    with open_engines(reference_graphs(job), threads=job.threads) as engines:
        return run_tiers(engines, samples)[1]


def _student(job: Job, part: TierNetwork) -> tuple[torch.nn.Module, dict[str, Any]]:
    assert part.student is not None
    with job.steps.step("student", part.tier.name):
        whole = _whole(part.module)
        shrunk = {**_whole(part.student), "parameters": whole["parameters"], "student": True}
        millions = shrunk["parameters"] / 1e6, shrunk["parameters_after"] / 1e6
        job.steps.note(f"{millions[0]:.2f} M → {millions[1]:.2f} M parameters")
    return part.student, shrunk


def _shrink(
    job: Job, part: TierNetwork, how: TierRecipe
) -> tuple[torch.nn.Module, torch.nn.Module | None, dict[str, Any]]:
    """The pruned module, what it was before it learned, if it did, and how it was made."""
    name = part.tier.name
    untaught: torch.nn.Module | None = None
    with job.steps.step("prune", name):
        pruned = _prune(job, part, how)
        millions = pruned.parameters_before / 1e6, pruned.parameters_after / 1e6
        job.steps.note(f"{millions[0]:.2f} M → {millions[1]:.2f} M parameters")
    shrunk: dict[str, Any] = {
        "parameters": pruned.parameters_before,
        "parameters_after": pruned.parameters_after,
        "pruned": [dataclasses.asdict(change) for change in pruned.changes],
        "distillation": None,
        "student": False,
        "sparsity": None,
    }
    held = held_sparse(pruned.module) if how.sparsity else nullcontext()
    with held as sparse:
        if sparse is not None:
            shrunk["sparsity"] = {"pattern": how.sparsity, **dataclasses.asdict(sparse)}
        if job.trains:
            before = copy.deepcopy(pruned.module)
            shrunk["distillation"] = _learn(job, part, pruned.module)
            untaught = before if shrunk["distillation"]["kept"] else None
    return pruned.module, untaught, shrunk


def _learn(job: Job, part: TierNetwork, student: torch.nn.Module) -> dict[str, Any]:
    """Let the smaller tier learn from the whole one; says how far it got."""
    with job.steps.step("distil", part.tier.name):
        recipe = job.recipe.distillation
        feeds = training_feeds(job, part, recipe.samples)
        taught = distil(student, part.module, feeds, part.tier.inputs, recipe)
        undone = "" if taught.kept else ": worse, so undone"
        losses = f"{taught.first_loss:.4f} → {taught.last_loss:.4f}{undone}"
        job.steps.note(f"{taught.steps} steps, loss on samples kept apart {losses}")
    return dataclasses.asdict(taught)


def _shrinks(how: TierRecipe) -> bool:
    return bool(how.shares or how.widths or how.sparsity)


def takes_student(part: TierNetwork, how: TierRecipe) -> bool:
    """Not with sparsity, which thins the tier itself."""
    return how.student and part.student is not None and not how.sparsity


def _prune(job: Job, part: TierNetwork, how: TierRecipe) -> Pruned:
    feed = example_feed(job, part)
    return prune(
        part.module,
        [torch.from_numpy(feed[wanted]) for wanted in part.tier.inputs],
        channels=how.prune,
        heads=how.prune_heads,
        residual=how.prune_residual,
        widths=how.widths,
    )


def without_adapters(part: TierNetwork) -> TierNetwork:
    """The tier with its low-rank adapters merged: pruning and TensorRT see plain layers."""

    def merged(module: torch.nn.Module) -> torch.nn.Module:
        if not any(isinstance(inner, ADAPTED) for inner in module.modules()):
            return module
        return merge_lora(copy.deepcopy(module))

    student = None if part.student is None else merged(part.student)
    return dataclasses.replace(part, module=merged(part.module), student=student)


def _whole(module: torch.nn.Module) -> dict[str, Any]:
    count = sum(parameter.numel() for parameter in module.parameters())
    return {
        "parameters": count,
        "parameters_after": count,
        "pruned": [],
        "distillation": None,
        "student": False,
        "sparsity": None,
    }


def mixes(job: Job, tier: str) -> bool:
    """Whether what is not INT8 has to be written in FP16: TensorRT adds it elsewhere.

    Beside INT4 weights too: a graph with those is built with the types that it says.
    """
    if job.profile.tensorrt is not None and job.recipe.tier(tier).weights:
        return job.precision == "int8"
    only_strong = is_only_strongly_typed(job.profile.tensorrt)
    fits = int(job.profile.opset or 0) >= HALF_SCALES
    return job.precision == "int8" and only_strong and fits
