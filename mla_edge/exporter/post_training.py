"""Post-training quantization: a calibrator for each tensor, biases corrected, what pays kept.

Each tensor takes the calibrator with which the layers that read it come closest to what they
give in float. That is a guess about the network, so it is held against one calibrator for all
on tune samples, at the network's output; so are the corrected biases. What is not better there
is rolled back, in either form by itself.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Mapping, Sequence

from mla_edge.exporter.agreement import OutputError, answers, output_error
from mla_edge.exporter.bias_correction import can_correct
from mla_edge.exporter.calibrators import CALIBRATORS, Range, collect_histograms
from mla_edge.exporter.layer_runs import LayerErrors, measure_layers
from mla_edge.exporter.layers import Layer, find_layers, structure_of
from mla_edge.exporter.onnx_graph import load_model, read_graph
from mla_edge.exporter.quantization import STYLES, quantize, run_with
from mla_edge.exporter.ranges import BY_TENSOR, Ranges, check_samples, encode_correction

if TYPE_CHECKING:
    from mla_edge.signals import Tensors

LAYER_SAMPLES = 24  # of the calibration samples, through every layer with every calibrator
TUNE_SAMPLES = 48  # that decide what is kept
CORRECTED = "bias correction"
_FOR_ALL = ("max", "mse")  # calibrators for every tensor alike, which the choice must beat

Choice = Mapping[str, str]  # the calibrator of each tensor


def calibrate_by_tensor(
    graph: Path, samples: Sequence[Tensors], tune: Sequence[Tensors]
) -> Ranges:
    """Ranges and corrected biases for the float ``graph``: what was best on ``tune``.

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
    plain = Ranges(structure_of(layers), BY_TENSOR, len(samples), {})
    trial = _Trial(graph, tune[:TUNE_SAMPLES])
    places: dict[str, Range] = {}
    corrections, tried = {}, {}
    for style in STYLES:
        found, attempts = _best(trial, layers, candidates, errors, plain, style)
        corrections[style], tried[style] = found.corrections.get(style, {}), attempts
        places = {place: _joined(places.get(place), r) for place, r in found.places.items()}
    kept = {style: changes for style, changes in corrections.items() if changes}
    return dataclasses.replace(plain, places=places, corrections=kept, tried=tried)


def _best(  # noqa: PLR0913 - what was measured, and where it is tried
    trial: _Trial,
    layers: Sequence[Layer],
    candidates: Mapping[str, Mapping[str, Range]],
    errors: LayerErrors,
    plain: Ranges,
    style: str,
) -> tuple[Ranges, list[dict[str, Any]]]:
    """What to take for one style, and all that was tried, the attempt that was kept marked."""
    choices: dict[str, Choice] = {
        BY_TENSOR: {
            tensor: min(CALIBRATORS, key=lambda name: errors.noise[style, name, tensor])
            for tensor in candidates
        }
    }
    choices.update((name, dict.fromkeys(candidates, name)) for name in _FOR_ALL)
    made = {
        name: dataclasses.replace(plain, places=_places(layers, candidates, choice))
        for name, choice in choices.items()
    }
    found = {name: trial.error(style, ranges) for name, ranges in made.items()}
    kept = max(found, key=lambda name: found[name].sqnr_db)
    changes = _corrections(trial.graph, layers, errors, choices[kept], style)
    if changes:
        corrected = dataclasses.replace(made[kept], corrections={style: changes})
        found[CORRECTED] = trial.error(style, corrected)
        if found[CORRECTED].is_better_than(found[kept]):
            made[CORRECTED], kept = corrected, CORRECTED
    attempts = [
        {"attempt": name, "kept": name == kept, **dataclasses.asdict(error)}
        for name, error in found.items()
    ]
    return made[kept], attempts


class _Trial:
    """Quantizes a float graph, and says how far its logits are from the float ones."""

    def __init__(self, graph: Path, samples: Sequence[Tensors]) -> None:
        self.graph, self._samples = graph, samples
        self._wanted = answers(graph, samples)

    def error(self, style: str, ranges: Ranges) -> OutputError:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trial.onnx"
            quantize(self.graph, path, ranges, style=style, int8_weights=True)
            return output_error(self._wanted, answers(path, self._samples))


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


def _corrections(
    graph: Path, layers: Sequence[Layer], errors: LayerErrors, choice: Choice, style: str
) -> dict[str, str]:
    """By layer what its bias lacks; none for layers that have no place for it."""
    constants = {tensor.name for tensor in load_model(graph).graph.initializer}
    return {
        layer.node.name: encode_correction(
            -errors.shift[style, choice[layer.source], layer.node.name]
        )
        for layer in layers
        if can_correct(layer, constants)
    }
