"""The unit for systemd: it starts on a bare board, and what it says is true of ``run``."""

import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import typer

from mla_edge import errors
from mla_edge.cli import app
from mla_edge.cli.failures import INTERRUPTED

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "examples" / "systemd" / "mla-edge.service"
GUIDE = ROOT / "docs" / "how-to" / "service.md"
USAGE = errors.ConfigError.exit_code
MADE_BY_SYSTEMD = {"LogsDirectory", "StateDirectory", "CacheDirectory", "RuntimeDirectory"}


@pytest.fixture(scope="module")
def service():
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    return unit["Service"]


def codes(text):
    return {int(code) for code in text.split()}


def exit_codes():
    """All that the errors on purpose have."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return {kind.exit_code for kind in kinds if issubclass(kind, errors.MlaEdgeError)}


def test_its_command_is_one_of_ours(service):
    program, name, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "mla-edge"
    assert Path(program).is_absolute()
    command = typer.main.get_command(app).commands[name]
    command.make_context(name, words)  # raises where an option does not exist


def test_a_command_with_an_option_that_does_not_exist_would_be_found():
    command = typer.main.get_command(app).commands["run"]
    with pytest.raises(Exception, match="No such option"):
        command.make_context("run", ["--camera", "0", "--no-such-option"])


def test_it_opens_no_file_in_a_folder_that_is_not_there_yet(service):
    """systemd opens stdout before it makes LogsDirectory= and the like: 209/STDOUT."""
    for stream in ("StandardOutput", "StandardError"):
        assert service[stream] == "journal"
    assert not MADE_BY_SYSTEMD & set(service)


def test_it_does_not_write_each_decision(service):
    """At 30 a second these are a gigabyte a day."""
    assert "--json" not in shlex.split(service["ExecStart"])


def test_only_what_trying_again_cannot_mend_leaves_it_stopped(service):
    assert service["Restart"] == "always"
    assert codes(service["RestartPreventExitStatus"]) == {USAGE}
    assert codes(service["SuccessExitStatus"]) == {INTERRUPTED}


def test_it_speaks_the_protocol_that_run_does(service):
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert float(service["WatchdogSec"]) >= 1
    assert service["ExecReload"].endswith("kill -HUP $MAINPID")


def test_the_guide_says_what_each_exit_code_means():
    text = GUIDE.read_text(encoding="utf-8").partition("## Exit codes")[2]
    rows = {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    elsewhere = {errors.AccuracyGateError.exit_code, errors.ExportError.exit_code}
    assert rows == (exit_codes() | {0, INTERRUPTED}) - elsewhere
    for code in elsewhere:
        assert re.search(rf"^Codes.*\b{code}\b", text, re.MULTILINE)
    stopped = re.search(rf"^\| {USAGE} \|.*leaves it stopped", text, re.MULTILINE)
    assert stopped and text.count("leaves it stopped") == 1


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_finds_nothing_wrong_with_it(service, tmp_path):
    program = service["ExecStart"].split()[0]
    unit = tmp_path / UNIT.name  # the program is not where it will be
    text = UNIT.read_text(encoding="utf-8").replace(program, sys.executable)
    unit.write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
