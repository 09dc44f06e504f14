"""The Python bindings of TensorRT, whichever is here. The only module that imports them.

JetPack brings ``tensorrt``; RTX cards take ``tensorrt_rtx``, whose engines run on no Jetson.
What a version can do is asked of its own names (``hasattr``), never of its version number.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from mla_edge.errors import ConfigError, MissingDependency

FLAVOURS = {
    "tensorrt": ("tensorrt",),
    "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),  # the second has no meta package
}
_FIXES = {
    "tensorrt": "it comes with JetPack, for the system's Python: sudo apt-get install "
    "nvidia-jetpack, and python3 -m venv --system-site-packages",
    "rtx": "pip install 'mla-edge[tensorrt-check]' (x86-64 Linux, Python 3.10 or later)",
}


@dataclass
class Log:
    """What TensorRT said: it often fails without raising, and only its log says why."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def clear(self) -> None:
        """Forget everything, before the next call that is to be judged by it."""
        self.errors.clear()
        self.warnings.clear()

    @property
    def last_error(self) -> str:
        """The newest error; empty without any."""
        return self.errors[-1] if self.errors else ""


@dataclass(frozen=True)
class Bindings:
    """One installed TensorRT, and the log of its one logger."""

    trt: Any
    flavour: str
    logger: Any
    log: Log

    @property
    def version(self) -> str:
        """The version with its patch, as engines depend on it."""
        return str(self.trt.__version__)

    @property
    def title(self) -> str:
        """The name and version for people."""
        return f"TensorRT{'-RTX' if self.flavour == 'rtx' else ''} {self.version}"


_LOADED: dict[str, Bindings] = {}


def load_bindings(flavour: str = "tensorrt") -> Bindings:
    """The bindings of ``flavour``: ``tensorrt`` or ``rtx``.

    MissingDependency says what to install. TensorRT takes one logger a process, so the first
    call makes it and later ones give the same bindings.
    """
    if flavour not in FLAVOURS:
        raise ConfigError(
            f"no TensorRT is called {flavour!r}", hint=f"one of {', '.join(FLAVOURS)}"
        )
    if flavour not in _LOADED:
        trt = _import(flavour)
        log = Log()
        _LOADED[flavour] = Bindings(trt, flavour, _make_logger(trt, log), log)
    return _LOADED[flavour]


def flavour_of(tensorrt: str | None) -> str:
    """The flavour that a profile's ``tensorrt`` means: ``rtx-1.7`` or a plain version."""
    return "rtx" if (tensorrt or "").startswith("rtx") else "tensorrt"


def _import(flavour: str) -> Any:
    reasons = []
    for name in FLAVOURS[flavour]:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a library of it is not there
            reasons.append(str(error))
    raise MissingDependency(
        f"TensorRT{'-RTX' if flavour == 'rtx' else ''} is not in this Python: {reasons[-1]}",
        hint=_FIXES[flavour],
    )


def _make_logger(trt: Any, log: Log) -> Any:
    kept = {
        trt.ILogger.Severity.INTERNAL_ERROR: log.errors,
        trt.ILogger.Severity.ERROR: log.errors,
        trt.ILogger.Severity.WARNING: log.warnings,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors and warnings, and prints nothing."""

        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity in kept:
                kept[severity].append(message)

    return Logger()
