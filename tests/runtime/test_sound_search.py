"""When a lost microphone is searched for: see test_vdev.py and test_pulse.py for real ones."""

import os
import subprocess
import sys

import pytest

from mla_edge.runtime.sound_search import LOOK_S, SoundSearch, sound_signs

LOSE = """
import ctypes, itertools
import psutil
from mla_edge.runtime import microphone as microphones
from mla_edge.runtime.keeper import Keeper

begun = []
def begin():
    begun.append(real())

real, microphones.restart_portaudio = microphones.restart_portaudio, begin
Keeper.start = lambda keeper: None  # nothing is there to begin with
keeper = microphones.LiveMicrophone("no such one", rate_hz=8000, window_s=1)._keeper
keeper._open_device.__self__._opened = True
keeper._closing.wait = lambda delay_s: next(tries) > 100
trim = ctypes.CDLL(None).malloc_trim

def held():
    trim(0)
    return psutil.Process().memory_info().rss

for _ in range(3):
    real()
tries, before = itertools.count(1), held()
assert keeper._reopen() is None
print(len(begun), held() - before, keeper.failure(1))
"""


def times(until_s, sign_at):
    """When it searches, of looks every LOOK_S; ``sign_at`` is what there is at a time."""
    now_s, found = 0.0, []
    search = SoundSearch(lambda: (sign_at(now_s),), lambda: now_s)
    while now_s < until_s:
        if search.due():
            found.append(now_s)
        now_s += LOOK_S
    return found


def test_it_searches_ever_less_often_while_nothing_changes():
    found = times(400, lambda now_s: "")
    assert found[:6] == [0, 0.5, 1.5, 3.5, 7.5, 15.5]
    assert max(b - a for a, b in zip(found, found[1:])) == 60
    assert len(found) < 14


def test_it_searches_at_once_when_something_changed_and_again_soon_after():
    found = [now_s for now_s in times(400, lambda now_s: now_s >= 333) if now_s >= 320]
    assert found[:4] == [333, 333.5, 334.5, 336.5]


def test_after_a_while_of_sound_it_searches_as_at_first():
    now_s = 0.0
    search = SoundSearch(lambda: (), lambda: now_s)
    for _ in range(200):
        now_s += LOOK_S
        search.due()
    assert not search.due()
    now_s += 3600
    assert search.due()
    now_s += LOOK_S
    assert search.due()


def make(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda root: make(root / "proc/asound/cards", " 1 [USB]"),
        lambda root: make(root / "dev/snd/pcmC1D0c"),
        lambda root: (root / "dev/snd/controlC0").chmod(0o600),  # as udev does, later
        lambda root: (root / "dev/snd/controlC0").unlink(),
        lambda root: make(root / "proc/asound/card0/pcm0c/sub0/status", "closed\n"),
        lambda root: make(root / "run/user/7/pulse/native"),
        lambda root: make(root / "run/user/7/pulse/pid"),
        lambda root: make(root / "run/user/7/pipewire-0"),
        lambda root: make(root / "run/pulse/native"),
        lambda root: make(root / "elsewhere/socket"),
    ],
)
def test_each_sign_of_a_device_is_seen_and_nothing_else_is(tmp_path, change):
    make(tmp_path / "proc/asound/cards", " 0 [PCH]")
    make(tmp_path / "dev/snd/controlC0")
    status = make(tmp_path / "proc/asound/card0/pcm0c/sub0/status", "state: RUNNING\nhw_ptr: 1")
    names = {
        "XDG_RUNTIME_DIR": "/run/user/7",
        "PULSE_SERVER": "{m}unix:/elsewhere/socket tcp:h",
    }
    before = sound_signs(tmp_path, names)
    status.write_text("state: RUNNING\nhw_ptr: 2")
    make(tmp_path / "run/user/7/bus")
    assert sound_signs(tmp_path, names) == before
    change(tmp_path)
    assert sound_signs(tmp_path, names) != before


def test_a_socket_that_another_server_made_is_another_one(tmp_path):
    socket = make(tmp_path / "run/pulse/native")
    before = sound_signs(tmp_path, {})
    socket.rename(tmp_path / "old")
    make(socket)
    assert sound_signs(tmp_path, {}) != before


def test_100_looks_for_a_lost_microphone_leave_no_memory_behind():
    """Each begin of PortAudio would keep 13 kB, where Debian's ALSA plugins are installed."""
    pytest.importorskip("psutil")
    try:
        import sounddevice  # noqa: F401 - only whether it can be
    except (ImportError, OSError) as error:  # OSError: there is no PortAudio
        pytest.skip(f"sounddevice cannot be imported: {error}")
    done = subprocess.run(
        [sys.executable, "-c", LOSE], env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    begun, grown, why = done.stdout.split(maxsplit=2)
    print(begun, grown)
    assert int(grown) < 300_000
    assert int(begun) <= 8  # ever less often, however slow this machine is
    assert why.startswith("no microphone 'no such one'")
    assert why.rstrip().endswith("trying to reopen it")
