"""Certify the routing of a bundle on recorded moments, by the very loop that will decide."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from mla_edge.bundle import NEVER, Bundle
from mla_edge.certificate import (
    Attempt,
    ModeCertificate,
    Rung,
    identify,
    read_certificate,
    write_certificate,
)
from mla_edge.certify import (
    Certified,
    binomial_cdf,
    certify_ladder,
    check_levels,
    fewest_units,
    highest_rate,
    units_needed,
)
from mla_edge.errors import ConfigError
from mla_edge.recordings import Recording, read_recording
from mla_edge.runtime.attempts import (
    continue_certificate,
    find_spent,
    hash_units,
    still_certified,
    tell_again,
    total_delta,
    without_copies,
)
from mla_edge.runtime.listening import Heard, Listener, Progress, hear
from mla_edge.runtime.loading import open_model

_SMALLEST = 1e-4

Moments = Callable[[Bundle], Recording]
"""Gives labelled moments for a bundle."""


@dataclass(frozen=True)
class RungOutcome:
    """What came of one epsilon: its rung, or why there is none."""

    epsilon: float
    needed: int  # units that pass four times in five if a quarter of epsilon is lost
    rung: Rung | None = None
    why: str = ""


@dataclass(frozen=True)
class ModeOutcome:
    """What came of one mode; without a certificate not even its boldest rung holds."""

    mode: str
    units: int
    rungs: tuple[RungOutcome, ...]  # from careful to bold
    certificate: ModeCertificate | None = None
    stays: Stays | None = None  # where it was certified before, and this failed
    copies: int = 0  # units that show and say what one before does, and are not counted


@dataclass(frozen=True)
class Stays:
    """An earlier certificate that still holds formally: other data earned it."""

    epsilon: float
    made: str
    losses: int  # of these units, at the threshold that it routes by


@dataclass(frozen=True)
class Outcome:
    """What came of a certification, and the bundle that holds it."""

    bundle: Bundle
    modes: tuple[ModeOutcome, ...]
    attempt: int  # on this data; 0 where nothing was looked at
    told_units: bool
    voids_sessions: bool = False  # they were certified with other thresholds


def certify_bundle(  # noqa: PLR0913 - each is a choice of the user's
    folder: str | os.PathLike[str],
    data: str | os.PathLike[str] | Moments,
    *,
    epsilon: float | Sequence[float] = 0.01,
    delta: float = 0.05,
    again: bool = False,
    dry_run: bool = False,
    engine: str = "auto",
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> Outcome:
    """Certify each mode of the bundle on moments whose class is known, and write that into it.

    ``data`` is a recording (``.npz``), a folder with a ``labels.csv`` (``labelled_folder``), or
    a function that gives moments for a bundle. In a mode that holds, the boldest threshold that
    passed replaces the one chosen at export, or full alone does where that keeps too little to
    pay. One that does not hold stays as it is. Of several
    ``epsilon`` each makes a rung, by its part of delta. Data with too few units is not looked
    at, so it is not used up. ConfigError: the data does not fit, was used before (``again``
    allows it; the claim is then of all attempts together), or the bundle has not two tiers.
    """
    bundle = Bundle.read(folder)
    check_tiers(bundle)
    epsilons = _in_order([epsilon] if isinstance(epsilon, (int, float)) else epsilon)
    check_levels(*epsilons, delta=delta)
    share = delta / len(epsilons)
    goals = [units_needed(each, share, regret=each / 4) for each in epsilons]
    moments = data if callable(data) else _file(Path(data))
    found = moments(bundle)
    before = read_certificate(bundle)
    units = {mode: _rows(found, mode) for mode in bundle.policy.modes}
    rows = {mode: without_copies(found, all_, mode.split("+")) for mode, all_ in units.items()}
    fewest = fewest_units(epsilons[-1], share)
    large = {mode: chosen for mode, chosen in rows.items() if len(chosen) >= fewest}
    looks_at_it = bool(large) and not dry_run
    parts = hash_units(found, [row for chosen in (large or rows).values() for row in chosen])
    spent = find_spent(before, parts, whole=found.sha256, what="units", again=again)
    outcomes = {
        mode: ModeOutcome(
            mode,
            len(chosen),
            tuple(
                RungOutcome(
                    each, goal, why=_too_few(len(chosen), each, share, goal, looks_at_it)
                )
                for each, goal in zip(epsilons, goals)
            ),
            copies=len(units[mode]) - len(chosen),
        )
        for mode, chosen in rows.items()
    }
    if not looks_at_it:
        return Outcome(bundle, tuple(outcomes.values()), 0, found.told_units)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    total = total_delta(delta, spent)
    listener = Listener(bundle.policy)
    with open_model(folder, engine=engine, threads=threads, instrument=listener.hear) as model:
        identity = identify(bundle, model.runs_on, model.engines_key)
        certified = still_certified(before, identity)
        for mode, chosen in large.items():
            heard = hear(model, listener, found, chosen, mode, on_progress or _ignore)
            rungs = _climb(heard, listener.thresholds(mode), epsilons, delta, goals)
            certificate = None
            if rungs[-1].rung is not None:
                held = tuple(each.rung for each in rungs if each.rung is not None)
                certificate = ModeCertificate(
                    epsilon=held[-1].epsilon,
                    delta=total,
                    units=len(chosen),
                    losses=held[-1].losses,
                    p_value=held[-1].p_value,
                    temperature=listener.temperature(mode),
                    threshold=held[-1].threshold,
                    kept=held[-1].kept,
                    data_sha256=found.sha256,
                    made=made,
                    rungs=held,
                    break_even=bundle.break_even(listener.cost_ms),
                )
                certificate = _unless_it_pays(certificate)
            stays = None if certificate else _stays(certified.get(mode), heard)
            outcomes[mode] = dataclasses.replace(
                outcomes[mode], rungs=rungs, certificate=certificate, stays=stays
            )
    holds = {mode: o.certificate for mode, o in outcomes.items() if o.certificate is not None}
    failed = tuple(mode for mode in large if mode not in holds)
    attempt = Attempt(
        found.sha256, epsilons[-1], delta, made, tuple(holds), failed, tuple(sorted(set(parts)))
    )
    earlier = continue_certificate(before, identity, attempt)
    # Sessions were certified with the thresholds that there were.
    moved = any(
        mode not in earlier.modes or earlier.modes[mode].threshold != each.threshold
        for mode, each in holds.items()
    )
    changed = dataclasses.replace(
        earlier,
        modes={**earlier.modes, **holds},
        sessions=None if moved else earlier.sessions,
    )
    return Outcome(
        write_certificate(bundle, changed),
        tuple(outcomes.values()),
        len(spent) + 1,
        found.told_units,
        voids_sessions=moved and earlier.sessions is not None,
    )


def check_tiers(bundle: Bundle) -> None:
    """ConfigError where nothing is routed."""
    if len(bundle.tiers) != 2:
        raise ConfigError(
            f"{bundle.name} has {len(bundle.tiers)} tier(s), a certificate is of two",
            hint="with one tier nothing is routed, so nothing is lost by it",
        )


def _file(path: Path) -> Moments:
    def read(bundle: Bundle) -> Recording:
        if not path.is_dir():
            return read_recording(path, bundle.inputs, bundle.labels)
        from mla_edge.labelled_folder import read_folder, to_recording  # needs OpenCV and soxr

        return to_recording(read_folder(path, bundle.inputs, bundle.labels))

    return read


def _in_order(epsilons: Sequence[float]) -> list[float]:
    """From careful to bold, each once; ConfigError where one is none."""
    if not epsilons:
        raise ConfigError("there is no epsilon", hint="give one for each rung")
    for each in epsilons:
        if each < _SMALLEST:
            raise ConfigError(
                f"epsilon is {each:g}",
                hint=f"give {_SMALLEST:g} or more: less takes millions",
            )
    return sorted(set(epsilons))


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


def _too_few(units: int, epsilon: float, delta: float, goal: int, looked: bool) -> str:
    """Why ``units`` cannot pass; empty where they can. Those ``looked`` at are used up."""
    fewest = fewest_units(epsilon, delta)
    if units >= fewest:
        return ""
    why = f"{units} independent units cannot show it: "
    if looked:
        return (
            why + f"{fewest} new ones could if none is lost, {goal} if a quarter of epsilon is"
        )
    return why + (
        f"{fewest - units} more are needed if none is lost, {goal - units} more if a quarter "
        "of epsilon is"
    )


def _climb(
    heard: Heard,
    grid: Sequence[float],
    epsilons: Sequence[float],
    delta: float,
    goals: Sequence[int],
) -> tuple[RungOutcome, ...]:
    """What comes of each of ``epsilons``; ``delta`` is of all of them together."""
    losing = heard.losing_scores()
    certified = certify_ladder(losing, losing > 0, grid, epsilons=epsilons, delta=delta)
    rungs = []
    for found, goal in zip(certified, goals):
        threshold = found.threshold
        if threshold is None:
            rungs.append(_failed(found, goal))
            continue
        keeps, _, differs = heard.above(threshold)
        differ = int(np.count_nonzero(differs))
        rung = Rung(
            epsilon=found.epsilon,
            threshold=threshold,
            losses=found.losses,
            p_value=found.p_value,
            kept=float(np.mean(keeps)),
            differ_rate=highest_rate(differ, int(np.count_nonzero(keeps)), found.delta),
        )
        rungs.append(RungOutcome(found.epsilon, goal, rung))
    return tuple(rungs)


def _stays(earlier: ModeCertificate | None, heard: Heard) -> Stays | None:
    if earlier is None:
        return None
    _, lost, _ = heard.above(earlier.threshold)
    return Stays(earlier.epsilon, earlier.made, int(np.count_nonzero(lost)))


def _unless_it_pays(certificate: ModeCertificate) -> ModeCertificate:
    """``certificate``, on full alone where what is kept makes no decision cheaper in the mean.

    A higher threshold keeps the claim. The careful rungs keep still less.
    """
    if certificate.break_even is None or certificate.kept > certificate.break_even:
        return certificate
    return dataclasses.replace(
        certificate,
        threshold=NEVER,
        losses=0,
        kept=0.0,
        p_value=binomial_cdf(0, certificate.units, certificate.epsilon),
    )


def _failed(found: Certified, goal: int) -> RungOutcome:
    too_few = _too_few(found.units, found.epsilon, found.delta, goal, looked=True)
    if too_few:
        return RungOutcome(found.epsilon, goal, why=too_few)
    rate = found.losses / found.units
    why = (
        f"even where lite is surest it alone is wrong in {found.losses} of "
        f"{found.units} units (p = {found.p_value:.2g})"
    )
    if rate >= found.epsilon:
        return RungOutcome(found.epsilon, goal, why=why)
    needed = units_needed(found.epsilon, found.delta, regret=rate)
    why = f"{why}; about {needed} new units would be needed{tell_again(found.units, needed)}"
    return RungOutcome(found.epsilon, needed, why=why)


def _ignore(mode: str, done: int, of: int) -> None:
    """Nobody wants to know."""
