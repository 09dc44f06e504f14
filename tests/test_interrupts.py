"""Being stopped by a signal."""

import os
import signal
import subprocess
import sys

import pytest

from mla_edge.cli.interrupts import Interrupts
from mla_edge.cli.progress import show_progress

BOTH = [signal.SIGINT, signal.SIGTERM]


def arrive(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_is_a_keyboard_interrupt_at_once(number):
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        arrive(number)


@pytest.mark.parametrize("number", BOTH)
def test_one_that_a_destructor_swallowed_ends_the_next_step(number, monkeypatch):
    class Swallower:
        def __del__(self):
            arrive(number)

    swallowed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: swallowed.append(lost.exc_type))
    with Interrupts() as interrupts, show_progress(interrupts) as on_step:
        Swallower()
        assert swallowed == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            on_step(None)


def test_one_that_must_wait_comes_after_the_block():
    done = []
    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.held():
        arrive(signal.SIGTERM)
        done.append("line")
    assert done == ["line"]


def test_it_counts_also_where_a_shell_made_the_process_deaf_to_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts(), pytest.raises(KeyboardInterrupt):
            arrive(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("package", ["typer", "numpy"])
@pytest.mark.parametrize(
    "command", [["-m", "mla_edge"], ["-c", "from mla_edge.__main__ import main; main()"]]
)
def test_one_that_comes_while_the_command_is_imported_leaves_no_trace(
    tmp_path, package, command
):
    (tmp_path / f"{package}.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(10)\n"
    )
    paths = [str(tmp_path), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *command, "--version"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "mla-edge: interrupted\n")
