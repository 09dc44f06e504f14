"""``run`` on a terminal: a line for each new label, and a panel that is gone at the end."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from colours import INPUTS
from rich.console import Console
from warm_board import THROTTLES_C, WarmBoard

from mla_edge.cli.live import LivePanel
from mla_edge.runtime.guard import Guard
from mla_edge.runtime.sense import Fault
from mla_edge.signals import Prediction
from mla_edge.testing import FakeClock

COMMAND = [sys.executable, "-m", "mla_edge", "run", "--camera", "sim://digits?size=96x64"]


def on_terminal(folder, term, *words):
    """What a terminal gets, escapes and all."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "100"}
    process = subprocess.Popen(
        [*COMMAND, "--mic", "sim://digits", *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    parts = []
    try:
        while True:
            part = os.read(ours, 65536)
            if not part:
                break
            parts.append(part)
    except OSError:  # how Linux says that nobody has it open any more
        pass
    os.close(ours)
    assert process.wait() == 0
    return b"".join(parts).decode().replace("\r\n", "\n")


def test_a_panel_is_drawn_over_and_over_and_gone_at_the_end(here):
    shown = on_terminal(here, "xterm-256color", "--duration", "1.5")
    assert "╭" in shown
    for word in ("tier", "image", "audio", "latency", "age", "a second"):
        assert word in shown
    assert shown.rstrip().splitlines()[-1].split()[0] == "faults"
    after = shown[shown.rindex("\x1b[?25h") :]  # the cursor is back
    assert "╭" not in after
    assert "decisions" in after


@pytest.mark.parametrize("words", [["--json"], []])
def test_programs_and_dumb_terminals_get_no_panel(here, words):
    shown = on_terminal(here, "dumb", "--duration", "0.5", *words)
    assert "╭" not in shown
    assert "\x1b[?25" not in shown


def test_the_panel_says_what_is_wrong_until_it_is_well_again():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    clock = FakeClock()
    panel = LivePanel(INPUTS, console, clock)

    def shown(mode, **changes):
        screen.seek(0)
        screen.truncate()
        clock.sleep(1)
        times = dict.fromkeys(mode.split("+"), clock() - 0.02)
        panel.show(
            Prediction("red", 0.5, "lite", "lite-confident", mode, times, clock(), 5.0, 20.0)
        )
        text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", screen.getvalue())
        return {line.split()[1]: line for line in text.splitlines() if line.startswith("│")}

    try:
        assert "ok  20 ms old" in shown("image+audio")["image"]
        panel.show_fault(Fault("image", "lost", 0.0, "the cable is out"))
        rows = shown("audio")
        assert "left out, lost" in rows["image"]
        assert "████████████░░░░░░░░░░░░" in rows["decision"]
        panel.show_fault(Fault("image", "back", 0.0))
        panel.show_fault(Fault("audio", "silent", 0.0, "zeros", masked=False))
        rows = shown("image+audio")
        assert "ok" in rows["image"]
        assert "silent  20 ms old" in rows["audio"]
    finally:
        panel.stop()


def test_the_panel_says_how_hot_the_board_is_and_what_that_holds_back(tmp_path):
    board = WarmBoard(tmp_path, ambient_c=THROTTLES_C)
    guard = Guard(root=tmp_path, clock=board.clock)
    guard.step()
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, color_system=None)
    panel = LivePanel(INPUTS, console, FakeClock(), guard=guard)
    try:
        panel.show(
            Prediction("red", 0.5, "lite", "heat", "image", {"image": 0.0}, 0.0, 5.0, 20.0)
        )
    finally:
        panel.stop()
    assert "cpu-thermal 11" in screen.getvalue()
    assert "heat: the last tier is not asked any more" in screen.getvalue()
