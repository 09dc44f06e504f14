"""The files of a training: its checkpoint, and the weights that a network is loaded with."""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mla_edge.bundle import write_atomically
from mla_edge.errors import ConfigError, MissingDependency

try:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save
except ImportError as error:
    raise MissingDependency(
        f"safetensors cannot be loaded, and the shipped weights are in its files: {error}",
        hint="pip install 'mla-edge[export]'",
    ) from error

_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, TypeError, AttributeError, LookupError,
    pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class State:
    """Where a training is."""

    plan: Mapping[str, Any]
    data: Mapping[str, str]  # sha256 by file
    modules: Mapping[str, Any]
    done: list[str]  # stages
    running: Mapping[str, Any] | None  # the stage that was interrupted: step and optimizer


def check_output(path: Path) -> None:
    """Make the folder of ``path``; ConfigError if no file can be written into it."""
    hint = "give another file with --out, such as weights/digits.safetensors"
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder", hint=hint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}", hint=hint) from error


def read_checkpoint(path: Path) -> State:
    """The state in ``path``; ConfigError if it is damaged or no checkpoint."""
    try:
        return State(**torch.load(path, weights_only=True))
    except _UNREADABLE as error:
        raise ConfigError(
            f"{path}: not a checkpoint, or damaged: {type(error).__name__}",
            hint="remove it to train from the beginning, or give another --out",
        ) from error


def write_checkpoint(path: Path, state: State) -> None:
    """Write ``state`` to ``path``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    _write(path, buffer.getvalue())


def set_aside(path: Path) -> Path:
    """Give the file at ``path`` another name that is free, and return that."""
    number = 1
    while (free := path.with_name(f"{path.stem}.other-{number}{path.suffix}")).exists():
        number += 1
    return path.rename(free)


def save_weights(modules: Mapping[str, nn.Module], path: Path, about: dict[str, str]) -> None:
    """Modules by name in half precision, one safetensors file, with ``about`` in its header."""
    tensors = {
        f"{part}.{name}": value.half() if value.is_floating_point() else value
        for part, module in modules.items()
        for name, value in module.state_dict().items()
    }
    _write(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata=about))


def save_tiers(modules: Mapping[str, nn.Module], path: Path, about: dict[str, str]) -> None:
    """As ``save_weights``, for the tiers of any network by their names, and nothing rounded."""
    tensors = {
        f"{tier}.{name}": value.clone()  # safetensors wants memory that no other tensor has
        for tier, module in modules.items()
        for name, value in module.state_dict().items()
    }
    _write(path, save({k: v.contiguous() for k, v in tensors.items()}, metadata=about))


def load_weights(
    path: Path, modules: Mapping[str, nn.Module], network: str, *, partly: bool = False
) -> list[str]:
    """Fill ``modules``, by name, from a ``save_weights`` file; they are in eval mode then.

    Gives the names of those that were filled. ``partly`` leaves those alone that the file has
    not. ConfigError if it cannot be read or is of another network.
    """
    state = _read_tensors(path, "reinstall mla-edge")
    filled = []
    for name, module in modules.items():
        prefix = f"{name}."
        part = {k[len(prefix) :]: v.float() for k, v in state.items() if k.startswith(prefix)}
        if partly and not part:
            continue
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            raise ConfigError(
                f"{path}: not weights of this network: {error}",
                hint=f"python -m mla_edge.networks.train {network} --data DIR --out FILE",
            ) from error
        module.eval()
        filled.append(name)
    return filled


def load_tiers(path: Path, modules: Mapping[str, nn.Module], network: str) -> None:
    """Replace the weights of built ``modules``, by tier, by those of a user's file.

    ConfigError where the file cannot be read, or where its tensors are not the modules' own.
    """
    state = _read_tensors(path, "give a file that mla-edge adapt, or a training, has written")
    own = {
        f"{tier}.{name}": value
        for tier, module in modules.items()
        for name, value in module.state_dict().items()
    }
    strange = sorted(own.keys() ^ state.keys())
    strange += [name for name in own if name in state and own[name].shape != state[name].shape]
    if strange:
        raise ConfigError(
            f"{path}: not weights of {network}: {len(strange)} tensors are missing, of another "
            f"shape or unknown, {strange[0]} for one",
            hint=f"give weights that were made of {network}, in this version",
        )
    for tier, module in modules.items():
        prefix = f"{tier}."
        part = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        module.load_state_dict(part)


def read_about(path: Path) -> dict[str, str]:
    """What ``save_weights`` was told about a training: its plan and its data."""
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def _read_tensors(path: Path, hint: str) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{path}: weights cannot be read: {error}", hint=hint) from error


def _write(path: Path, data: bytes) -> None:
    """Write ``data`` whole or not at all; ConfigError where the disk refuses."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written: {error.strerror}",
            hint="make room there and give the command again: it goes on from its checkpoint",
        ) from error
