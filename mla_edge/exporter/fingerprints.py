"""What an export was made from, besides data and settings: our code, and the network's own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping

import numpy as np
import torch

from mla_edge.bundle import sha256_of
from mla_edge.exporter.steps import hash_of, versions
from mla_edge.networks.checkpoint import read_about

if TYPE_CHECKING:
    from mla_edge.networks import Network

_PACKAGE = Path(__file__).resolve().parent.parent
_MODULE = frozenset(vars(torch.nn.Module()))  # what every module has: tensors and hooks
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def code_fingerprint() -> str:
    """The sha256 over our code that decides what an export gives, and its packages."""
    return hash_of(*(sha256_of(path) for path in code_files()), versions())


def code_files() -> list[Path]:
    """Our own files that decide what an export gives: code, tables and the report's page."""
    files = sorted(_PACKAGE.glob("*.py"))
    for area in ("exporter", "engines", "networks", "simulator"):
        for kind in ("*.py", "*.json", "*.j2"):
            files += sorted((_PACKAGE / area).glob(kind))
    return files


def network_code(network: Network, ref: str) -> str:
    """The sha256 over the code and the settings of ``network``, which ``ref`` names.

    Code: the files of its modules' classes, and of all that is imported from the packages, or
    from the folders, that its modules, its samples and the function that builds it are in.
    Settings: how every module shows itself, and its attributes, which no weight tells.
    """
    files = sorted({sha256_of(path) for path in network_files(network, ref)})
    return hash_of(*files, *_settings(network))


def weights_file(path: Path) -> dict[str, Any]:
    """What is known of a user's weights: the file's sha256, and what its header says."""
    about: dict[str, Any] = {}
    for key, value in read_about(path).items():
        try:
            about[key] = json.loads(value)
        except ValueError:
            about[key] = value
    return {"sha256": sha256_of(path), **about}


def network_files(network: Network, ref: str) -> set[Path]:
    """The files that ``network``'s own code is in; torch, the standard library and we are not.

    Of an installed package only the files of module classes count, unless it is the one that
    builds the network.
    """
    builder = _builder(ref)
    classes = {
        type(part).__module__
        for tier in network.tiers
        for module in tier.modules
        for part in module.modules()
    }
    files = {_file_of(name) for name in classes if not _is_in(name, "torch")}
    packages, folders = set(), set()
    for name in {builder, str(getattr(network.samples, "__module__", "")), *classes}:
        path = _file_of(name)
        if path is None or _is_in(name, "mla_edge"):
            continue
        if name != builder and _is_installed(path):
            continue
        if getattr(sys.modules[name], "__package__", ""):
            packages.add(name.partition(".")[0])
        else:  # a plain file; what it imports may lie beside it
            folders.add(path.parent)
    for name in list(sys.modules):
        path = _file_of(name)
        if path is None or _is_in(name, "mla_edge"):
            continue
        beside = not folders.isdisjoint(path.parents) and not _is_installed(path)
        if beside or name.partition(".")[0] in packages:
            files.add(path)
    return {path for path in files if path is not None}


def _builder(ref: str) -> str:
    """The name of the module whose function builds the network called ``ref``."""
    place = ref.rpartition(":")[0]
    return f"mla_edge_network_{Path(place).stem}" if place.endswith(".py") else place


def _file_of(name: str) -> Path | None:
    file = getattr(sys.modules.get(name), "__file__", None)
    path = Path(file) if isinstance(file, str) else None
    return path.absolute() if path is not None and path.is_file() else None


def _is_in(name: str, package: str) -> bool:
    return name.partition(".")[0] == package


def _is_installed(path: Path) -> bool:
    """Whether it came with Python or with pip, and is not the user's to change."""
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(
        Path(sysconfig.get_path(key)) in path.parents for key in ("stdlib", "platstdlib")
    )


def _settings(network: Network) -> Iterator[Any]:
    """What every module of every tier is set to, apart from its weights."""
    for module in (module for tier in network.tiers for module in tier.modules):
        yield _ADDRESS.sub("", repr(module))
        for name, part in module.named_modules():
            own = {key: value for key, value in vars(part).items() if key not in _MODULE}
            own.update(part.named_buffers(recurse=False))  # some are not saved with the weights
            known = ((key, _plain(value)) for key, value in sorted(own.items()))
            yield (name, *(pair for pair in known if pair[1] is not None))


def _plain(value: Any) -> Any:
    """``value`` as text that is the same in every process; None for what has none."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return f"{value.dtype} {value.shape} {digest}"
    if isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, np.generic)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return repr([_plain(part) for part in value])
    if isinstance(value, (set, frozenset)):
        return repr(sorted(str(_plain(part)) for part in value))
    if isinstance(value, Mapping):
        return repr(sorted((str(key), _plain(part)) for key, part in value.items()))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    name = getattr(value, "__qualname__", None)  # a function, such as an activation
    return None if name is None else f"{getattr(value, '__module__', '')}.{name}"
