"""Recorded samples in a file: read as they were written, or refused by file and array."""

import zipfile

import numpy as np
import pytest

from mla_edge.errors import ConfigError
from mla_edge.recordings import read_samples
from mla_edge.signals import InputSpec

BOTH = (InputSpec("image", "image", (1, 3, 16, 16)), InputSpec("audio", "audio", (1, 800), 800))
SOUND = (InputSpec("audio", "audio", (1, 8000), 8000),)
CLIP = (InputSpec("mouth", "clip", (1, 16, 60, 72), 25),)
VALUES = (InputSpec("imu", "tensor", (1, 6)),)


def test_sound_has_the_rate_of_the_file_or_else_of_the_network(tmp_path):
    rows = np.zeros((3, 100), np.int16)
    np.savez(tmp_path / "with.npz", audio=rows, audio_rate_hz=np.float64(44100))
    np.savez(tmp_path / "without.npz", audio=rows)
    rates = [
        {sample.signals["audio"].rate_hz for sample in read_samples(tmp_path / name, SOUND)}
        for name in ("with.npz", "without.npz")
    ]
    assert rates == [{44100}, {8000}]


@pytest.mark.parametrize("shape", [(3, 20, 48, 64), (3, 20, 48, 64, 3)])
def test_clips_are_grey_or_rgb_and_have_a_rate_as_sound_has(tmp_path, shape):
    rows = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "with.npz", mouth=rows, mouth_rate_hz=30)
    np.savez(tmp_path / "without.npz", mouth=rows)
    with_rate, without = (
        [sample.signals["mouth"] for sample in read_samples(tmp_path / name, CLIP)]
        for name in ("with.npz", "without.npz")
    )
    assert {clip.rate_hz for clip in with_rate} == {30}
    assert {clip.rate_hz for clip in without} == {25}
    assert all((clip.frames == row).all() for clip, row in zip(with_rate, rows))


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((3, 16, 60, 72), np.float32),
        np.zeros((3, 16, 60, 72, 4), np.uint8),
        np.zeros((3, 60, 72), np.uint8),
        np.zeros((3, 0, 60, 72), np.uint8),
    ],
)
def test_an_array_of_no_clips_is_refused(tmp_path, rows):
    np.savez(tmp_path / "mine.npz", mouth=rows)
    with pytest.raises(ConfigError, match=r"mine\.npz: 'mouth' is ") as caught:
        read_samples(tmp_path / "mine.npz", CLIP)
    assert "expected uint8 [n, frames, height, width]" in caught.value.hint


@pytest.mark.parametrize("rate", [0, -5, 0.5, np.nan, np.inf, [8000, 8000], "8000", 10**12])
def test_a_rate_that_is_none_is_refused_by_file_and_array(tmp_path, rate):
    path = tmp_path / "mine.npz"
    np.savez(path, audio=np.zeros((3, 100), np.float32), audio_rate_hz=rate)
    with pytest.raises(ConfigError, match=r"mine\.npz: 'audio_rate_hz' is ") as caught:
        read_samples(path, SOUND)
    assert "whole number above 0" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.float32(3), r"'imu' is float32 \[\]"),
        (np.full((40, 6), "x"), r"'imu' is <U1 \[40, 6\]"),
        (np.zeros((40, 6), np.complex64), r"'imu' is complex64 \[40, 6\]"),
        (np.zeros((0, 6)), r"'imu' is float64 \[0, 6\]"),
        (np.zeros((40, 7)), r"'imu' is float64 \[40, 7\]"),
    ],
)
def test_an_array_that_holds_no_rows_of_numbers_is_refused(tmp_path, values, message):
    np.savez(tmp_path / "mine.npz", imu=values)
    with pytest.raises(ConfigError, match=rf"mine\.npz: {message}"):
        read_samples(tmp_path / "mine.npz", VALUES)


def test_rows_of_length_0_are_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", audio=np.zeros((40, 0), np.float32))
    with pytest.raises(ConfigError, match=r"mine\.npz: 'audio' is float32 \[40, 0\]"):
        read_samples(tmp_path / "mine.npz", SOUND)


def test_one_array_is_no_archive_of_them(tmp_path):
    np.save(tmp_path / "mine.npy", np.zeros((40, 6)))
    path = (tmp_path / "mine.npy").rename(tmp_path / "mine.npz")
    with pytest.raises(ConfigError, match=r"mine\.npz: cannot be read"):
        read_samples(path, VALUES)


def test_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "mine.npz", imu=np.array([{}], object))
    with pytest.raises(ConfigError, match=r"mine\.npz: cannot be read: Object arrays"):
        read_samples(tmp_path / "mine.npz", VALUES)


def test_a_file_with_something_else_than_an_array_in_it_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, other=np.zeros(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("imu", "text")
    with pytest.raises(ConfigError, match=r"mine\.npz: 'imu' is no array"):
        read_samples(path, VALUES)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((4, 8, 8, 3), np.uint8)}, "no array 'audio'"),
        (
            {"image": np.zeros((4, 3, 8, 8), np.uint8), "audio": np.zeros((4, 9))},
            r"'image' is uint8 \[4, 3, 8, 8\]",
        ),
        (
            {"image": np.zeros((4, 8, 8, 3), np.uint8), "audio": np.zeros((4, 9, 2))},
            r"'audio' is float64 \[4, 9, 2\]",
        ),
        (
            {"image": np.zeros((4, 8, 8, 3), np.uint8), "audio": np.zeros((5, 9))},
            "different length",
        ),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_by_name(tmp_path, arrays, message):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(ConfigError, match=message):
        read_samples(path, BOTH)


def test_a_cut_off_file_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, image=np.zeros((40, 48, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ConfigError, match="mine.npz: cannot be read"):
        read_samples(path, BOTH)


def test_a_damaged_compressed_file_of_samples_is_named(tmp_path):
    path = tmp_path / "mine.npz"
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    np.savez_compressed(path, imu=values)
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30  # within the deflated array
    path.write_bytes(bytes(content))
    with pytest.raises(ConfigError, match=r"mine\.npz: cannot be read"):
        read_samples(path, (InputSpec("imu", "tensor", (1, 6)),))
