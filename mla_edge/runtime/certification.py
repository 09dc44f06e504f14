"""Certify the routing of a bundle on recorded moments, by the very loop that will decide."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from mla_edge.bundle import Bundle, RouterPolicy
from mla_edge.certificate import (
    Attempt,
    Certificate,
    ModeCertificate,
    identify,
    read_certificate,
    write_certificate,
)
from mla_edge.certify import (
    THRESHOLDS,
    Certified,
    certify_threshold,
    fewest_units,
    units_needed,
)
from mla_edge.errors import ConfigError
from mla_edge.recordings import Recording, read_recording
from mla_edge.runtime.model import FusedModel, Parts, open_model
from mla_edge.runtime.routing import Verdict, keep_score, softmax
from mla_edge.signals import Sample

_SMALLEST = 1e-4

Progress = Callable[[str, int, int], None]  # mode, done, of how many


@dataclass(frozen=True)
class ModeOutcome:
    """What came of one mode: its certificate, or why there is none."""

    mode: str
    units: int
    needed: int  # units that pass four times in five if a quarter of epsilon is lost
    certificate: ModeCertificate | None = None
    why: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a certification, and the bundle that holds it."""

    bundle: Bundle
    modes: tuple[ModeOutcome, ...]
    attempt: int  # on this data; 0 where nothing was looked at
    told_units: bool


def certify_bundle(  # noqa: PLR0913 - each is a choice of the user's
    folder: str | os.PathLike[str],
    recording: str | os.PathLike[str],
    *,
    epsilon: float = 0.01,
    delta: float = 0.05,
    again: bool = False,
    dry_run: bool = False,
    engine: str = "auto",
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Outcome:
    """Certify each mode of the bundle on the moments of ``recording``, and write that into it.

    In a mode that holds, the boldest threshold that passed replaces the one chosen at export.
    One that does not hold stays as it is. Data with too few units is not looked at, so it is
    not used up. ConfigError: the recording does not fit, was used before (``again`` allows it;
    the claim is then of all attempts together), or the bundle has not two tiers.
    """
    bundle = Bundle.read(folder)
    if len(bundle.tiers) != 2:
        raise ConfigError(
            f"{bundle.name} has {len(bundle.tiers)} tier(s), a certificate is of two",
            hint="with one tier nothing is routed, so nothing is lost by it",
        )
    if epsilon < _SMALLEST:
        raise ConfigError(
            f"epsilon is {epsilon:g}", hint=f"give {_SMALLEST:g} or more: less takes millions"
        )
    goal = units_needed(epsilon, delta, regret=epsilon / 4)
    data = read_recording(Path(recording), bundle.inputs, bundle.labels)
    before = read_certificate(bundle)
    spent = [a for a in before.attempts if a.data_sha256 == data.sha256] if before else []
    if spent and not again:
        raise ConfigError(
            f"{recording}: certified this bundle before, on {spent[-1].made}; data that was "
            "looked at proves less",
            hint="record new moments, or give --again: the claim then counts every attempt",
        )
    rows = {mode: _rows(data, mode) for mode in bundle.policy.modes}
    fewest = fewest_units(epsilon, delta)
    outcomes = {
        mode: ModeOutcome(mode, len(chosen), goal, why=_too_few(len(chosen), fewest, goal))
        for mode, chosen in rows.items()
    }
    large = {mode: chosen for mode, chosen in rows.items() if len(chosen) >= fewest}
    if dry_run or not large:
        return Outcome(bundle, tuple(outcomes.values()), 0, data.told_units)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    total = delta + sum(attempt.delta for attempt in spent)
    listener = Listener(bundle.policy)
    with open_model(folder, engine=engine, threads=threads, instrument=listener.hear) as model:
        identity = identify(bundle, model.runs_on, model.engines_key)
        for mode, chosen in large.items():
            heard = hear(model, listener, data, chosen, mode, on_progress or _ignore)
            grid = listener.thresholds(mode)
            found = certify_threshold(
                heard.scores, heard.regrets, grid, epsilon=epsilon, delta=delta
            )
            outcomes[mode] = _judge(mode, found, goal, grid[0])
            if found.threshold is not None:
                certificate = ModeCertificate(
                    epsilon=epsilon,
                    delta=total,
                    units=found.units,
                    losses=found.losses,
                    p_value=found.p_value,
                    temperature=listener.temperature(mode),
                    threshold=found.threshold,
                    kept=float(np.mean(heard.scores >= found.threshold)),
                    data_sha256=data.sha256,
                    made=made,
                )
                outcomes[mode] = dataclasses.replace(outcomes[mode], certificate=certificate)
    held = {mode: o.certificate for mode, o in outcomes.items() if o.certificate is not None}
    failed = tuple(mode for mode in large if mode not in held)
    # What was certified for other graphs, or another engine, does not hold for these.
    earlier = before.modes if before is not None and before.identity == identity else {}
    attempts = (
        *(before.attempts if before else ()),
        Attempt(data.sha256, epsilon, delta, made, tuple(held), failed),
    )
    written = write_certificate(bundle, Certificate(identity, {**earlier, **held}, attempts))
    return Outcome(written, tuple(outcomes.values()), len(spent) + 1, data.told_units)


@dataclass(frozen=True)
class Heard:
    """What both tiers said of some moments: arrays [units]."""

    scores: np.ndarray  # how safe it is to keep lite's answer, by the mode's score
    confidences: np.ndarray  # lite's, which is the same where the mode routes by it
    lite_right: np.ndarray
    full_right: np.ndarray

    @property
    def regrets(self) -> np.ndarray:
        """Where only the full tier was right."""
        return np.asarray(self.full_right & ~self.lite_right)


class Listener:
    """A router that keeps no answer of lite, but writes down its score, and what it was."""

    def __init__(self, policy: RouterPolicy) -> None:
        """Take the temperatures of ``policy``."""
        self.best = -1  # class that lite gave last
        self.score = 0.0  # and how safe it is to keep that
        self.confidence = 0.0  # and how sure it was
        self._policy = policy

    def hear(self, parts: Parts) -> Parts:
        """Take the router's place: an ``Instrument``."""
        self._policy = parts.policy
        return dataclasses.replace(parts, router=self)

    def temperature(self, mode: str) -> float:
        """What lite's logits are divided by in ``mode``."""
        return self._policy.modes[mode].temperature

    def skip(self, mode: str) -> str | None:
        """Nothing is skipped."""
        return None

    def thresholds(self, mode: str) -> Sequence[float]:
        """Those that were fixed for ``mode`` before, from careful to bold."""
        return self._policy.modes[mode].thresholds or THRESHOLDS

    def judge(
        self, mode: str, logits: np.ndarray, learned: np.ndarray | None = None
    ) -> Verdict:
        """Write down what ``logits`` [classes] say, and ask the full tier too."""
        probabilities = softmax(logits, self.temperature(mode))
        self.best = int(probabilities.argmax())
        self.confidence = float(probabilities[self.best])
        self.score = keep_score(self._policy.modes[mode], probabilities, learned)
        return Verdict(False, probabilities)


def hear(  # noqa: PLR0913 - who listens to whom, on what
    model: FusedModel,
    listener: Listener,
    data: Recording,
    rows: Sequence[int],
    mode: str,
    on_progress: Progress,
) -> Heard:
    """What the tiers of ``model``, opened with ``listener``, say of ``rows`` in ``mode``."""
    names, labels = mode.split("+"), model.bundle.labels
    scores, confidences = np.zeros(len(rows)), np.zeros(len(rows))
    lite_right, full_right = np.zeros(len(rows), bool), np.zeros(len(rows), bool)
    for number, row in enumerate(rows):
        signals, truth = data.samples[row].signals, data.labels[row]
        full_right[number] = (
            model.infer(Sample({name: signals[name] for name in names})).label == truth
        )
        lite_right[number] = labels[listener.best] == truth
        scores[number], confidences[number] = listener.score, listener.confidence
        on_progress(mode, number + 1, len(rows))
    return Heard(scores, confidences, lite_right, full_right)


def _rows(data: Recording, mode: str) -> list[int]:
    """One sample of each unit that has every modality of ``mode``.

    It is drawn by a fixed seed: a unit that counted several times would pretend to more
    independent evidence than there is.
    """
    names = set(mode.split("+"))
    fits = [row for row, sample in enumerate(data.samples) if names <= set(sample.signals)]
    rng = np.random.default_rng(0)
    first: dict[object, int] = {}
    for row in rng.permutation(np.array(fits, np.int64)):
        first.setdefault(data.units[row].item(), int(row))
    return sorted(first.values())


def _too_few(units: int, fewest: int, goal: int) -> str:
    """Why ``units`` cannot pass; empty where they can."""
    if units >= fewest:
        return ""
    return (
        f"{units} independent units cannot show it: {fewest - units} more are needed if none "
        f"is lost, {goal - units} more if a quarter of epsilon is"
    )


def _judge(mode: str, found: Certified, goal: int, careful: float) -> ModeOutcome:
    if found.threshold is not None:
        return ModeOutcome(mode, found.units, goal)
    rate = found.losses / found.units
    why = (
        f"even from a score of {careful:.4f} on lite alone is wrong in {found.losses} of "
        f"{found.units} units (p = {found.p_value:.2g})"
    )
    if rate >= found.epsilon:
        return ModeOutcome(mode, found.units, goal, why=why)
    needed = units_needed(found.epsilon, found.delta, regret=rate)
    return ModeOutcome(
        mode, found.units, needed, why=f"{why}; about {needed} units would be needed"
    )


def _ignore(mode: str, done: int, of: int) -> None:
    """Nobody wants to know."""
