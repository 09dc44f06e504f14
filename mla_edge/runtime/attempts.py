"""What data was looked at before: a certification that looks again counts the earlier ones."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Collection, Iterable, Mapping

import numpy as np

from mla_edge.certificate import Attempt, Certificate, Identity, ModeCertificate
from mla_edge.errors import ConfigError
from mla_edge.recordings import Recording
from mla_edge.signals import Sample, values_of

_LETTERS = 12  # of a sha256: 5000 units meet one of 100,000 others by chance twice in a million


def hash_units(data: Recording, rows: Iterable[int]) -> list[str]:
    """What each unit of ``rows`` is known by when it comes again, in whatever file.

    Of a unit it is the least hash of all its samples, which mostly stays the same where it
    gets some more or loses some. Labels have no part in it: a corrected one is no new data.
    """
    units, places = np.unique(data.units, return_inverse=True)
    wanted = {int(places[row]) for row in rows}
    least: dict[int, str] = {}
    for row, place in enumerate(places.tolist()):
        if place in wanted:
            hashed = _hash(data, row)
            least[place] = min(hashed, least.get(place, hashed))
    return list(least.values())


def find_spent(
    before: Certificate | None,
    parts: Collection[str],
    *,
    whole: str = "",
    what: str,
    again: bool,
) -> list[Attempt]:
    """The earlier attempts that looked at any of ``parts``, or at the data ``whole``.

    ``what`` they are is told. ConfigError unless ``again`` allows such attempts.
    """
    attempts = before.attempts if before else ()
    spent = [each for each in attempts if each.looked_at({whole, *parts})]
    if spent and not again:
        earlier = {part for each in spent for part in each.parts}
        seen = sum(part in earlier for part in parts)
        some = f"{seen} of these {len(parts)} {what}" if seen else f"these {what}"
        raise ConfigError(
            f"{some} were looked at before to certify this bundle, on {spent[-1].made}; what "
            "was looked at proves less",
            hint=f"certify on new {what} alone, or give --again: the claim then counts every "
            "attempt",
        )
    return spent


def total_delta(delta: float, spent: Iterable[Attempt]) -> float:
    """What ``delta`` and those of the earlier attempts are together; ConfigError from 1 on."""
    total = delta + sum(attempt.delta for attempt in spent)
    if total >= 1:
        raise ConfigError(
            f"delta {delta:g} and those of the earlier attempts on this data are {total:g} "
            "together, and a claim that is right with a chance of 0 is none",
            hint="record new data: this has been looked at too often",
        )
    return total


def tell_again(there: int, needed: int) -> str:
    """That the ``there`` that failed may still count among ``needed``, and what it costs."""
    if needed <= there:
        return ""
    return f", or {needed - there} more beside these with --again, which counts every attempt"


def continue_certificate(
    before: Certificate | None, identity: Identity, attempt: Attempt
) -> Certificate:
    """``before`` with one more attempt, and without what does not hold for ``identity``.

    What was certified for other graphs, or another engine, does not hold for these.
    """
    attempts = (*(before.attempts if before else ()), attempt)
    if before is None or not _is_of(before, identity):
        return Certificate(identity, attempts=attempts)
    # Of one that named less, what it did not name is as it is here from now on.
    return dataclasses.replace(before, identity=identity, attempts=attempts)


def still_certified(
    before: Certificate | None, identity: Identity
) -> Mapping[str, ModeCertificate]:
    """The modes whose certificate stays, unless they are certified anew."""
    return before.modes if before is not None and _is_of(before, identity) else {}


def _is_of(certificate: Certificate, identity: Identity) -> bool:
    return not certificate.identity.difference(identity)


def _hash(data: Recording, row: int) -> str:
    told = data.origins[row] if data.origins else hash_sample(data.samples[row])
    return told[:_LETTERS]


def without_copies(data: Recording, rows: Iterable[int], names: Collection[str]) -> list[int]:
    """Those of ``rows`` of which none before shows and says the same by the inputs ``names``.

    A copy of a unit that counted as another would be evidence that there is not. Where the
    data says what its samples were made of, two of the same are copies as well.
    """
    seen: set[str] = set()
    left = []
    for row in rows:
        signals = {name: data.samples[row].signals[name] for name in names}
        told = {hash_sample(Sample(signals))}
        if data.origins:
            told.add(data.origins[row])
        if seen.isdisjoint(told):
            left.append(row)
        seen |= told
    return left


def hash_sample(sample: Sample) -> str:
    """The sha256 of the values of every signal."""
    digest = hashlib.sha256()
    for name, signal in sorted(sample.signals.items()):
        values = values_of(signal)
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
