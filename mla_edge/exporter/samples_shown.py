"""Some of the samples held back, with what the network said to them before and after."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from mla_edge.exporter.calibration import modes
from mla_edge.exporter.drawings import draw
from mla_edge.exporter.held_back import answers
from mla_edge.pictures import pack

if TYPE_CHECKING:
    from mla_edge.exporter.job import HeldBack, Job
    from mla_edge.exporter.tiers import TierResult

_SHOWN, _DIFFERENT, _MOVED = 8, 4, 2
DIFFERS, MOVED, USUAL = "answers differ", "confidence moved most", "like most"


def show_samples(job: Job, result: TierResult, held: HeldBack) -> dict[str, Any]:
    """Samples of the last tier, ``result``, by what compression did to them.

    First those with another answer, most sure of it first, then those whose confidence moved
    most, then ones that it moved as usual. The graph is the one that the bundle is for:
    TensorRT's where the profile has TensorRT, otherwise the processor's.
    """
    form, graph = "cpu", result.cpu_graph
    if job.profile.tensorrt is not None:
        form, graph = "tensorrt", result.tensorrt_graph
    part = next(part for part in job.network.tiers if part.tier.name == result.name)
    with job.steps.step("samples", result.name):
        before = probabilities(held.logits[result.name])
        after = probabilities(answers(job, part, graph, held, form))
        whole = np.array(held.modes) == "+".join(modes(job.network.inputs)[0])
        chosen = choose(before, after, held.labels, whole)
        rows = [
            {
                "mode": held.modes[i],
                "truth": job.network.labels[held.labels[i]],
                "why": why,
                "before": _answer(job, before[i], held.labels[i]),
                "after": _answer(job, after[i], held.labels[i]),
                "pictures": _pictures(job, held, i),
            }
            for i, why in chosen
        ]
    differ = int((before.argmax(1) != after.argmax(1)).sum())
    precision = result.cpu_precision if form == "cpu" else job.precision
    return {
        "tier": result.name,
        "form": form,
        "precision": precision,
        "differ": differ,
        "samples": len(held.labels),
        "shown": rows,
    }


def choose(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, preferred: np.ndarray
) -> list[tuple[int, str]]:
    """Which samples to show, and why; both are probabilities, [samples, classes].

    The usual ones are of the middle half by how far confidence moved, of many ``labels``; of
    those in ``preferred``, bool [samples], where there are any.
    """
    rows = np.arange(len(before))
    move = np.abs(before - after)[rows, before.argmax(1)]
    by_move = np.argsort(-move, kind="stable")
    differ = (before.argmax(1) != after.argmax(1))[by_move]
    changed, same = by_move[differ][:_DIFFERENT], by_move[~differ]
    middle = same[max(_MOVED, len(same) // 4) : max(_MOVED + _SHOWN, 3 * len(same) // 4)]
    liked = middle[preferred[middle]]
    middle = liked if len(liked) else middle
    _, first = np.unique(labels[middle], return_index=True)
    usual = [*middle[np.sort(first)], *np.delete(middle, first)]
    chosen = [(int(i), DIFFERS) for i in changed] + [(int(i), MOVED) for i in same[:_MOVED]]
    return chosen + [(int(i), USUAL) for i in usual[: _SHOWN - len(chosen)]]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """The softmax of each row, [samples, classes]."""
    scaled = logits.astype(np.float64)
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _answer(job: Job, row: np.ndarray, label: int) -> dict[str, Any]:
    best = int(row.argmax())
    return {
        "label": job.network.labels[best],
        "confidence": float(row[best]),
        "right": best == int(label),
    }


def _pictures(job: Job, held: HeldBack, index: int) -> dict[str, str]:
    """What was there of the sample, as data URLs by input."""
    found = {}
    there: Sequence[str] = held.modes[index].split("+")
    for spec in job.network.inputs:
        image = draw(spec, held.feeds[index][spec.name]) if spec.name in there else None
        if image is not None:
            form = "png" if spec.kind == "audio" else "jpeg"
            data = base64.b64encode(pack(image, form)).decode("ascii")
            found[spec.name] = f"data:image/{form};base64,{data}"
    return found
