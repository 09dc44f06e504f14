"""What the exporter takes: a network of one or more tiers, with labels and a sample source."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, Callable

from mla_edge.errors import ConfigError, MissingDependency
from mla_edge.signals import InputSpec, Sample, Tier

try:
    import torch
except ImportError as error:
    raise MissingDependency(
        "torch is not installed, and networks are torch modules",
        hint="pip install 'mla-edge[export]' (for the CPU build see the README)",
    ) from error

SampleSource = Callable[[str, int, int], "list[Sample]"]
"""``samples(split, count, seed)``: splits are train, calibrate, tune and test; the signals of
each sample carry the label as their ``truth``."""


@dataclass(frozen=True)
class TierNetwork:
    """One tier: its names and its module.

    ``module.forward`` takes the tensors of ``tier.inputs`` in order and returns one tensor, or
    a tuple in the order of ``tier.outputs``; the first output is ``logits`` [1, classes].
    """

    tier: Tier
    module: torch.nn.Module


@dataclass(frozen=True)
class Network:
    """What is exported: tiers from cheap to dear, inputs, labels, a source of samples.

    With more than one input each tier also takes ``present``, float32 [1, inputs].
    """

    name: str
    labels: tuple[str, ...]
    inputs: tuple[InputSpec, ...]
    tiers: tuple[TierNetwork, ...]
    samples: SampleSource

    @property
    def fingerprint(self) -> str:
        """The sha256 over names, shapes and every weight."""
        digest = hashlib.sha256(repr((self.name, self.labels, self.inputs)).encode())
        for part in self.tiers:
            digest.update(repr(part.tier).encode())
            for name, value in sorted(part.module.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_network(ref: str, *, data: str | os.PathLike[str] | None = None) -> Network:
    """The network ``ref``: ``digits``, ``package.module:function`` or ``file.py:function``.

    ``data`` is a folder of real samples, for networks that can use one: the function is then
    called with ``data=folder``. ConfigError says what is wrong with the reference.
    """
    if ref == "digits":
        from mla_edge.networks.digits import digits

        return digits(data=data)
    place, colon, function = ref.rpartition(":")
    if not colon or not place or not function:
        raise ConfigError(
            f"{ref!r} is no network: expected digits, package.module:function "
            "or file.py:function",
            hint=_function_hint(ref),
        )
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    make = getattr(module, function, None)
    if not callable(make):
        known = [
            name
            for name, value in vars(module).items()
            if isinstance(value, FunctionType)
            and value.__module__ == module.__name__
            and not name.startswith("_")
        ]
        raise ConfigError(
            f"{place} has no function {function!r}",
            hint=f"it has: {', '.join(known) or 'no public function'}",
        )
    try:
        network = make() if data is None else make(data=data)
    except TypeError as error:
        if data is None:
            raise
        raise ConfigError(
            f"{ref} does not take data=…: {error}",
            hint="leave --data away, or give the function a `data` argument",
        ) from error
    return check_network(network, ref)


def check_network(network: Any, ref: str) -> Network:
    """``network`` if it is a Network whose tiers fit its inputs; otherwise ConfigError."""
    if not isinstance(network, Network):
        raise ConfigError(
            f"{ref} gave a {type(network).__name__}, not a Network",
            hint="return mla_edge.networks.Network(name, labels, inputs, tiers, samples)",
        )
    for what, values in (
        ("labels", network.labels), ("inputs", network.inputs), ("tiers", network.tiers)
    ):  # fmt: skip
        if not values:
            raise ConfigError(f"{ref}: the network has no {what}", hint=f"name its {what}")
    known = {spec.name for spec in network.inputs}
    if len(network.inputs) > 1:
        known.add("present")
    for part in network.tiers:
        tier = part.tier
        unknown = set(tier.inputs) - known
        if unknown:
            raise ConfigError(
                f"{ref}: tier {tier.name!r} wants {', '.join(sorted(unknown))}",
                hint=f"it can take {', '.join(sorted(known))}",
            )
        if not tier.outputs or tier.outputs[0] != "logits":
            raise ConfigError(
                f"{ref}: tier {tier.name!r} gives {tier.outputs}",
                hint="the first output of every tier is called logits",
            )
        if part.module.training:
            raise ConfigError(
                f"{ref}: tier {tier.name!r} is in training mode", hint="call .eval() on it"
            )
        known |= set(tier.outputs) - {"logits"}
    return network


def _function_hint(ref: str) -> str:
    if ref.endswith((".pt", ".pth", ".onnx", ".safetensors", ".ckpt")):
        return (
            "weights alone are no network: give file.py:function that builds it and loads them"
        )
    if ref.endswith(".py"):
        return f"name the function: {ref}:make_network"
    return "write it as my_package.my_module:make_network"


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file", hint="give file.py:function")
    spec = importlib.util.spec_from_file_location(f"mla_edge_network_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file", hint="give file.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # the file may import what lies beside it
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"{path}: cannot be imported: {error}", hint="run it with python to see why"
        ) from error
    finally:
        sys.path.remove(folder)
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name}: cannot be imported: {error}",
            hint="is the package installed here, and is its name right?",
        ) from error
