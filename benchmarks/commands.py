"""Accuracy of ``commands`` on clips that its training never saw.

    python benchmarks/commands.py --data DIR [--bundle DIR] [--json]

DIR holds ``grid.json``, the clips' video and sound and ``noise.npz``, as
``mla_edge/networks/commands_files.py`` says. The clips that trained or tuned the shipped
weights are named in their header and left out; of other folders all clips are taken.

Words: the window around the middle of every word of the test clips, seen, heard or both, with
recorded noise at each level. Stream: a window each 40 ms over whole clips, no use of where the
words are; a word is found where at least three windows in a row say it while it is said, and
any other such run is a false alarm. Columns: the float network and the bundle's INT8 graphs
(exported for ``host`` first, where no bundle is named).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Callable

import numpy as np
import torch

import mla_edge
from mla_edge.bundle import Bundle
from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ConfigError, MlaEdgeError
from mla_edge.exporter.pipeline import ExportRequest, export
from mla_edge.networks import Network, load_network
from mla_edge.networks.checkpoint import read_about
from mla_edge.networks.commands import FPS, LABELS, WEIGHTS
from mla_edge.networks.commands_data import CommandsData, CommandsMaker, Moment
from mla_edge.networks.commands_files import SILENT, Word
from mla_edge.networks.sound_wear import add_noise
from mla_edge.signals import NOTHING

NOISES = (None, 20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
MODES = {"camera": (1, 0), "microphone": (0, 1), "both": (1, 1)}
RUN = 3  # windows in a row, 120 ms, that make a word of the stream
STRAY_S = 0.12  # a window before or after a word that may still say it
STREAMED = ("camera", "both, clean", "both, 0 dB")
BATCH = 64

Predict = Callable[["Cell"], np.ndarray]


@dataclass(frozen=True)
class Cell:
    """Windows of one condition."""

    mouth: np.ndarray  # uint8 [n, 16, 60, 72]
    audio: np.ndarray  # float32 [n, 10240]
    present: np.ndarray  # float32 [n, 2]


def unseen_clips(data: CommandsData) -> np.ndarray:
    """The clips that the shipped weights never met."""
    seen = set(json.loads(read_about(WEIGHTS)["clips"]))
    unseen = [i for i, name in enumerate(data.clips.names) if name not in seen]
    if not unseen:
        raise ConfigError("the weights were trained on all these clips", hint="give others")
    return np.array(unseen)


def make_cell(
    maker: CommandsMaker, moments: list[Moment], mode: str, snr_db: float | None
) -> Cell:
    """The windows of ``moments``; the same noise whatever the mode."""
    rng = np.random.default_rng([len(moments), 100 if snr_db is None else 50 + round(snr_db)])
    mouths = np.stack([maker.mouth(moment) for moment in moments])
    sounds = np.stack([_sound(maker, moment, snr_db, rng) for moment in moments])
    there = np.array(MODES[mode], np.float32)
    return Cell(
        mouths * np.uint8(there[0]), sounds * there[1], np.tile(there, (len(moments), 1))
    )


def _sound(
    maker: CommandsMaker, moment: Moment, snr_db: float | None, rng: np.random.Generator
) -> np.ndarray:
    sound = maker.sound(moment)
    if snr_db is None:
        return sound
    noisy = add_noise(sound, maker.noise(rng), snr_db)
    return np.asarray(noisy / max(1.0, float(np.abs(noisy).max())), np.float32)


def float_tier(network: Network, tier: str, *, student: bool = False) -> Predict:
    """The float network, or a tier's student, in batches."""
    part = next(part for part in network.tiers if part.tier.name == tier)
    module = part.modules[-1] if student else part.module

    def predict(cell: Cell) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for i in range(0, len(cell.mouth), BATCH):
                part = slice(i, i + BATCH)
                mouth = torch.from_numpy(cell.mouth[part]).float()
                rest = map(torch.from_numpy, (cell.audio[part], cell.present[part]))
                found.append(module(mouth, *rest).argmax(1).numpy())
        return np.concatenate(found)

    return predict


def graph(engine: OnnxRuntimeEngine) -> Predict:
    """An exported graph, one window at a time as on a board."""

    def predict(cell: Cell) -> np.ndarray:
        found = []
        for mouth, audio, present in zip(cell.mouth, cell.audio, cell.present):
            inputs = {
                "mouth": mouth[None].astype(np.float32),
                "audio": audio[None],
                "present": present[None],
            }
            found.append(int(engine.run(inputs)["logits"].argmax()))
        return np.array(found)

    return predict


def stream_figures(
    maker: CommandsMaker, clips: np.ndarray, mode: str, snr_db: float | None, predict: Predict
) -> dict[str, float]:
    """Recall of words and false alarms a minute of a window that moves over whole clips."""
    found = words = alarms = 0
    minutes = 0.0
    for clip in clips:
        said = [word for word in maker.clips.words[clip] if word.word not in SILENT]
        frames = maker.clips.frames.shape[1]
        times = (np.arange(frames) + 0.5) / FPS
        moments = [Moment(int(clip), float(time), NOTHING) for time in times]
        answers = [LABELS[i] for i in predict(make_cell(maker, moments, mode, snr_db))]
        heard = _words_of(answers, times)
        used = [any(_is_same(run, word) for run in heard) for word in said]
        words += len(said)
        found += sum(used)
        alarms += sum(not any(_is_same(run, word) for word in said) for run in heard)
        minutes += frames / FPS / 60
    return {
        "recall %": round(100 * found / words, 1),
        "false alarms/min": round(alarms / minutes, 1),
    }


def _words_of(answers: list[str], times: np.ndarray) -> list[Word]:
    """Each run of equal answers that is long enough, but for silence."""
    runs, first = [], 0
    for label, group in groupby(answers):
        count = len(list(group))
        if count >= RUN and label != NOTHING:
            runs.append(Word(label, float(times[first]), float(times[first + count - 1])))
        first += count
    return runs


def _is_same(run: Word, word: Word) -> bool:
    overlaps = run.start_s < word.end_s + STRAY_S and run.end_s > word.start_s - STRAY_S
    return run.word == word.word and overlaps


def conditions() -> list[tuple[str, str, float | None]]:
    """Every row: its name, mode and noise."""
    rows: list[tuple[str, str, float | None]] = [("camera", "camera", None)]
    for mode in ("microphone", "both"):
        for snr in NOISES:
            rows.append((f"{mode}, {'clean' if snr is None else f'{snr:.0f} dB'}", mode, snr))
    return rows


def measure(
    data: CommandsData, measured: dict[str, Predict], clip_limit: int | None
) -> dict[str, dict[str, dict[str, object]]]:
    """The tables of words and of streams: row → column → figure."""
    clips = unseen_clips(data)[:clip_limit]
    maker = CommandsMaker(data, "test", clips)
    moments = [
        Moment(clip, (word.start_s + word.end_s) / 2, word.word) for clip, word in maker.words
    ]
    labels = np.array([LABELS.index(moment.word) for moment in moments])
    words: dict[str, dict[str, object]] = {}
    streams: dict[str, dict[str, object]] = {}
    for name, mode, snr_db in conditions():
        cell = make_cell(maker, moments, mode, snr_db)
        words[name] = {
            title: round(100 * float((predict(cell) == labels).mean()), 2)
            for title, predict in measured.items()
        }
        print(f"{name}: {words[name]}", file=sys.stderr)
    for name, mode, snr_db in conditions():
        if name in STREAMED:
            streams[name] = {
                title: stream_figures(maker, clips, mode, snr_db, predict)
                for title, predict in measured.items()
                if title in ("float", "tensorrt int8", "cpu int8")
            }
            print(f"stream, {name}: {streams[name]}", file=sys.stderr)
    return {"percent_right": words, "stream": streams}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--clips", type=int, help="the first so many only")
    parser.add_argument("--float-only", action="store_true", help="no INT8, so no bundle")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        data = CommandsData.load(args.data)
        network = load_network("commands")
        measured = {
            "float": float_tier(network, "full"),
            "student float": float_tier(network, "full", student=True),
        }
        with ExitStack() as stack:
            if not args.float_only:
                bundle = _find_bundle(args, stack)
                for title, tier, cpu in (
                    ("tensorrt int8", "full", False), ("cpu int8", "full", True),
                    ("lite cpu int8", "lite", True),
                ):  # fmt: skip
                    # ONNX Runtime's optimiser may break graphs made for TensorRT.
                    path = bundle.graph(tier, cpu=cpu)
                    engine = OnnxRuntimeEngine(path, threads=1, optimise=cpu)
                    stack.callback(engine.close)
                    measured[title] = graph(engine)
            measured["lite float"] = float_tier(network, "lite")
            tables = measure(data, measured, args.clips)
    except MlaEdgeError as error:
        print(f"{error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    if args.json:
        about = {"mla_edge": mla_edge.__version__, "network": network.fingerprint}
        print(json.dumps({**about, **tables}, indent=1))
        return 0
    for rows in tables.values():
        titles = list(next(iter(rows.values())))
        print(f"| condition | {' | '.join(titles)} |\n|---{'|---' * len(titles)}|")
        for name, values in rows.items():
            print(f"| {name} | {' | '.join(_shown(values.get(t)) for t in titles)} |")
    return 0


def _find_bundle(args: argparse.Namespace, stack: ExitStack) -> Bundle:
    """The bundle to measure, exported first if none is named."""
    if args.bundle:
        return Bundle.read(args.bundle)
    scratch = stack.enter_context(tempfile.TemporaryDirectory())
    request = ExportRequest("host", network="commands", out=Path(scratch), data=args.data)
    return export(request).bundle


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items())
    return f"{value}"


if __name__ == "__main__":
    sys.exit(main())
