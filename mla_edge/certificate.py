"""The certificate of a bundle: what is claimed of its routing, of what data, and for what.

It lies in the bundle as ``certificates/<sha256>.json``, listed and sealed like every file, and
holds only for the graphs, the engine and the preprocessing that it names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import re
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Mapping, Sequence

from mla_edge.board import identify as identify_board
from mla_edge.bundle import Bundle, RouterPolicy, write_atomically
from mla_edge.errors import BundleError
from mla_edge.machine_files import nvidia_gpu, read

FOLDER = "certificates"
SESSIONS = "sessions"
"""What an attempt calls the policy as a whole, beside modes."""
_PREPARE = ("preprocess.py", "area_average.py")
_POLICY = ("runtime/change.py", "runtime/routing.py", "history.py")
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Rung:
    """A threshold that a policy may stand on, and what is claimed of it."""

    epsilon: float
    threshold: float
    losses: int
    p_value: float
    kept: float  # share of the units that lite answered
    differ_rate: float
    """What lite says otherwise than full where it is kept, at most: audits without labels are
    watched against it. An upper bound at 1 - delta; 1 where nothing is known of it."""


@dataclass(frozen=True)
class ModeCertificate:
    """What is claimed in one mode.

    ``threshold`` and ``temperature`` are what routes there; epsilon, threshold and what follows
    from them are those of the boldest of ``rungs``. All rungs hold together. Where even that
    keeps too little to pay, the threshold is ``NEVER``, and nothing is kept or lost.
    """

    epsilon: float
    delta: float  # of all attempts on this data together
    units: int
    losses: int
    p_value: float
    temperature: float
    threshold: float
    kept: float  # share of the units that lite answered
    data_sha256: str
    made: str  # ISO 8601, UTC
    rungs: tuple[Rung, ...] = ()  # from careful to bold
    break_even: float | None = (
        None  # what must be kept for routing to cost less than full alone
    )

    @property
    def pays(self) -> bool:
        """Whether anything is routed; else the full tier answers always."""
        return self.threshold <= 1.0

    def claim(self, mode: str) -> str:
        """The claim, in one sentence."""
        careful = ", ".join(f"{rung.epsilon:.4g}" for rung in self.rungs[:-1])
        return (
            f"with probability at least {1 - self.delta:.4g} over the {self.units} units that "
            f"certified it, at most {self.epsilon:.4g} of the decisions in mode {mode} "
            + (f"({careful} on its more careful rungs) " if careful else "")
            + "are wrong where the full tier's is right, for moments exchangeable with those "
            "units"
        )


@dataclass(frozen=True)
class SessionCertificate:
    """What is claimed of whole sessions of the policy with its memory, as it runs."""

    epsilon: float
    delta: float  # of all attempts on this data together
    sessions: int
    decisions: int  # in all of them, without those left out
    reuse_ms: float  # for so long a decision may be used again while nothing changes; 0: never
    passed_ms: tuple[float, ...]  # all that passed, the last of them is reuse_ms
    p_value: float
    mean_loss: float
    labelled: bool  # False: every decision that is not full's was counted as lost
    data_sha256: str
    made: str  # ISO 8601, UTC
    left_out: int = 0  # decisions that a deadline, heat or power held back
    policy_code: str = ""  # its sha256; empty: not noted yet
    thresholds: str = ""  # the sha256 of what it went by, as well

    def difference(self, policy: RouterPolicy) -> str:
        """What of ``policy``, and of its memory, is not as it was replayed; empty: nothing."""
        if self.policy_code not in ("", policy_code()):
            return "the code that routes, sees changes or keeps frames is another"
        if self.thresholds not in ("", hash_thresholds(policy)):
            return "the thresholds are others"
        return ""

    def claim(self) -> str:
        """The claim, in one sentence."""
        lost = (
            "wrong where the full tier's is right"
            if self.labelled
            else "others than the full tier's"
        )
        reuse = (
            f"with decisions reused for up to {self.reuse_ms:g} ms"
            if self.reuse_ms
            else "without reuse of decisions"
        )
        held = "that no deadline, heat or power holds back " if self.left_out else ""
        return (
            f"with probability at least {1 - self.delta:.4g} over the {self.sessions} sessions "
            f"that certified it, on average at most {self.epsilon:.4g} of the decisions of a "
            f"session {held}are {lost}, {reuse}, for sessions exchangeable with those"
        )


@dataclass(frozen=True)
class Attempt:
    """One look at certification data, whatever came of it."""

    data_sha256: str
    epsilon: float
    delta: float
    made: str  # ISO 8601, UTC
    certified: tuple[str, ...]  # modes, or SESSIONS
    failed: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """Of what may come again in other data: sha256 of sessions, its first letters of units."""

    def looked_at(self, hashes: set[str]) -> bool:
        """Whether any data of ``hashes`` was in it."""
        return not hashes.isdisjoint((self.data_sha256, *self.parts))


@dataclass(frozen=True)
class Identity:
    """What a certificate is bound to: another one of these may decide otherwise."""

    graphs: Mapping[str, str]  # path in the bundle -> sha256
    engine: str
    preprocessing: str  # sha256
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions of those that prepare samples; one that is not named here may be any."""

    def difference(self, other: Identity) -> str:
        """What of ``other`` is not as it is here, in words; empty where all is."""
        if self.graphs != other.graphs:
            return "the graphs are others"
        if self.engine != other.engine:
            return f"it is of {self.engine}, this is {other.engine}"
        if self.preprocessing != other.preprocessing:
            return "preprocessing is another"
        for name, version_ in self.libraries.items():
            there = other.libraries.get(name)
            if there != version_:
                return f"it is of {name} {version_}, this is {there}"
        return ""


@dataclass(frozen=True)
class Certificate:
    """The claims of every mode that has one, and every attempt there was."""

    identity: Identity
    modes: Mapping[str, ModeCertificate] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    sessions: SessionCertificate | None = None
    id: str = ""  # the first letters of its sha256, where it is in a bundle

    def covers(self, reuse_ms: float, policy: RouterPolicy) -> bool:
        """Whether sessions are certified in which decisions are reused for ``reuse_ms``.

        ``policy`` is what routes here.
        """
        held = self.sessions
        return held is not None and reuse_ms in held.passed_ms and not held.difference(policy)

    def apply(self, policy: RouterPolicy) -> RouterPolicy:
        """``policy`` with what is certified in place of what was chosen at export."""
        certified = {
            mode: dataclasses.replace(
                policy.modes[mode], temperature=each.temperature, threshold=each.threshold
            )
            for mode, each in self.modes.items()
            if mode in policy.modes
        }
        return dataclasses.replace(policy, modes={**policy.modes, **certified})


def identify(bundle: Bundle, engine: str, key: str = "") -> Identity:
    """What decides in ``bundle`` when ``engine`` runs it, ready to be compared.

    ``key`` is of the machine that its TensorRT engines were built on, where they run.
    """
    plans = f"engines/{key}/"
    graphs = {
        name: sha256
        for name, sha256 in sorted(bundle.files.items())
        if name.startswith("graphs/")
        or (key and name.startswith(plans) and name.endswith(".plan"))
    }
    from mla_edge.preprocess import library_versions  # needs OpenCV and soxr

    return Identity(
        graphs, _whole_name(engine), _preprocessing(bundle), library_versions(bundle.inputs)
    )


def policy_code() -> str:
    """The sha256 of the code that routes, sees changes and keeps frames."""
    return _hash_files(_POLICY)


def hash_thresholds(policy: RouterPolicy) -> str:
    """The sha256 of what ``policy`` goes by in each mode, whatever it costs."""
    told = [
        (mode, each.score, each.temperature, each.threshold, each.solo)
        for mode, each in sorted(policy.modes.items())
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def read_certificate(bundle: Bundle) -> Certificate | None:
    """The certificate that lies in ``bundle``; BundleError where it is damaged."""
    name = _name(bundle)
    if name is None:
        return None
    path = bundle.folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Certificate(
            Identity(**found["identity"]),
            {mode: _checked(values) for mode, values in found["modes"].items()},
            tuple(
                Attempt(
                    **{
                        **row,
                        "certified": tuple(row["certified"]),
                        "failed": tuple(row["failed"]),
                        "parts": _parts(row.get("parts", "")),
                    }
                )
                for row in found["attempts"]
            ),
            _checked_sessions(found.get("sessions")),
            id=path.stem,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{path}: is no certificate of this version: {error!r}",
            hint="export the bundle again, and certify it on new data",
        ) from error


def write_certificate(bundle: Bundle, certificate: Certificate) -> Bundle:
    """Put ``certificate`` in the place of the one in ``bundle``: a reader sees one of them."""
    content: dict[str, Any] = {
        "identity": dataclasses.asdict(certificate.identity),
        "modes": {
            mode: {**dataclasses.asdict(each), "claim": each.claim(mode)}
            for mode, each in certificate.modes.items()
        },
        "attempts": [
            # One text: thousands of units would be as many lines.
            {**dataclasses.asdict(attempt), "parts": " ".join(attempt.parts)}
            for attempt in certificate.attempts
        ],
    }
    sessions = certificate.sessions
    if sessions is not None:
        content["sessions"] = {**dataclasses.asdict(sessions), "claim": sessions.claim()}
    data = (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
    sha256 = hashlib.sha256(data).hexdigest()
    name, old = f"{FOLDER}/{sha256[:12]}.json", _name(bundle)
    (bundle.folder / FOLDER).mkdir(exist_ok=True)
    write_atomically(bundle.folder / name, data)
    files = {each: hashed for each, hashed in bundle.files.items() if each != old}
    changed = dataclasses.replace(bundle, files={**files, name: sha256})
    try:
        changed.write()
    except BaseException:
        if name not in bundle.files:
            (bundle.folder / name).unlink()
        raise
    if old is not None and old != name:
        (bundle.folder / old).unlink()
    return changed


def _name(bundle: Bundle) -> str | None:
    return next((name for name in bundle.files if name.startswith(f"{FOLDER}/")), None)


def _parts(told: str | list[str]) -> tuple[str, ...]:
    return tuple(told.split() if isinstance(told, str) else told)  # once they were a list


def _checked(values: Mapping[str, Any]) -> ModeCertificate:
    known = {each.name for each in dataclasses.fields(ModeCertificate)}
    rungs = tuple(Rung(**rung) for rung in values.get("rungs", ()))
    told = {key: value for key, value in values.items() if key in known}
    made = ModeCertificate(**{**told, "rungs": rungs})
    numbers = (made.temperature, made.threshold, *(rung.threshold for rung in rungs))
    if not all(isinstance(n, float) and math.isfinite(n) and n > 0 for n in numbers):
        raise ValueError(f"temperature and thresholds are {numbers}")
    if rungs:
        return made
    # Written before there were ladders: its one threshold is a rung.
    only = Rung(made.epsilon, made.threshold, made.losses, made.p_value, made.kept, 1.0)
    return dataclasses.replace(made, rungs=(only,))


def _checked_sessions(values: Mapping[str, Any] | None) -> SessionCertificate | None:
    if values is None:
        return None
    known = {each.name for each in dataclasses.fields(SessionCertificate)}
    told = {key: value for key, value in values.items() if key in known}
    made = SessionCertificate(**{**told, "passed_ms": tuple(values["passed_ms"])})
    if not (math.isfinite(made.reuse_ms) and made.reuse_ms >= 0):
        raise ValueError(f"reuse_ms is {made.reuse_ms}")
    return made


def _whole_name(engine: str) -> str:
    """``engine`` with what its INT8 depends on: ONNX Runtime's version, and the processor."""
    if not engine.startswith("ONNX Runtime"):
        return engine  # TensorRT's says its version and the GPU's architecture
    found = re.search(r"^model name\s*: (.+)$", read(Path("/"), "proc/cpuinfo"), re.MULTILINE)
    processor = found.group(1).strip() if found else platform.machine()
    if engine != "ONNX Runtime":  # one of its providers
        processor = ", ".join(text for text in (processor, _accelerator()) if text)
    for package in _RUNTIMES:
        try:
            return f"{engine} {version(package)} on {processor}"
        except PackageNotFoundError:
            pass
    return f"{engine} on {processor}"


def _accelerator() -> str:
    """The GPU, and what it is driven by, as far as files tell."""
    board = identify_board()
    if board is None:
        return nvidia_gpu(Path("/"))
    found = {"L4T": board.l4t, "CUDA": board.cuda, "TensorRT": board.tensorrt}
    versions = [f"{name} {value}" for name, value in found.items() if value]
    return ", ".join([board.model, *versions])


def _preprocessing(bundle: Bundle) -> str:
    """Of the code that prepares a sample, and of the inputs that it prepares."""
    return _hash_files(_PREPARE, repr(bundle.inputs))


def _hash_files(names: Sequence[str], told: str = "") -> str:
    digest = hashlib.sha256(told.encode())
    for name in names:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()
