"""What the exporter takes: a network of one or more tiers, with labels and a sample source."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import pickle
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType
from typing import Any, Callable, Mapping

from mla_edge.errors import ConfigError, MissingDependency, MlaEdgeError
from mla_edge.signals import InputSpec, Sample, Tier

try:
    import torch
except (ImportError, OSError) as error:  # OSError: a library of torch's is missing
    raise MissingDependency(
        f"torch cannot be loaded, and networks are torch modules: {error}",
        hint="pip install 'mla-edge[export]' (for the CPU build see the README)",
    ) from error

SampleSource = Callable[[str, int, int], "list[Sample]"]
"""``samples(split, count, seed)``: splits are train, calibrate, tune and test; the signals of
each sample carry the label as their ``truth``."""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What building a network raises when its code is wrong, or when its weights are missing, cut
# off, or of another network.
_BUILDING = (
    TypeError, AttributeError, NameError, ValueError, RuntimeError, ArithmeticError,
    AssertionError, LookupError, ImportError, OSError, EOFError, pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class TierNetwork:
    """One tier: its names and its module.

    ``module.forward`` takes the tensors of ``tier.inputs`` in order and returns one tensor, or
    a tuple in the order of ``tier.outputs``; the first output is ``logits`` [1, classes].
    ``student`` is a smaller module with the same inputs and outputs that learnt from
    ``module``: a recipe with ``student = true`` exports it in the place of ``module``, and
    holds it against that.
    """

    tier: Tier
    module: torch.nn.Module
    student: torch.nn.Module | None = None

    @property
    def modules(self) -> tuple[torch.nn.Module, ...]:
        """The module, and its student if it has one."""
        return (self.module,) if self.student is None else (self.module, self.student)


def student_of(tier: str) -> str:
    """The name of a tier's student, where it stands beside the tiers: in files, in reports."""
    return f"{tier}-student"


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
    def learners(self) -> tuple[TierNetwork, ...]:
        """Every module by itself: the tiers, and after each its student as one more."""
        found: list[TierNetwork] = []
        for part in self.tiers:
            found.append(replace(part, student=None))
            if part.student is not None:
                tier = replace(part.tier, name=student_of(part.tier.name))
                found.append(TierNetwork(tier, part.student))
        return tuple(found)

    @property
    def fingerprint(self) -> str:
        """The sha256 over names, shapes and every weight."""
        digest = hashlib.sha256(repr((self.name, self.labels, self.inputs)).encode())
        for part in self.tiers:
            digest.update(repr(part.tier).encode())
            for module in part.modules:
                for name, value in sorted(module.state_dict().items()):
                    digest.update(name.encode())
                    digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load_network(
    ref: str,
    *,
    data: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> Network:
    """The network ``ref``: ``digits``, ``commands``, ``package.module:function`` or
    ``file.py:function``.

    ``data`` is a folder of real samples, for networks that can use one: the function is then
    called with ``data=folder``. ``weights`` is a file of ``mla-edge adapt`` that takes the
    place of the network's own. ConfigError says what is wrong with the reference.
    """
    network = _build(ref, data)
    if weights is not None:
        from mla_edge.networks.checkpoint import load_tiers

        load_tiers(
            Path(weights), {p.tier.name: p.module for p in network.learners}, network.name
        )
    return network


def _build(ref: str, data: str | os.PathLike[str] | None) -> Network:
    if ref == "digits":
        from mla_edge.networks.digits import digits

        return _make(ref, digits, {"data": data})
    if ref == "commands":
        from mla_edge.networks.commands import commands

        return _make(ref, commands, {"data": data})
    place, colon, function = ref.rpartition(":")
    if not colon or not place or not function:
        raise ConfigError(
            f"{ref!r} is no network: expected digits, commands, package.module:function "
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
    given = {} if data is None else {"data": data}
    _check_arguments(ref, make, given)
    return check_network(_make(ref, make, given), ref)


def _make(ref: str, make: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call the function; what its weights or data raise becomes a ConfigError."""
    try:
        return make(**given)
    except Exception as error:
        ours = is_ours(make) and not isinstance(error, _BUILDING)
        if isinstance(error, MlaEdgeError) or ours:
            raise
        raise ConfigError(
            f"{ref} does not build: {type(error).__name__}: {error}{place_of(error)}",
            hint="are its weights whole, and of this network? Call it in Python to see",
        ) from error


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
    _check_kinds(network, ref)
    _check_names(network, ref)
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
        if any(module.training for module in part.modules):
            raise ConfigError(
                f"{ref}: tier {tier.name!r} is in training mode", hint="call .eval() on it"
            )
        known |= set(tier.outputs) - {"logits"}
    return network


def _check_kinds(network: Network, ref: str) -> None:
    """ConfigError for parts of another kind than a Network has."""
    parts: tuple[tuple[str, Any, type], ...] = (
        ("labels", network.labels, str),
        ("inputs", network.inputs, InputSpec),
        ("tiers", network.tiers, TierNetwork),
    )
    for what, values, kind in parts:
        if not isinstance(values, (tuple, list)) or not all(
            isinstance(value, kind) for value in values
        ):
            raise ConfigError(
                f"{ref}: its {what} are {values!r}", hint=f"give a tuple of {kind.__name__}"
            )
    for part in network.tiers:
        modules = all(isinstance(module, torch.nn.Module) for module in part.modules)
        if not isinstance(part.tier, Tier) or not modules:
            kinds = [type(given).__name__ for given in (part.tier, *part.modules)]
            raise ConfigError(
                f"{ref}: a tier has a {' and a '.join(kinds)}",
                hint="TierNetwork takes a Tier, a torch.nn.Module, and perhaps one as student",
            )
    if not callable(network.samples):
        raise ConfigError(
            f"{ref}: its samples are {network.samples!r}",
            hint="give a function samples(split, count, seed)",
        )


def _check_names(network: Network, ref: str) -> None:
    """ConfigError for names that no file or graph can have, and for doubles."""
    inputs = [spec.name for spec in network.inputs]
    outputs = [name for p in network.tiers for name in p.tier.outputs if name != "logits"]
    named = (
        ("network", [network.name]),
        ("tier", [part.tier.name for part in network.tiers]),
        ("input or output", [*inputs, *outputs]),
    )
    for what, names in named:
        for name in names:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{ref}: no {what} can be called {name!r}",
                    hint="letters, digits, '.', '_' and '-', a letter or digit first",
                )
            if names.count(name) > 1:
                raise ConfigError(
                    f"{ref}: more than one {what} is called {name!r}",
                    hint="give each a name of its own",
                )
    if len(set(network.labels)) != len(network.labels):
        raise ConfigError(
            f"{ref}: two labels are equal: {', '.join(network.labels)}",
            hint="give each class a label of its own",
        )
    for reserved in {"present", "logits"} & {*inputs, *outputs}:
        raise ConfigError(
            f"{ref}: {reserved!r} is a name of mla-edge's own", hint="call it something else"
        )


def _check_arguments(ref: str, make: Callable[..., Any], given: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(make)
    except ValueError:  # written in C; calling it will tell
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        if given and "data" not in signature.parameters:
            raise ConfigError(
                f"{ref} does not take data=…: {error}",
                hint="leave --data away, or give the function a `data` argument",
            ) from error
        raise ConfigError(
            f"{ref} cannot be called: {error}",
            hint="give every argument but `data` a default: it is called without them",
        ) from error


def is_ours(part: Any) -> bool:
    """Whether a function, or the class of a module, is mla-edge's own."""
    module = getattr(part, "__module__", None) or type(part).__module__
    return str(module).partition(".")[0] == "mla_edge"


def place_of(error: BaseException) -> str:
    """Where it was raised, to find it without a traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})"


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
    except MlaEdgeError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{path}: cannot be imported: {type(error).__name__}: {error}",
            hint="run it with python to see why",
        ) from error
    finally:
        sys.path.remove(folder)
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except MlaEdgeError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{name}: cannot be imported: {type(error).__name__}: {error}",
            hint="is the package installed here, and is its name right?",
        ) from error
