"""The command line itself: versions, exit codes, and errors without a traceback."""

import errno
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import mla_edge
from mla_edge import errors
from mla_edge.cli import Commands, app


def invoke(*words):
    return CliRunner().invoke(app, list(words))


def raising(error):
    """A command line whose one command fails with ``error``."""
    failing = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @failing.command()
    def fail():
        raise error

    @failing.command()
    def other():
        """A second command, so that the first has a name."""

    return CliRunner().invoke(failing, ["fail"])


def test_version():
    assert invoke("--version").stdout == f"mla-edge {mla_edge.__version__}\n"


def test_it_runs_as_a_module():
    command = [sys.executable, "-m", "mla_edge", "--version"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert shown == f"mla-edge {mla_edge.__version__}\n"


@pytest.mark.parametrize("words", [["profils"], ["profiles", "--jsn"], ["inspect"]])
def test_wrong_usage_exits_with_2(words):
    assert invoke(*words).exit_code == 2


def test_help_lists_what_exists_and_only_that():
    listed = {command.callback.__name__ for command in app.registered_commands}
    assert {"profiles", "doctor", "inspect", "verify", "build"} <= listed
    assert not listed & {"bench", "certify", "record", "replay"}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.MlaEdgeError("it broke", hint="mend it"), 1),
        (errors.ConfigError("it broke", hint="mend it"), 2),
        (errors.MissingDependency("it broke", hint="mend it"), 3),
        (errors.AccuracyGateError("it broke", hint="mend it"), 4),
        (errors.BundleError("it broke", hint="mend it"), 5),
        (errors.CaptureError("it broke", hint="mend it"), 6),
        (errors.ExportError("it broke", hint="mend it"), 7),
    ],
)
def test_our_errors_are_a_message_a_hint_and_a_code(error, code):
    result = raising(error)
    assert result.exit_code == code
    assert result.output == "mla-edge: it broke\n  mend it\n"


def test_an_error_without_a_hint_is_one_line():
    assert raising(errors.ConfigError("it broke")).output == "mla-edge: it broke\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_is_named_with_a_way_out(number):
    result = raising(OSError(number, "refused", "some/file"))
    assert result.exit_code == 3
    assert result.output.startswith("mla-edge: some/file: refused\n  ")
    assert "give" in result.output


def test_ctrl_c_exits_with_130():
    result = raising(KeyboardInterrupt())
    assert (result.exit_code, result.output) == (130, "mla-edge: interrupted\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), OSError(errno.EBADF, "bug")])
def test_a_bug_shows_itself(error):
    result = raising(error)
    assert result.exception is error


def test_profiles_lists_every_device():
    listed = invoke("profiles").stdout.splitlines()
    assert listed[0].split() == ["NAME", "DEVICE", "TENSORRT", "JETPACK", "PRECISIONS"]
    assert any(line.startswith("agx-xavier") and "8.5" in line for line in listed)
    assert any(line.startswith("nano") and "not supported" in line for line in listed)


def test_profiles_in_json_says_null_for_unknown():
    shown = {row["name"]: row for row in json.loads(invoke("profiles", "--json").stdout)}
    assert len(shown) == 13
    assert shown["host"]["tensorrt"] is None
    assert shown["agx-thor"]["power_modes"][1]["gpu_mhz"] is None


def test_one_profile_is_shown_in_full():
    shown = invoke("profiles", "orin-nx").stdout
    assert "module p3767-0001: 8 GB, 8 SM, 1 DLA" in shown
    assert "power mode 3 20W: 20 W, GPU 408 MHz, 6 cores, 8 GB module" in shown
    assert "not supported: JetPack 4" in invoke("profiles", "nano").stdout


def test_an_unknown_profile_exits_with_2_and_the_nearest_names():
    result = invoke("profiles", "agx-orn")
    assert result.exit_code == 2
    assert result.output.startswith(
        "mla-edge: no device profile is called 'agx-orn'\n  did you mean agx-orin"
    )
