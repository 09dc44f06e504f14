"""A real V4L2 camera and a real ALSA microphone, in a small guest kernel that has them.

See guest.py. Each test runs a few lines of Python in the guest and judges what they print.
"""

import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import guest
import numpy as np
import pytest
from guest import in_guest

import mla_edge
from mla_edge.signals import Sample
from mla_edge.simulator.samples import labelled_samples

cv2 = pytest.importorskip("cv2")
try:
    import sounddevice  # noqa: F401 - only whether it can be
except (ImportError, OSError) as error:  # OSError: there is no PortAudio
    pytest.skip(f"sounddevice cannot be imported: {error}", allow_module_level=True)

pytestmark = guest.MARKS

RATE = 16_000
CLAPPER = Path(__file__).with_name("clapper.py")


@pytest.fixture
def noise_wav(tmp_path):
    """Half a second of noise that is nowhere zero, in 16 bits, and its samples."""
    rng = np.random.default_rng(5)
    samples = rng.integers(1, 2**14, RATE // 2).astype("<i2") * rng.choice([-1, 1], RATE // 2)
    path = tmp_path / "noise.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return path, samples


def test_camera_gives_each_frame_once_and_soon(counting_video):
    said = in_guest(
        """
        with fed_camera() as camera:
            camera.read(5); time.sleep(1)
            camera.read(5); drops = camera.drops
            numbers, times, ages = [], [], []
            begun = time.monotonic()
            while time.monotonic() - begun < 4:
                frame = camera.read(1)
                now = time.monotonic()
                bars = frame.image[240, 45:45 + 7 * 90:90].mean(axis=1) > 127
                numbers.append(int(sum(1 << bit for bit in range(7) if bars[bit])))
                times.append(frame.time_s); ages.append(now - frame.time_s)
            say(numbers=numbers, times=times, ages=ages, drops=camera.drops - drops,
                shape=frame.image.shape)
        say(threads=threading.active_count())
        """,
        video=counting_video,
    )
    steps = np.diff(said["numbers"]) % 128
    fps = len(said["numbers"]) / 4
    print(f"{fps:.1f} fps, age p50 {np.median(said['ages']) * 1e3:.1f} ms")
    assert said["shape"] == [480, 640, 3]
    assert fps >= 12  # 30 where the machine is idle
    assert (np.diff(said["times"]) > 0).all()
    assert (steps > 0).mean() > 0.9  # the feeder may send a frame twice, we do not
    assert np.median(said["ages"]) < 0.05
    assert min(said["ages"]) >= 0
    assert said["threads"] == 1


def test_a_slow_reader_is_not_behind_the_camera():
    said = in_guest(
        """
        with open_camera("/dev/video0") as camera:
            camera.read(5); time.sleep(1)
            ages = []
            for _ in range(6):
                time.sleep(0.4)
                ages.append(time.monotonic() - camera.read(1).time_s)
            say(ages=ages, drops=camera.drops)
        """
    )
    assert max(said["ages"]) < 0.2
    assert said["drops"] >= 15


def test_sound_arrives_bit_by_bit(noise_wav):
    path, samples = noise_wav
    said = in_guest(
        """
        with open_microphone("default", rate_hz=16000, window_s=1.0) as microphone:
            begun, best, reads, ages = time.monotonic(), None, [], []
            while time.monotonic() - begun < 4:
                at = time.monotonic()
                sound = microphone.read(1)
                reads.append(time.monotonic() - at); ages.append(at - sound.time_s)
                if best is None or np.count_nonzero(sound.samples) > np.count_nonzero(best):
                    best = sound.samples.copy()
                time.sleep(0.02)
            say(best=np.round(best * 32768).astype(int).tolist(), drops=microphone.drops,
                exact=bool((best * 32768 == np.round(best * 32768)).all()),
                read_ms=float(np.median(reads[5:])) * 1e3, ages=ages[5:])
        say(threads=threading.active_count())
        """,
        wav=path,
    )
    heard = np.trim_zeros(np.array(said["best"]))
    print(f"read {said['read_ms']:.3f} ms, age p50 {np.median(said['ages']) * 1e3:.0f} ms")
    assert said["exact"]
    same = heard[: len(samples)] == samples
    assert (same | (heard[: len(samples)] == 0)).all()
    assert same.mean() > 0.85  # the guest's player leaves out a bit at its end
    assert said["drops"] == 0
    assert 0 <= np.median(said["ages"]) < 0.1
    assert said["threads"] == 1


def test_a_device_that_refuses_the_rate_is_used_at_its_own(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44_100 * 15) / 44_100)
    path = tmp_path / "tone.raw"
    path.write_bytes(np.round(tone * 2**15).astype("<i2").tobytes())
    said = in_guest(
        f"""
        # What plays into the loopback sets the only rate at which it can be recorded.
        player = subprocess.Popen(["aplay", "-q", "-D", "hw:Loopback,0,0", "-r", "44100",
                                   "-f", "S16_LE", "-c", "1", "{path}"])
        time.sleep(1)
        with open_microphone("hw:0,1", rate_hz=8000, window_s=1.0) as microphone:
            microphone.read(3); time.sleep(2)
            reads = []
            for _ in range(50):
                at = time.monotonic()
                sound = microphone.read(1)
                reads.append(time.monotonic() - at)
                time.sleep(0.01)
            say(samples=sound.samples.tolist(), rate=sound.rate_hz,
                device_rate=microphone._ring.rate_hz, read_ms=float(np.median(reads)) * 1e3)
        player.kill(); player.wait()
        """
    )
    print(f"read with resampling {said['read_ms']:.3f} ms")
    assert said["device_rate"] == 44_100
    assert (len(said["samples"]), said["rate"]) == (8000, 8000)
    spectrum = np.abs(np.fft.rfft(said["samples"])) / 4000  # 1 Hz a bin
    assert spectrum.argmax() == 440
    assert spectrum[440] == pytest.approx(0.5, rel=0.02)


def test_both_at_once(counting_video, noise_wav):
    said = in_guest(
        """
        with fed_camera() as camera, \\
                open_microphone("default", rate_hz=16000, window_s=1.0) as microphone:
            camera.read(5); microphone.read(5); time.sleep(1)
            frames, skew, begun = 0, [], time.monotonic()
            while time.monotonic() - begun < 4:
                frame, sound = camera.read(1), microphone.read(0)
                frames += 1
                skew.append(sound.time_s - frame.time_s)
            say(fps=frames / 4, skew=skew, drops=microphone.drops)
        """,
        video=counting_video,
        wav=noise_wav[0],
    )
    print(f"{said['fps']:.1f} fps, sound later than frame by {np.median(said['skew']):.3f} s")
    assert said["fps"] >= 12
    assert abs(np.median(said["skew"])) < 0.1
    assert said["drops"] < 20  # 0 where the machine is idle


def test_an_unplugged_camera_is_told_and_comes_back():
    said = in_guest(
        """
        with open_camera("0") as camera:
            camera.read(5)
            subprocess.run(["vdev-unplug", "camera"], check=True)
            after, why, longest = told(camera, 5)
            say(after=after, why=why, longest=longest)
            time.sleep(1)
            say(later=told(camera, 1)[1])
            rebound = time.monotonic()
            rebind("vivid", "vivid.0")
            say(back=back(camera, 10, rebound))
            begun, frames = time.monotonic(), 0
            while time.monotonic() - begun < 2:
                camera.read(1); frames += 1
            say(fps=frames / 2)
        say(threads=threading.active_count())
        """
    )
    print(f"told after {said['after']:.2f} s, back after {said['back']:.2f} s")
    assert said["after"] < 1
    # By then a first try to reopen it may have failed.
    assert any(why in said["why"] for why in ("stopped giving frames", "no camera at"))
    assert "; trying to reopen it" in said["why"]
    assert said["longest"] < 0.3
    assert "no camera at /dev/video0; trying to reopen it" in said["later"]
    assert said["back"] < 6
    assert said["fps"] >= 10
    assert said["threads"] == 1


def test_a_stalled_camera_does_not_block(counting_video):
    said = in_guest(
        """
        import signal
        feeder = int(open("/run/vdev-camera.pid").read())
        with fed_camera() as camera:
            camera.read(5)
            os.kill(feeder, signal.SIGSTOP)
            stalled = time.monotonic()
            say(quiet=told(camera, 3, CaptureTimeout)[1])
            after, why, longest = told(camera, 6)
            say(after=after, why=why, longest=longest)
            os.kill(feeder, signal.SIGCONT)
            say(back=back(camera, 10, time.monotonic()))
            os.kill(feeder, signal.SIGSTOP)
            time.sleep(0.5)
            closing = time.monotonic()
        say(closed=time.monotonic() - closing)
        time.sleep(2.5)
        say(threads=threading.active_count())
        os.kill(feeder, signal.SIGCONT)
        """,
        video=counting_video,
    )
    assert "gave nothing in 0.1 s" in said["quiet"]
    assert said["after"] < 4
    assert "stopped giving frames" in said["why"]
    assert said["longest"] < 0.5
    assert said["back"] < 6
    assert said["closed"] < 2
    assert said["threads"] == 1


def test_sound_that_was_lost_does_not_shift_the_clock():
    said = in_guest(
        """
        with open_microphone("default", rate_hz=16000, window_s=1.0) as microphone:
            microphone.read(5); time.sleep(1)
            sound, samples = microphone.read(1), microphone._ring.total
            for _ in range(2):
                3 ** 4_000_000  # holds Python's lock for about a second
                time.sleep(0.7)
            last, now = microphone.read(1), time.monotonic()
            say(clock=last.time_s - sound.time_s, age=now - last.time_s,
                samples=(microphone._ring.total - samples) / 16000, drops=microphone.drops)
        """
    )
    print(f"{said['drops']} overflows in {said['clock']:.2f} s")
    assert said["drops"] >= 1
    assert said["samples"] == pytest.approx(said["clock"], abs=0.05)
    assert said["age"] < 0.2


def test_an_unplugged_microphone_is_told_while_the_camera_goes_on():
    said = in_guest(
        """
        with open_camera("0") as camera, \\
                open_microphone("default", rate_hz=16000, window_s=1.0) as microphone:
            camera.read(5); microphone.read(5)
            subprocess.run(["vdev-unplug", "mic"], check=True)
            after, why, longest = told(microphone, 5)
            say(after=after, why=why, longest=longest, frame=camera.read(1).time_s > 0)
            time.sleep(1)
            say(later=told(microphone, 1)[1])
            rebound = time.monotonic()
            rebind("snd_aloop", "snd_aloop.0")
            say(back=back(microphone, 12, rebound))
            time.sleep(1.2)
            say(age=time.monotonic() - microphone.read(1).time_s)
            closing = time.monotonic()
        say(closed=time.monotonic() - closing, threads=threading.active_count())
        """
    )
    print(f"told after {said['after']:.2f} s, back after {said['back']:.2f} s")
    assert said["after"] < 2
    assert "stopped giving sound; trying to reopen it" in said["why"]
    assert said["longest"] < 0.5
    assert said["frame"]
    assert "trying to reopen it" in said["later"]
    assert said["back"] < 8
    assert said["age"] < 0.2
    assert said["closed"] < 4  # two devices
    assert said["threads"] == 1


def test_busy_devices_are_named():
    said = in_guest(
        """
        import sounddevice
        users = [
            subprocess.Popen(["v4l2-ctl", "-d", "/dev/video0", "--stream-mmap"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
            subprocess.Popen(["arecord", "-q", "-f", "S16_LE", "/dev/null"]),
        ]
        time.sleep(1)
        for name, opener in (("camera", lambda: open_camera("0")),
                             ("microphone", lambda: open_microphone(
                                 "default", rate_hz=16000, window_s=1.0))):
            try:
                opener()
            except CaptureError as error:
                say(**{name: words(error)})
        for user in users:
            user.kill(); user.wait()
        """
    )
    assert "the camera /dev/video0 is in use by another program (EBUSY)" in said["camera"]
    assert "fuser -v /dev/video0" in said["camera"]
    assert "the microphone default is in use by another program" in said["microphone"]
    assert "fuser -v /dev/snd/*" in said["microphone"]


def test_neither_is_there():
    said = in_guest(
        """
        for name, opener in (("camera", lambda: open_camera("0")),
                             ("microphone", lambda: open_microphone(
                                 "default", rate_hz=16000, window_s=1.0))):
            try:
                opener()
            except CaptureError as error:
                say(**{name: words(error)})
        """,
        video="none",
        wav="none",
    )
    assert "no camera at /dev/video0 | there is: this machine has no" in said["camera"]
    assert "no microphone 'default'" in said["microphone"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The reference network's bundle, a picture of a seven, and the word."""
    pytest.importorskip("torch", reason="exporting needs torch")
    from mla_edge.exporter.pipeline import ExportRequest, export

    folder = tmp_path_factory.mktemp("digits")
    bundle = export(ExportRequest("host", out=folder)).bundle
    sevens = [
        sample
        for sample in labelled_samples("test", 400, 0)
        if sample.truth == "7" and len(sample.signals) == 2
    ]
    with mla_edge.load(bundle.folder) as model:
        for sample in sevens:
            alone = [model.infer(Sample({n: s})) for n, s in sample.signals.items()]
            if all(seen.label == "7" and seen.confidence > 0.95 for seen in alone):
                break
        else:
            raise AssertionError("no seven of the simulator is clear to the eye and the ear")
    picture, word = folder / "seven.png", folder / "seven.wav"
    cv2.imwrite(str(picture), cv2.cvtColor(sample.signals["image"].image, cv2.COLOR_RGB2BGR))
    with wave.open(str(word), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(
            np.round(sample.signals["audio"].samples * 32767).astype("<i2").tobytes()
        )
    return bundle.folder, picture, word


def test_the_command_sees_and_hears_a_seven(digits):
    bundle, picture, word = digits
    command = f"run --camera 0 --mic default --duration 8 --json --bundle '{bundle}'"
    # The guest is up before its player of the picture is: the camera may take a moment.
    done = subprocess.run(
        [guest.VDEV, f"sleep 3; exec '{sys.executable}' -m mla_edge {command}"],
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("VDEV_")},
            "VDEV_VIDEO": str(picture),
            "VDEV_WAV": str(word),
            "VDEV_TIMEOUT": "120",
        },
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    *decisions, last = [json.loads(line) for line in done.stdout.splitlines()]
    summary = last["summary"]
    print(
        f"{summary['rate_hz']:.1f} a second, latency p50 {summary['latency_ms']['p50']:.1f} ms"
    )
    assert summary["decisions"] == len(decisions) >= 8 * 8  # 30 a second where idle
    assert summary["modes"]["image+audio"]["share"] > 0.9
    assert np.mean([decision["label"] == "7" for decision in decisions]) > 0.9


def test_a_flash_and_a_click_of_one_moment_are_told_of_one_moment(counting_video):
    """clapper.py makes them; what capture says of their times is compared with each other."""
    said = in_guest(
        f"""
        import sys
        clapper = subprocess.Popen([sys.executable, {str(CLAPPER)!r}, "20"],
                                   stdout=subprocess.PIPE, text=True)
        flashes, clicks, was_bright = [], [], False
        clapper.stdout.readline()
        with fed_camera() as camera, \\
                open_microphone("default", rate_hz=16000, window_s=1.0) as microphone:
            camera.read(5); microphone.read(5)
            begun = heard = time.monotonic()
            while clapper.poll() is None and time.monotonic() - begun < 40:
                try:
                    frame = camera.read(0.5)
                except CaptureError:
                    break
                bright = bool(frame.image[::16, ::16].mean() > 150)
                if bright and not was_bright:
                    flashes.append(frame.time_s)
                was_bright = bright
                if time.monotonic() - heard > 0.4:
                    sound = microphone.read(1)
                    heard = time.monotonic()
                    loud = np.flatnonzero(sound.samples > 0.5)
                    for index in loud[np.diff(loud, prepend=-100) > 50]:
                        clicks.append(sound.time_s - (15999 - int(index)) / 16000)
        truth = json.loads(clapper.communicate()[0])
        say(flashes=flashes, clicks=clicks, made=truth)
        """,
        video=counting_video,
        timeout_s=120,
    )
    flashes, clicks = np.array(said["flashes"]), np.array(said["clicks"])
    made, played = (np.array(said["made"][name]) for name in ("flashes", "clicks"))

    def nearest(times, others):
        apart = times[:, None] - others[None]
        return apart[np.arange(len(times)), np.abs(apart).argmin(axis=1)]

    skew = nearest(flashes, clicks)
    skew = skew[np.abs(skew) < 0.3]
    for name, values in (
        ("flash told after it was made", nearest(flashes, made)),
        ("click told after it was played", nearest(clicks, played)),
        ("flash after click, as told", skew),
    ):
        spread = np.percentile(values, [0, 50, 100]) * 1e3
        print(f"{name}: {spread[0]:.1f} to {spread[2]:.1f} ms, median {spread[1]:.1f} ms")
    assert len(skew) >= 5
    assert abs(np.median(skew)) < 0.02
