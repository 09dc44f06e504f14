"""A small guest kernel that has a real V4L2 camera and a real ALSA microphone.

MLA_EDGE_VDEV names the script ``vdev.sh``, which runs a command in there; without it the tests
that need one are skipped.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest

VDEV = os.environ.get("MLA_EDGE_VDEV")
MARKS = [
    pytest.mark.device,
    pytest.mark.skipif(not VDEV, reason="MLA_EDGE_VDEV does not name vdev.sh"),
]

PRELUDE = """
import json, os, subprocess, threading, time
import numpy as np
from mla_edge.errors import CaptureError, CaptureTimeout, MlaEdgeError
from mla_edge.runtime.capture import open_camera, open_microphone

def say(**values):
    print(json.dumps(values), flush=True)

def words(error):
    return f"{type(error).__name__}: {error} | {error.hint}"

def told(source, seconds, until=CaptureError):
    # Reads until an error of the kind comes: after how long, its words, the longest read.
    begun, longest = time.monotonic(), 0.0
    while time.monotonic() - begun < seconds:
        at = time.monotonic()
        try:
            source.read(0.1)
        except MlaEdgeError as error:
            if type(error) is until:
                return time.monotonic() - begun, words(error), longest
        finally:
            longest = max(longest, time.monotonic() - at)
        time.sleep(0.005)
    return None, "", longest

def back(source, seconds, after_s):
    # Reads until there is a signal captured after the moment: how long that took.
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        try:
            if source.read(0.1).time_s > after_s:
                return time.monotonic() - begun
        except CaptureError:
            pass
    return None

def fed_camera():
    # The guest's feeder of a given video may take a moment before there is a camera.
    for _ in range(50):
        try:
            return open_camera("0")
        except CaptureError:
            time.sleep(0.1)
    return open_camera("0")

def rebind(driver, device):
    with open(f"/sys/bus/platform/drivers/{driver}/bind", "w") as file:
        file.write(device)
"""


def in_guest(code, *, video="", wav="", timeout_s=60):
    """What ``code`` says in the guest, the objects of its lines merged."""
    done = subprocess.run(
        [VDEV, f"exec '{sys.executable}' -c \"$GUEST_CODE\""],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("VDEV_")},
            "GUEST_CODE": PRELUDE + textwrap.dedent(code),
            "OMP_NUM_THREADS": "1",
            "VDEV_TIMEOUT": str(timeout_s),
            **({"VDEV_VIDEO": str(video)} if video else {}),
            **({"VDEV_WAV": str(wav)} if wav else {}),
        },
        capture_output=True,
        text=True,
        timeout=timeout_s + 60,
    )
    assert done.returncode == 0, done.stderr
    result = {}
    for line in done.stdout.splitlines():
        result.update(json.loads(line))
    return result
