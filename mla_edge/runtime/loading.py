"""Open a bundle as a model that decides."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Mapping

from mla_edge.bundle import Bundle, RouterPolicy
from mla_edge.certificate import Certificate, identify, read_certificate
from mla_edge.engines import Engine
from mla_edge.engines.opening import Opened, open_tiers
from mla_edge.errors import BundleError, ConfigError
from mla_edge.runtime.auditing import Auditor, check_rate
from mla_edge.runtime.deadline import Deadline, check_deadline, measure_usual
from mla_edge.runtime.guard import Restraint
from mla_edge.runtime.model import FusedModel, Preprocess
from mla_edge.runtime.routing import DWELL_TICKS, CascadeRouter, Router
from mla_edge.runtime.threads import check_threads, profile_threads

if TYPE_CHECKING:
    from mla_edge.runtime.change import Memory


@dataclass(frozen=True)
class Parts:
    """What a model is made of, before it is."""

    engines: Mapping[str, Engine]  # by tier
    router: Router
    preprocess: Preprocess
    policy: RouterPolicy  # that the router follows


_SESSIONS_UNWATCHED = (
    "audits do not watch what is certified of whole sessions: only a mode with a certificate "
    "of its own raises an alarm"
)

Instrument = Callable[[Parts], Parts]
"""Puts something around the parts, such as a stopwatch."""


def load(  # noqa: PLR0913 - each is a choice of the user's
    folder: str | os.PathLike[str],
    *,
    engine: str = "auto",
    threads: int | None = None,
    deadline_ms: float | None = None,
    guard: Restraint | None = None,
    reuse_ms: float | None = None,
    audit_rate: float | None = None,
) -> FusedModel:
    """Load the bundle in ``folder``: check its hashes and open an engine for each tier.

    ``engine`` is ``auto`` (TensorRT where engines were built on this machine, otherwise ONNX
    Runtime), ``onnxruntime``, ``tensorrt``, ``ort-tensorrt`` or ``ort-cuda``. ``threads`` is of
    each engine, at most four a core, 0 for every core; None takes what the bundle's profile
    says. ConfigError: there cannot be so many.

    With ``deadline_ms``, after the capture of the oldest signal that is used, a dear tier is
    not asked where it would probably be late: the cheaper one's answer counts, with the reason
    ``deadline``. Each tier is timed here first, for some runs. A ``guard`` (``open_guard``)
    leaves decisions to the cheaper tier as the board grows hot or draws too much.

    With ``reuse_ms`` a sure decision is used again, for so long after the capture of what it
    was made on, while picture and sound stay as they were: reason ``unchanged``.

    With ``audit_rate`` that share of what the full tier did not answer is put to it all the
    same, by ``FusedModel.settle``. Where it disagrees more often than the certificate lets
    expect, a more careful rung is taken, or full answers; ``auditor`` says so.

    BundleError names the file that is missing, changed, cut off or does not fit; EngineMismatch
    what an engine was built for. MissingDependency names the package to install.
    """
    return open_model(
        folder,
        engine=engine,
        threads=threads,
        deadline_ms=deadline_ms,
        guard=guard,
        reuse_ms=reuse_ms,
        audit_rate=audit_rate,
    )


def open_model(  # noqa: PLR0913 - each is a choice of the user's
    folder: str | os.PathLike[str],
    *,
    engine: str = "auto",
    threads: int | None = None,
    deadline_ms: float | None = None,
    guard: Restraint | None = None,
    reuse_ms: float | None = None,
    audit_rate: float | None = None,
    instrument: Instrument | None = None,
) -> FusedModel:
    """As ``load``, with an ``instrument`` around the parts."""
    from mla_edge.preprocess import Preprocessor  # needs OpenCV

    options = _Options(deadline_ms, guard, reuse_ms, audit_rate)
    if threads is not None:
        check_threads(threads)
    bundle = Bundle.read(folder)
    bundle.check_hashes()
    if threads is None:
        threads = profile_threads(bundle)
    try:
        preprocess = Preprocessor(bundle.inputs)
    except ConfigError as error:
        raise BundleError(f"{folder}: {error}", hint=error.hint) from error
    opened = open_tiers(bundle, engine=engine, threads=threads)
    try:
        return _assemble(bundle, opened, preprocess, options, instrument)
    except BaseException:
        for each in opened.engines.values():
            each.close()
        raise


class _Options:
    """What is wanted of a model besides its bundle, looked at before anything is opened."""

    def __init__(
        self,
        deadline_ms: float | None,
        guard: Restraint | None,
        reuse_ms: float | None,
        audit_rate: float | None,
    ) -> None:
        if deadline_ms is not None:
            check_deadline(deadline_ms)
        if audit_rate is not None:
            check_rate(audit_rate)
        self.deadline_ms, self.guard, self.audit_rate = deadline_ms, guard, audit_rate
        self.reuse_ms = reuse_ms or 0.0
        self.memory: Memory | None = None
        if reuse_ms is not None:
            from mla_edge.runtime.change import Memory  # needs OpenCV

            self.memory = Memory(reuse_ms)


def _assemble(
    bundle: Bundle,
    opened: Opened,
    preprocess: Preprocess,
    options: _Options,
    instrument: Instrument | None,
) -> FusedModel:
    policy, certificate, void = _certified(bundle, opened)
    deadline, slow = None, ""
    if options.deadline_ms is not None:
        deadline = Deadline(options.deadline_ms, measure_usual(opened.engines))
        slow = _never_in_time(bundle.tiers[-1].name, deadline)
    router = CascadeRouter(policy, dwell=DWELL_TICKS)
    auditor, unwatched = None, ""
    of_sessions = certificate.id if certificate.covers(options.reuse_ms, policy) else None
    if options.audit_rate is not None:
        modes = certificate.modes.items()
        rungs = {mode: each.rungs for mode, each in modes if each.pays}
        auditor = Auditor(options.audit_rate, rungs, router.retreat)
        unwatched = _SESSIONS_UNWATCHED if of_sessions else ""
    parts = Parts(opened.engines, router, preprocess, policy)
    if instrument is not None:
        parts = instrument(parts)
    return FusedModel(
        bundle,
        parts.engines,
        parts.router,
        parts.preprocess,
        runs_on=opened.title,
        engines_key=opened.key,
        note="\n".join(text for text in (opened.note, void, slow, unwatched) if text),
        certified=dict.fromkeys(certificate.modes, certificate.id),
        certified_sessions=of_sessions,
        deadline=deadline,
        guard=options.guard,
        memory=options.memory,
        auditor=auditor,
    )


def _certified(bundle: Bundle, opened: Opened) -> tuple[RouterPolicy, Certificate, str]:
    """The policy to follow, what is certified of it, and why not more."""
    certificate = read_certificate(bundle)
    identity = identify(bundle, opened.title, opened.key)
    if certificate is None:
        return opened.policy, Certificate(identity), ""
    difference = certificate.identity.difference(identity)
    if difference:
        return (
            opened.policy,
            Certificate(identity),
            f"certificate {certificate.id} does not hold here: {difference}; certify again: "
            f"mla-edge certify {bundle.folder} --recording FILE",
        )
    policy, sessions = certificate.apply(opened.policy), certificate.sessions
    difference = "" if sessions is None else sessions.difference(policy)
    if not difference:
        return policy, certificate, ""
    what = "what is certified of whole sessions does not hold here"
    return policy, certificate, f"{what}: {difference}; certify them again"


def _never_in_time(tier: str, deadline: Deadline) -> str:
    """What there is to say where the dearest tier is too slow for the deadline at any time."""
    usual_ms = deadline.usual_ms[tier]
    if usual_ms < deadline.ms:
        return ""
    return (
        f"{tier} takes {usual_ms:.1f} ms here: with a deadline of {deadline.ms:g} ms it is "
        "never asked"
    )
