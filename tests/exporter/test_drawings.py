"""Inputs as pictures for people."""

import numpy as np

from mla_edge.exporter.drawings import draw, spectrogram
from mla_edge.signals import InputSpec


def tone(hz, rate_hz=8000, seconds=1.0):
    time = np.arange(int(rate_hz * seconds)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32)


def brightest_row(picture):
    return int(picture.astype(int).sum(axis=(1, 2)).argmax())


def test_a_picture_is_itself():
    planes = np.arange(2 * 3 * 3, dtype=np.float32).reshape(1, 3, 2, 3)
    spec = InputSpec("image", "image", (1, 3, 2, 3))
    assert (draw(spec, planes) == planes[0].transpose(1, 2, 0)).all()


def test_a_clip_is_some_of_its_frames_the_newest_last():
    frames = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None, None], (16, 4, 5))
    found = draw(InputSpec("lips", "clip", (1, 16, 4, 5), 25), frames[None])
    assert found.shape == (4, 20, 3)
    assert found[0, ::5, 0].tolist() == [0, 5, 10, 15]


def test_higher_tones_are_higher_in_the_spectrogram():
    rows = [brightest_row(spectrogram(tone(hz), 8000)) for hz in (200, 800, 3000)]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > 30 and rows[2] < 12


def test_later_is_further_to_the_right():
    late = tone(1000)
    late[:6000] = 0
    bright = spectrogram(late, 8000).astype(int).sum(axis=(0, 2))
    assert bright[:60].max() < bright[80:].min()


def test_silence_and_the_shortest_sound_are_dark_and_drawn():
    for count in (8000, 64):
        quiet = spectrogram(np.zeros(count, np.float32), 8000)
        assert quiet.shape == (48, 96, 3)
        assert len(np.unique(quiet.reshape(-1, 3), axis=0)) == 1
        assert quiet.max() < 80


def test_what_has_no_picture_is_not_drawn():
    assert draw(InputSpec("arm", "tensor", (1, 7)), np.zeros((1, 7), np.float32)) is None
