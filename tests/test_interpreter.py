"""Which Python a machine has: the one that runs, and one that is read from files."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mla_edge.interpreter import find_interpreter, has_gstreamer, running_interpreter

BOARDS = Path(__file__).parent / "boards"


def make_environment(root, folder="home/user/.venv", *, config="", packages=()):
    """Write an environment of Python 3.10 under ``root``."""
    site = root / folder / "lib/python3.10/site-packages"
    site.mkdir(parents=True)
    for name in packages:
        (site / f"{name}.dist-info").mkdir()
    text = config or "home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.10.12\n"
    (root / folder / "pyvenv.cfg").write_text(text)
    return root


def test_the_running_one_is_this_one():
    python = running_interpreter()
    assert (python.version, python.prefix) == (platform.python_version(), sys.prefix)
    assert python.running
    assert python.virtual == (sys.prefix != sys.base_prefix)
    assert "typer" in python.packages


def test_an_environment_is_read_from_its_files():
    python = find_interpreter(BOARDS / "agx-xavier-jp5")
    assert (python.version, python.minor, python.prefix) == (
        "3.8.10",
        "3.8",
        "/home/user/.venv",
    )
    assert (python.running, python.virtual, python.of_system) == (False, True, True)
    assert not python.sees_system
    assert python.pip_packages["opencv-python-headless"] == "4.10.0.84"
    assert python.system_packages == {}
    assert python.pip == "/home/user/.venv/bin/pip"


def test_one_that_is_open_sees_what_debian_packages_brought():
    python = find_interpreter(BOARDS / "agx-thor-jp7.1")
    assert python.sees_system
    assert python.system_packages == {"tensorrt": "10.13.3.9", "opencv": "4.8.0"}
    assert python.gstreamer is True


def test_an_open_environment_sees_what_the_system_s_pip_brought(tmp_path):
    make_environment(tmp_path, packages=["soxr-0.5.0"])
    site = tmp_path / "usr/local/lib/python3.10/dist-packages"
    (site / "opencv_python-4.11.0.86.dist-info").mkdir(parents=True)
    python = find_interpreter(tmp_path)
    assert python.pip_packages == {"soxr": "0.5.0"}
    assert python.local_packages == {"opencv-python": "4.11.0.86"}
    assert python.gstreamer is False
    assert python.uninstall_command(["opencv-python", "soxr"]) == (
        "/home/user/.venv/bin/pip uninstall -y soxr && "
        "sudo /usr/bin/python3.10 -m pip uninstall -y opencv-python"
    )


def test_without_an_environment_it_is_the_system_s():
    python = find_interpreter(BOARDS / "container-no-sys")
    assert (python.version, python.prefix, python.virtual) == ("3.10", "/usr", False)
    assert python.pip_packages["onnxruntime"] == "1.23.2"
    assert python.system_packages == {"tensorrt": "10.3.0"}
    assert python.pip == "python3.10 -m pip"


def test_the_environment_with_mla_edge_is_taken(tmp_path):
    make_environment(tmp_path, "home/user/a/.venv", packages=["numpy-1.26.4"])
    make_environment(tmp_path, "home/user/b/.venv", packages=["mla_edge-0.1.0"])
    assert find_interpreter(tmp_path).prefix == "/home/user/b/.venv"


def test_none_is_found_where_there_is_none(tmp_path):
    assert find_interpreter(tmp_path) is None


def test_an_open_environment_of_another_python_does_not_see_the_system_s_packages(tmp_path):
    config = (
        "home = /home/user/.local/share/uv/python/cpython-3.10.16-linux-aarch64-gnu/bin\n"
        "implementation = CPython\nuv = 0.6.0\nversion_info = 3.10.16\n"
        "include-system-site-packages = true\n"
    )
    python = find_interpreter(make_environment(tmp_path, config=config))
    assert python.version == "3.10.16"
    assert not python.of_system
    assert not python.sees_system


def test_nothing_of_this_machine_is_read_through_a_link_out_of_the_root(tmp_path):
    make_environment(tmp_path / "root")
    real = tmp_path / "status"
    real.write_text("Package: python3\nStatus: install ok installed\nVersion: 3.10.6-1\n")
    (tmp_path / "root/home/user/.venv/pyvenv.cfg").unlink()
    (tmp_path / "root/var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "root/var/lib/dpkg/status").symlink_to(real)
    assert find_interpreter(tmp_path / "root") is None


def test_making_an_environment_again_opens_it_and_keeps_what_is_in_it(tmp_path):
    """What the fix for a closed environment relies on."""
    folder = tmp_path / "home/user/.venv"
    make = [sys.executable, "-m", "venv", "--without-pip"]
    subprocess.run([*make, str(folder)], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "soxr-0.5.0.dist-info").mkdir()
    assert "include-system-site-packages = false" in (folder / "pyvenv.cfg").read_text()
    subprocess.run([*make, "--system-site-packages", str(folder)], check=True)
    assert "include-system-site-packages = true" in (folder / "pyvenv.cfg").read_text()
    python = find_interpreter(tmp_path)
    assert python.version == platform.python_version()
    assert python.pip_packages == {"soxr": "0.5.0"}


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("    GStreamer:                   YES (1.20.3)\n", True),
        ("    GStreamer:                   NO\n", False),
        ("    v4l/v4l2:                    YES (linux/videodev2.h)\n", None),
    ],
)
def test_the_build_information_of_opencv_tells_gstreamer(line, has):
    text = f"  Video I/O:\n    FFMPEG:                      YES\n{line}"
    assert has_gstreamer(text) is has


def test_the_opencv_of_pip_has_none():
    cv2 = pytest.importorskip("cv2")
    if "opencv-python-headless" not in running_interpreter().pip_packages:
        pytest.skip("this OpenCV is not pip's")
    assert has_gstreamer(cv2.getBuildInformation()) is False
    assert running_interpreter().gstreamer is False
