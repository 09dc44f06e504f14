"""A bundle, loaded and ready: the part of the runtime that needs no camera."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Callable, Mapping

import numpy as np

from mla_edge.bundle import Bundle, RouterPolicy
from mla_edge.certificate import identify, read_certificate
from mla_edge.engines import Engine
from mla_edge.engines.opening import Opened, open_tiers
from mla_edge.errors import BundleError, ConfigError, InferenceError
from mla_edge.profiles import load_profile_of
from mla_edge.runtime.deadline import Deadline, check_deadline, measure_usual
from mla_edge.runtime.guard import Restraint
from mla_edge.runtime.routing import (
    DEADLINE,
    ESCALATED,
    HELD_BACK,
    LITE_CONFIDENT,
    SINGLE_TIER,
    CascadeRouter,
    Router,
    Verdict,
    softmax,
)
from mla_edge.signals import GATE, PRESENT, Prediction, Sample, Tensors, Tier, attention_of

Clock = Callable[[], float]
Preprocess = Callable[[Sample], Tensors]


@dataclass(frozen=True)
class Parts:
    """What a model is made of, before it is."""

    engines: Mapping[str, Engine]  # by tier
    router: Router
    preprocess: Preprocess
    policy: RouterPolicy  # that the router follows


Instrument = Callable[[Parts], Parts]
"""Puts something around the parts, such as a stopwatch."""

LOGITS = "logits"
_MAX_THREADS_A_CORE = 4  # with far more, a run only switches between them


class FusedModel:
    """Preprocess, infer and route. Not thread-safe: one model, one thread."""

    def __init__(  # noqa: PLR0913 - each is a part, or what is known of them
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        router: Router,
        preprocess: Preprocess,
        *,
        runs_on: str = "",
        engines_key: str = "",
        note: str = "",
        certified: Mapping[str, str] | None = None,
        deadline: Deadline | None = None,
        guard: Restraint | None = None,
    ) -> None:
        """Take an engine for each tier of ``bundle``; most callers want ``mla_edge.load``.

        ``runs_on`` says what the engines are, ``engines_key`` the machine that TensorRT's were
        built on, ``note`` why not others; ``certified`` has the id of the certificate of each
        mode that has one; ``deadline`` keeps the dear tiers from coming late, ``guard`` from
        being asked at all. BundleError says where the engines do not fit the bundle.
        """
        self.bundle = bundle
        self.runs_on = runs_on
        self.engines_key = engines_key
        self.note = note
        self.shows = False  # whether predictions say what else the graph gives, such as GATE
        self._certified = dict(certified or {})
        self.deadline = deadline
        self.guard = guard
        self._tiers = bundle.tiers
        self._engines = [engines[tier.name] for tier in bundle.tiers]
        self._router = router
        self._preprocess = preprocess
        self._sources = _check_engines(bundle, self._engines)

    def infer(self, sample: Sample, *, clock: Clock = time.monotonic) -> Prediction:
        """What the model says of ``sample``, whose missing modalities are masked.

        InferenceError: no modality at all, one with a wrong shape or with values that are not
        finite (it is named), or an engine that failed.
        """
        start = time.perf_counter()
        mode = "+".join(s.name for s in self.bundle.inputs if s.name in sample.signals)
        if not sample.signals:
            raise InferenceError(
                "the sample has no modality, so there is nothing to infer from",
                hint=f"give at least one of {', '.join(s.name for s in self.bundle.inputs)}",
            )
        tensors = dict(self._preprocess(sample))
        times = {name: signal.time_s for name, signal in sample.signals.items()}
        answers: dict[int, Tensors] = {}
        tier, reason, probabilities = self._decide(
            mode, tensors, answers, min(times.values()), clock
        )
        best = int(probabilities.argmax())
        now_s = clock()
        return Prediction(
            label=self.bundle.labels[best],
            confidence=float(probabilities[best]),
            tier=self._tiers[tier].name,
            reason=reason,
            mode=mode,
            capture_time_s=times,
            decision_time_s=now_s,
            latency_ms=(time.perf_counter() - start) * 1e3,
            age_ms=(now_s - min(times.values())) * 1e3,
            truth=sample.truth,
            certificate=self._certified.get(mode) if reason not in HELD_BACK else None,
            probabilities=probabilities,
            shown=_shown(answers[tier]) if self.shows else None,
        )

    def close(self) -> None:
        """Free the engines; safe to call twice."""
        for engine in self._engines:
            engine.close()

    def __enter__(self) -> FusedModel:
        """Use the model in a ``with``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the engines."""
        self.close()

    def _decide(
        self,
        mode: str,
        tensors: Tensors,
        answers: dict[int, Tensors],
        captured_s: float,
        clock: Clock,
    ) -> tuple[int, str, np.ndarray]:
        """The tier that answers, why it does, and its probabilities [classes].

        ``answers`` gets the outputs of each tier that was run.
        """
        last = len(self._tiers) - 1
        why = self._router.skip(mode) if last else SINGLE_TIER
        cheap: Verdict | None = None
        tier = 0
        for tier in range(last if why is None else 0):
            cheap = self._router.judge(mode, self._logits(tier, tensors, answers, clock))
            if cheap.keep:
                return tier, LITE_CONFIDENT, cheap.probabilities
        held_back = self._held_back(captured_s, clock) if last else ""
        if held_back:
            if cheap is None:
                cheap = self._router.judge(mode, self._logits(tier, tensors, answers, clock))
            return tier, held_back, cheap.probabilities
        return last, why or ESCALATED, softmax(self._logits(last, tensors, answers, clock))

    def _held_back(self, captured_s: float, clock: Clock) -> str:
        """Why the last tier is not to be run now, though it is wanted; empty: it is."""
        deadline = self.deadline
        if deadline is not None and not deadline.allows(
            self._tiers[-1].name, captured_s, clock()
        ):
            return DEADLINE
        return "" if self.guard is None else self.guard.refusal()

    def _logits(
        self, tier: int, tensors: Tensors, answers: dict[int, Tensors], clock: Clock
    ) -> np.ndarray:
        """Run ``tier``, after the earlier ones whose outputs it takes; [classes]."""
        sources = self._sources[tier]
        for source in sources.values():
            if source is not None and source not in answers:
                self._logits(source, tensors, answers, clock)
        inputs = {
            name: tensors[name] if source is None else answers[source][name]
            for name, source in sources.items()
        }
        began = clock()
        answers[tier] = self._engines[tier].run(inputs)
        if self.deadline is not None:
            taken_ms = (clock() - began) * 1e3
            self.deadline.observe(self._tiers[tier].name, taken_ms)
        logits: np.ndarray = answers[tier][LOGITS][0]
        if not np.isfinite(logits).all():
            raise InferenceError(
                f"tier {self._tiers[tier].name!r} gave values that are not finite",
                hint="prove the bundle: mla-edge verify",
            )
        return logits


def _shown(outputs: Tensors) -> Tensors:
    """Copies: a graph's outputs are valid until it runs again."""
    wanted = (name for name in outputs if name == GATE or name.startswith(attention_of("")))
    return {name: outputs[name].copy() for name in wanted}


def load(
    folder: str | os.PathLike[str],
    *,
    engine: str = "auto",
    threads: int | None = None,
    deadline_ms: float | None = None,
    guard: Restraint | None = None,
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

    BundleError names the file that is missing, changed, cut off or does not fit; EngineMismatch
    what an engine was built for. MissingDependency names the package to install.
    """
    return open_model(
        folder, engine=engine, threads=threads, deadline_ms=deadline_ms, guard=guard
    )


def open_model(
    folder: str | os.PathLike[str],
    *,
    engine: str = "auto",
    threads: int | None = None,
    deadline_ms: float | None = None,
    guard: Restraint | None = None,
    instrument: Instrument | None = None,
) -> FusedModel:
    """As ``load``, with an ``instrument`` around the parts."""
    from mla_edge.preprocess import Preprocessor

    if threads is not None:
        _check_threads(threads)
    if deadline_ms is not None:
        check_deadline(deadline_ms)
    bundle = Bundle.read(folder)
    bundle.check_hashes()
    if threads is None:
        threads = _profile_threads(bundle)
    try:
        preprocess = Preprocessor(bundle.inputs)
    except ConfigError as error:
        raise BundleError(f"{folder}: {error}", hint=error.hint) from error
    opened = open_tiers(bundle, engine=engine, threads=threads)
    try:
        policy, certified, void = _certified(bundle, opened)
        deadline, slow = None, ""
        if deadline_ms is not None:
            deadline = Deadline(deadline_ms, measure_usual(opened.engines))
            slow = _never_in_time(bundle.tiers[-1].name, deadline)
        parts = Parts(opened.engines, CascadeRouter(policy), preprocess, policy)
        if instrument is not None:
            parts = instrument(parts)
        return FusedModel(
            bundle,
            parts.engines,
            parts.router,
            parts.preprocess,
            runs_on=opened.title,
            engines_key=opened.key,
            note="\n".join(text for text in (opened.note, void, slow) if text),
            certified=certified,
            deadline=deadline,
            guard=guard,
        )
    except BaseException:
        for each in opened.engines.values():
            each.close()
        raise


def _certified(bundle: Bundle, opened: Opened) -> tuple[RouterPolicy, dict[str, str], str]:
    """The policy to follow, the id of each mode's certificate, and why it does not hold."""
    certificate = read_certificate(bundle)
    if certificate is None:
        return opened.policy, {}, ""
    difference = certificate.identity.difference(identify(bundle, opened.title, opened.key))
    if difference:
        return (
            opened.policy,
            {},
            f"certificate {certificate.id} does not hold here: {difference}; certify again: "
            f"mla-edge certify {bundle.folder} --recording FILE",
        )
    ids = dict.fromkeys(certificate.modes, certificate.id)
    return certificate.apply(opened.policy), ids, ""


def _never_in_time(tier: str, deadline: Deadline) -> str:
    """What there is to say where the dearest tier is too slow for the deadline at any time."""
    usual_ms = deadline.usual_ms[tier]
    if usual_ms < deadline.ms:
        return ""
    return (
        f"{tier} takes {usual_ms:.1f} ms here: with a deadline of {deadline.ms:g} ms it is "
        "never asked"
    )


def _profile_threads(bundle: Bundle) -> int:
    try:
        return load_profile_of(bundle).threads_here
    except ConfigError:  # a profile of the exporter's that this machine does not have
        return 0


def _check_threads(threads: int) -> None:
    most = _MAX_THREADS_A_CORE * (os.cpu_count() or 1)
    if not 0 <= threads <= most:
        raise ConfigError(
            f"{threads} threads: this machine has {os.cpu_count()} cores",
            hint=f"give 1 to {most}, or 0 for every core",
        )


def _check_engines(bundle: Bundle, engines: list[Engine]) -> list[dict[str, int | None]]:
    """For each tier, where each input comes from: an earlier tier, or None for a sample."""
    shapes = {spec.name: spec.shape for spec in bundle.inputs}
    if len(bundle.inputs) > 1:
        shapes[PRESENT] = (1, len(bundle.inputs))
    made: dict[str, int | None] = dict.fromkeys(shapes)
    plan: list[dict[str, int | None]] = []
    for number, (tier, engine) in enumerate(zip(bundle.tiers, engines)):
        problem = _misfit(tier, engine, shapes, len(bundle.labels))
        if problem:
            raise BundleError(
                f"{bundle.folder}: tier {tier.name!r}: its graph {problem}",
                hint="export the bundle again: mla-edge export",
            )
        plan.append({spec.name: made[spec.name] for spec in engine.inputs})
        for output in engine.outputs:
            if output.name in tier.outputs:
                shapes[output.name], made[output.name] = output.shape, number
    return plan


def _misfit(
    tier: Tier, engine: Engine, shapes: Mapping[str, tuple[int, ...]], labels: int
) -> str | None:
    """What is wrong between ``engine`` and ``tier``, which can take tensors of ``shapes``."""
    for spec in engine.inputs:
        if spec.name not in tier.inputs or spec.name not in shapes:
            return f"takes {spec.name!r}, which nothing gives"
        if spec.shape != shapes[spec.name]:
            return f"takes {spec.name!r} as {spec.shape}, but it is {shapes[spec.name]}"
    given = {spec.name: spec.shape for spec in engine.outputs}
    for name in tier.outputs:
        if name not in given:
            return f"does not give {name!r}"
    if given.get(LOGITS) != (1, labels):
        return f"gives {LOGITS} {given.get(LOGITS)} for {labels} labels"
    return None
