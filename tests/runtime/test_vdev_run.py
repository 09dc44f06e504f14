"""The whole run on a real camera and a real microphone that fail: see guest.py.

Each test boots the guest once and goes through several faults there.
"""

from pathlib import Path

import guest
import pytest
from colours import make_bundle
from guest import in_guest

pytestmark = guest.MARKS
HERE = Path(__file__).parent

START = f"""
import os, signal, sys
sys.path.insert(0, {str(HERE)!r})
from running import running

FOLDER = os.environ["RUN_FOLDER"]
WORDS = ["run", "--camera", "0", "--mic", "default", "--json", "--threads", "1"]

def held(run):
    # Threads and open files of the run.
    own = f"/proc/{{run.process.pid}}"
    return len(os.listdir(own + "/task")), len(os.listdir(own + "/fd"))

def spent_s(run):
    # Of the processor.
    fields = open(f"/proc/{{run.process.pid}}/stat").read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

def timed(wait, *words):
    begun = time.monotonic()
    wait(*words)
    return time.monotonic() - begun

def unplug(what):
    subprocess.run(["vdev-unplug", what], check=True)

def plug(what):
    rebind(*{{"camera": ("vivid", "vivid.0"), "mic": ("snd_aloop", "snd_aloop.0")}}[what])
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_FOLDER", str(tmp_path))
    return make_bundle(tmp_path / "bundles" / "colours-host").folder


def test_both_are_unplugged_and_plugged_in_again_under_a_run(folder):
    said = in_guest(
        START
        + """
with running(FOLDER, *WORDS) as run:
    run.decides("image+audio", 10)
    before = held(run)
    told, back, alone = [], [], []
    for what, name, other in (("camera", "image", "audio"), ("mic", "audio", "image")) * 2:
        count = sum(f"{name} is back" in line for line in run.words)
        lost = sum(f"{name} is lost" in line for line in run.words)
        begun = time.monotonic()
        unplug(what)
        run.says(f"{name} is lost and is left out: ", lost + 1)
        told.append(time.monotonic() - begun)
        number, used, at = len(run.decisions), spent_s(run), time.monotonic()
        run.decides(other)
        time.sleep(1.5)
        share = (spent_s(run) - used) / (time.monotonic() - at)
        alone.append(({m["mode"] for m in run.decisions[number:]} == {other}, share))
        begun = time.monotonic()
        plug(what)
        run.says(f"{name} is back", count + 1)
        back.append(time.monotonic() - begun)
        run.decides("image+audio")
    say(told=told, back=back, alone=alone)
    unplug("camera"); unplug("mic")
    run.says("image is lost", 3); run.says("audio is lost", 3)
    time.sleep(6)  # until the microphone is tried again less often
    number, used, at = len(run.decisions), spent_s(run), time.monotonic()
    time.sleep(5)
    say(none=len(run.decisions) - number, idle=(spent_s(run) - used) / (time.monotonic() - at))
    plug("mic"); plug("camera")
    run.decides("image+audio", 10)
    time.sleep(1)
    say(before=before, after=held(run), words=run.words)
    code, taken = run.stop()
    say(code=code, taken=taken, faults=run.last["summary"]["faults"])
user = subprocess.Popen(["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap"],
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
time.sleep(1)
done = subprocess.run([sys.executable, "-m", "mla_edge", *WORDS, "--duration", "1"], cwd=FOLDER,
                      capture_output=True, text=True)
say(busy_code=done.returncode, busy=done.stderr)
user.kill(); user.wait()
""",
        timeout_s=150,
    )
    print({key: value for key, value in said.items() if key not in ("words", "busy")})
    assert max(said["told"]) < 4
    assert max(said["back"]) < 5  # some 1 s for the microphone
    assert all(only for only, _ in said["alone"])
    assert said["none"] == 0
    assert said["idle"] < 0.8  # PortAudio spins while its device is gone, if it is let
    assert said["after"] == said["before"]
    assert (said["code"], said["taken"] < 5) == (130, True)
    assert [said["faults"][name]["lost"] for name in ("image", "audio")] == [3, 3]
    words = "\n".join(said["words"])
    assert "audio is lost and is left out: the microphone default stopped giving sound" in words
    assert said["busy_code"] == 6
    assert "the camera /dev/video0 is in use by another program (EBUSY)" in said["busy"]
    assert "or run without it: --camera none" in said["busy"]


def test_a_camera_that_stalls_for_ten_seconds(folder, counting_video):
    said = in_guest(
        START
        + """
fed_camera().__exit__(None, None, None)
feeder = int(open("/run/vdev-camera.pid").read())
with running(FOLDER, *WORDS) as run:
    run.decides("image+audio", 10)
    number = len(run.decisions)
    os.kill(feeder, signal.SIGSTOP)
    say(stale=timed(run.says, "image is stale and is left out: nothing new for"),
        lost=timed(run.says, "image is lost and is left out: camera /dev/video0 stopped"))
    time.sleep(7)
    alone = [made for made in run.decisions[number:] if made["mode"] == "audio"]
    times = [made["decision_time_s"] for made in alone]
    os.kill(feeder, signal.SIGCONT)
    say(gap=max(b - a for a, b in zip(times, times[1:])), alone=len(alone),
        oldest=max(made["age_ms"] for made in run.decisions[number:]),
        back=timed(run.says, "image is back"))
    run.decides("image+audio", 10)
    say(code=run.stop()[0], faults=run.last["summary"]["faults"])
""",
        video=counting_video,
        timeout_s=120,
    )
    print(said)
    assert said["stale"] < 2
    assert said["lost"] < 4
    assert said["alone"] > 50
    assert said["gap"] < 0.6
    assert said["oldest"] < 800
    assert said["back"] < 3
    assert said["code"] == 130
    assert said["faults"]["image"]["lost"] == 1
