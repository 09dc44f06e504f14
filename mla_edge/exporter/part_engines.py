"""Build an engine of each part on the board, and time it as the bundle's engines are run."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Mapping

from mla_edge.engines.target import RTX_CAPABILITIES
from mla_edge.exporter.building import BuildRequest, choose_workspace, recognise
from mla_edge.exporter.built_engines import TIMING_CACHE
from mla_edge.exporter.engine_build import BuildSpec
from mla_edge.exporter.engine_process import run_build
from mla_edge.exporter.part_archive import PartArchive, make_feed
from mla_edge.exporter.runs import time_in_turns

if TYPE_CHECKING:
    import numpy as np

    from mla_edge.engines import Engine
    from mla_edge.engines.bindings import Bindings
    from mla_edge.engines.cuda import Gpu
    from mla_edge.engines.sidecar import Target
    from mla_edge.exporter.part_timing import Place, TableRequest
    from mla_edge.exporter.steps import Steps


@contextmanager
def open_tensorrt(request: TableRequest, steps: Steps) -> Iterator[Place]:
    """TensorRT and the GPU of the machine that the bundle is for, until the end of the block.

    BundleError: it is for another one. MissingDependency, InferenceError: there is no GPU.
    """
    build = BuildRequest(
        request.bundle,
        workspace_mb=request.workspace_mb,
        optimisation_level=request.optimisation_level,
        root=request.root,
    )
    _, profile, bindings, target = recognise(build, steps)
    from mla_edge.engines.cuda import Gpu

    with ExitStack() as stack:
        gpu = Gpu().hold()
        stack.callback(gpu.release)
        spec = BuildSpec(
            graph="",
            workspace_mb=choose_workspace(build, profile),
            optimisation_level=request.optimisation_level,
        )
        if target.flavour == "rtx":
            spec = replace(spec, capabilities=RTX_CAPABILITIES)
        else:
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
            spec = replace(spec, timing_cache=str(Path(scratch) / TIMING_CACHE))
        yield _TensorRT(bindings, target, gpu, spec, steps)


class _TensorRT:
    """Engines that are built here, run as the bundle's own are: copies are in their time."""

    threads = 0

    def __init__(
        self, bindings: Bindings, target: Target, gpu: Gpu, spec: BuildSpec, steps: Steps
    ) -> None:
        """``spec`` says how to build everything; its graph comes later."""
        self._bindings, self._gpu, self._spec, self._steps = bindings, gpu, spec, steps
        self.title = bindings.title
        parts = (target.gpu or gpu.facts.name, target.module, bindings.title, target.power_mode)
        self.measured_on = ", ".join(str(part) for part in parts if part)

    def time(
        self, archive: PartArchive, graphs: list[Path], described: Mapping[str, Any]
    ) -> list[np.ndarray]:
        from mla_edge.engines.trt import TensorRTEngine

        plans = {path.name: path.with_suffix(".plan") for path in graphs}
        for graph in graphs:
            self._build(archive, graph, plans[graph.name])

        @contextmanager
        def open_all() -> Iterator[dict[str, Engine]]:
            with ExitStack() as stack:
                yield {
                    name: stack.enter_context(
                        closing(TensorRTEngine(plan, self._bindings, self._gpu))
                    )
                    for name, plan in plans.items()
                }

        def feed_all(engines: Mapping[str, Engine]) -> dict[str, Any]:
            return {name: make_feed(described, e.inputs) for name, e in engines.items()}

        taken = time_in_turns(open_all, feed_all, time.perf_counter)
        return [taken[path.name] for path in graphs]

    def _build(self, archive: PartArchive, graph: Path, plan: Path) -> None:
        spec = replace(
            self._spec,
            graph=str(graph),
            precision=archive.precision,
            carries_types=archive.carries_types,
            float_layers=archive.float_layers,
        )
        run_build(self._bindings.flavour, spec, plan, self._steps.progress)
