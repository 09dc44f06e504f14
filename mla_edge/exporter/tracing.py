"""Run a tier as it is traced: its inputs, what it gives, its parts that stay float32."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import numpy as np

from mla_edge.errors import ConfigError, ExportError, MissingDependency
from mla_edge.exporter.sampling import draw_samples
from mla_edge.networks.network import is_ours, place_of
from mla_edge.signals import PRESENT, Reading, Tensors

try:
    import torch
except (ImportError, OSError) as error:  # OSError: a library of torch's is missing
    raise MissingDependency(
        f"torch cannot be loaded, and exporting needs it: {error}",
        hint="pip install 'mla-edge[export]'",
    ) from error

if TYPE_CHECKING:
    from mla_edge.networks import Network, TierNetwork

LAYER_NORMALIZATION = 17  # the opset that has it; below, it is spelled out in small operators
NORMS = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm)
# What tracing a network may raise; anything else is a bug of ours.
FORWARD_ERRORS = (
    RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError,
    AssertionError,
)  # fmt: skip


def example_inputs(network: Network, tier: TierNetwork, count: int) -> list[Tensors]:
    """Seeded inputs of ``tier`` to trace with; after the first, with one modality less."""
    random = np.random.default_rng(0)
    readings = None
    examples: list[Tensors] = []
    for number in range(count):
        example: Tensors = {}
        for spec in network.inputs:
            if spec.kind in ("image", "clip"):
                example[spec.name] = random.uniform(0, 255, spec.shape).astype(np.float32)
            elif spec.kind == "audio":
                example[spec.name] = random.normal(0, 0.1, spec.shape).astype(np.float32)
            else:
                readings = readings or draw_samples(network, "calibrate", count, 0)
                reading = readings[number].signals.get(spec.name)
                if not isinstance(reading, Reading):
                    raise ConfigError(
                        f"'calibrate' sample {number} has no Reading of {spec.name!r}",
                        hint=f"let the first {count} samples have every modality",
                    )
                values = np.ascontiguousarray(reading.values, np.float32)
                example[spec.name] = values.reshape(spec.shape)
        if len(network.inputs) > 1:
            present = np.ones((1, len(network.inputs)), np.float32)
            if number:
                present[0, number % len(network.inputs)] = 0
            example[PRESENT] = present
        for earlier in network.tiers:
            if set(tier.tier.inputs) <= set(example):
                break
            outputs = forward(earlier, example, network.labels)
            example.update((n, v) for n, v in outputs.items() if n != "logits")
        examples.append({name: example[name] for name in tier.tier.inputs})
    return examples


@contextmanager
def _running(module: torch.nn.Module, tier: str, given: str) -> Iterator[None]:
    """Around a run of ``module``: what its own forward raises becomes an ExportError."""
    try:
        with torch.no_grad():
            yield
    except Exception as error:
        if is_ours(module) and not isinstance(error, FORWARD_ERRORS):
            raise
        raise ExportError(
            f"to_onnx: tier {tier!r} does not run: {type(error).__name__}: "
            f"{error}{place_of(error)}",
            hint=f"its forward is given {given}",
        ) from error


def forward(tier: TierNetwork, inputs: Tensors, labels: Sequence[str]) -> Tensors:
    """What ``tier`` gives for ``inputs``; ExportError unless that is what the tier says."""
    name = tier.tier.name
    with _running(tier.module, name, _shapes(inputs, tier.tier.inputs)):
        found = tier.module(*(torch.from_numpy(inputs[n]) for n in tier.tier.inputs))
    values = found if isinstance(found, (tuple, list)) else (found,)
    names = tier.tier.outputs
    if len(values) != len(names) or not all(isinstance(v, torch.Tensor) for v in values):
        kinds = ", ".join(type(value).__name__ for value in values)
        raise ExportError(
            f"to_onnx: tier {name!r} gives ({kinds}), but says it gives {', '.join(names)}",
            hint="return one tensor for every name in the tier's outputs",
        )
    outputs = {n: v.detach().cpu().numpy() for n, v in zip(names, values)}
    shape = tuple(outputs["logits"].shape)
    if shape != (1, len(labels)):
        raise ExportError(
            f"to_onnx: tier {name!r} gives logits {list(shape)} for {len(labels)} labels",
            hint=f"logits are [1, {len(labels)}]",
        )
    for output, value in outputs.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            what = "NaN or infinity" if value.dtype == np.float32 else str(value.dtype)
            raise ExportError(
                f"to_onnx: tier {name!r} gives {what} in {output!r}",
                hint="outputs are finite and float32",
            )
    return outputs


def find_scopes(
    module: torch.nn.Module, names: Sequence[str], example: Tensors, tier: str
) -> tuple[list[str], set[int]]:
    """Where marked modules are in the exporter's node names, and which inputs go into one."""
    tensors = [torch.from_numpy(example[name]) for name in names]
    scopes: set[str] = set()
    straight: set[int] = set()
    for _, part, scope, values in _calls(module, tensors, tier, _shapes(example, names)):
        if getattr(part, "keep_float32", False):
            scopes.add(scope)
            for value in values:
                straight.update(i for i, tensor in enumerate(tensors) if value is tensor)
    # A mask is exact in float16, and is used outside of marked modules as well.
    return sorted(scopes), {i for i in straight if names[i] != PRESENT}


def scopes_of(
    module: torch.nn.Module, names: Sequence[str], example: Tensors, tier: str
) -> dict[str, list[str]]:
    """Where each module is in the exporter's node names, by the name that torch gives it."""
    tensors = [torch.from_numpy(example[name]) for name in names]
    found: dict[str, list[str]] = {}
    for path, _, scope, _ in _calls(module, tensors, tier, _shapes(example, names)):
        scopes = found.setdefault(path, [])
        if scope not in scopes:
            scopes.append(scope)
    return found


def _calls(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], tier: str, given: str
) -> list[tuple[str, torch.nn.Module, str, tuple[Any, ...]]]:
    """Each call of a module in one run: its name, itself, its scope, what it was given."""
    stack: list[str] = []
    calls = []

    def enter(path: str, part: torch.nn.Module) -> Any:
        def hook(_: Any, arguments: Any, keywords: Any) -> None:
            stack.append(_scope(path))
            scope = "/" + "".join(f"{name}/" for name in stack if name)
            calls.append((path, part, scope, (*arguments, *keywords.values())))

        return hook

    def leave(*_: Any) -> None:
        stack.pop()

    hooks = []
    for path, part in module.named_modules():
        hooks.append(part.register_forward_pre_hook(enter(path, part), with_kwargs=True))
        hooks.append(part.register_forward_hook(leave))
    try:
        with _running(module, tier, given):
            module(*inputs)
    finally:
        for handle in hooks:
            handle.remove()
    return calls


def _scope(path: str) -> str:
    """The exporter's name of a module: its last name with the numbers of its lists."""
    parts = path.split(".")
    start = len(parts) - 1
    while start > 0 and parts[start].isdigit():
        start -= 1
    return ".".join(parts[start:])


def halve(module: torch.nn.Module, opset: int, untouched: set[int]) -> None:
    """Make ``module`` compute in float16: casts at its ends and around what stays float32."""
    module.half()

    def to(dtype: torch.dtype, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(dtype) if value.is_floating_point() else value
        if isinstance(value, (tuple, list)):
            return type(value)(to(dtype, part) for part in value)
        return value

    def widen(_: Any, arguments: Any, keywords: Any) -> Any:
        wide = {name: to(torch.float32, value) for name, value in keywords.items()}
        return to(torch.float32, arguments), wide

    def narrow(_: Any, __: Any, output: Any) -> Any:
        return to(torch.float16, output)

    for part in module.modules():
        spelled_out = opset < LAYER_NORMALIZATION and isinstance(part, NORMS)
        if spelled_out or getattr(part, "keep_float32", False):
            part.float()
            part.register_forward_pre_hook(widen, with_kwargs=True)
            part.register_forward_hook(narrow)

    def enter(_: Any, arguments: Any) -> Any:
        return tuple(
            value if i in untouched else to(torch.float16, value)
            for i, value in enumerate(arguments)
        )

    def leave(_: Any, __: Any, output: Any) -> Any:
        return to(torch.float32, output)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


def _shapes(inputs: Tensors, names: Sequence[str]) -> str:
    return ", ".join(f"{name} {list(inputs[name].shape)}" for name in names)
