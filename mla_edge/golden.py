"""Golden samples: inputs of a bundle and the float network's answers, to prove a machine right.

``golden.npz`` holds ``input.<name>`` [n, …] for every input of the network (``present`` too),
``logits.<tier>`` [n, classes] for every tier, and ``labels`` [n] where they are known.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, Mapping

import numpy as np

from mla_edge._arrays import read_arrays
from mla_edge.bundle import write_atomically
from mla_edge.errors import BundleError
from mla_edge.signals import Tensors

if TYPE_CHECKING:
    from pathlib import Path

FILE = "golden.npz"


@dataclass(frozen=True)
class Golden:
    """Inputs by name, stacked [n, …], and the float network's logits by tier, [n, classes].

    ``labels`` [n] are the indices of the right classes, where they are known.
    """

    inputs: Mapping[str, np.ndarray]
    logits: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.logits.values())))

    def samples(self) -> Iterator[Tensors]:
        """The inputs of one sample after another, each [1, …]."""
        for index in range(len(self)):
            yield {name: stacked[index : index + 1] for name, stacked in self.inputs.items()}


@dataclass(frozen=True)
class Match:
    """How close a graph's logits are to the float network's."""

    top1_agreement: float  # share of samples with the same best class
    max_error: float  # greatest difference of one logit


def compare(expected: np.ndarray, found: np.ndarray) -> Match:
    """Compare logits [n, classes] with the float network's; a NaN agrees with nothing."""
    if expected.shape != found.shape:
        raise BundleError(
            f"logits are {list(found.shape)}, but the golden ones {list(expected.shape)}",
            hint="export the bundle again",
        )
    same = (expected.argmax(axis=1) == found.argmax(axis=1)) & np.isfinite(found).all(axis=1)
    error = np.abs(expected.astype(np.float64) - found)
    return Match(float(same.mean()), float(error.max()))


def write_golden(path: Path, golden: Golden) -> None:
    """Write ``golden`` to ``path``, whole or not at all."""
    arrays = {f"input.{name}": stacked for name, stacked in golden.inputs.items()}
    arrays.update({f"logits.{tier}": stacked for tier, stacked in golden.logits.items()})
    if golden.labels is not None:
        arrays["labels"] = np.asarray(golden.labels, np.int64)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_atomically(path, file.getvalue())


def read_golden(path: Path) -> Golden:
    """Read the samples at ``path``; BundleError says what is wrong with them."""
    again = "export the bundle again"
    arrays = read_arrays(path, BundleError, again)
    inputs = {name[6:]: arrays[name] for name in arrays if name.startswith("input.")}
    logits = {name[7:]: arrays[name] for name in arrays if name.startswith("logits.")}
    labels = arrays.get("labels")
    known = () if labels is None else (labels,)
    counts = {stacked.shape[:1] for stacked in (*inputs.values(), *logits.values(), *known)}
    if not inputs or not logits or len(counts) != 1 or counts <= {(), (0,)}:
        raise BundleError(f"{path}: holds no complete golden samples", hint=again)
    return Golden(inputs, logits, labels)
