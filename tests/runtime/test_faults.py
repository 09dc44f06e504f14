"""200 faults at random: each is told, masked and over again, and nothing is left of them.

The loop, the camera's thread and its sockets are real; the camera is a server on loopback that
fails, the microphone the simulator's with faults in front of it.
"""

import contextlib
import ctypes
import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from colours import make_bundle
from network_camera import NetworkCamera, encoded, grey

import mla_edge
from mla_edge.errors import CaptureError, CaptureTimeout
from mla_edge.runtime import camera as cameras
from mla_edge.runtime import vitals
from mla_edge.runtime.sense import BACK
from mla_edge.simulator.digits import DigitsOptions
from mla_edge.simulator.sources import SimMicrophone

SEED = 20261126
FAULTS = 200
WARMING = 56  # each kind four times
MAX_AGE_MS = 60.0
PATIENCE_S = 0.03  # for what a sensor gives that can be no sensor's; 2 s otherwise
RETRIES_S = (0.01, 0.04)
LATE_S = 20.0  # to tell it, or its end, on a busy machine; it takes some 0.1 s


class Camera:
    """A real camera of a URL; faults are those of its server, or of its cable."""

    modality = "image"
    kinds = {
        "killed": {"lost"},
        "unplugged": {"lost"},
        "stalled": {"stale", "lost"},
        "damaged": {"stale", "lost"},
        "frozen": {"frozen"},
        "in turn": {"repeating"},
        "black": {"black"},
    }

    def __init__(self):
        self._server = NetworkCamera(fps=100)
        self._picture = self._server.jpeg
        self._noise = random.Random(SEED)
        self._unplugged = False
        self.source = cameras.LiveCamera("camera", self._open)

    def begin(self, kind):
        if kind == "killed":
            self._server.close()
        elif kind == "unplugged":
            self._unplugged = True
        elif kind == "stalled":
            self._server.stalled.set()
        else:
            still = [encoded(grey(level)) for level in (40, 80, 120)]
            self._server.jpeg = {
                "damaged": lambda number: self._noise.getrandbits(8 * 300).to_bytes(300, "big"),
                "frozen": lambda number: still[0],
                "in turn": lambda number: still[number % 3],
                "black": lambda number: encoded(grey(number % 4)),
            }[kind]

    def end(self, kind):
        if kind == "killed":
            self._server = NetworkCamera(self._server.port, fps=100)
        self._unplugged = False
        self._server.stalled.clear()
        self._server.jpeg = self._picture

    def close(self):
        self.source.close()
        self._server.close()

    def _open(self):
        if self._unplugged:
            raise CaptureError("no camera")
        return Cable(cameras.open_url(self._server.url), lambda: self._unplugged)


class Cable:
    """Between a feed and its camera."""

    def __init__(self, feed, is_unplugged):
        self._feed, self._is_unplugged = feed, is_unplugged
        self.retrieve, self.release = feed.retrieve, feed.release

    def grab(self):
        if self._is_unplugged():
            raise CaptureError("the camera stopped giving frames")
        return self._feed.grab()


class Microphone:
    """The simulator's microphone, and what drivers make of one."""

    modality = "audio"
    kinds = {
        "unplugged": {"lost"},
        "stalled": {"stale"},
        "stopped": {"stale"},
        "not finite": {"lost"},
        "zeros": {"silent"},
        "too loud": {"clipping"},
        "stuck": {"repeating"},
    }

    def __init__(self):
        self._microphone = SimMicrophone(DigitsOptions(), rate_hz=800)
        self._kind, self._last = "", None
        self.source = self
        self.drops = 0

    def begin(self, kind):
        self._kind = kind

    def end(self, kind):
        self._kind = ""

    def close(self):
        self._microphone.close()

    def read(self, timeout_s):
        if self._kind == "unplugged":
            raise CaptureError("the microphone stopped giving sound")
        if self._kind == "stalled":
            time.sleep(timeout_s)
            raise CaptureTimeout("nothing came")
        if self._kind == "stopped":
            return self._last
        sound = self._last = self._microphone.read(timeout_s)
        samples = sound.samples + np.float32(1e-9)  # it says exactly 0 in silence
        samples = {
            "not finite": np.full_like(samples, np.nan),
            "zeros": np.zeros_like(samples),
            "too loud": np.sign(samples),
            "stuck": np.resize(samples[:100], samples.shape),
        }.get(self._kind, samples)
        return replace(sound, samples=samples)


class Trouble:
    """Makes one fault after the other in a source, each as soon as the one before is over."""

    def __init__(self, patient, count, draw):
        kinds = list(patient.kinds)
        whole = kinds * (count // len(kinds)) + draw.sample(kinds, count % len(kinds))
        self._left = draw.sample(whole, count)
        self._patient, self._draw = patient, draw
        self._kind, self._told, self._since_s = "", "", 0.0
        self.made, self.wrong = Counter(), []
        self._pause()

    @property
    def over(self):
        return not self._left and not self._kind

    def hear(self, fault):
        if fault.modality == self._patient.modality:
            self._told = fault.what

    def turn(self):
        """Once a turn of the loop: begin or end a fault where it is time for that."""
        now_s = time.monotonic()
        if self._kind:
            expected = self._patient.kinds[self._kind]
            late = now_s - self._since_s > LATE_S
            if not self._ended and (self._told in expected or late):
                self._patient.end(self._kind)
                self._ended, self._since_s = True, now_s
            elif self._ended and (self._told == BACK or late):
                self.made[self._kind] += 1
                self._kind = ""
                self._pause()
            if late:
                self.wrong.append((self._kind, self._told))
        elif now_s >= self._since_s and self._left:
            self._kind, self._ended, self._told = self._left.pop(), False, ""
            self._since_s = now_s
            self._patient.begin(self._kind)

    def _pause(self):
        self._since_s = time.monotonic() + self._draw.uniform(0, 0.02)


def survive(model, count, seed):
    """The run, with so many faults of both; what was made of them, and the decisions' modes."""
    draw = random.Random(seed)
    with contextlib.closing(Camera()) as camera, contextlib.closing(Microphone()) as microphone:
        troubles = [Trouble(each, count // 2, draw) for each in (camera, microphone)]
        masked, modes = set(), Counter()

        def hear(fault):
            (masked.discard if fault.what == BACK else masked.add)(fault.modality)
            for trouble in troubles:
                trouble.hear(fault)

        def stopped():
            for trouble in troubles:
                trouble.turn()
            return all(trouble.over for trouble in troubles)

        run = mla_edge.run(
            model,
            camera.source,
            microphone.source,
            max_age_ms=MAX_AGE_MS,
            mask_suspect=True,
            on_fault=hear,
            stopped=stopped,
        )
        for prediction in run:
            modes[prediction.mode] += 1
            assert not masked & set(prediction.ages_ms)
            assert max(prediction.ages_ms.values()) < MAX_AGE_MS + 500  # a busy machine
    return troubles, modes


@contextlib.contextmanager
def patient_model(folder):
    """A model there; for as long, faults are told and over within some 0.1 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vitals, "PATIENCE_S", PATIENCE_S)
        patch.setattr(cameras, "DELAYS_S", RETRIES_S)
        with mla_edge.load(make_bundle(folder / "colours-host").folder, threads=1) as model:
            yield model


@pytest.fixture
def model(tmp_path):
    with patient_model(tmp_path) as model:
        yield model


def held():
    """What this process has: threads, open files, bytes that Python allocated, all of it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed, and kept for later, is no leak
    rss = psutil.Process().memory_info().rss
    return (
        psutil.Process().num_threads(),
        os.listdir("/proc/self/fd"),
        tracemalloc.get_traced_memory()[0],
        rss,
    )


def main(folder):
    """Survive FAULTS faults, and print what came of it and what the process had on the way."""
    with patient_model(Path(folder)) as model:
        tracemalloc.start()
        survive(model, WARMING, SEED + 1)  # what is made once is no leak
        before = held()
        troubles, modes = survive(model, FAULTS, SEED)
        after = held()
    wrong = [trouble.wrong for trouble in troubles]
    made = sum(sum(trouble.made.values()) for trouble in troubles)
    names = [thread.name for thread in threading.enumerate()]
    print(json.dumps([wrong, made, list(modes), names, before, after]))


def test_200_faults_are_told_and_over_and_nothing_is_left_of_them(tmp_path):
    """In a process of their own: one that ran a whole suite grows by megabytes at any time."""
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    wrong, made, modes, names, before, after = json.loads(done.stdout)
    print("a fault keeps", [(b - a) / FAULTS for a, b in zip(before[2:], after[2:])], "bytes")
    assert wrong == [[], []]
    assert made == FAULTS
    assert set(modes) == {"image+audio", "image", "audio"}
    assert after[:2] == before[:2]
    assert after[2] - before[2] < 200_000  # 1 kB a fault, and a picture has 9
    assert after[3] - before[3] < 1_000_000  # 5 kB a fault; 0.5 to 1 were seen
    assert not [name for name in names if name.startswith("mla-edge")]


def test_while_nothing_is_there_it_waits_and_does_not_spin(model):
    with contextlib.closing(Camera()) as camera, contextlib.closing(Microphone()) as microphone:
        camera.begin("killed")
        microphone.begin("unplugged")
        faults = []
        sources = camera.source, microphone.source
        begun_s, spent_s = time.monotonic(), time.process_time()
        run = mla_edge.run(model, *sources, duration_s=1.0, on_fault=faults.append)
        list(run)
        spent_s = time.process_time() - spent_s
        assert 0.9 < time.monotonic() - begun_s < 3
        camera.end("killed")
    assert {(fault.modality, fault.what) for fault in faults} == {
        ("image", "lost"),
        ("audio", "lost"),
    }
    assert spent_s < 0.3


if __name__ == "__main__":
    main(sys.argv[1])
