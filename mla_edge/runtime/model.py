"""A bundle, loaded and ready: the part of the runtime that needs no camera."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Callable, Mapping

import numpy as np

from mla_edge.bundle import Bundle
from mla_edge.engines import Engine
from mla_edge.errors import InferenceError
from mla_edge.runtime.auditing import Auditor
from mla_edge.runtime.deadline import Deadline
from mla_edge.runtime.guard import Restraint
from mla_edge.runtime.routing import (
    ALARM,
    ALONE,
    DEADLINE,
    DWELL,
    ESCALATED,
    HELD_BACK,
    LITE_CONFIDENT,
    SINGLE_TIER,
    UNCHANGED,
    Router,
    Verdict,
    softmax,
)
from mla_edge.runtime.wiring import LOGITS, check_engines, check_solos
from mla_edge.signals import GATE, SCORE, Prediction, Sample, Tensors, attention_of

if TYPE_CHECKING:
    from mla_edge.runtime.change import Memory

Clock = Callable[[], float]
Preprocess = Callable[..., Tensors]
"""As ``preprocess.Preprocessor``: of a sample, and of the inputs that are filled already."""


_SOLO = -1  # among the answers of the tiers: what one input alone gave


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
        certified_sessions: str | None = None,
        deadline: Deadline | None = None,
        memory: Memory | None = None,
        auditor: Auditor | None = None,
        guard: Restraint | None = None,
    ) -> None:
        """Take an engine for each tier of ``bundle``; most callers want ``mla_edge.load``.

        ``runs_on`` says what the engines are, ``engines_key`` the machine that TensorRT's were
        built on, ``note`` why not others; ``certified`` has the id of the certificate of each
        mode that has one, ``certified_sessions`` that of whole sessions, if it covers how
        decisions are reused; ``deadline`` keeps the dear tiers from coming late, ``guard`` from
        being asked at all, ``memory`` reuses a decision while nothing changes, ``auditor``
        checks some of the cheap ones. BundleError says where the engines do not fit the bundle.
        """
        self.bundle = bundle
        self.runs_on = runs_on
        self.engines_key = engines_key
        self.note = note
        self.shows = False  # whether predictions say what else the graph gives, such as GATE
        self._certified = dict(certified or {})
        self._certified_sessions = certified_sessions
        self.deadline = deadline
        self.auditor = auditor
        self._memory = memory
        self._pending: Callable[[], None] | None = None  # an audit
        self.guard = guard
        self._tiers = bundle.tiers
        self._engines = [engines[tier.name] for tier in bundle.tiers]
        self._solos = check_solos(bundle, engines)
        self._router = router
        self._preprocess = preprocess
        self._sources = check_engines(bundle, self._engines)

    def infer(self, sample: Sample, *, clock: Clock = time.monotonic) -> Prediction:
        """What the model says of ``sample``, whose missing modalities are masked.

        What it remembers of the moments before may have a say; see ``reset``.

        InferenceError: no modality at all, one with a wrong shape or with values that are not
        finite (it is named), or an engine that failed.
        """
        self.settle()
        start = time.perf_counter()
        mode = "+".join(s.name for s in self.bundle.inputs if s.name in sample.signals)
        if not sample.signals:
            raise InferenceError(
                "the sample has no modality, so there is nothing to infer from",
                hint=f"give at least one of {', '.join(s.name for s in self.bundle.inputs)}",
            )
        times = {name: signal.time_s for name, signal in sample.signals.items()}
        known = self._memory.recall(mode, sample) if self._memory is not None else None
        if known is not None:
            return self._again(*known, sample, times, clock, start)
        answers: dict[int, Tensors] = {}
        tier, reason, probabilities, tensors = self._route(
            mode, sample, answers, min(times.values()), clock
        )
        best = int(probabilities.argmax())
        now_s = clock()
        made = Prediction(
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
            certificate=None if reason in HELD_BACK else self._covers(mode),
            degraded=self._degraded(mode, reason),
            probabilities=probabilities,
            # Who looks may come at any moment, from another thread.
            shown=_shown(answers.get(_SOLO if reason == ALONE else tier, {}))
            if self.shows
            else None,
        )
        if self._memory is not None:
            self._memory.keep(made if reason not in HELD_BACK else None)
        if tier < len(self._tiers) - 1 and reason not in HELD_BACK:
            self._audit(mode, best, max(times.values()), tensors, answers)
        return made

    @property
    def certified(self) -> frozenset[str]:
        """The modes that a certificate covers here."""
        return frozenset(self._certified)

    def settle(self) -> None:
        """Do the audit that is due, if one is: a loop does so after it gave the decision.

        Otherwise the next ``infer`` does it first.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending()

    def reset(self) -> None:
        """Forget the moments before: the next has nothing to do with them."""
        self._pending = None
        self._router.reset()
        if self._memory is not None:
            self._memory.forget()

    def close(self) -> None:
        """Free the engines; safe to call twice."""
        for engine in (*self._engines, *self._solos.values()):
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

    def _again(  # noqa: PLR0913 - two decisions, and when
        self,
        kept: Prediction,
        age_ms: float,
        sample: Sample,
        times: Mapping[str, float],
        clock: Clock,
        start: float,
    ) -> Prediction:
        """``kept`` as the answer to ``sample``, ``age_ms`` after what it was decided on."""
        best = self.bundle.labels.index(kept.label)
        answers: dict[int, Tensors] = {}
        newest_s = max(times.values())
        self._audit(
            kept.mode,
            best,
            newest_s,
            lambda: dict(self._preprocess(sample)),
            answers,
            covered=False,
        )
        now_s = clock()
        changes = {
            "reason": UNCHANGED,
            "capture_time_s": times,
            "decision_time_s": now_s,
            "latency_ms": (time.perf_counter() - start) * 1e3,
            "age_ms": (now_s - min(times.values())) * 1e3,
            "reused_ms": age_ms,
            "truth": sample.truth,
            "certificate": self._covers(kept.mode, reused=True),
            "degraded": self._degraded(kept.mode, UNCHANGED),
        }
        made = object.__new__(Prediction)  # a quarter of the time of `replace`
        vars(made).update(vars(kept), **changes)
        return made

    def _audit(  # noqa: PLR0913 - a decision, and what it was made of
        self,
        mode: str,
        best: int,
        time_s: float,
        inputs: Callable[[], Tensors],
        answers: dict[int, Tensors],
        *,
        covered: bool = True,
    ) -> None:
        """Draw whether to ask the last tier too, when there is time, what it says.

        ``covered`` is whether the certificate of ``mode`` is of such decisions.
        """
        auditor = self.auditor
        if auditor is None or not auditor.draws(time_s):
            return

        def ask() -> None:
            last = len(self._tiers) - 1
            logits = self._logits(last, inputs(), answers, time.monotonic)
            auditor.add(mode, int(logits.argmax()) != best, covered=covered)

        self._pending = ask

    def _covers(self, mode: str, *, reused: bool = False) -> str | None:
        """The certificate of a decision in ``mode``; an alarm says that none holds there.

        Of whole sessions none holds from the first alarm on: the policy is no longer the one
        that was certified.
        """
        alarms = self.auditor.alarms if self.auditor is not None else {}
        of_mode = None if reused or mode in alarms else self._certified.get(mode)
        return of_mode or (None if alarms else self._certified_sessions)

    def _degraded(self, mode: str, reason: str) -> tuple[str, ...]:
        """In what way less is kept than was promised."""
        alarmed = self.auditor is not None and mode in self.auditor.alarms
        return (ALARM,) * alarmed + (reason,) * (reason in HELD_BACK)

    def _route(
        self,
        mode: str,
        sample: Sample,
        answers: dict[int, Tensors],
        captured_s: float,
        clock: Clock,
    ) -> tuple[int, str, np.ndarray, Callable[[], Tensors]]:
        """The tier that answers, why, its probabilities [classes], and how to get the tensors.

        ``answers`` gets the outputs of each tier that was run.
        """
        why = self._router.skip(mode) if len(self._tiers) > 1 else SINGLE_TIER
        asked = self._router.solo(mode) if why is None and self._solos else None
        if asked not in self._solos:
            tensors = dict(self._preprocess(sample))
        else:
            alone = self._preprocess(Sample({asked: sample.signals[asked]}))
            outputs = self._solos[asked].run({asked: alone[asked]})
            verdict = self._router.judge_solo(mode, _finite(outputs[LOGITS][0], asked))
            if verdict.keep:
                if self.shows:
                    answers[_SOLO] = {**outputs, GATE: self._only(asked)}
                return 0, ALONE, verdict.probabilities, lambda: dict(self._preprocess(sample))
            tensors = dict(self._preprocess(sample, (asked,)))
        tier, reason, probabilities = self._decide(
            mode, why, tensors, answers, captured_s, clock
        )
        return tier, reason, probabilities, lambda: tensors

    def _only(self, name: str) -> np.ndarray:
        """The gate where nothing but ``name`` is looked at, float32 [1, modalities]."""
        return np.array([[float(spec.name == name) for spec in self.bundle.inputs]], np.float32)

    def _decide(  # noqa: PLR0913 - what it decides on, and what is known of that
        self,
        mode: str,
        why: str | None,
        tensors: Tensors,
        answers: dict[int, Tensors],
        captured_s: float,
        clock: Clock,
    ) -> tuple[int, str, np.ndarray]:
        """As ``_route``; ``why`` the last tier is to be asked at once, if it is."""
        last = len(self._tiers) - 1
        cheap: Verdict | None = None
        tier = 0
        for tier in range(last if why is None else 0):
            cheap = self._judge(mode, tier, tensors, answers, clock)
            if cheap.keep:
                return tier, LITE_CONFIDENT, cheap.probabilities
        held_back = self._held_back(captured_s, clock) if last else ""
        if held_back:
            if cheap is None:
                cheap = self._judge(mode, tier, tensors, answers, clock)
            # In a dwell lite was sure enough, and is only waited for: its answer is as good.
            reason = LITE_CONFIDENT if cheap.why == DWELL else held_back
            if reason != DWELL:
                return tier, reason, cheap.probabilities
        if why is None:
            why = (cheap.why if cheap is not None else "") or ESCALATED
        return last, why, softmax(self._logits(last, tensors, answers, clock))

    def _judge(
        self,
        mode: str,
        tier: int,
        tensors: Tensors,
        answers: dict[int, Tensors],
        clock: Clock,
    ) -> Verdict:
        logits = self._logits(tier, tensors, answers, clock)
        return self._router.judge(mode, logits, answers[tier].get(SCORE))

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
        return _finite(logits, self._tiers[tier].name)


def _finite(logits: np.ndarray, tier: str) -> np.ndarray:
    if not np.logical_and.reduce(np.isfinite(logits)):  # half the time of `all`
        raise InferenceError(
            f"tier {tier!r} gave values that are not finite",
            hint="prove the bundle: mla-edge verify",
        )
    return logits


def _shown(outputs: Tensors) -> Tensors:
    """Copies: a graph's outputs are valid until it runs again."""
    wanted = (name for name in outputs if name == GATE or name.startswith(attention_of("")))
    return {name: outputs[name].copy() for name in wanted}
