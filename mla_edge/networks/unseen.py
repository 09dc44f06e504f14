"""Moments to certify a built-in network on, of what no step of its making has seen.

They are of the folder that it can be trained on. A handwritten picture, a take of a speaker or
a clip is used once, so each moment is a unit of its own. Light, clutter and noise are drawn by
a fixed seed: another draw of the same pictures would be no other data.

What they cannot show is what the folder has few of: the speakers and the noises are not new.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Callable, List, Mapping, Sequence, Tuple

import numpy as np

from mla_edge.bundle import Bundle
from mla_edge.errors import BundleError, ConfigError
from mla_edge.recordings import Recording
from mla_edge.signals import NOTHING, Clip, Frame, Sample, Signal, Sound

_SEED = 0
_REPORT = "report.json"
_OTHERWISE = "give a folder with labels.csv (docs/how-to/adapt.md), or --recording FILE.npz"
_LOUDEST_NOISE_DB, _QUIETEST_NOISE_DB = -10, 30


def unseen_moments(folder: Path, bundle: Bundle) -> Recording:
    """Moments of ``folder`` that neither training nor the export of ``bundle`` has seen.

    ConfigError: the bundle is of no network that comes with one, or the folder is not its.
    """
    maker = _MAKERS.get(bundle.network)
    if maker is None:
        raise ConfigError(
            f"{folder}: has no labels.csv, and {bundle.network!r} is no network whose own data "
            "are known",
            hint=_OTHERWISE,
        )
    # An export with --data tunes and shrinks on that split; one without never saw it.
    splits = ("test",) if _was_exported_on_data(bundle) else ("tune", "test")
    samples, origins, hashes = maker(folder, splits)
    labels = [str(sample.truth) for sample in samples]
    unknown = sorted(set(labels) - set(bundle.labels))
    if unknown:
        raise ConfigError(
            f"{folder}: {unknown[0]!r} is no class of {bundle.name}",
            hint=_OTHERWISE,
        )
    told = json.dumps([splits, sorted(hashes.items())])
    sha256 = hashlib.sha256(told.encode()).hexdigest()
    units = np.arange(len(samples))
    return Recording(tuple(samples), tuple(labels), units, True, sha256, tuple(origins))


def _was_exported_on_data(bundle: Bundle) -> bool:
    if _REPORT not in bundle.files:
        return True
    try:
        report = json.loads((bundle.folder / _REPORT).read_text(encoding="utf-8"))
        return bool(report["calibration"]["data"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BundleError(
            f"{bundle.folder / _REPORT}: is not a report of this version: {error!r}",
            hint="export the bundle again",
        ) from error


_Made = Tuple[List[Sample], List[str], Mapping[str, str]]
"""Samples, the sha256 of what each was drawn of, and those of the files."""


def _digits(folder: Path, splits: Sequence[str]) -> _Made:
    """A moment for each picture and each take; a take meets a picture of its digit."""
    from mla_edge.networks.digits_data import SIZE, DigitsData, DigitsMaker, place, wear
    from mla_edge.networks.digits_files import RATE_HZ
    from mla_edge.networks.sound_wear import add_noise
    from mla_edge.simulator.scene import compose

    data = DigitsData.load(folder)
    rng = np.random.default_rng(_SEED)
    samples, origins = [], []
    for split in splits:
        maker = DigitsMaker(data, split)
        pictures, labels = data.pictures[split]
        for digit in range(10):
            inks, takes = pictures[labels == digit], data.recordings[split][digit]
            for number in range(max(len(inks), len(takes))):
                signals: dict[str, Signal] = {}
                made_of = [each[number] for each in (inks, takes) if number < len(each)]
                if number < len(inks):
                    ink = inks[number].astype(np.float32) / 255
                    level = float(rng.uniform(0.1, 1))
                    card = wear(compose(rng, ink, SIZE, SIZE, level=level), rng)
                    signals["image"] = Frame(card, 0.0, str(digit))
                if number < len(takes):
                    ratio_db = float(rng.uniform(_LOUDEST_NOISE_DB, _QUIETEST_NOISE_DB))
                    sound = add_noise(place(takes[number], rng), maker.noise(rng), ratio_db)
                    sound = sound / max(1.0, float(np.abs(sound).max()))
                    signals["audio"] = Sound(sound.astype(np.float32), RATE_HZ, 0.0, str(digit))
                samples.append(Sample(signals))
                origins.append(_hash(*made_of))
    return samples, origins, data.hashes


def _commands(folder: Path, splits: Sequence[str]) -> _Made:
    """A moment in a word, or a silence, of each clip."""
    from mla_edge.networks.commands import FPS, RATE_HZ
    from mla_edge.networks.commands_data import CommandsData, CommandsMaker, Moment
    from mla_edge.networks.commands_files import SILENT

    data = CommandsData.load(folder)
    rng = np.random.default_rng(_SEED)
    samples, origins = [], []
    for split in splits:
        maker = CommandsMaker(data, split)
        for clip in data.splits[split]:
            words = data.clips.words[clip]
            if not words:
                continue
            word = words[rng.integers(len(words))]
            truth = NOTHING if word.word in SILENT else word.word
            moment = Moment(int(clip), (word.start_s + word.end_s) / 2, truth)
            mouth = Clip(maker.worn_mouth(rng, moment, 1.0), FPS, 0.0, truth)
            sound = Sound(maker.worn_sound(rng, moment, 1.0), RATE_HZ, 0.0, truth)
            samples.append(Sample({"mouth": mouth, "audio": sound}))
            origins.append(_hash(data.clips.frames[clip], data.clips.sounds[clip]))
    return samples, origins, data.hashes


def _hash(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


_Maker = Callable[[Path, Sequence[str]], _Made]
_MAKERS: Mapping[str, _Maker] = {"digits": _digits, "commands": _commands}
