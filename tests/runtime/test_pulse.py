"""A microphone behind a sound server: what ends that is noticed, and it is found again.

A PulseAudio of our own, with a socket in the test's folder and a sink that nobody hears; its
monitor is the microphone.
"""

import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import pytest

if not shutil.which("pulseaudio"):
    pytest.skip("PulseAudio is not installed", allow_module_level=True)
try:
    import sounddevice  # noqa: F401 - only whether it can be
except (ImportError, OSError) as error:  # OSError: there is no PortAudio
    pytest.skip(f"sounddevice cannot be imported: {error}", allow_module_level=True)

SERVER = """\
load-module module-native-protocol-unix auth-anonymous=1 socket={folder}/socket
load-module module-null-sink sink_name=room rate=16000 channels=1 channel_map=mono
set-default-sink room
set-default-source room.monitor
"""
ALSA = """\
</usr/share/alsa/alsa.conf>
pcm.!default { type pulse }
ctl.!default { type pulse }
"""
LISTEN = """
import sys, time
from mla_edge.errors import CaptureError, CaptureTimeout
from mla_edge.runtime.capture import open_microphone

def say(word):
    print(word, time.monotonic(), flush=True)

with open_microphone("default", rate_hz=16000, window_s=0.5) as microphone:
    well = None
    while True:
        try:
            microphone.read(0.1)
        except CaptureTimeout:
            pass
        except CaptureError as error:
            if well in (True, None):
                say(f"lost: {error}")
            well = False
        else:
            if not well:
                say("hears")
            well = True
        time.sleep(0.02)
"""


@pytest.fixture
def pulse(tmp_path, monkeypatch):
    """Starts the server; it ends with the test."""
    for name in (
        "XDG_RUNTIME_DIR",
        "XDG_CONFIG_HOME",
        "PULSE_RUNTIME_PATH",
        "PULSE_STATE_PATH",
    ):
        folder = tmp_path / name.lower()
        folder.mkdir(mode=0o700)
        monkeypatch.setenv(name, str(folder))
    (tmp_path / "asound.conf").write_text(ALSA)
    (tmp_path / "server.pa").write_text(SERVER.format(folder=tmp_path))
    monkeypatch.setenv("PULSE_SERVER", f"unix:{tmp_path}/socket")
    monkeypatch.setenv("ALSA_CONFIG_PATH", str(tmp_path / "asound.conf"))
    running = []

    def start():
        (tmp_path / "socket").unlink(missing_ok=True)
        settings = ["--daemonize=no", "--exit-idle-time=-1", "--realtime=no", "--system=no"]
        settings += ["--use-pid-file=no", "--high-priority=no", "--log-target=null"]
        server = subprocess.Popen(
            ["pulseaudio", "-n", "-F", str(tmp_path / "server.pa"), *settings],
            stderr=subprocess.DEVNULL,
        )
        running.append(server)
        end_s = time.monotonic() + 10
        while not (tmp_path / "socket").exists():
            if server.poll() is not None or time.monotonic() > end_s:
                pytest.skip("PulseAudio does not start here")
            time.sleep(0.05)
        return server

    yield start
    for server in running:
        server.kill()
        server.wait()


def test_a_sound_server_that_dies_is_noticed_and_its_successor_used(pulse):
    server = pulse()
    listening = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LISTEN)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    watchdog = threading.Timer(60, listening.kill)
    watchdog.start()
    try:
        first = listening.stdout.readline()
        if not first:
            pytest.skip(f"no microphone of PulseAudio's: {listening.stderr.read()[-300:]}")
        assert first.startswith("hears")
        time.sleep(0.5)
        server.kill()
        server.wait()
        died_s = time.monotonic()
        lost, _, at_s = listening.stdout.readline().rpartition(" ")
        assert lost.startswith("lost: ") and lost.endswith("trying to reopen it")
        assert float(at_s) - died_s < 3
        pulse()
        again_s = time.monotonic()
        back, at_s = listening.stdout.readline().split()
        assert back == "hears"
        assert float(at_s) - again_s < 10
        print(float(at_s) - again_s)
    finally:
        watchdog.cancel()
        listening.kill()
        listening.communicate()
