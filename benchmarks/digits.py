"""Accuracy of the reference network, float and both INT8 graphs, on data it never saw.

    python benchmarks/digits.py --data DIR [--bundle BUNDLE] [--samples 1000] [--json]

DIR holds mnist.npz, spoken_digits.npz and noise.npz (see mla_edge/networks/digits_files.py);
any folder with files of the same names and shapes will do. Pictures are the file's test
pictures but for every seventh, which tunes, on drawn cards; recordings are takes 0-4 of known
speakers; noise is every eighth clip. Speakers that training never heard are measured apart,
with all their takes. Without --bundle the network is exported for this computer first, into a
folder that is thrown away. ``--float-only`` needs no bundle: it measures both tiers and the
student in float.
``--only ROW`` measures only the row of that name, and may be given again.

``--leave-one-speaker-out`` instead trains the audio encoder with its throw-away head (the stage
``audio`` of the training) once for each speaker without that speaker, some minutes each on 2
cores, and measures it on all takes of that speaker.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.networks import Network, load_network
from mla_edge.networks.digits import RATE_HZ
from mla_edge.networks.digits_data import (
    SIZE,
    DigitsData,
    place,
)
from mla_edge.networks.digits_training import NONE, digits_course
from mla_edge.networks.plan import scaled
from mla_edge.networks.sound_wear import add_noise
from mla_edge.networks.training import Trainer, encode
from mla_edge.simulator.scene import compose, degrade

KNOWN_SPEAKERS = ("george", "jackson", "nicolas", "yweweler")
NOISES = (("clean", None), ("10 dB", 10.0), ("0 dB", 0.0), ("-10 dB", -10.0))
PICTURES = ("clear", "blurred", "half-occluded")
MODES = {"camera": (1, 0), "microphone": (0, 1), "both": (1, 1)}
CLEAR_LEVEL = 0.6  # of compose(): perspective, clutter, light, blur and noise of a usual room
BATCH = 64

Predict = Callable[["Cell"], np.ndarray]


@dataclass(frozen=True)
class Cell:
    """Samples of one condition."""

    image: np.ndarray  # uint8 [n, 128, 128, 3]
    audio: np.ndarray  # float32 [n, 8000]
    present: np.ndarray  # float32 [n, 2]
    labels: np.ndarray  # int64 [n]


class Maker:
    """Makes the cells; the same seed gives the same samples whatever is measured."""

    def __init__(self, data: DigitsData, recordings: dict[int, list[np.ndarray]]) -> None:
        """Recordings to speak with, by digit."""
        self._pictures, self._labels = data.pictures["test"]
        self._recordings = recordings
        self._noises = data.noises["test"]

    def cell(self, mode: str, noise: float | None, picture: str, count: int) -> Cell:
        """``count`` samples; classes in turn, pictures and recordings each used in turn."""
        level = 100 if noise is None else 50 + round(noise)
        rng = np.random.default_rng([count, len(mode), len(picture), level])
        by_digit = [rng.permutation(np.flatnonzero(self._labels == d)) for d in range(10)]
        image = np.zeros((count, SIZE, SIZE, 3), np.uint8)
        audio = np.zeros((count, RATE_HZ), np.float32)
        labels = np.arange(count) % 10
        for i, digit in enumerate(labels):
            turn = i // 10
            if MODES[mode][0]:
                chosen = self._pictures[by_digit[digit][turn % len(by_digit[digit])]]
                image[i] = self._picture(chosen.astype(np.float32) / 255, picture, rng)
            if MODES[mode][1]:
                clips = self._recordings[int(digit)]
                audio[i] = self._sound(place(clips[turn % len(clips)], rng), noise, rng)
        present = np.tile(np.array(MODES[mode], np.float32), (count, 1))
        return Cell(image, audio, present, labels)

    def nothing(self, mode: str, count: int) -> Cell:
        """``count`` samples in which no digit is shown and nothing is said."""
        rng = np.random.default_rng([count, len(mode)])
        image = np.zeros((count, SIZE, SIZE, 3), np.uint8)
        audio = np.zeros((count, RATE_HZ), np.float32)
        for i in range(count):
            if MODES[mode][0]:
                image[i] = compose(rng, None, SIZE, SIZE, level=CLEAR_LEVEL)
            if MODES[mode][1]:
                level = 10 ** (rng.uniform(-60, -15) / 20)
                noise = self._noise(rng)
                audio[i] = noise * (level / (np.sqrt(np.mean(np.square(noise))) + 1e-9))
        present = np.tile(np.array(MODES[mode], np.float32), (count, 1))
        return Cell(image, np.clip(audio, -1, 1), present, np.full(count, NONE))

    def _picture(self, ink: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
        drawn = compose(rng, ink, SIZE, SIZE, level=CLEAR_LEVEL)
        if kind == "blurred":
            return degrade(drawn, rng, blur_px=2.0)
        if kind == "half-occluded":
            return degrade(drawn, rng, occlude=0.5)
        return drawn

    def _sound(
        self, sound: np.ndarray, snr_db: float | None, rng: np.random.Generator
    ) -> np.ndarray:
        if snr_db is None:
            return sound
        noisy = add_noise(sound, self._noise(rng), snr_db)
        return np.asarray(noisy / max(1.0, float(np.abs(noisy).max())), np.float32)

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        """A second of a test clip that is not digital silence."""
        while True:
            clip = self._noises[rng.integers(len(self._noises))]
            start = rng.integers(max(1, len(clip) - RATE_HZ))
            part = clip[start : start + RATE_HZ]
            if len(part) == RATE_HZ and np.abs(part).max() > 1e-3:
                return part


def speakers_of(data_folder: Path) -> list[str]:
    """Who speaks in the folder's recordings."""
    with np.load(data_folder / "spoken_digits.npz", allow_pickle=False) as file:
        return sorted({str(speaker) for speaker in file["speakers"]})


def split_recordings(data_folder: Path, known: tuple[str, ...]) -> dict[str, DigitsData]:
    """The folder's recordings as unseen takes of known speakers, and speakers never heard."""
    speakers = speakers_of(data_folder)
    groups = {"known speakers": tuple(s for s in speakers if s in known)}
    groups["new speakers"] = tuple(s for s in speakers if s not in known)
    return {
        name: DigitsData.load(data_folder, speakers=chosen)
        for name, chosen in groups.items()
        if chosen
    }


def takes(data: DigitsData, *splits: str) -> dict[int, list[np.ndarray]]:
    """The recordings of some splits, by digit."""
    return {d: [clip for s in splits for clip in data.recordings[s][d]] for d in range(10)}


def float_tier(network: Network, tier: str, *, student: bool = False) -> Predict:
    """The float network, or a tier's student, in batches."""
    part = next(part for part in network.tiers if part.tier.name == tier)
    module = part.modules[-1] if student else part.module

    def predict(cell: Cell) -> np.ndarray:
        answers = []
        with torch.inference_mode():
            for i in range(0, len(cell.labels), BATCH):
                part = slice(i, i + BATCH)
                image = torch.from_numpy(cell.image[part]).permute(0, 3, 1, 2).float()
                audio, present = map(torch.from_numpy, (cell.audio[part], cell.present[part]))
                answers.append(module(image, audio, present).argmax(1).numpy())
        return np.concatenate(answers)

    return predict


@contextmanager
def graph(path: Path, *, optimise: bool = True) -> Iterator[Predict]:
    """An exported graph, one sample at a time as on a board.

    ONNX Runtime's optimiser is left out for graphs made for TensorRT, which it may break.
    """
    engine = OnnxRuntimeEngine(path, threads=1, optimise=optimise)

    def predict(cell: Cell) -> np.ndarray:
        answers = []
        for picture, sound, there in zip(cell.image, cell.audio, cell.present):
            image = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
            inputs = {"image": image, "audio": sound[None], "present": there[None]}
            answers.append(int(engine.run(inputs)["logits"].argmax()))
        return np.array(answers)

    try:
        yield predict
    finally:
        engine.close()


def conditions() -> Iterator[tuple[str, str, str, float | None, str]]:
    """Every row of the table: its name, mode, noise name, noise and picture."""
    for kind in PICTURES:
        yield f"camera, {kind}", "camera", "clean", None, kind
    for name, snr in NOISES:
        yield f"microphone, {name}", "microphone", name, snr, "clear"
    for name, snr in NOISES:
        for kind in PICTURES:
            yield f"both, {name}, {kind}", "both", name, snr, kind


def percent_right(predict: Predict, cell: Cell) -> float:
    """Accuracy in per cent."""
    return round(100 * float((predict(cell) == cell.labels).mean()), 2)


def leave_one_out(folder: Path, effort: float) -> dict[str, float]:
    """Accuracy on each speaker of the audio encoder and its probe, trained without them."""
    speakers, result = speakers_of(folder), {}
    if len(speakers) < 2:
        raise ConfigError(
            f"{folder / 'spoken_digits.npz'}: all recordings are of {speakers[0]}",
            hint="leaving one speaker out takes two",
        )
    for held in speakers:
        others = tuple(s for s in speakers if s != held)
        course = digits_course(DigitsData.load(folder, speakers=others))
        trainer = Trainer(replace(course, plan=scaled(course.plan, effort)), None)
        trainer.run(("audio",))
        data = DigitsData.load(folder, speakers=(held,))
        maker = Maker(data, takes(data, "train", "tune", "test"))
        cell = maker.cell("microphone", None, "clear", 500)

        def predict(cell: Cell, trainer: Trainer = trainer) -> np.ndarray:
            with torch.inference_mode():
                batch = {"audio": torch.from_numpy(cell.audio)}
                tokens = encode(trainer.full, batch, "audio").float()
                return np.asarray(trainer.probes["audio"](tokens).argmax(1))

        result[held] = percent_right(predict, cell)
        print(f"without {held}: {result[held]}", file=sys.stderr)
    return result


def rows(folder: Path, count: int) -> dict[str, Callable[[], Cell]]:
    """What makes the samples of each row of the table."""
    groups = split_recordings(folder, KNOWN_SPEAKERS)
    first = next(iter(groups.values()))
    known = groups.get("known speakers")
    clips = takes(known, "test") if known else takes(first, "train", "tune", "test")
    maker = Maker(first, clips)
    made: dict[str, Callable[[], Cell]] = {}
    for name, mode, _, snr, kind in conditions():
        made[name] = partial(maker.cell, mode, snr, kind, count)
    for mode in MODES:
        made[f"none, {mode}"] = partial(maker.nothing, mode, count // 2)
    if "new speakers" in groups:
        new = groups["new speakers"]
        stranger = Maker(new, takes(new, "train", "tune", "test"))
        made["microphone, new speakers"] = partial(
            stranger.cell, "microphone", None, "clear", count
        )
    return made


@contextmanager
def columns(network: Network, bundle: Bundle | None) -> Iterator[dict[str, Predict]]:
    """What is measured: both tiers in float and, with ``bundle``, its graphs."""
    full, lite = float_tier(network, "full"), float_tier(network, "lite")
    student = float_tier(network, "full", student=True)
    if bundle is None:
        yield {"float": full, "student float": student, "lite float": lite}
        return
    with graph(bundle.graph("full", cpu=False), optimise=False) as tensorrt, graph(
        bundle.graph("full", cpu=True)
    ) as cpu, graph(bundle.graph("lite", cpu=True)) as lite_cpu:
        yield {
            "float": full,
            "student float": student,
            "tensorrt int8": tensorrt,
            "cpu int8": cpu,
            "lite float": lite,
            "lite cpu int8": lite_cpu,
        }


def measure(
    made: dict[str, Callable[[], Cell]], measured: dict[str, Predict], only: list[str]
) -> dict[str, dict[str, float]]:
    """The table: row → column → per cent right; ``only`` some rows if any are named."""
    unknown = sorted(set(only) - set(made))
    if unknown:
        raise ConfigError(f"there is no row {unknown[0]!r}", hint=f"rows: {'; '.join(made)}")
    table = {}
    for name in only or made:
        cell = made[name]()
        table[name] = {title: percent_right(p, cell) for title, p in measured.items()}
        print(f"{name}: {table[name]}", file=sys.stderr)
    return table


def find_bundle(args: argparse.Namespace, scratch: str) -> Bundle | None:
    """The bundle to measure, exported first if none is named; None for the float network."""
    if args.float_only:
        return None
    if args.bundle:
        return Bundle.read(args.bundle)
    return export(ExportRequest("host", out=Path(scratch))).bundle


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--samples", type=int, default=1000, help="of each row; half for none")
    parser.add_argument("--only", metavar="ROW", action="append", default=[])
    parser.add_argument("--float-only", action="store_true", help="no INT8, so no bundle")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--leave-one-speaker-out", action="store_true")
    parser.add_argument("--effort", type=float, default=0.4, help="share of a full training")
    args = parser.parse_args()
    try:
        if args.leave_one_speaker_out:
            print(json.dumps({"left out": leave_one_out(args.data, args.effort)}, indent=1))
            return 0
        network = load_network("digits")
        with tempfile.TemporaryDirectory() as scratch:
            bundle = find_bundle(args, scratch)
            with columns(network, bundle) as measured:
                table = measure(rows(args.data, args.samples), measured, args.only)
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    if args.json:
        about = {"mla_edge": mla_edge.__version__, "network": network.fingerprint}
        print(json.dumps({**about, "samples": args.samples, "percent_right": table}, indent=1))
        return 0
    titles = list(next(iter(table.values())))
    print(f"| condition | {' | '.join(titles)} |\n|---{'|---' * len(titles)}|")
    for name, values in table.items():
        print(f"| {name} | {' | '.join(f'{values[t]:.1f}' for t in titles)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
