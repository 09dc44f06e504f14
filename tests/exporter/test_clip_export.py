"""A network with a clip for eyes, from export to the decisions on a video and a WAV file."""

import json
import os
import subprocess
import sys
import wave

import cv2
import numpy as np
import pytest

import mla_edge
from mla_edge.engines.verification import verify

NETWORK = '''
import numpy as np
import torch
from torch import nn

from mla_edge.networks import Network, TierNetwork
from mla_edge.signals import Clip, InputSpec, Sample, Sound, Tier

LABELS = ("brighter", "darker")


class Trend(nn.Module):
    """Whether it becomes brighter or darker; a sound above zero says brighter as well."""

    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(8, 2, 3, bias=False)
        self.hear = nn.Linear(1, 2, bias=False)
        slope = torch.linspace(-1, 1, 8)[:, None, None] / 9
        with torch.no_grad():
            self.see.weight.copy_(torch.stack((slope.expand(8, 3, 3), -slope.expand(8, 3, 3))))
            self.hear.weight.copy_(torch.tensor([[5.0], [-5.0]]))

    def forward(self, mouth, audio, present):
        seen = self.see(mouth / 32).mean((2, 3)) * present[:, :1]
        return seen + self.hear(audio.mean(1, keepdim=True)) * present[:, 1:]


def make_network():
    inputs = (
        InputSpec("mouth", "clip", (1, 8, 12, 16), rate_hz=25),
        InputSpec("audio", "audio", (1, 2560), rate_hz=8000),
    )
    tier = Tier("only", ("mouth", "audio", "present"), ("logits",))
    tiers = (TierNetwork(tier, Trend().eval()),)
    return Network("trend", LABELS, inputs, tiers, samples)


def samples(split, count, seed):
    random = np.random.default_rng([seed, *split.encode()])
    return [sample(random, number % 2) for number in range(count)]


def sample(random, label):
    sign = 1 - 2 * label
    levels = 128 + sign * np.linspace(-1, 1, 8) * random.uniform(20, 100)
    noise = random.normal(0, 4, (8, 24, 32))
    frames = np.clip(levels[:, None, None] + noise, 0, 255).astype(np.uint8)
    heard = sign * random.uniform(0.1, 0.5) + random.normal(0, 0.02, 2560)
    return Sample({
        "mouth": Clip(frames, 25, 0.0, LABELS[label]),
        "audio": Sound(heard.astype(np.float32), 8000, 0.0, LABELS[label]),
    })
'''
FPS, FRAMES, PEAK = 30, 60, 30


def typed(folder, *words):
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "steps")}
    command = [sys.executable, "-m", "mla_edge", *map(str, words)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle, a video that becomes brighter until PEAK and then darker, and silence."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "trend.py").write_text(NETWORK)
    done = typed(
        folder, "export", "trend.py:make_network", "--profile", "host", "--calibration", "quick"
    )
    assert done.returncode == 0, done.stderr
    video = cv2.VideoWriter(
        str(folder / "video.avi"), cv2.VideoWriter_fourcc(*"MJPG"), FPS, (64, 48)
    )
    for number in range(FRAMES):
        level = 20 + 7 * (PEAK - abs(number - PEAK))
        video.write(np.full((48, 64, 3), level, np.uint8))
    video.release()
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(2 * 8000 * 2))
    return folder


@pytest.fixture(scope="module")
def decisions(folder):
    words = ["--camera", "video.avi", "--mic", "sound.wav", "--as-fast-as-possible", "--json"]
    done = typed(folder, "run", *words)
    assert done.returncode == 0, done.stderr
    *rows, last = map(json.loads, done.stdout.splitlines())
    assert last["summary"]["drops"] == {"mouth": 0, "audio": 0}
    return rows


def test_it_exports_and_proves_itself(folder):
    with mla_edge.load(folder / "bundles" / "trend-host") as model:
        assert model.bundle.inputs[0].kind == "clip"
        assert model.bundle.inputs[0].window_s == 0.32
        assert all(check.ok for check in verify(model.bundle))


def test_inspect_says_what_a_clip_is(folder):
    shown = typed(folder, "inspect", "bundles/trend-host").stdout
    assert "  mouth: clip, 1 x 8 x 12 x 16 at 25 frames a second\n" in shown


def test_each_frame_of_the_file_is_decided_on(decisions):
    """The 9th frame is the first with 280 ms before it, to half a frame of the clip."""
    times = [row["capture_time_s"]["mouth"] for row in decisions]
    assert len(decisions) == FRAMES
    first = times.index(next(time_s for time_s in times if time_s is not None))
    assert times[:first] == [None] * first
    assert times[first:] == pytest.approx([n / FPS for n in range(first, FRAMES)], abs=1e-6)
    assert first == 8
    assert [row["mode"] for row in decisions] == ["audio"] * first + ["mouth+audio"] * (
        FRAMES - first
    )


def test_it_sees_the_order_of_the_frames(decisions):
    labels = [row["label"] for row in decisions]
    assert set(labels[8 : PEAK + 1]) == {"brighter"}
    assert set(labels[PEAK + 10 :]) == {"darker"}


def test_a_decision_is_the_one_on_the_whole_clip(folder, decisions):
    """The frames as they are in the file, given at once, as from a recording."""
    with mla_edge.open_camera(
        str(folder / "video.avi"), as_fast_as_possible=True
    ) as camera, mla_edge.load(folder / "bundles" / "trend-host") as model:
        frames = np.stack([camera.read(0).image for _ in range(FRAMES)])
        silence = mla_edge.Sound(np.zeros(2560, np.float32), 8000, 0.0)
        for last in range(8, FRAMES):
            clip = mla_edge.Clip(frames[: last + 1], FPS, 0.0)
            found = model.infer(mla_edge.Sample({"mouth": clip, "audio": silence}))
            assert found.label == decisions[last]["label"]
            assert found.confidence == pytest.approx(decisions[last]["confidence"], abs=1e-6)


def test_the_same_files_give_the_same_decisions(folder, decisions):
    words = ["--camera", "video.avi", "--mic", "sound.wav", "--as-fast-as-possible", "--json"]
    again = [json.loads(line) for line in typed(folder, "run", *words).stdout.splitlines()]
    for row in (*decisions, *again[:-1]):
        row.pop("latency_ms", None)
    assert again[:-1] == decisions


def test_at_its_own_pace_it_runs_on_the_files_too(folder):
    done = typed(folder, "run", "--camera", "video.avi", "--mic", "sound.wav", "--json")
    assert done.returncode == 0, done.stderr
    *rows, _ = map(json.loads, done.stdout.splitlines())
    assert "mouth+audio" in {row["mode"] for row in rows}
    assert "mouth has ended and is left out" in done.stderr


def test_recorded_clips_set_the_ranges(folder):
    random = np.random.default_rng(0)
    rising = np.linspace(30, 220, 8).astype(np.uint8)[:, None, None, None]
    rows = rising + random.integers(0, 30, (40, 8, 24, 32, 3), np.uint8)
    audio = random.normal(0, 0.3, (40, 2560)).astype(np.float32)
    np.savez(folder / "mine.npz", mouth=rows, mouth_rate_hz=25, audio=audio)
    words = ["trend.py:make_network", "--profile", "host", "--calibration", "mine.npz"]
    done = typed(folder, "export", *words, "--out", "other", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["reused"] is False
    report = json.loads((folder / shown["bundle"] / "report.json").read_text())
    assert report["calibration"]["name"] == "mine"
