"""The folder that export writes and the runtime reads; the only thing they share on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Mapping

from mla_edge.errors import BundleError
from mla_edge.signals import PRESENT, SCORE, InputSpec, Tier, solo_of

FORMAT = 1
MANIFEST = "bundle.json"
_GRAPHS = (".onnx", ".plan")
SEAL = "manifest_sha256"
"""Of everything else in the manifest, so that a change of a label or threshold is seen."""


CONFIDENCE, LEARNED = "confidence", "learned"
NEVER = 1.01
"""A threshold: always go on to the next tier."""


@dataclass(frozen=True)
class Solo:
    """One input of a mode that is asked alone first, by lite's graph without the others.

    Its answer is kept when its confidence at ``temperature`` reaches ``threshold`` and that of
    the mode.
    """

    input: str
    temperature: float
    threshold: float


@dataclass(frozen=True)
class ModePolicy:
    """Routing in one mode: lite's answer is kept when its score reaches ``threshold``.

    ``score`` says which: the ``confidence`` at ``temperature``, or the ``learned`` one, which
    is 1 minus what lite's graph gives as ``score``. ``thresholds`` are those that a
    certification tries, from careful to bold; none: those of every confidence.
    """

    temperature: float
    threshold: float  # above 1 means: always go on to the next tier
    score: str = CONFIDENCE
    thresholds: tuple[float, ...] = ()
    solo: Solo | None = None


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

    @property
    def solos(self) -> dict[str, str]:
        """The inputs that are asked alone in some mode, by the name of their graph."""
        found = {mode.solo.input for mode in self.policy.modes.values() if mode.solo}
        return {solo_of(self.tiers[0].name, name): name for name in sorted(found)}

    def full_alone_ms(self, cost_ms: Mapping[str, float]) -> float:
        """What an answer of the last tier costs where no other was asked, by tier's costs.

        More than its own if it takes what earlier ones give.
        """
        last = self.tiers[-1]
        given = {PRESENT, *(spec.name for spec in self.inputs)}
        return cost_ms[last.name] if set(last.inputs) <= given else sum(cost_ms.values())

    def break_even(self, cost_ms: Mapping[str, float]) -> float | None:
        """The share that must be kept for routing to cost less than the last tier alone.

        None: what a tier costs is not known.
        """
        if not all(cost_ms.get(tier.name) for tier in self.tiers):
            return None
        return (sum(cost_ms.values()) - self.full_alone_ms(cost_ms)) / cost_ms[
            self.tiers[-1].name
        ]

    def graph(self, tier: str, *, cpu: bool) -> Path:
        """The ONNX graph of ``tier``: the form for TensorRT, or the one for a CPU."""
        return self.folder / "graphs" / f"{tier}{'.cpu' if cpu else ''}.onnx"

    def write(self) -> None:
        """Write ``bundle.json`` at once: a reader sees the old one or the new one, whole."""
        manifest = asdict(self)
        del manifest["folder"]
        # Sealed as it will be read: keys that are no text become text, and sort otherwise.
        manifest = json.loads(json.dumps({"format": FORMAT, **manifest}))
        manifest[SEAL] = _seal(manifest)
        text = json.dumps(manifest, indent=2, sort_keys=True)
        write_atomically(self.folder / MANIFEST, (text + "\n").encode())

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Bundle:
        """Read ``bundle.json`` of ``folder``; BundleError says what is wrong with it."""
        path = Path(folder) / MANIFEST
        again = f"export it again: mla-edge export … --out {Path(folder).parent}"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            seal = _seal(manifest) if isinstance(manifest, dict) else ""
        except FileNotFoundError as error:
            raise BundleError(
                f"{folder}: not a bundle (no {MANIFEST})",
                hint="give the folder that `mla-edge export` wrote",
            ) from error
        except (OSError, ValueError, RecursionError) as error:  # the last: nested too deeply
            raise BundleError(f"{path}: cannot be read: {error}", hint=again) from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            raise BundleError(
                f"{path}: format {found!r}, this version reads format {FORMAT}", hint=again
            )
        if manifest.get(SEAL) != seal:
            raise BundleError(
                f"{path}: was changed since it was exported ({SEAL} does not match)", hint=again
            )
        try:
            bundle = cls(
                folder=Path(folder),
                name=_text(manifest["name"]),
                network=_text(manifest["network"]),
                profile=_text(manifest["profile"]),
                labels=_texts(manifest["labels"]),
                inputs=tuple(read_input(spec) for spec in _list(manifest["inputs"])),
                tiers=tuple(_tier(tier) for tier in _list(manifest["tiers"])),
                policy=read_policy(manifest["policy"]),
                created=_text(manifest["created"]),
                provenance=dict(manifest["provenance"]),
                files={_inside(name, path): _text(h) for name, h in manifest["files"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise BundleError(f"{path}: {what}", hint=again) from error
        is_learned = any(each.score == LEARNED for each in bundle.policy.modes.values())
        if is_learned and SCORE not in bundle.tiers[0].outputs:
            raise BundleError(f"{path}: routes by a score that no tier gives", hint=again)
        asked = set(bundle.solos.values())
        if not asked <= {spec.name for spec in bundle.inputs}:
            raise BundleError(f"{path}: asks inputs that there are not: {asked}", hint=again)
        for tier in bundle.tiers:
            if os.path.basename(tier.name) != tier.name:
                raise BundleError(f"{path}: tier {tier.name!r} leaves the bundle", hint=again)
        return bundle

    def sha256(self) -> str:
        """The sha256 of ``bundle.json``, which has those of all other files."""
        return sha256_of(self.folder / MANIFEST)

    def check_hashes(self) -> None:
        """Compare every file with its sha256; BundleError names the first that differs.

        So it does with a graph that no sha256 is of.
        """
        again = f"export it again: mla-edge export … --out {self.folder.parent}"
        for graph in (self.graph(t.name, cpu=cpu) for t in self.tiers for cpu in (False, True)):
            if graph.relative_to(self.folder).as_posix() not in self.files:
                raise BundleError(f"{graph}: is not in the bundle's list of files", hint=again)
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

    def check_unlisted(self) -> None:
        """BundleError names a graph or engine in the folder that no sha256 is of."""
        for folder in ("graphs", "engines"):
            for path in sorted((self.folder / folder).rglob("*")):
                listed = path.relative_to(self.folder).as_posix() in self.files
                if path.suffix in _GRAPHS and not listed:
                    raise BundleError(
                        f"{path}: is not in the bundle's list of files",
                        hint="remove it; nothing that export or build wrote is missing then",
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


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise TypeError(f"expected a list of one or more, found {value!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(each) for each in _list(value))


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise TypeError(f"expected a whole number above 0, found {value!r}")
    return value


def _finite(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise TypeError(f"expected a finite number, found {value!r}")
    return float(value)


def read_input(spec: Mapping[str, Any]) -> InputSpec:
    """An input from its JSON; KeyError, TypeError or ValueError where that is none."""
    rate_hz = spec.get("rate_hz")
    return InputSpec(
        _text(spec["name"]),
        _text(spec["kind"]),
        tuple(_whole(size) for size in _list(spec["shape"])),
        None if rate_hz is None else _whole(rate_hz),
    )


def _tier(tier: Mapping[str, Any]) -> Tier:
    return Tier(_text(tier["name"]), _texts(tier["inputs"]), _texts(tier["outputs"]))


def _mode(values: Mapping[str, Any]) -> ModePolicy:
    temperature = _finite(values["temperature"])
    if temperature <= 0:
        raise ValueError(f"expected a temperature above 0, found {temperature}")
    score = _text(values.get("score", CONFIDENCE))  # older bundles know no other
    if score not in (CONFIDENCE, LEARNED):
        raise ValueError(f"expected {CONFIDENCE} or {LEARNED}, found {score!r}")
    thresholds = tuple(_finite(each) for each in values.get("thresholds", ()))
    if any(low > high for high, low in zip(thresholds, thresholds[1:])):
        raise ValueError("expected thresholds from careful to bold, the highest first")
    found = values.get("solo")
    solo = None
    if found is not None:
        solo = Solo(
            _text(found["input"]), _finite(found["temperature"]), _finite(found["threshold"])
        )
        if solo.temperature <= 0:
            raise ValueError(f"expected a temperature above 0, found {solo.temperature}")
    return ModePolicy(temperature, _finite(values["threshold"]), score, thresholds, solo)


def read_policy(policy: Mapping[str, Any]) -> RouterPolicy:
    """A policy from its JSON; KeyError, TypeError or ValueError where that is no policy."""
    modes = {mode: _mode(values) for mode, values in policy["modes"].items()}
    cost_ms = {tier: _finite(cost) for tier, cost in policy["cost_ms"].items()}
    return RouterPolicy(modes, cost_ms, _text(policy["measured_on"]))


def _seal(manifest: Mapping[str, Any]) -> str:
    """The sha256 of ``manifest`` without its seal, whatever its order and spaces."""
    rest = {key: value for key, value in manifest.items() if key != SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _inside(name: str, manifest: Path) -> str:
    """``name`` if it stays inside the bundle; a manifest must not reach out of its folder."""
    never = "do not use this bundle"
    folder = manifest.parent.resolve()
    try:
        leads_to = (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: up to Python 3.12, of a loop
        raise BundleError(f"{manifest}: {name!r} leads nowhere: {error}", hint=never) from error
    if folder not in leads_to.parents:
        raise BundleError(f"{manifest}: {name!r} leaves the bundle", hint=never)
    return name
