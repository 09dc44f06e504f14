"""Remove inner channels and attention heads. The only module that imports torch_pruning.

*Inner* widths have one producer: the hidden width of a feed-forward network or the inner width
of a convolution block. A *residual* stream has several, which are added up, and is only touched
where that is asked for. The inputs and outputs, what is normalised over its channels, and
everything inside an attention keep their widths; attentions lose whole heads, through their own
``prune_heads``, because a dependency graph does not see heads.
"""

from __future__ import annotations

import copy
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator, Mapping, Sequence

import torch

from mla_edge.errors import ExportError, MissingDependency

try:
    import torch_pruning
except ImportError as error:
    raise MissingDependency(
        f"torch-pruning cannot be loaded, and it removes the channels: {error}",
        hint="pip install 'mla-edge[export]'",
    ) from error

ROUND_TO = 16
"""Kernels of both engines work on 16 channels at a time; other widths are not faster."""

_WEIGHTED = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
_TRANSPOSED = torch.nn.modules.conv._ConvTransposeNd
_NORMS_OVER_CHANNELS = (torch.nn.LayerNorm, torch.nn.GroupNorm)


@dataclass(frozen=True)
class Change:
    """One width that pruning made smaller."""

    layer: str
    kind: str  # "channels" or "heads"
    before: int
    after: int


@dataclass(frozen=True)
class Pruned:
    """A smaller copy of a module, and what became smaller."""

    module: torch.nn.Module
    changes: tuple[Change, ...]
    parameters_before: int
    parameters_after: int


@dataclass(frozen=True)
class Reader:
    """A layer that reads a width: its input channels, and which of the width each one reads."""

    layer: str
    axis: int  # of its weights, on which its input channels are
    columns: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """A width that can be made smaller, and in which order pruning would take it away."""

    layer: str
    kind: str  # "channels" or "heads"
    width: int
    weakest: tuple[int, ...]  # of the channels or heads, the weakest first
    readers: tuple[Reader, ...] = ()  # of channels; heads go by `prune` alone
    part: str = "attention heads"  # or "linear widths", "convolution widths"


def prune(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    *,
    channels: float = 0.0,
    heads: float = 0.0,
    residual: float = 0.0,
    widths: Mapping[str, int] | None = None,
) -> Pruned:
    """A copy of ``module`` without the least important shares of inner channels, of heads, and
    of the channels of the residual streams.

    Importance is the group L2 norm (Fang et al. 2023, DepGraph). Never removes more than the
    share asked for: widths round up to a multiple of 16. ``widths`` says by layer how many
    channels or heads are left instead. ``example`` is one input of each kind. ExportError if
    the smaller network no longer runs or its outputs changed shape, or if ``widths`` names what
    cannot be pruned, or not to that width.
    """
    before = _parameters(module)
    smaller = copy.deepcopy(module)
    wanted = dict(widths or {})
    changes = []
    if heads or wanted:
        changes += _prune_heads(smaller, heads, wanted)
    if channels or wanted:
        changes += _prune_channels(smaller, example, channels, wanted)
    if residual:
        changes += _prune_residual(smaller, example, residual)
    if wanted:
        raise ExportError(
            f"prune: {', '.join(sorted(wanted))}: no width that can be pruned",
            hint="find_groups gives the names of those that can be",
        )
    if changes:
        _check(module, smaller, example, changes)
    return Pruned(smaller, tuple(changes), before, _parameters(smaller))


def find_groups(module: torch.nn.Module, example: Sequence[torch.Tensor]) -> list[Group]:
    """Every width of ``module`` that `prune` can make smaller.

    One whose channels are not all read by each of its readers is left out: it is cut up on the
    way, as by an attention that has one layer for queries, keys and values.
    """
    found = [
        Group(name, "heads", int(part.heads), tuple(part.head_importance().argsort().tolist()))
        for name, part in _attentions(module)
    ]
    copied = copy.deepcopy(module)
    names = {part: name for name, part in copied.named_modules()}
    with _dependencies(copied, example) as graph:
        for layer in _prunable(copied, graph):
            group, width = _group(graph, layer), _out_width(layer)
            readers = tuple(_readers(graph, group, names))
            if all(set(reader.channels) == set(range(width)) for reader in readers):
                weakest = tuple(_importance(group).argsort().tolist())
                linear = isinstance(layer, torch.nn.Linear)
                part = "linear widths" if linear else "convolution widths"
                found.append(Group(names[layer], "channels", width, weakest, readers, part))
    return sorted(found, key=lambda group: group.layer)


def _readers(graph: Any, group: Any, names: Mapping[Any, str]) -> Iterator[Reader]:
    for item in group.items:
        part = item.dep.target.module
        reads = graph.is_in_channel_pruning_fn(item.dep.handler)
        if reads and isinstance(part, _WEIGHTED) and not _is_grouped(part):
            axis = 0 if isinstance(part, _TRANSPOSED) else 1
            yield Reader(names[part], axis, tuple(item.idxs), tuple(item.root_idxs))


def _prune_heads(module: torch.nn.Module, share: float, wanted: dict[str, int]) -> list[Change]:
    changes = []
    for name, attention in _attentions(module):
        before = int(attention.heads)
        after = max(1, math.ceil(before * (1 - share)))
        after = _take(wanted, name, before, after)
        if after < before:
            strongest = attention.head_importance().argsort(descending=True)[:after]
            attention.prune_heads(sorted(strongest.tolist()))
            changes.append(Change(name, "heads", before, after))
    return changes


def _prune_channels(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    share: float,
    wanted: dict[str, int],
) -> list[Change]:
    names = {part: name for name, part in module.named_modules()}
    changes = []
    with _dependencies(module, example) as graph:
        for layer in _prunable(module, graph):
            before = _out_width(layer)
            after = math.ceil(before * (1 - share) / ROUND_TO) * ROUND_TO
            after = _take(wanted, names[layer], before, after)
            if after < before:
                group = _group(graph, layer)
                weakest = _importance(group).argsort()[: before - after]
                group.prune(sorted(weakest.tolist()))
                changes.append(Change(names[layer], "channels", before, after))
    return changes


def _prune_residual(
    module: torch.nn.Module, example: Sequence[torch.Tensor], share: float
) -> list[Change]:
    names = {part: name for name, part in module.named_modules()}
    changes = []
    with _dependencies(module, example) as graph:
        for layer in _adding(module, graph):
            before = _out_width(layer)
            after = math.ceil(before * (1 - share) / ROUND_TO) * ROUND_TO
            if after < before:
                group = _group(graph, layer)
                weakest = _importance(group).argsort()[: before - after]
                group.prune(sorted(weakest.tolist()))
                changes.append(Change(names[layer], "channels", before, after))
    return changes


def _take(wanted: dict[str, int], name: str, before: int, otherwise: int) -> int:
    """The width that ``name`` is to have; what was wanted of it is taken out of ``wanted``."""
    if name not in wanted:
        return otherwise
    after = wanted.pop(name)
    if not 1 <= after <= before:
        raise ExportError(
            f"prune: {name} is {before} wide and cannot be made {after}",
            hint=f"give it a width of 1 to {before}",
        )
    return after


@contextmanager
def _dependencies(
    module: torch.nn.Module, example: Sequence[torch.Tensor]
) -> Iterator[torch_pruning.DependencyGraph]:
    """Which widths of ``module`` hang together; its parameters are as they were afterwards."""
    graph = torch_pruning.DependencyGraph()
    trained = [p.requires_grad for p in module.parameters()]
    module.requires_grad_(True)  # the dependency graph follows autograd
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # about parameters that we never prune
        graph.build_dependency(module, example_inputs=tuple(example), verbose=False)
        yield graph
    for parameter, was in zip(module.parameters(), trained):
        parameter.requires_grad_(was)
    module.zero_grad(set_to_none=True)


def _importance(group: Any) -> torch.Tensor:
    """The L2 norm of what every channel of ``group`` is made and read with, [width]."""
    norms: torch.Tensor = torch_pruning.importance.GroupMagnitudeImportance(p=2)(group)
    return norms.detach()


def _prunable(module: torch.nn.Module, graph: Any) -> Iterator[torch.nn.Module]:
    """Layers whose output is an inner width."""
    for layer, producers in _free_widths(module, graph):
        if producers == {layer}:
            yield layer


def _adding(module: torch.nn.Module, graph: Any) -> Iterator[torch.nn.Module]:
    """One layer of each residual stream: the first of those whose outputs are added up."""
    seen: set[torch.nn.Module] = set()
    for layer, producers in _free_widths(module, graph):
        if len(producers) > 1 and not producers & seen:
            seen |= producers
            yield layer


def _free_widths(
    module: torch.nn.Module, graph: Any
) -> Iterator[tuple[torch.nn.Module, set[torch.nn.Module]]]:
    """Layers whose width nothing holds, and all layers that make that width with them."""
    kept = _kept_whole(module)
    for layer in list(graph.module2node):
        if isinstance(layer, _WEIGHTED) and layer not in kept and not _is_grouped(layer):
            group = _group(graph, layer)
            parts = [(dep.target.module, dep.handler) for dep, _ in group]
            producers: set[torch.nn.Module] = {
                part
                for part, handler in parts
                if isinstance(part, _WEIGHTED)
                and graph.is_out_channel_pruning_fn(handler)
                and not _is_grouped(part)
            }
            consumers = {
                part
                for part, handler in parts
                if isinstance(part, _WEIGHTED) and graph.is_in_channel_pruning_fn(handler)
            }
            loose = any(
                isinstance(part, (torch.nn.Parameter, *_NORMS_OVER_CHANNELS))
                for part, _ in parts
            )
            if consumers and not (producers | consumers) & kept and not loose:
                yield layer, producers


def _kept_whole(module: torch.nn.Module) -> set[torch.nn.Module]:
    """What is inside an attention, or marked ``keep_float32``: too delicate for this."""
    return {
        inner
        for part in module.modules()
        if isinstance(part, torch.nn.MultiheadAttention)
        or hasattr(part, "prune_heads")
        or getattr(part, "keep_float32", False)
        for inner in part.modules()
    }


def _attentions(module: torch.nn.Module) -> list[tuple[str, Any]]:
    return [
        (name, part) for name, part in module.named_modules() if hasattr(part, "prune_heads")
    ]


def _group(graph: Any, layer: torch.nn.Module) -> Any:
    remove = graph.get_pruner_of_module(layer).prune_out_channels
    return graph.get_pruning_group(layer, remove, list(range(_out_width(layer))))


def _out_width(layer: Any) -> int:
    return int(layer.out_features if hasattr(layer, "out_features") else layer.out_channels)


def _is_grouped(layer: torch.nn.Module) -> bool:
    return int(getattr(layer, "groups", 1)) > 1


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _check(
    module: torch.nn.Module,
    smaller: torch.nn.Module,
    example: Sequence[torch.Tensor],
    changes: Sequence[Change],
) -> None:
    """The widths are what was asked for, and the outputs have the shapes they had."""
    hint = "set prune and prune_heads of this tier to 0 in the recipe"
    layers = dict(smaller.named_modules())
    for change in changes:
        layer: Any = layers[change.layer]
        found = int(layer.heads) if change.kind == "heads" else _out_width(layer)
        weight = getattr(layer, "weight", None)
        stored = found if change.kind == "heads" or weight is None else weight.shape[0]
        aligned = change.kind == "heads" or found % ROUND_TO == 0
        if not (found == stored == change.after and aligned):
            raise ExportError(
                f"prune: {change.layer} has {found} {change.kind} (weights: {stored}), "
                f"{change.after} were expected",
                hint=hint,
            )
    try:
        with torch.no_grad():
            shapes = [_shapes(network(*example)) for network in (module, smaller)]
    except (RuntimeError, ValueError, IndexError) as error:
        raise ExportError(
            f"prune: the network does not run with fewer channels: {error}", hint=hint
        ) from error
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"prune: the outputs changed from {shapes[0]} to {shapes[1]}", hint=hint
        )


def _shapes(outputs: Any) -> list[tuple[int, ...]]:
    several = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    return [tuple(output.shape) for output in several]
