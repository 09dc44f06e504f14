"""The example program does what it says, on a bundle that sees nothing but colours."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
from colours import make_bundle

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "robot_loop.py"


def run(*words):
    return subprocess.run(
        [sys.executable, str(EXAMPLE), *map(str, words)], capture_output=True, text=True
    )


def picture(path, colour):
    cv2.imwrite(str(path), np.full((48, 64, 3), colour, np.uint8))
    return path


def test_it_acts_once_on_a_steady_answer(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    red = picture(tmp_path / "red.png", (0, 0, 255))  # OpenCV writes blue first
    done = run(bundle.folder, red, "sim://digits", 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "acting on red\n"
    assert "silence is " in done.stderr


def test_a_camera_that_does_not_open_is_one_message(tmp_path):
    bundle = make_bundle(tmp_path / "b")
    done = run(bundle.folder, "no-such-file.avi", "sim://digits", 1)
    assert done.returncode == 1
    assert "no such file: no-such-file.avi" in done.stderr
    assert "Traceback" not in done.stderr
