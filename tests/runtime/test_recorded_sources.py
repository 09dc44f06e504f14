"""A recording as the camera and the microphone of another run."""

import time

import pytest
from recorded import record
from recorded_file import write

import mla_edge
from mla_edge.errors import CaptureEnded, CaptureError, CaptureTimeout
from mla_edge.runtime.capture import open_camera, open_microphone

FORM = {"rate_hz": 800, "window_s": 1.0}


def read_all(source):
    found = []
    with source as opened, pytest.raises(CaptureEnded):
        while True:
            found.append(opened.read(0.1))
    return found


def test_a_run_on_a_recording_decides_as_the_run_that_was_recorded(small_bundle, tmp_path):
    path = str(tmp_path / "a.mcap")
    made, _ = record(path, small_bundle, lossless=True)
    with mla_edge.load(small_bundle.folder, threads=1) as model, open_camera(
        path, as_fast_as_possible=True
    ) as eyes, open_microphone(path, as_fast_as_possible=True, **FORM) as ears:
        again = list(mla_edge.run(model, eyes, ears, as_fast_as_possible=True))
    for one, other in zip(made, again):
        assert (one.label, one.confidence, one.mode) == (
            other.label,
            other.confidence,
            other.mode,
        )
        assert one.capture_time_s == pytest.approx(other.capture_time_s)
    assert len(again) - len(made) in (0, 1)  # the frame after the recorded run's end is there


def test_every_frame_and_window_has_its_turn_and_its_time(tmp_path):
    path = str(write(tmp_path / "a.mcap", 20))
    frames = read_all(open_camera(path, as_fast_as_possible=True))
    sounds = read_all(open_microphone(path, as_fast_as_possible=True, **FORM))
    for signals in (frames, sounds):
        assert [s.time_s for s in signals] == pytest.approx([n / 25 for n in range(20)])
    assert [frame.image[0, 0].tolist() for frame in frames] == [[n] * 3 for n in range(20)]
    assert {sound.samples.shape for sound in sounds} == {(800,)}
    faster = read_all(open_microphone(path, as_fast_as_possible=True, rate_hz=1600, window_s=2))
    assert {sound.samples.shape for sound in faster} == {(3200,)}


def test_at_its_own_pace_it_takes_its_time(tmp_path):
    path = str(write(tmp_path / "a.mcap", 12))
    began_s = time.monotonic()
    frames = read_all(open_camera(path))
    assert 0.4 < time.monotonic() - began_s < 2
    assert all(began_s <= frame.time_s <= time.monotonic() for frame in frames)
    assert 1 <= len({sound.time_s for sound in read_all(open_microphone(path, **FORM))}) <= 12


def test_sound_that_comes_later_is_waited_for(tmp_path):
    path = str(write(tmp_path / "a.mcap", 40, mute=range(20)))
    with open_microphone(path, **FORM) as ears:
        with pytest.raises(CaptureTimeout):
            ears.read(0.01)
        assert ears.read(5.0).samples.any()


@pytest.mark.parametrize("source", [open_camera, lambda path: open_microphone(path, **FORM)])
def test_what_is_no_recording_does_not_open(tmp_path, source):
    (tmp_path / "a.mcap").write_text("no")
    with pytest.raises(CaptureError, match="is no MCAP file"):
        source(str(tmp_path / "a.mcap"))
    with pytest.raises(CaptureError, match="no such recording"):
        source(str(tmp_path / "b.mcap"))
    write(tmp_path / "c.mcap", 3, mute=range(3), blind=range(3))
    with pytest.raises(CaptureError, match="holds no (frame|sound)"):
        source(str(tmp_path / "c.mcap"))


def test_it_is_a_source_of_bench(small_bundle, tmp_path):
    import json

    from typer.testing import CliRunner

    from mla_edge.cli import app

    path = str(write(tmp_path / "a.mcap", 40))
    words = [
        "--camera",
        path,
        "--mic",
        path,
        "--flat-out",
        "--bundle",
        str(small_bundle.folder),
    ]
    done = CliRunner().invoke(app, ["bench", *words, "--json"])
    assert done.exit_code == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"]
    assert run["decisions"] == 35  # the first five are not counted
