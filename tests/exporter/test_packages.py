"""A package of the export that is missing or broken: told by name, with how to get it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAULTS = {
    "an import that fails": "raise ImportError('it is broken')",
    "a library that is missing": "raise OSError('libbroken.so: it is broken')",
}


def export(tmp_path, package, fault):
    (tmp_path / f"{package}.py").write_text(fault)
    paths = [str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "mla_edge", "export", "--profile", "host", "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "package", ["torch", "onnx", "onnxslim", "torch_pruning", "safetensors", "jinja2"]
)
def test_a_broken_package_is_named_and_exits_with_3(tmp_path, package):
    done = export(tmp_path, package, FAULTS["an import that fails"])
    assert done.returncode == 3, done.stderr
    assert f"{package.replace('_', '-')} cannot be loaded" in done.stderr
    assert "it is broken" in done.stderr
    assert "pip install 'mla-edge[export]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_library_that_torch_does_not_find_is_told(tmp_path):
    done = export(tmp_path, "torch", FAULTS["a library that is missing"])
    assert done.returncode == 3, done.stderr
    assert "torch cannot be loaded, and exporting needs it: libbroken.so" in done.stderr
    assert "Traceback" not in done.stderr
