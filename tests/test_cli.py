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
from mla_edge.cli import app
from mla_edge.cli.failures import Command


def invoke(*words):
    return CliRunner().invoke(app, list(words))


def raising(error, *words):
    """A command line whose one command fails with ``error``."""
    failing = typer.Typer(pretty_exceptions_enable=False)

    @failing.command(cls=Command)
    def fail(as_json: bool = typer.Option(False, "--json")):
        raise error

    @failing.command()
    def other():
        """A second command, so that the first has a name."""

    return CliRunner().invoke(failing, ["fail", *words])


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
    assert {"profiles", "doctor", "inspect", "verify", "build", "certify", "adapt"} <= listed
    assert {"run", "record", "replay"} <= listed


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

    told = raising(error, "--json")
    assert (told.exit_code, told.stderr) == (code, "mla-edge: it broke\n  mend it\n")
    shown = {"ok": False, "problem": "it broke", "fix": "mend it", "exit_code": code}
    assert json.loads(told.stdout) == shown


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(errno.ENOSPC, "full", "some/file"), 3), (KeyboardInterrupt(), 130)],
)
def test_in_json_other_errors_are_one_object_too(error, code):
    told = raising(error, "--json")
    shown = json.loads(told.stdout)
    assert told.exit_code == shown["exit_code"] == code
    assert shown["ok"] is False
    assert f"mla-edge: {shown['problem']}" in told.stderr


def test_the_object_has_what_else_is_known():
    error = errors.AccuracyGateError("it broke", report="out/failed-report.json")
    assert json.loads(raising(error, "--json").stdout)["report"] == "out/failed-report.json"
    error = errors.BundleError("it broke")
    error.details["checks"] = [1, 2]
    assert json.loads(raising(error, "--json").stdout)["checks"] == [1, 2]
    assert raising(error).stdout == ""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["export", "--profile", "agx-xaver"], 2),
        (["export", "none.py:make", "--profile", "host"], 2),
        (["adapt", "digits", "no/such/folder"], 2),
        (["build", "no/such/bundle"], 5),
        (["verify", "no/such/bundle"], 5),
        (["inspect", "no/such/bundle"], 5),
        (["run", "--bundle", "no/such/bundle"], 5),
        (["run", "--camera", "none", "--mic", "none"], 2),
        (["profiles", "agx-orn"], 2),
    ],
)
def test_every_command_tells_of_its_error_in_json(tmp_path, monkeypatch, words, code):
    monkeypatch.chdir(tmp_path)
    told = invoke(*words, "--json")
    shown = json.loads(told.stdout)
    assert told.exit_code == shown["exit_code"]
    assert told.exit_code in (code, 3)  # 3: a package that the command needs is not there
    assert list(shown) == ["ok", "problem", "fix", "exit_code"]
    assert shown["ok"] is False
    assert told.stderr.endswith(f"mla-edge: {shown['problem']}\n  {shown['fix']}\n")
    assert not list(tmp_path.iterdir())


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
