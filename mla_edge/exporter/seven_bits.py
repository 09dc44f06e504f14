"""What is done about INT8 on a processor that adds up two products in 16 bits.

Activations in seven bits fit, 127 * 127 twice, at the price of steps twice as wide. What is
beyond the range that calibration chose may still overflow.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Sequence

from mla_edge.exporter.agreement import output_error
from mla_edge.exporter.post_training import Trial

if TYPE_CHECKING:
    from pathlib import Path

    from mla_edge.exporter.ranges import Ranges
    from mla_edge.signals import Tensors

SEVEN_BITS = "activations in seven bits"


def try_seven_bits(graph: Path, ranges: Ranges, tune: Sequence[Tensors]) -> dict[str, Any]:
    """A row for ``Ranges.tried["cpu"]``: how near seven bits come to the float ``graph``.

    ``kept`` where they come nearer on ``tune`` samples here than all eight, and not by chance.
    """
    trial = Trial(graph, tune, optimise=True)
    eight, seven = (trial.answers("cpu", r) for r in (ranges, in_seven_bits(ranges)))
    return {
        "attempt": SEVEN_BITS,
        "kept": trial.gains(seven, eight),
        **asdict(output_error(trial.wanted, seven)),
    }


def in_seven_bits(ranges: Ranges) -> Ranges:
    """What was seen takes the lower half of the whole numbers; what is above is not cut off."""
    wider = {
        place: replace(found, high=found.low + (found.high - found.low) * 255 / 127)
        for place, found in ranges.places.items()
    }
    return replace(ranges, places=wider)


def note_attempt(ranges: Ranges, row: dict[str, Any]) -> Ranges:
    """``ranges`` with one attempt more told of, and made so if it is kept."""
    rows = [
        {**other, "kept": other["kept"] and not row["kept"]}
        for other in ranges.tried.get("cpu", ())
    ]
    made = in_seven_bits(ranges) if row["kept"] else ranges
    return replace(made, tried={**ranges.tried, "cpu": [*rows, row]})
