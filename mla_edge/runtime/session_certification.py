"""Certify the policy as it runs, with its memory, on whole recorded sessions.

Its moments are not independent, so the unit is a session: each is replayed, once with the full
tier alone and once with each policy of a chain. What a session loses is the share of its
decisions that are not full's, of those where full is right if the recording knows that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np

from mla_edge.bundle import Bundle, RouterPolicy, sha256_of
from mla_edge.certificate import (
    SESSIONS,
    Attempt,
    Identity,
    SessionCertificate,
    hash_thresholds,
    identify,
    policy_code,
    read_certificate,
    write_certificate,
)
from mla_edge.certify import (
    betting_p_value,
    certify_policy,
    check_levels,
    fewest_sessions,
    sessions_needed,
)
from mla_edge.errors import ConfigError
from mla_edge.recordings import find_parts
from mla_edge.runtime.attempts import continue_certificate, find_spent, tell_again, total_delta
from mla_edge.runtime.certification import check_tiers
from mla_edge.runtime.loading import Parts, open_model
from mla_edge.runtime.replay import Replay
from mla_edge.runtime.routing import HELD_BACK, CascadeRouter

CHAIN_MS = (0.0, 100.0, 200.0, 500.0, 1000.0)
"""For how long a decision may be reused, from careful to bold: fixed before any data."""

_SMALLEST = 1e-3
_PART = re.compile(r"-part\d{4,}(?=\.mcap$)")

Progress = Callable[[str, int, int], None]  # what, done, of how many


@dataclass(frozen=True)
class SessionOutcome:
    """What came of whole sessions: their certificate, or why there is none."""

    bundle: Bundle
    sessions: int
    needed: int  # sessions that pass four times in five if a quarter of epsilon is lost
    attempt: int  # on any of this data; 0 where nothing was looked at
    certificate: SessionCertificate | None = None
    why: str = ""
    mean_loss: Mapping[float, float] = dataclasses.field(default_factory=dict)  # by reuse_ms
    left_out: int = (
        0  # decisions that a deadline, heat or power held back: no certificate covers them
    )
    stays: SessionCertificate | None = None  # that was there before, where this failed


def certify_sessions(  # noqa: PLR0913 - each is a choice of the user's
    folder: str | os.PathLike[str],
    recordings: str | os.PathLike[str],
    *,
    epsilon: float = 0.01,
    delta: float = 0.05,
    again: bool = False,
    dry_run: bool = False,
    engine: str = "auto",
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> SessionOutcome:
    """Certify the policy of the bundle on ``recordings``, and write that into the bundle.

    That is a folder of what ``mla-edge record`` wrote, a session each, or one of them. The
    thresholds are those that route now; what is chosen is for how long a decision may be used
    again while nothing changes. With too few sessions none is looked at. ConfigError: a session
    was used before (``again`` allows it; the claim is then of all attempts together), there is
    none, or the bundle has not two tiers. RecordingError: one cannot be read.
    """
    bundle = Bundle.read(folder)
    check_tiers(bundle)
    if epsilon < _SMALLEST:
        raise ConfigError(
            f"epsilon is {epsilon:g}",
            hint=f"give {_SMALLEST:g} or more for sessions: less takes tens of thousands",
        )
    check_levels(epsilon, delta=delta)
    found = find_sessions(Path(recordings))
    goal = sessions_needed(epsilon, delta)
    fewest = fewest_sessions(epsilon, delta)
    hashes = {path: _hash(path) for path in found}
    if len(set(hashes.values())) < len(hashes):
        raise ConfigError(
            f"{recordings}: holds a session twice", hint="copies prove nothing: remove them"
        )
    before = read_certificate(bundle)
    spent = find_spent(before, hashes.values(), what="sessions", again=again)
    if len(found) < fewest:
        why = (
            f"{len(found)} sessions cannot show it: {fewest - len(found)} more are needed if "
            f"nothing is lost, {goal - len(found)} more if a quarter of epsilon is"
        )
        return SessionOutcome(bundle, len(found), goal, 0, why=why)
    if dry_run:
        return SessionOutcome(bundle, len(found), goal, 0)
    total = total_delta(delta, spent)
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    heard = _replay(bundle, found, engine, threads, on_progress or _ignore)
    sha256 = hashlib.sha256("".join(sorted(hashes.values())).encode()).hexdigest()
    chosen = certify_policy(heard.losses, epsilon=epsilon, delta=delta)
    best = 0 if chosen is None else chosen
    p_value = betting_p_value(heard.losses[best], epsilon, delta)
    means, left_out = heard.losses.mean(axis=1), heard.left_out[best]
    certificate, why = None, ""
    if chosen is None:
        why = _why(heard.losses[0], epsilon, delta, p_value)
    else:
        certificate = SessionCertificate(
            epsilon=epsilon,
            delta=total,
            sessions=len(found),
            decisions=heard.decisions - left_out,
            reuse_ms=CHAIN_MS[chosen],
            passed_ms=CHAIN_MS[: chosen + 1],
            p_value=p_value,
            mean_loss=float(means[chosen]),
            labelled=heard.labelled,
            data_sha256=sha256,
            made=made,
            left_out=left_out,
            policy_code=policy_code(),
            thresholds=heard.thresholds,
        )
    names = (SESSIONS,)
    attempt = Attempt(
        sha256,
        epsilon,
        delta,
        made,
        certified=names if certificate else (),
        failed=() if certificate else names,
        parts=tuple(sorted(hashes.values())),
    )
    earlier = continue_certificate(before, heard.identity, attempt)
    written = write_certificate(
        bundle, dataclasses.replace(earlier, sessions=certificate or earlier.sessions)
    )
    return SessionOutcome(
        written,
        len(found),
        goal,
        len(spent) + 1,
        certificate,
        why,
        dict(zip(CHAIN_MS, means.tolist())),
        left_out,
        None if certificate else earlier.sessions,
    )


def find_sessions(path: Path) -> list[Path]:
    """The recordings in the folder ``path``, or the one called so; several parts are one.

    In the order of their names; ConfigError where there is none.
    """
    if path.is_dir():
        names = {_PART.sub("", each.name) for each in path.glob("*.mcap")}
        found = sorted(path / name for name in names)
    else:
        found = [path] if find_parts(path) else []
    if not found:
        raise ConfigError(
            f"{path}: holds no recordings (.mcap)",
            hint="give the folder of what mla-edge record wrote, a file a session",
        )
    return found


class _Said(NamedTuple):
    label: str
    truth: str | None
    held_back: bool  # by a deadline, heat or power, as it was when this was recorded


@dataclass(frozen=True)
class _Heard:
    losses: np.ndarray  # [policies, sessions]
    decisions: int
    left_out: list[int]  # of them, by each policy
    labelled: bool
    identity: Identity
    thresholds: str  # the sha256 of those that routed


def _replay(
    bundle: Bundle,
    sessions: Sequence[Path],
    engine: str,
    threads: int | None,
    on_progress: Progress,
) -> _Heard:
    """What each policy of the chain loses in each session; one model is open at a time."""

    def said(what: str, holds_back: bool, **options: Any) -> list[list[_Said]]:
        answers = []
        with open_model(bundle.folder, engine=engine, threads=threads, **options) as model:
            identities.append(identify(bundle, model.runs_on, model.engines_key))
            for number, path in enumerate(sessions):
                model.reset()
                # Another reuse is in other dwells than those that were recorded.
                played = Replay(model, path, holds_back=holds_back, in_dwells=False)
                made = played.run()
                answers.append([_Said(p.label, p.truth, p.reason in HELD_BACK) for p in made])
                on_progress(what, number + 1, len(sessions))
        return answers

    identities: list[Identity] = []
    full = said("full alone", False, instrument=_full_alone)
    losses, left_out = [], []
    policies: list[RouterPolicy] = []

    def note_policy(parts: Parts) -> Parts:
        policies.append(parts.policy)
        return parts

    for reuse_ms in CHAIN_MS:
        routed = said(
            f"reuse {reuse_ms:g} ms", True, reuse_ms=reuse_ms or None, instrument=note_policy
        )
        losses.append([_loss(*each) for each in zip(sessions, routed, full)])
        left_out.append(sum(each.held_back for answers in routed for each in answers))
    decisions = [each for answers in full for each in answers]
    is_labelled = any(each.truth is not None for each in decisions)
    return _Heard(
        np.array(losses),
        len(decisions),
        left_out,
        is_labelled,
        identities[0],
        hash_thresholds(policies[0]),
    )


def _full_alone(parts: Parts) -> Parts:
    """With a router that knows no mode, so it never asks lite: an ``Instrument``."""
    return dataclasses.replace(parts, router=CascadeRouter(RouterPolicy({})))


def _loss(path: Path, routed: Sequence[_Said], full: Sequence[_Said]) -> float:
    """The share that is lost of what is not held back; ConfigError where that is nothing.

    What is held back is outside the certificate: counted, it would be no loss where full is
    held back as well, and one that nobody claims to be rare where it is not.
    """
    lost = [_is_lost(*pair) for pair in zip(routed, full) if not pair[0].held_back]
    if not lost:
        raise ConfigError(
            f"{path}: a deadline, heat or power held the full tier back in each of its "
            "decisions, which no certificate covers",
            hint="leave it out, or record without a deadline on a board that is cool",
        )
    return float(np.mean(lost))


def _is_lost(routed: _Said, full: _Said) -> bool:
    """Whether it is another answer; where the truth is known, only if full's was right."""
    return routed.label != full.label and full.truth in (None, full.label)


def _why(losses: np.ndarray, epsilon: float, delta: float, p_value: float) -> str:
    loss = float(losses.mean())
    why = (
        f"even without reuse {loss:.2%} of the decisions of a session are lost on average "
        f"(p = {p_value:.2g})"
    )
    if loss >= epsilon:
        return why
    needed = max(len(losses), sessions_needed(epsilon, delta, like=losses))
    return (
        f"{why}; if others lose as these do, about {needed} new sessions are needed"
        f"{tell_again(len(losses), needed)}"
    )


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    for part in find_parts(path):
        digest.update(sha256_of(part).encode())
    return digest.hexdigest()


def _ignore(what: str, done: int, of: int) -> None:
    """Nobody wants to know."""
