"""How far an exported graph is from the float network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import numpy as np

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.errors import ExportError
from mla_edge.signals import Tensors

if TYPE_CHECKING:
    from pathlib import Path

MIN_OPTIMISED_COSINE = 0.99
MOST_DB = 200.0  # where there is no error at all


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
    *,
    exact: bool = False,
) -> Agreement:
    """Compare ``graph``'s logits with the float network's on ``samples``, [1, classes] each.

    Everything is run as written and again optimised: ONNX Runtime's optimiser changes what some
    quantized graphs compute, and says nothing. With ``exact`` it may not use INT8 kernels.
    ExportError for logits that are not finite.
    """
    return measure_answers(reference, graph, samples, labels, exact=exact)[0]


def measure_answers(
    reference: Sequence[np.ndarray],
    graph: Path,
    samples: Sequence[Tensors],
    labels: Sequence[int],
    *,
    exact: bool = False,
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
    optimised = _logits(graph, samples, optimise=True, exact=exact)
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


@dataclass(frozen=True)
class OutputError:
    """How far logits are from those of the float network, on a few samples."""

    samples: int
    sqnr_db: float  # energy of the float logits over that of the error
    divergence: float  # Kullback-Leibler, of the classes' odds, mean, in nats
    changed: int  # samples with another answer


def output_error(wanted: np.ndarray, found: np.ndarray) -> OutputError:
    """The error of ``found`` against ``wanted``, both [samples, classes]."""
    signal, noise = np.square(wanted).sum(), np.square(found - wanted).sum()
    ratio = 10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30))
    real, other = _log_odds(wanted), _log_odds(found)
    return OutputError(
        samples=len(wanted),
        sqnr_db=round(float(min(ratio, MOST_DB)), 2),
        divergence=round(float((np.exp(real) * (real - other)).sum(1).mean()), 6),
        changed=int((wanted.argmax(1) != found.argmax(1)).sum()),
    )


def answers(graph: Path, samples: Sequence[Tensors], *, optimise: bool = False) -> np.ndarray:
    """The logits of ``graph`` as it is written, [samples, classes].

    With ``optimise`` as ONNX Runtime runs it, by this processor's INT8 kernels. ExportError for
    logits that are not finite.
    """
    return np.asarray(_logits(graph, samples, optimise=optimise))


def _log_odds(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def _logits(
    graph: Path, samples: Sequence[Tensors], *, optimise: bool, exact: bool = False
) -> Any:
    engine = OnnxRuntimeEngine(graph, optimise=optimise, exact=exact)
    rows = np.stack(list(_rows(engine, samples)))
    engine.close()
    if not np.isfinite(rows).all():
        first = int(np.argmin(np.isfinite(rows).all(1)))
        raise ExportError(
            f"agreement: {graph.name} gives logits that are NaN or infinite (sample {first})",
            hint="a layer overflows: mark its module keep_float32, or keep it in float",
        )
    return rows


def _rows(engine: OnnxRuntimeEngine, samples: Sequence[Tensors]) -> Iterator[np.ndarray]:
    names = [spec.name for spec in engine.inputs]
    for sample in samples:
        outputs = engine.run({name: sample[name] for name in names})
        yield outputs["logits"].astype(np.float64).ravel()


def _cosines(a: np.ndarray, b: np.ndarray) -> Any:
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.where(sizes > 0, (a * b).sum(1) / np.maximum(sizes, 1e-30), (a == b).all(1))
