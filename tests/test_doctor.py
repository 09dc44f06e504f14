"""What doctor finds, and the command it gives for each thing that is missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from board_trees import make_agx_xavier, make_board
from typer.testing import CliRunner

from mla_edge.cli import app
from mla_edge.diagnosis import diagnose
from mla_edge.findings import MISSING, NOTE, OK
from mla_edge.interpreter import running_interpreter


def diagnose_this_python(root):
    """What is said of the Python that runs here, on the machine whose files are in ``root``."""
    return diagnose(root, running_interpreter())


def finding(diagnosis, name):
    (found,) = [f for f in diagnosis.findings if f.name == name]
    return found


def test_a_missing_package_is_named_with_its_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    diagnosis = diagnose_this_python(tmp_path)
    found = finding(diagnosis, "onnxruntime")
    assert (found.status, found.fix) == (MISSING, "pip install onnxruntime")
    assert not diagnosis.can_run


def test_a_missing_export_package_does_not_keep_run_from_working(monkeypatch, tmp_path):
    for module in ("onnxruntime", "cv2", "sounddevice", "soxr"):
        monkeypatch.setitem(sys.modules, module, sys)
    monkeypatch.setitem(sys.modules, "torch", None)
    diagnosis = diagnose_this_python(tmp_path)
    found = finding(diagnosis, "torch")
    assert (found.status, found.fix) == (MISSING, "pip install 'mla-edge[export]'")
    assert found.detail.startswith("not installed; no package index has mla-edge yet")
    assert "make wheel" in found.detail
    assert diagnosis.can_run


def test_a_missing_portaudio_is_a_debian_package(monkeypatch, tmp_path):
    # sounddevice raises OSError at import where the library is not there.
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = finding(diagnose_this_python(tmp_path), "sounddevice")
    assert found.status == MISSING
    assert found.detail == "PortAudio library not found"
    assert found.fix == "sudo apt-get install libportaudio2"


@pytest.mark.parametrize(
    ("module", "detail", "fix"),
    [
        (
            "raise OSError('PortAudio library not found')\n",
            "PortAudio library not found",
            "sudo apt-get install libportaudio2",
        ),
        (
            "class PortAudioError(Exception): pass\n"
            "raise PortAudioError('Error initializing PortAudio')\n",
            "the sound system does not start: Error initializing PortAudio",
            "arecord -l must list a microphone; check ~/.asoundrc and /etc/asound.conf",
        ),
    ],
)
def test_sound_that_does_not_start_is_reported_without_a_traceback(
    tmp_path, module, detail, fix
):
    (tmp_path / "sounddevice.py").write_text(module)
    here = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "mla_edge", "doctor"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{here}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert f"-- sounddevice (for run): {detail}\n     {fix}\n" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_cameras_and_microphones_are_listed(tmp_path):
    assert finding(diagnose(tmp_path), "camera").status == NOTE
    assert finding(diagnose(tmp_path), "microphone").status == NOTE
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/video0").touch()
    (tmp_path / "proc/asound").mkdir(parents=True)
    (tmp_path / "proc/asound/pcm").write_text(
        "00-00: ALC257 Analog : ALC257 Analog : playback 1 : capture 1\n"
        "00-03: HDMI 0 : HDMI 0 : playback 1\n"
    )
    diagnosis = diagnose(tmp_path)
    assert finding(diagnosis, "camera").detail == "/dev/video0"
    assert finding(diagnosis, "microphone").detail == "ALC257 Analog"


def test_a_board_is_described(tmp_path):
    diagnosis = diagnose(make_agx_xavier(tmp_path))
    assert finding(diagnosis, "board").detail == (
        "Jetson AGX Xavier, p2888-0004: profile agx-xavier"
    )
    assert finding(diagnosis, "jetpack").detail == "JetPack 5.1.2 (L4T 35.4.1)"
    assert finding(diagnosis, "memory").detail == "31169 MB"
    assert "7 MODE_15W_DESKTOP" in finding(diagnosis, "power mode").detail
    assert finding(diagnosis, "tensorrt").detail == "TensorRT 8.5.2"


def test_what_only_engines_need_does_not_keep_run_from_working(tmp_path, monkeypatch):
    for module in ("onnxruntime", "cv2", "sounddevice", "soxr"):
        monkeypatch.setitem(sys.modules, module, sys)
    diagnosis = diagnose_this_python(make_agx_xavier(tmp_path))
    binding, pycuda = finding(diagnosis, "tensorrt for Python"), finding(diagnosis, "pycuda")
    assert (binding.needed_for, binding.status) == ("build", MISSING)
    assert binding.fix == "sudo apt-get install python3-libnvinfer"
    assert (pycuda.status, pycuda.fix) == (MISSING, "pip install 'mla-edge[jetson]'")
    assert "run works without" in pycuda.detail
    assert diagnosis.can_run


def test_a_board_with_another_jetpack_than_its_profile_is_warned(tmp_path):
    root = make_board(
        tmp_path,
        compatible=["nvidia,p3767-0005", "nvidia,tegra234"],
        jetpack="5",
        memory_kb=7_800_000,
    )
    words = CliRunner().invoke(app, ["doctor", "--root", str(root)]).stdout
    assert (
        "jetpack: warning: JetPack 5.1.2 (L4T 35.4.1), but profile orin-nano is for JetPack 6.2"
    ) in words
    assert "tensorrt: warning: TensorRT 8.5.2, but profile orin-nano is for 10.3" in words
    assert "write a profile of your own" in words


def test_a_board_without_a_profile_shows_its_jetpack_too(tmp_path):
    root = make_board(
        tmp_path,
        compatible=["nvidia,p9999-0001", "nvidia,tegra999"],
        jetpack="6",
        memory_kb=7_800_000,
    )
    diagnosis = diagnose(root)
    assert "no profile fits it" in finding(diagnosis, "board").detail
    assert finding(diagnosis, "jetpack").detail == "JetPack 6.2 (L4T 36.4.3)"
    assert finding(diagnosis, "tensorrt").detail == "TensorRT 10.3.0.30"


def test_a_board_that_is_not_supported_cannot_run(tmp_path):
    root = make_board(
        tmp_path,
        compatible=["nvidia,p3448-0000", "nvidia,tegra210"],
        jetpack="4",
        memory_kb=4_059_000,
    )
    diagnosis = diagnose(root)
    assert "Python 3.6" in finding(diagnosis, "board").detail
    assert not diagnosis.can_run


def test_a_board_without_jetpack_s_tensorrt_is_told_how_to_get_it(tmp_path):
    root = make_board(
        tmp_path,
        compatible=["nvidia,p3767-0005", "nvidia,tegra234"],
        jetpack="",
        memory_kb=7_800_000,
    )
    found = finding(diagnose(root), "tensorrt")
    assert (found.needed_for, found.status) == ("build", MISSING)
    assert found.fix == "sudo apt-get install nvidia-jetpack"


def test_the_command_says_it_in_words_and_in_json(tmp_path):
    root = str(make_agx_xavier(tmp_path))
    words = CliRunner().invoke(app, ["doctor", "--root", root])
    assert words.exit_code == 0
    assert "ok board (for run): Jetson AGX Xavier, p2888-0004" in words.stdout
    shown = json.loads(CliRunner().invoke(app, ["doctor", "--json", "--root", root]).stdout)
    assert shown["can_run"] is None  # no Python is in that tree
    assert shown["board"]["power_mode"] == "7 MODE_15W_DESKTOP"
    assert {row["status"] for row in shown["findings"]} <= {OK, MISSING, NOTE}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_command_exits_with_3_where_run_cannot_work(monkeypatch, form):
    monkeypatch.setitem(sys.modules, "soxr", None)
    result = CliRunner().invoke(app, ["doctor", *form])
    assert result.exit_code == 3
    assert "pip install soxr" in result.stdout
    assert "mla-edge: `mla-edge run` cannot work here yet" in result.output
    if form:
        shown = json.loads(result.stdout)
        assert (shown["ok"], shown["exit_code"], shown["can_run"]) == (False, 3, False)
