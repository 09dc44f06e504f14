"""Without torch, as on a board, the tests that need it are not collected, and that is said."""

import functools
import gc
import importlib.util
import inspect

import pytest
from typer.testing import CliRunner

NEED_TORCH = (
    *("networks", "exporter", "examples"),
    *("test_benchmark_adapt.py", "test_benchmark_routing.py", "test_benchmarks.py"),
    *("test_packaging.py", "test_references.py"),
)

WITHOUT_TORCH = importlib.util.find_spec("torch") is None
collect_ignore = list(NEED_TORCH) if WITHOUT_TORCH else []

if "mix_stderr" in inspect.signature(CliRunner.__init__).parameters:
    # The last Typer for Python 3.8 mixes the streams; keep them apart, as later ones do.
    from click.testing import Result

    CliRunner.__init__ = functools.partialmethod(CliRunner.__init__, mix_stderr=False)
    Result.output = property(lambda result: result.stdout + result.stderr)


def pytest_report_header():
    if WITHOUT_TORCH:
        return f"torch is not installed: tests/{{{','.join(NEED_TORCH)}}} are not run"
    return None


@pytest.fixture
def fakes(monkeypatch):
    """The fakes of TensorRT and pycuda; at the end nothing may be left on the fake GPU."""
    faking = pytest.importorskip("faking", reason="the fakes need onnx")
    fakes = faking.Fakes(monkeypatch)
    yield fakes
    gc.collect()
    fakes.forget()
    fakes.check()
