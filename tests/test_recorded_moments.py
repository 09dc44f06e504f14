"""A recording as samples: spread over it, whole ones only, without labels."""

import pytest
from recorded_file import EARS, EYES, write

from mla_edge.errors import ConfigError, RecordingError
from mla_edge.recordings import read_samples
from mla_edge.signals import Clip, InputSpec


def numbers(samples):
    return [int(sample.signals["image"].image[0, 0, 0]) for sample in samples]


def test_they_are_spread_over_the_recording_and_have_no_labels(tmp_path):
    samples = read_samples(write(tmp_path / "a.mcap"), (EYES, EARS), 12)
    assert numbers(samples) == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert {signal.truth for sample in samples for signal in sample.signals.values()} == {None}
    assert {sample.signals["audio"].samples.shape for sample in samples} == {(800,)}
    few = read_samples(tmp_path / "a.mcap", (EYES, EARS), 1000)
    assert numbers(few) == [*range(100)]


def test_moments_that_lack_an_input_are_left_out_unless_it_is_not_wanted(tmp_path):
    path = write(tmp_path / "a.mcap", deaf=range(50))
    assert numbers(read_samples(path, (EYES, EARS))) == [*range(50, 100)]
    assert numbers(read_samples(path, (EYES,))) == [*range(100)]
    (sample, *_) = read_samples(path, (InputSpec("ear", "audio", (1, 1600), 1600),))
    assert sample.signals["ear"].rate_hz == 800  # preprocessing resamples it
    silent = write(tmp_path / "b.mcap", deaf=range(100))
    with pytest.raises(ConfigError, match="no moment in which camera and microphone were"):
        read_samples(silent, (EYES, EARS))


def test_a_clip_is_made_of_the_frames_before(tmp_path):
    path = write(tmp_path / "a.mcap")
    samples = read_samples(path, (InputSpec("mouth", "clip", (1, 16, 6, 8), 25), EARS), 10)
    assert len(samples) == 8  # the first two have too little history
    clip = samples[-1].signals["mouth"]
    assert isinstance(clip, Clip)
    assert clip.frames[:, 0, 0].tolist() == [*range(84, 100)]


def test_an_input_that_is_never_recorded_is_named(tmp_path):
    path = write(tmp_path / "a.mcap")
    with pytest.raises(ConfigError, match="has nothing for the input 'imu'"):
        read_samples(path, (EYES, InputSpec("imu", "tensor", (1, 6))))


def test_what_is_no_recording_is_refused(tmp_path):
    (tmp_path / "a.mcap").write_text("no")
    with pytest.raises(RecordingError, match="is no MCAP file"):
        read_samples(tmp_path / "a.mcap", (EYES,))
