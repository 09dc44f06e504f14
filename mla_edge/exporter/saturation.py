"""INT8 on a processor that adds up two products in 16 bits, and what is done about it there.

ONNX Runtime multiplies unsigned activations with signed weights. On x86-64 without VNNI it adds
each two neighbouring products in 16 bits, saturated: 255 * 127 twice does not fit. Activations
in seven bits do, 127 * 127 twice, at the price of steps twice as wide. What is beyond the range
that calibration chose may still overflow.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mla_edge.engines.ort import OnnxRuntimeEngine
from mla_edge.exporter.agreement import output_error
from mla_edge.exporter.post_training import Trial

if TYPE_CHECKING:
    from mla_edge.exporter.ranges import Ranges
    from mla_edge.signals import Tensors

SEVEN_BITS = "activations in seven bits"


@functools.lru_cache(maxsize=None)
def saturates() -> bool:
    """Whether sums of INT8 products are cut off on this processor: tried, not looked up."""
    activations = np.full((16, 64), 255, np.uint8)
    weights = np.full((64, 32), 127, np.int8)
    zero = numpy_helper.from_array(np.array(0, np.uint8), "zero")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["activations", "weights", "zero"], ["sums"])],
        "saturates",
        [helper.make_tensor_value_info("activations", TensorProto.UINT8, activations.shape)],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, (16, 32))],
        [numpy_helper.from_array(weights, "weights"), zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saturates.onnx"
        path.write_bytes(model.SerializeToString())
        engine = OnnxRuntimeEngine(path, threads=1)
    sums = engine.run({"activations": activations})["sums"].copy()
    engine.close()
    return not np.array_equal(sums, activations.astype(int) @ weights.astype(int))


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
