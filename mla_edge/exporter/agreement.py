"""How far an exported graph is from the float network, and which of its layers are to blame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import numpy as np

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ExportError
from mla_edge.exporter.layers import find_layers
from mla_edge.exporter.onnx_graph import load_model
from mla_edge.exporter.quantization import run_with
from mla_edge.signals import Tensors

if TYPE_CHECKING:
    from pathlib import Path

MIN_OPTIMISED_COSINE = 0.99


@dataclass(frozen=True)
class Agreement:
    """A graph against the float network on the same samples; rates are between 0 and 1."""

    samples: int
    top1_agreement: float
    cosine: float  # of the logits, mean
    min_cosine: float
    max_error: float  # of a logit
    accuracy: float  # the worse one, of the optimiser off and on
    float_accuracy: float
    drop_points: float  # percentage points lost; negative where it won
    optimised_cosine: float  # of the graph as optimised against the graph as written, mean
    optimised_accuracy: float
    optimiser_breaks: bool  # ONNX Runtime makes something else of the graph


def measure(
    reference: Sequence[np.ndarray],
    graph: Path,
    samples: Sequence[Tensors],
    labels: Sequence[int],
) -> Agreement:
    """Compare ``graph``'s logits with the float network's on ``samples``, [1, classes] each.

    Everything is run as written and again optimised: ONNX Runtime's optimiser changes what some
    quantized graphs compute, and says nothing. ExportError for logits that are not finite.
    """
    return measure_answers(reference, graph, samples, labels)[0]


def measure_answers(
    reference: Sequence[np.ndarray],
    graph: Path,
    samples: Sequence[Tensors],
    labels: Sequence[int],
) -> tuple[Agreement, np.ndarray]:
    """As ``measure``, and the logits of the optimised graph, [samples, classes]."""
    if not len(reference) == len(samples) == len(labels) > 0:
        raise ExportError(
            f"agreement: {len(reference)} references, {len(samples)} samples and "
            f"{len(labels)} labels",
            hint="give one of each for every sample, and at least one sample",
        )
    wanted = np.stack([np.asarray(logits, np.float64).ravel() for logits in reference])
    truth = np.asarray(labels)
    plain = _logits(graph, samples, optimise=False)
    optimised = _logits(graph, samples, optimise=True)
    cosines, between = _cosines(wanted, plain), _cosines(plain, optimised)
    float_accuracy = float((wanted.argmax(1) == truth).mean())
    accuracies = [float((logits.argmax(1) == truth).mean()) for logits in (plain, optimised)]
    found = Agreement(
        samples=len(samples),
        top1_agreement=float((plain.argmax(1) == wanted.argmax(1)).mean()),
        cosine=float(cosines.mean()),
        min_cosine=float(cosines.min()),
        max_error=float(np.abs(plain - wanted).max()),
        accuracy=min(accuracies),
        float_accuracy=float_accuracy,
        drop_points=round(100 * (float_accuracy - min(accuracies)), 6),
        optimised_cosine=float(between.mean()),
        optimised_accuracy=accuracies[1],
        optimiser_breaks=bool(between.mean() < MIN_OPTIMISED_COSINE),
    )
    return found, optimised


def sensitivity(
    float_graph: Path, quantized: Path, samples: Sequence[Tensors]
) -> list[tuple[str, float]]:
    """The quantized layers and the error each one adds, worst first.

    The error is the share of noise in a layer's output (its energy over the signal's) minus the
    share that came in with its input, from one run of both graphs on ``samples``.
    """
    plain, other = load_model(float_graph), load_model(quantized)
    there = {name for node in other.graph.node for name in (*node.input, *node.output)}
    weights = {tensor.name for tensor in other.graph.initializer}
    nodes = {node.name: node for node in other.graph.node}
    layers = [
        layer
        for layer in find_layers(plain)
        if layer.node.name in nodes and nodes[layer.node.name].input[1] not in weights
    ]
    inputs = {value.name for value in plain.graph.input}
    tensors = sorted({t for layer in layers for t in (layer.source, layer.out)} - inputs)
    # In the CPU form a linear layer's tensor may be there on two axes only.
    twins = {name: name if name in there else f"{name}/flat" for name in tensors}
    signal, noise = dict.fromkeys(tensors, 1e-12), dict.fromkeys(tensors, 0.0)
    runs = zip(
        run_with(plain, tensors, samples),
        run_with(other, sorted(twins.values()), samples, optimise=False),
    )
    for right, found in runs:
        for name in tensors:
            difference = found[twins[name]].ravel() - right[name].ravel()
            signal[name] += float(np.square(right[name], dtype=np.float64).sum())
            noise[name] += float(np.square(difference, dtype=np.float64).sum())

    def share(name: str) -> float:
        return noise[name] / signal[name] if name in signal else 0.0

    errors = [(la.node.name, max(0.0, share(la.out) - share(la.source))) for la in layers]
    return sorted(errors, key=lambda pair: (-pair[1], pair[0]))


def _logits(graph: Path, samples: Sequence[Tensors], *, optimise: bool) -> Any:
    rows = np.stack(list(_rows(graph, samples, optimise)))
    if not np.isfinite(rows).all():
        first = int(np.argmin(np.isfinite(rows).all(1)))
        raise ExportError(
            f"agreement: {graph.name} gives logits that are NaN or infinite (sample {first})",
            hint="a layer overflows: mark its module keep_float32, or keep it in float",
        )
    return rows


def _rows(graph: Path, samples: Sequence[Tensors], optimise: bool) -> Iterator[np.ndarray]:
    engine = OnnxRuntimeEngine(graph, optimise=optimise)
    names = [spec.name for spec in engine.inputs]
    for sample in samples:
        outputs = engine.run({name: sample[name] for name in names})
        yield outputs["logits"].astype(np.float64).ravel()
    engine.close()


def _cosines(a: np.ndarray, b: np.ndarray) -> Any:
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.where(sizes > 0, (a * b).sum(1) / np.maximum(sizes, 1e-30), (a == b).all(1))
