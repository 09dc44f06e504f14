"""What doctor finds on each of the machines in tests/boards, and the commands it gives."""

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mla_edge.board import identify
from mla_edge.board_findings import board_python_findings, environment_command
from mla_edge.cli import app
from mla_edge.diagnosis import diagnose
from mla_edge.findings import MISSING, NOTE, OK
from mla_edge.interpreter import find_interpreter

BOARDS = Path(__file__).parent / "boards"
NAMES = sorted(path.name for path in BOARDS.iterdir() if path.is_dir())
VENV = "/home/user/.venv"
OPEN = f"/usr/bin/python3.8 -m venv --system-site-packages {VENV}"
REMAKE = (
    "sudo apt-get install python3.12-venv && "
    f"/usr/bin/python3.12 -m venv --system-site-packages --clear {VENV} && "
    f"{VENV}/bin/pip install 'mla-edge[run]'"
)
FASTEST = "sudo nvpmodel -m 0"
DESKTOP = "sudo systemctl isolate multi-user.target"
CLOCKS = "sudo jetson_clocks"
NEWER = (
    "use it as it is; to have export check for it, write a profile of your own: "
    "see device_profiles/README.md"
)


def found(name):
    """The findings of a tree, by name."""
    findings = diagnose(BOARDS / name).findings
    assert len({f.name for f in findings}) == len(findings)
    return {f.name: f for f in findings}


def commands(name):
    """Every command that is given for a tree, by what it mends."""
    return {f.name: f.fix for f in found(name).values() if f.status != OK and f.fix}


@pytest.mark.parametrize(
    ("name", "board"),
    [
        (
            "agx-xavier-jp5",
            ("p2888-0004", "agx-xavier", "35.4.1", "5.1.2", "11.4.19", "8.5.2", "3.8"),
        ),
        (
            "agx-xavier-jp4",
            ("p2888-0004", "agx-xavier", "32.7.1", "4.6.1", "10.2.300", "8.2.1", "3.6"),
        ),
        (
            "orin-nano-jp6",
            ("p3767-0005", "orin-nano", "36.4.3", "6.2", "12.6.1", "10.3.0.30", "3.10"),
        ),
        (
            "orin-nx-super-jp6",
            ("p3767-0000", "orin-nx-super", "36.4.3", "6.2", "12.6.1", "10.3.0.30", "3.10"),
        ),
        (
            "agx-orin-jp7.2",
            ("p3701-0005", "agx-orin", "39.2.0", "7.2", "13.2.1", "10.16.2.10", "3.12"),
        ),
        (
            "agx-thor-jp7.1",
            ("p3834-0008", "agx-thor", "38.4.0", "7.1", "13.0.0", "10.13.3.9", "3.12"),
        ),
    ],
)
def test_boards_are_read(name, board):
    read = identify(BOARDS / name)
    assert board == (
        read.module,
        read.profile,
        read.l4t,
        read.jetpack,
        read.cuda,
        read.tensorrt,
        read.tensorrt_python,
    )


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("agx-xavier-jp5", (23730, 0, True, "7 MODE_15W_DESKTOP", 115.2, False)),
        ("orin-nano-jp6", (1870, 0, True, "0 15W", None, False)),
        ("orin-nx-super-jp6", (12597, 8191, False, "1 10W", 153.6, False)),
        ("agx-orin-jp7.2", (55664, 0, True, "1 MODE_15W", 614.4, False)),
        ("agx-thor-jp7.1", (118164, 0, False, "0 MAXN", None, True)),
    ],
)
def test_the_state_of_a_board_is_read(name, state):
    read = identify(BOARDS / name)
    assert state == (
        read.memory_free_mb,
        read.swap_mb,
        read.desktop,
        read.power_mode,
        read.dla_mhz,
        read.clocks_fixed,
    )


def test_every_command_for_agx_xavier_with_jetpack_5():
    assert commands("agx-xavier-jp5") == {
        "desktop": DESKTOP,
        "power mode": FASTEST,
        "clocks": CLOCKS,
        "virtual environment": OPEN,
        "tensorrt for Python": OPEN,
        "pycuda": f"{VENV}/bin/pip install 'mla-edge[jetson]'",
        "gstreamer": f"{OPEN} && {VENV}/bin/pip uninstall -y opencv-python-headless",
    }


def test_a_power_mode_that_caps_the_dla_is_named():
    detail = found("agx-xavier-jp5")["power mode"].detail
    assert detail == (
        "warning: 7 MODE_15W_DESKTOP: the DLA runs at up to 115.2 MHz only, 1395.2 MHz in mode "
        "MAXN: do not use this mode for DLA"
    )
    assert "153.6 MHz only" in found("orin-nx-super-jp6")["power mode"].detail


def test_every_command_for_agx_xavier_with_jetpack_4():
    assert commands("agx-xavier-jp4") == {
        "jetpack": (
            "sdkmanager --cli --action install --login-type devzone --product Jetson "
            "--target-os Linux --version 5.1.5 --show-all-versions "
            "--target JETSON_AGX_XAVIER_TARGETS --flash"
        ),
        "camera": "plug one in, or use --camera sim://digits",
        "microphone": "plug one in, or use --mic sim://digits",
    }
    assert found("agx-xavier-jp4")["jetpack"].status == MISSING
    assert found("agx-xavier-jp4")["python"].detail.endswith("mla-edge needs 3.8 or later")
    assert diagnose(BOARDS / "agx-xavier-jp4").can_run is False


def test_every_command_for_orin_nano():
    assert commands("orin-nano-jp6") == {
        "portaudio": "sudo apt-get install libportaudio2",
        "memory": (
            "sudo fallocate -l 4G /mla-edge.swap && sudo chmod 600 /mla-edge.swap && "
            "sudo mkswap /mla-edge.swap && sudo swapon /mla-edge.swap"
        ),
        "desktop": DESKTOP,
        "clocks": CLOCKS,
        "microphone": "plug one in, or use --mic sim://digits",
    }


def test_too_little_memory_says_what_is_needed_and_where_that_comes_from():
    memory = found("orin-nano-jp6")["memory"]
    assert (memory.status, memory.needed_for) == (MISSING, "build")
    assert memory.detail == (
        "1870 of 7619 MB free and 0 MB of swap: to build an engine takes about 2560 MB "
        "(1024 MB, the workspace_mb of profile orin-nano, and 1536 MB for CUDA and the builder)"
    )


def test_every_command_for_orin_nx_super():
    packages = "tensorrt tensorrt-cu12 tensorrt-cu12-bindings tensorrt-cu12-libs"
    assert commands("orin-nx-super-jp6") == {
        "power mode": FASTEST,
        "clocks": CLOCKS,
        "tensorrt for Python": f"/home/user/robot/.venv/bin/pip uninstall -y {packages}",
    }
    detail = found("orin-nx-super-jp6")["tensorrt for Python"].detail
    assert detail.startswith("pip's tensorrt 10.9.0.34 hides JetPack's 10.3.0.30")


def test_every_command_for_agx_orin_with_jetpack_7():
    assert commands("agx-orin-jp7.2") == {
        "python": REMAKE,
        "jetpack": NEWER,
        "tensorrt": NEWER,
        "desktop": DESKTOP,
        "clocks": CLOCKS,
        "virtual environment": REMAKE,
        "tensorrt for Python": REMAKE,
        "pycuda": f"{VENV}/bin/pip install 'mla-edge[jetson]'",
        "gstreamer": (
            f"{REMAKE} && {VENV}/bin/pip uninstall -y opencv-python-headless && "
            f"{VENV}/bin/pip install 'numpy<2'"
        ),
    }


def test_a_newer_jetpack_than_the_profile_s_says_what_differs_and_what_that_means():
    findings = found("agx-orin-jp7.2")
    assert findings["jetpack"].detail == (
        "warning: JetPack 7.2 (L4T 39.2.0), but profile agx-orin is for JetPack 6.2: here are "
        "Python 3.12, not 3.10; CUDA 13.2.1, not 12.6; TensorRT 10.16.2.10, not 10.3"
    )
    assert findings["tensorrt"].detail == (
        "warning: TensorRT 10.16.2.10, for Python 3.12, but profile agx-orin is for 10.3: "
        "engines are built on the board, so a newer one is fine for that, but export checked "
        "the operators against 10.3; it has no DLA for this board, so engines run on the GPU"
    )
    # Without a DLA to use, its clock is no reason to leave the power mode.
    assert findings["power mode"].fix == ""


def test_nothing_is_wrong_with_agx_thor():
    assert commands("agx-thor-jp7.1") == {}
    diagnosis = diagnose(BOARDS / "agx-thor-jp7.1")
    assert diagnosis.can_run is True
    assert not any(f.status == MISSING for f in diagnosis.findings)
    assert not any("warning" in f.detail for f in diagnosis.findings)


def test_every_command_for_a_pc():
    pip = "/home/user/mla-edge/.venv/bin/pip"
    assert commands("pc") == {
        "soxr": f"{pip} install soxr",
        "portaudio": "sudo apt-get install libportaudio2",
        "tensorrt-rtx-cu12-bindings": f"{pip} install 'mla-edge[tensorrt-check]'",
        "camera": "plug one in, or use --camera sim://digits",
    }
    assert found("pc")["torch"].status == OK
    assert diagnose(BOARDS / "pc").can_run is False


def test_a_container_without_sys_is_told_how_to_show_the_board():
    diagnosis = diagnose(BOARDS / "container-no-sys")
    assert diagnosis.board is None
    board = found("container-no-sys")["board"]
    assert board.status == NOTE
    assert board.detail.startswith("warning: L4T 36.4.3 is installed, but nothing under")
    assert board.fix == (
        "docker run --runtime nvidia --security-opt systempaths=unconfined "
        "--volume /sys:/sys:ro …"
    )
    assert diagnosis.can_run is True


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_this_python_is_said_of_another_machine(name, monkeypatch):
    import mla_edge.diagnosis as module

    def refuse(*_):
        raise AssertionError("this machine's Python was looked at")

    monkeypatch.setattr(module.importlib, "import_module", refuse)
    monkeypatch.setattr(module.importlib.util, "find_spec", refuse)
    monkeypatch.setattr(module, "version", refuse)
    assert "nothing was loaded" in found(name)["python"].detail


def test_a_tree_without_a_python_says_what_was_not_looked_at(tmp_path):
    diagnosis = diagnose(tmp_path)
    (python,) = [f for f in diagnosis.findings if f.name == "python"]
    assert python.detail == f"none found under {tmp_path}, so no packages were looked at"
    assert diagnosis.can_run is None
    result = CliRunner().invoke(app, ["doctor", "--json", "--root", str(tmp_path)])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["can_run"] is None


def test_the_command_on_agx_xavier_in_json():
    command = ["doctor", "--root", str(BOARDS / "agx-xavier-jp5"), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["can_run"] is True
    assert shown["board"]["power_modes"]["7"] == "MODE_15W_DESKTOP"
    assert shown["board"]["tensorrt_python"] == "3.8"
    fixes = {row["name"]: row["fix"] for row in shown["findings"]}
    assert fixes["power mode"] == FASTEST
    assert fixes["virtual environment"] == OPEN
    assert set(shown["findings"][0]) == {"name", "needed_for", "status", "detail", "fix"}


@pytest.mark.parametrize(
    ("name", "code"), [("orin-nano-jp6", 3), ("pc", 3), ("agx-thor-jp7.1", 0)]
)
def test_the_exit_code_says_whether_run_works_there(name, code):
    assert CliRunner().invoke(app, ["doctor", "--root", str(BOARDS / name)]).exit_code == code


def finding_in(python, name, board="agx-thor-jp7.1"):
    findings = board_python_findings(identify(BOARDS / board), python)
    (one,) = [f for f in findings if f.name == name]
    return one


def thor(**changes):
    return dataclasses.replace(find_interpreter(BOARDS / "agx-thor-jp7.1"), **changes)


def test_jetpack_s_opencv_does_not_load_with_numpy_2():
    one = finding_in(thor(pip_packages={"numpy": "2.2.6"}), "gstreamer")
    assert (one.status, one.fix) == (MISSING, f"{VENV}/bin/pip install 'numpy<2'")
    assert "built for NumPy 1 and does not load with 2.2.6" in one.detail


def test_an_opencv_built_with_gstreamer_is_kept_whoever_brought_it():
    python = thor(pip_packages={"opencv-python": "4.12.0"}, gstreamer=True)
    assert finding_in(python, "gstreamer").status == OK


def test_a_python_that_is_not_the_system_s_gets_an_environment_of_its_own():
    python = thor(virtual=False, of_system=False, sees_system=False, prefix="/home/user/conda")
    one = finding_in(python, "virtual environment")
    assert one.detail == (
        "/home/user/conda is not the system's Python and does not see its packages"
    )
    assert one.fix == (
        "/usr/bin/python3.12 -m venv --system-site-packages .venv && "
        ".venv/bin/pip install 'mla-edge[run]'"
    )


def test_another_python_than_the_system_s_of_the_same_version_is_made_again():
    command = environment_command(identify(BOARDS / "agx-thor-jp7.1"), thor(of_system=False))
    assert " --clear " in command


@pytest.mark.parametrize(
    ("tensorrt", "package"), [("10.13.3.9", "python3-libnvinfer"), (None, "nvidia-jetpack")]
)
def test_a_binding_that_is_not_installed_is_a_debian_package(tensorrt, package):
    board = dataclasses.replace(
        identify(BOARDS / "agx-thor-jp7.1"), tensorrt=tensorrt, tensorrt_python=None
    )
    (one,) = [
        f for f in board_python_findings(board, thor()) if f.name == "tensorrt for Python"
    ]
    assert one.fix == f"sudo apt-get install {package}"


def test_swap_on_a_disk_counts_for_a_build():
    from mla_edge.board_findings import board_findings

    board = dataclasses.replace(identify(BOARDS / "orin-nano-jp6"), swap_mb=1000)
    (one,) = [f for f in board_findings(board) if f.name == "memory"]
    assert one.status == OK


def test_what_the_system_s_pip_brought_is_removed_by_it():
    """An open environment sees what ``sudo pip install`` left in the system's Python."""
    one = finding_in(thor(local_packages={"tensorrt": "10.9.0.34"}), "tensorrt for Python")
    assert (one.status, one.fix) == (
        MISSING,
        "sudo /usr/bin/python3.12 -m pip uninstall -y tensorrt",
    )
