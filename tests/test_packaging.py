"""The wheel: what is in it, and that it works where nothing else is."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the checkout with the tools that are installed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def test_every_module_and_content_file_travels(contents):
    for path in (ROOT / "mla_edge").rglob("*.py"):
        assert path.relative_to(ROOT).as_posix() in contents
    for kind in ("device_profiles", "export", "calibration"):
        for path in (ROOT / kind).iterdir():
            if path.suffix in (".toml", ".json", ".cache"):
                assert f"mla_edge/_content/{kind}/{path.name}" in contents


def test_what_is_not_code_travels_too(contents):
    assert "mla_edge/py.typed" in contents
    assert "mla_edge/simulator/speech_bank.npz" in contents
    assert "mla_edge/exporter/tensorrt_operators.json" in contents
    for page in ("page.html", "page.css", "page.js", "traces.js"):
        assert f"mla_edge/runtime/web/{page}" in contents
    for path in (ROOT / "mla_edge").rglob("*.j2"):
        assert path.relative_to(ROOT).as_posix() in contents
    weights = [name for name in contents if name.endswith(".safetensors")]
    assert weights
    assert all(name.startswith("mla_edge/networks/weights/") for name in weights)
    limits = {"digits": 15e6, "commands": 20e6}
    assert {Path(name).stem for name in weights} == set(limits)
    assert all(contents[name] <= limits[Path(name).stem] for name in weights)


def test_nothing_else_travels(contents):
    for name in contents:
        assert name.startswith(("mla_edge/", "mla_edge-")), name
        assert "__pycache__" not in name
    assert {name.rsplit("/", 1)[-1] for name in contents} >= {"LICENSE", "NOTICE", "METADATA"}


def test_the_metadata_names_the_licence_and_the_extras(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        metadata = archive.read(name).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.8" in metadata
    for extra in ("run", "export", "record", "web", "tensorrt-check", "jetson"):
        assert f"Provides-Extra: {extra}" in metadata


def test_it_works_in_an_environment_of_its_own(wheel, tmp_path):
    """Installed from the wheel alone; what it depends on is lent by this environment."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path)], check=True)
    python = tmp_path / "bin/python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run([*install, "--disable-pip-version-check"], check=True)
    lent = [entry for entry in sys.path if entry.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(lent)}

    def output(*command):
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout

    where = output(str(python), "-c", "import mla_edge; print(mla_edge.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    shown = json.loads(output(str(tmp_path / "bin/mla-edge"), "profiles", "--json"))
    assert {"host", "agx-xavier"} <= {row["name"] for row in shown}
