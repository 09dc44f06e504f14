"""Benchmarks measure bundles/digits-host where no bundle is named."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in BENCHMARKS.glob("*.py")}
TAKE_ONE = sorted(name for name, text in SOURCES.items() if "add_bundle(parser)" in text)


@pytest.fixture
def bundle_of(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from default_bundle import add_bundle

    def call(*words):
        parser = argparse.ArgumentParser()
        add_bundle(parser)
        return parser.parse_args(words).bundle

    yield call
    del sys.modules["default_bundle"]


def make(folder):
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text("{}", encoding="utf-8")
    return folder


def test_it_may_be_named_or_not(bundle_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "bundles" / "digits-host")
    assert bundle_of() == Path("bundles/digits-host")
    other = make(tmp_path / "other")
    assert bundle_of(str(other)) == other


def test_where_there_is_none_it_is_said_how_to_make_one(
    bundle_of, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        bundle_of()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "there is no bundle in bundles/digits-host" in said
    assert "mla-edge export --profile host" in said


def test_all_benchmarks_of_a_bundle_do_so():
    assert {"soak.py", "loop.py", "overhead.py", "cold_start.py", "web.py"} <= set(TAKE_ONE)
    assert {"recording.py", "monitoring.py", "speed.py"} <= set(TAKE_ONE)
    needing = [name for name, text in SOURCES.items() if 'add_argument("bundle"' in text]
    assert needing == []


@pytest.mark.parametrize("name", ["soak.py", "loop.py", "overhead.py"])
def test_a_benchmark_is_called_without_one(name, tmp_path):
    """It gets as far as looking for the default bundle, in a folder where that is not."""
    command = [sys.executable, str(BENCHMARKS / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "mla-edge export --profile host" in " ".join(done.stderr.split())
