"""Which clips of a folder train, tune and test ``commands``: whole clips, by name.

A training puts the names of its folder in the order of a seed. What trained and tuned is named
in the header of its weights, so that in any other folder a clip stays what it was: see
``split_for``.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np

from mla_edge.networks.checkpoint import read_about

SPLIT_SEED = 20261126
CLIPS, CLIP_COUNT = "clips", "clip_count"  # in the header: names as JSON, of how many clips
_SHARES = (("test", 2 / 17), ("tune", 2 / 17))  # of the clips: 100 and 100 of 850
_OF_STRANGERS = ("train", "tune", "test", "test")  # by name, where no training has had it

Splits = Mapping[str, np.ndarray]
"""The clips of each split, by index."""


def split_clips(names: Sequence[str]) -> Splits:
    """The clips of each split, by their names in an order of this seed's: whole clips."""
    order = np.argsort(np.array(names), kind="stable")
    order = np.random.default_rng(SPLIT_SEED).permutation(order)
    splits, first = {}, 0
    for split, share in _SHARES:
        number = round(len(names) * share)
        splits[split] = np.sort(order[first : first + number])
        first += number
    splits["train"] = np.sort(order[first:])
    return splits


def split_for(weights: Path, names: Sequence[str]) -> Splits:
    """The clips of each split for a network with these weights, whatever the folder.

    That of their training in its own folder. In any other one what trained or tuned them does
    so again, what it held back tests, and of names that it never had a half tests.
    """
    about = read_about(weights)
    own = split_clips(names)
    if CLIPS not in about:
        return own
    learnt = set(json.loads(about[CLIPS]))
    earlier = _all_clips(about) - learnt  # by a training that this one went on from
    held = {names[i] for i in own["test"]}
    if set(names) - held == learnt and held.isdisjoint(learnt | earlier):
        return own
    known = _Known.read(learnt, int(about.get(CLIP_COUNT, 0)))
    of = np.array(["train" if name in earlier else known.split_of(name) for name in names])
    return {split: np.flatnonzero(of == split) for split in own}


@dataclass(frozen=True)
class _Known:
    """What the sorted names of a training tell of any name."""

    learnt: tuple[str, ...]
    tuned: frozenset[str]
    gaps: tuple[int, ...]  # before, between and after those: how many were held back there

    @classmethod
    def read(cls, learnt: set[str], clips: int) -> _Known:
        """``clips`` is how many there were with those held back; 0 is not known."""
        names = sorted(learnt)
        clips = clips or next(n for n in count(1) if n - round(n * _SHARES[0][1]) >= len(names))
        # The order of the names alone decides, so the places say which they were.
        places = split_clips([f"{i:09}" for i in range(clips)])
        left = np.sort(np.concatenate([places["train"], places["tune"]]))
        if len(left) != len(names):  # two clips had one name
            return cls(tuple(names), frozenset(), (0,) * (len(names) + 1))
        tuned = {name for name, place in zip(names, left) if place in places["tune"]}
        gaps = np.diff(np.concatenate([[-1], left, [clips]])) - 1
        return cls(tuple(names), frozenset(tuned), tuple(gaps.tolist()))

    def split_of(self, name: str) -> str:
        """The one split that a clip of this name is of."""
        if name in self.tuned:
            return "tune"
        place = bisect(self.learnt, name)
        if place and self.learnt[place - 1] == name:
            return "train"
        if self.gaps[place]:  # it may be one that was held back: their names are not kept
            return "test"
        digest = hashlib.sha256(name.encode()).digest()
        return _OF_STRANGERS[digest[0] % len(_OF_STRANGERS)]


def _all_clips(about: Mapping[str, str]) -> set[str]:
    """The clips of a training and of those that it went on from."""
    before = json.loads(about.get("started_from", "{}"))
    return set(json.loads(about.get(CLIPS, "[]"))) | (_all_clips(before) if before else set())
