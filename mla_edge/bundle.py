"""The folder that export writes and the runtime reads; the only thing they share on disk."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Mapping

from mla_edge.errors import BundleError
from mla_edge.signals import InputSpec, Tier

FORMAT = 1
MANIFEST = "bundle.json"


@dataclass(frozen=True)
class ModePolicy:
    """Routing in one mode: lite's answer is kept when its confidence reaches ``threshold``."""

    temperature: float
    threshold: float  # above 1 means: always go on to the next tier


@dataclass(frozen=True)
class RouterPolicy:
    """How to route in each mode (``image+audio``, ``image``, …), and at what costs."""

    modes: Mapping[str, ModePolicy]
    cost_ms: Mapping[str, float] = field(default_factory=dict)  # per tier, on ``measured_on``
    measured_on: str = ""


@dataclass(frozen=True)
class Bundle:
    """A folder with ``bundle.json``, graphs, golden samples and a report."""

    folder: Path
    name: str  # <network>-<profile>
    network: str
    profile: str
    labels: tuple[str, ...]
    inputs: tuple[InputSpec, ...]
    tiers: tuple[Tier, ...]
    policy: RouterPolicy
    created: str  # ISO 8601, UTC
    provenance: Mapping[str, Any]
    files: Mapping[str, str]  # path inside the folder -> sha256

    def graph(self, tier: str, *, cpu: bool) -> Path:
        """The ONNX graph of ``tier``: the form for TensorRT, or the one for a CPU."""
        return self.folder / "graphs" / f"{tier}{'.cpu' if cpu else ''}.onnx"

    def write(self) -> None:
        """Write ``bundle.json`` at once: a reader sees the old one or the new one, whole."""
        manifest = asdict(self)
        del manifest["folder"]
        text = json.dumps({"format": FORMAT, **manifest}, indent=2, sort_keys=True)
        write_atomically(self.folder / MANIFEST, (text + "\n").encode())

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read ``bundle.json`` of ``folder``; BundleError says what is wrong with it."""
        path = Path(folder) / MANIFEST
        again = f"export it again: mla-edge export … --out {Path(folder).parent}"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BundleError(
                f"{folder}: not a bundle (no {MANIFEST})",
                hint="give the folder that `mla-edge export` wrote",
            ) from error
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: cannot be read: {error}", hint=again) from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            raise BundleError(
                f"{path}: format {found!r}, this version reads format {FORMAT}", hint=again
            )
        try:
            bundle = cls(
                folder=Path(folder),
                name=_text(manifest["name"]),
                network=_text(manifest["network"]),
                profile=_text(manifest["profile"]),
                labels=tuple(_text(label) for label in manifest["labels"]),
                inputs=tuple(_input(spec) for spec in manifest["inputs"]),
                tiers=tuple(_tier(tier) for tier in manifest["tiers"]),
                policy=_policy(manifest["policy"]),
                created=_text(manifest["created"]),
                provenance=dict(manifest["provenance"]),
                files={_inside(name, path): _text(h) for name, h in manifest["files"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise BundleError(f"{path}: {what}", hint=again) from error
        if not (bundle.labels and bundle.inputs and bundle.tiers):
            raise BundleError(f"{path}: names no labels, inputs or tiers", hint=again)
        for tier in bundle.tiers:
            if os.path.basename(tier.name) != tier.name:
                raise BundleError(f"{path}: tier {tier.name!r} leaves the bundle", hint=again)
        return bundle

    def check_hashes(self) -> None:
        """Compare every file with its sha256; BundleError names the first that differs."""
        again = f"export it again: mla-edge export … --out {self.folder.parent}"
        for name, expected in sorted(self.files.items()):
            path = self.folder / name
            try:
                found = sha256_of(path)
            except OSError as error:
                raise BundleError(f"{path}: {error.strerror or error}", hint=again) from error
            if found != expected:
                raise BundleError(
                    f"{path}: sha256 {found[:12]}… but {MANIFEST} says {expected[:12]}…: "
                    "the file was changed or cut off",
                    hint=again,
                )


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path``, then take its place; a failure leaves nothing."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r}")
    return value


def _input(spec: Mapping[str, Any]) -> InputSpec:
    shape = tuple(int(n) for n in spec["shape"])
    return InputSpec(_text(spec["name"]), _text(spec["kind"]), shape, spec.get("rate_hz"))


def _tier(tier: Mapping[str, Any]) -> Tier:
    return Tier(_text(tier["name"]), tuple(tier["inputs"]), tuple(tier["outputs"]))


def _policy(policy: Mapping[str, Any]) -> RouterPolicy:
    modes = {
        mode: ModePolicy(float(values["temperature"]), float(values["threshold"]))
        for mode, values in policy["modes"].items()
    }
    return RouterPolicy(modes, dict(policy["cost_ms"]), _text(policy["measured_on"]))


def _inside(name: str, manifest: Path) -> str:
    """``name`` if it stays inside the bundle; a manifest must not reach out of its folder."""
    folder = manifest.parent.resolve()
    if folder not in (folder / name).resolve().parents:
        raise BundleError(
            f"{manifest}: {name!r} leaves the bundle", hint="do not use this bundle"
        )
    return name
