"""Post-training quantization: calibrators by tensor, biases, weights rounded; what pays kept.

Each tensor takes the calibrator with which the layers that read it come closest to what they
give in float. That is a guess about the network, so it is held against one calibrator for all
on tune samples, at the network's output; so are the corrected biases, and the weights that were
rounded together. What is not better there, by more than chance would give, is rolled back, in
either form by itself.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

from mla_edge.exporter.agreement import answers, output_error
from mla_edge.exporter.bias_correction import can_correct
from mla_edge.exporter.calibrators import CALIBRATORS, Range, collect_histograms
from mla_edge.exporter.layer_runs import LayerErrors, measure_layers
from mla_edge.exporter.layers import Layer, find_layers, structure_of
from mla_edge.exporter.onnx_graph import load_model, read_graph
from mla_edge.exporter.quantization import STYLES, quantize, run_with
from mla_edge.exporter.ranges import (
    BY_TENSOR,
    Ranges,
    check_samples,
    encode_correction,
    encode_rounding,
)
from mla_edge.exporter.weight_rounding import Rounding, round_together

if TYPE_CHECKING:
    from mla_edge.signals import Tensors

LAYER_SAMPLES = 48  # of the calibration samples, through every layer with every calibrator
TUNE_SAMPLES = 96  # that decide what is kept
CORRECTED = "bias correction"
ROUNDED = "bias correction, weights rounded together"
_FOR_ALL = ("mse", "max")  # calibrators for every tensor alike, which the choice must beat
_SURE = 2.0  # standard errors: what is less sure to be better is not taken

Choice = Mapping[str, str]  # the calibrator of each tensor


def calibrate_by_tensor(
    graph: Path,
    samples: Sequence[Tensors],
    tune: Sequence[Tensors],
    *,
    ranges_only: bool = False,
) -> Ranges:
    """Ranges, biases and rounded weights for the float ``graph``: what was best on ``tune``.

    ``ranges_only`` leaves biases and weights as they are.

    ``samples`` set the ranges, as those of `quantization.calibrate` do. ``tried`` of the
    result tells of every attempt how far its logits were off.
    """
    check_samples(samples, read_graph(graph).inputs)
    model = load_model(graph)
    layers = find_layers(model)
    tensors = sorted({tensor for layer in layers for tensor in layer.places.values()})
    seen = collect_histograms(run_with(model, tensors, samples), tensors, graph.name)
    candidates = {
        tensor: {calibrator: histogram.range(calibrator) for calibrator in CALIBRATORS}
        for tensor, histogram in seen.items()
    }
    errors = measure_layers(model, layers, candidates, samples[:LAYER_SAMPLES])
    whole: Mapping[str, Rounding] | None = None
    if not ranges_only:
        constants = {tensor.name for tensor in model.graph.initializer}
        runs = run_with(model, sorted({layer.source for layer in layers}), samples)
        whole = round_together(layers, runs, constants)
    plain = Ranges(structure_of(layers), BY_TENSOR, len(samples), {})
    trial = Trial(graph, tune[:TUNE_SAMPLES])
    places: dict[str, Range] = {}
    corrections: dict[str, Mapping[str, str]] = {}
    roundings: dict[str, Mapping[str, str]] = {}
    tried = {}
    for style in STYLES:
        found, tried[style] = _best(trial, layers, candidates, errors, whole, plain, style)
        corrections.update(found.corrections)
        roundings.update(found.roundings)
        places = {place: _joined(places.get(place), r) for place, r in found.places.items()}
    return dataclasses.replace(
        plain, places=places, corrections=corrections, roundings=roundings, tried=tried
    )


def _best(  # noqa: PLR0913 - what was measured, and where it is tried
    trial: Trial,
    layers: Sequence[Layer],
    candidates: Mapping[str, Mapping[str, Range]],
    errors: LayerErrors,
    whole: Mapping[str, Rounding] | None,
    plain: Ranges,
    style: str,
) -> tuple[Ranges, list[dict[str, Any]]]:
    """What to take for one style, and all that was tried, the attempt that was kept marked.

    Without ``whole``, the rounded weights, neither they nor biases are tried.
    """
    choices: dict[str, Choice] = {name: dict.fromkeys(candidates, name) for name in _FOR_ALL}
    choices[BY_TENSOR] = {
        tensor: min(CALIBRATORS, key=lambda name: errors.noise[style, name, tensor])
        for tensor in candidates
    }
    made = {
        name: dataclasses.replace(plain, places=_places(layers, candidates, choice))
        for name, choice in choices.items()
    }
    found = {name: trial.answers(style, ranges) for name, ranges in made.items()}
    kept = _FOR_ALL[0]
    for name in found:
        if trial.gains(found[name], found[kept]):
            kept = name
    choice, chosen = choices[kept], made[kept]
    further: list[tuple[str, Mapping[str, Rounding], Mapping[str, Mapping[str, str]]]] = []
    if whole is not None:
        rows = {style: {name: encode_rounding(r.whole) for name, r in whole.items()}}
        further = [(CORRECTED, {}, {}), (ROUNDED, whole, rows)]
    for name, rounded, steps in further:
        changes = _corrections(trial.graph, layers, errors, choice, style, rounded)
        made[name] = dataclasses.replace(
            chosen, corrections={style: changes} if changes else {}, roundings=steps
        )
        if changes or rounded:
            found[name] = trial.answers(style, made[name])
            if trial.gains(found[name], found[kept]):
                kept = name
    attempts = [
        {
            "attempt": name,
            "kept": name == kept,
            **dataclasses.asdict(output_error(trial.wanted, logits)),
        }
        for name, logits in found.items()
    ]
    return made[kept], attempts


class Trial:
    """Quantizes a float graph, and says what its logits are worth."""

    def __init__(
        self, graph: Path, samples: Sequence[Tensors], *, optimise: bool = False
    ) -> None:
        """``optimise`` runs the INT8 forms by this processor's kernels, not as written."""
        self.graph, self._samples, self._optimise = graph, samples, optimise
        self.wanted = answers(graph, samples)  # [samples, classes]

    def answers(self, style: str, ranges: Ranges) -> np.ndarray:
        """The logits of the graph in INT8, [samples, classes]."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            quantize(self.graph, path, ranges, style=style, int8_weights=True)
            return answers(path, self._samples, optimise=self._optimise)

    def gains(self, logits: np.ndarray, others: np.ndarray) -> bool:
        """Whether ``logits`` are nearer to the float ones than ``others``, and not by chance.

        Sample by sample, by the logarithm of the error's energy: a few samples with large
        errors must not decide. Nor may more answers change, or the error be larger in all.
        """
        mine, theirs = (np.square(a - self.wanted).sum(1) + 1e-12 for a in (logits, others))
        gained = np.log(theirs / mine)
        chance = gained.std(ddof=1) / np.sqrt(len(gained)) if len(gained) > 1 else np.inf
        error, other = (output_error(self.wanted, a) for a in (logits, others))
        surely = bool(gained.mean() > _SURE * chance)
        return surely and error.changed <= other.changed and error.sqnr_db > other.sqnr_db


def _places(
    layers: Sequence[Layer], candidates: Mapping[str, Mapping[str, Range]], choice: Choice
) -> dict[str, Range]:
    """Every place's range by the calibrator that was chosen for its tensor."""
    return {
        place: dataclasses.replace(
            candidates[tensor][choice[tensor]],
            ends_by=choice[tensor],
            amplitude_by=choice[tensor],
        )
        for layer in layers
        for place, tensor in layer.places.items()
    }


def _joined(tensorrt: Range | None, cpu: Range) -> Range:
    """The size that a symmetric scale takes, and the ends that a zero point takes.

    The first style gives both until the second one gives its own ends.
    """
    if tensorrt is None:
        return cpu
    return dataclasses.replace(tensorrt, low=cpu.low, high=cpu.high, ends_by=cpu.ends_by)


def _corrections(  # noqa: PLR0913 - the layers, and all that moves their means
    graph: Path,
    layers: Sequence[Layer],
    errors: LayerErrors,
    choice: Choice,
    style: str,
    whole: Mapping[str, Rounding],
) -> dict[str, str]:
    """By layer what its bias lacks; none for layers that have no place for it.

    What weights that are rounded together move besides is to first order that of the means.
    """
    constants = {tensor.name for tensor in load_model(graph).graph.initializer}
    found = {}
    for layer in layers:
        name = layer.node.name
        if can_correct(layer, constants):
            more = whole[name].shift if name in whole else 0.0
            moved = errors.shift[style, choice[layer.source], name] + more
            found[name] = encode_correction(-moved)
    return found
