"""The errors that mla-edge raises on purpose, each with the exit code of the command line.

* MlaEdgeError                 1
  - ConfigError                2  a profile, recipe, network or option is wrong
  - MissingDependency          3  an optional package or a system library is not installed
  - ExportError                7  a step of the export failed; names the step
    . AccuracyGateError        4  the exported graphs lost more accuracy than allowed
  - BundleError                5  a bundle cannot be read or does not match its hashes
    . EngineMismatch           5  its engine was built for another machine
  - CaptureError               6  a camera or microphone failed
    . CaptureTimeout           6  it gave nothing in time
    . CaptureEnded             6  a file has no more to give
  - RecordingError             5  a recording cannot be read
    . RecordingStopped         3  the disk took no more of one that was being made
  - InferenceError             1  an engine failed while running
"""

from __future__ import annotations

from typing import Any


class MlaEdgeError(Exception):
    """Base of them all; ``hint`` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep ``message`` and ``hint`` apart, for the CLI to lay out.

        What else a program may want to know goes into ``details``, as JSON has it.
        """
        super().__init__(message)
        self.hint = hint
        self.details: dict[str, Any] = {}


class ConfigError(MlaEdgeError):
    """A profile, recipe, network or option is wrong."""

    exit_code = 2


class MissingDependency(MlaEdgeError, ImportError):
    """An optional package or a system library is not installed."""

    exit_code = 3


class ExportError(MlaEdgeError):
    """A step of the export failed."""

    exit_code = 7


class AccuracyGateError(ExportError):
    """The exported graphs lost more accuracy than the gate allows; ``report`` says how much."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str = "", report: str = "") -> None:
        """``report`` is the path of the JSON report of the refused export."""
        super().__init__(message, hint=hint)
        self.report = report
        if report:
            self.details["report"] = report


class BundleError(MlaEdgeError):
    """A bundle cannot be read, is incomplete or does not match its hashes."""

    exit_code = 5


class EngineMismatch(BundleError):
    """The bundle's engine was built for another machine or TensorRT."""


class CaptureError(MlaEdgeError):
    """A camera or microphone failed."""

    exit_code = 6


class CaptureTimeout(CaptureError, TimeoutError):
    """A camera or microphone gave nothing in time."""


class CaptureEnded(CaptureError):
    """A file has no more to give."""


class RecordingError(MlaEdgeError):
    """A recording cannot be read, or is of something else."""

    exit_code = 5


class RecordingStopped(RecordingError):
    """The disk took no more of a recording; what it took before can be read."""

    exit_code = 3


class InferenceError(MlaEdgeError):
    """An engine failed while running."""
