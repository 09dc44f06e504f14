"""Run everything that touches TensorRT on the fake of one version, and note what was asked."""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (2, 1, 0)]

import pytest  # noqa: E402
from faking import Fakes, make_graph, make_input  # noqa: E402

from mla_edge.errors import ExportError  # noqa: E402
from mla_edge.exporter.engine_build import BuildSpec, build_engine  # noqa: E402

Names = "set[tuple[str, str]]"


def record(version: str) -> tuple[set, set]:
    """The names of one version that were reached, and those that were asked for in vain."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        fakes = Fakes(patch)
        _exercise(fakes, version, Path(folder))
        found = set(fakes.machine.touched), set(fakes.machine.missed)
        violations, left = fakes.machine.violations, fakes.machine.left_over()
        fakes.forget()
        fakes.machine.reset()
        assert not violations and not left, (violations, left)
        return found


def _exercise(fakes: Fakes, version: str, folder: Path) -> None:
    """Every way to build and to run; the recording goes on over all of them."""
    kept: tuple[set, set] = (set(), set())

    def use(**device):
        nonlocal kept
        kept = (kept[0] | fakes.machine.touched, kept[1] | fakes.machine.missed)
        return fakes.use(version, **device)

    int8 = make_graph(folder / "int8.onnx")
    plain = make_graph(folder / "plain.onnx", int8=False)
    cache = folder / "calibration.cache"
    cache.write_bytes(b"TRT-8601-EntropyCalibration2\n")
    specs = [
        BuildSpec(
            str(int8),
            "int8",
            float_layers=("/relu",),
            optimisation_level=3,
            timing_cache=str(folder / "timing.cache"),
        ),
        BuildSpec(str(plain), "fp16", carries_types=True),
        BuildSpec(str(plain), "fp32", sparse=True),
    ]
    bindings = use(DLA_CORES=2)
    for spec in specs:
        build_engine(bindings, spec, lambda phase, share: None)
    strong = not hasattr(bindings.trt.BuilderFlag, "INT8")
    dla = BuildSpec(
        str(int8 if strong else plain), "int8", dla=True, calibration_cache=str(cache)
    )
    build_engine(bindings, dla)
    noise = folder / "noise.onnx"
    noise.write_bytes(b"\xff\xff")
    with suppress(ExportError):
        build_engine(bindings, BuildSpec(str(noise)))
    for integrated in (True, False):
        bindings = use(INTEGRATED=integrated)
        plan = folder / "bundle" / "engines" / "key" / "lite.plan"
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_bytes(build_engine(bindings, specs[0])[0])
        from mla_edge.engines.cuda import Gpu, read_gpu
        from mla_edge.engines.trt import TensorRTEngine

        read_gpu()
        engine = TensorRTEngine(plan, bindings, Gpu())
        engine.run(make_input())
        json.loads(engine.inspect())
        engine.close()
    fakes.machine.touched |= kept[0]
    fakes.machine.missed |= kept[1]
