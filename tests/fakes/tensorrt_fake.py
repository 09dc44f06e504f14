"""One fake TensorRT for every version: see ``expose``.

It builds a plan that holds the graph, and runs it with ONNX Runtime on the fake GPU's memory
when the stream is synchronized. What a version checks, and what it says when it refuses, is
written after the real ones; that TensorRT computes the same is not shown by it.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import fake_building
import fake_running
from fake_machine import machine
from fake_names import Binding, Callback, make_values, read_names


class ILogger(Callback):
    def log(self, severity: Any, message: str) -> None:
        raise machine.violate("the logger does not override log")


class IProgressMonitor(Callback):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise machine.violate("the monitor does not override phase_start")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise machine.violate("the monitor does not override step_complete")

    def phase_finish(self, phase_name: str) -> None:
        raise machine.violate("the monitor does not override phase_finish")


class IInt8EntropyCalibrator2(Callback):
    def get_batch_size(self) -> int:
        raise machine.violate("the calibrator does not override get_batch_size")

    def get_batch(self, names: list[str]) -> Any:
        raise machine.violate("the calibrator does not override get_batch")

    def read_calibration_cache(self) -> bytes | None:
        raise machine.violate("the calibrator does not override read_calibration_cache")

    def write_calibration_cache(self, cache: bytes) -> None:
        raise machine.violate("the calibrator does not override write_calibration_cache")


_CLASSES = (
    *(ILogger, IProgressMonitor, IInt8EntropyCalibrator2),
    *fake_building.CLASSES,
    *fake_running.CLASSES,
)
# The numbers that shift into flags.
_NUMBERS = {
    "NetworkDefinitionCreationFlag": {
        "EXPLICIT_BATCH": 0,
        "EXPLICIT_PRECISION": 1,
        "STRONGLY_TYPED": 1,
        "PREFER_AOT_PYTHON_PLUGINS": 2,
        "PREFER_JIT_PYTHON_PLUGINS": 3,
    }
}
_VALUES = (
    *("BuilderFlag", "DataType", "DeviceType", "LayerInformationFormat", "LayerType"),
    *("MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity"),
    *("TensorIOMode",),
)


def expose(module: str, version: str) -> None:
    """Make ``module`` the TensorRT of ``version``: what its list has, and nothing else."""
    names = read_names(version)
    api = SimpleNamespace(version=version)
    made: dict[str, Any] = {"__version__": version}
    for called in _VALUES:
        if called in names:
            made[called] = make_values(called, names[called], _NUMBERS.get(called, {}))
    for kind in _CLASSES:
        called = kind.__name__
        if called in names:
            listed = frozenset(names[called])
            own = {"_names": listed, "_called": called, "_api": api, "__module__": module}
            made[called] = type(called, (kind,), own)
    made["ILogger"].Severity = make_values("ILogger.Severity", names["ILogger.Severity"], {})
    made["float32"] = made["DataType"].FLOAT
    vars(api).update(made)
    here = sys.modules[module]
    here.__class__ = Binding
    vars(here).update(made, _listed=frozenset(names["tensorrt"]), _called="tensorrt")
