"""WAV files as microphones."""

import struct
import time
import wave

import numpy as np
import pytest

from mla_edge.errors import CaptureEnded, CaptureError, ConfigError
from mla_edge.runtime.capture import open_microphone

RATE = 8000


def write_wav(path, samples, rate_hz=RATE, bits=16):
    """``samples``, float in [-1, 1), one column a channel."""
    frames = np.asarray(samples, np.float64).reshape(len(samples), -1)
    whole = np.round(frames * 2 ** (bits - 1)).astype(np.int64)
    if bits == 8:
        data = (whole + 128).astype(np.uint8).tobytes()
    else:
        data = whole.astype("<i4").reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(frames.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate_hz)
        file.writeframes(data)
    return path


def ramp(count):
    return np.arange(count) / 2**15


def read_all(path, **options):
    """Every window, as fast as possible."""
    sounds = []
    opened = open_microphone(str(path), as_fast_as_possible=True, **options)
    with opened as microphone, pytest.raises(CaptureEnded, match="has no more sound"):
        while True:
            sounds.append(microphone.read(0))
    return sounds


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_every_width_and_channel_count_becomes_mono(tmp_path, bits, channels):
    rng = np.random.default_rng(bits)
    frames = rng.integers(-(2**7), 2**7, (400, channels)) / 2**7
    path = write_wav(tmp_path / "sound.wav", frames, bits=bits)
    (sound,) = read_all(path, rate_hz=RATE, window_s=0.05)
    assert sound.samples.dtype == np.float32
    np.testing.assert_allclose(sound.samples, frames.mean(axis=1), atol=1e-6)


def test_float_and_extensible_files_are_read(tmp_path):
    samples = np.linspace(-1, 0.99, 400, dtype=np.float32)
    path = tmp_path / "float.wav"
    form = struct.pack("<HHIIHHHHIH14x", 0xFFFE, 1, RATE, RATE * 4, 4, 32, 22, 32, 0, 3)
    chunks = b"WAVEJUNK\3\0\0\0abc\0fmt " + struct.pack("<I", len(form)) + form
    data = samples.tobytes()
    path.write_bytes(b"RIFF\0\0\0\0" + chunks + b"data" + struct.pack("<I", len(data)) + data)
    (sound,) = read_all(path, rate_hz=RATE, window_s=0.05)
    np.testing.assert_array_equal(sound.samples, samples)


def test_a_size_left_open_by_an_interrupted_recorder_means_the_rest_of_the_file(tmp_path):
    path = write_wav(tmp_path / "sound.wav", ramp(800))
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data[:-1])  # and the last sample is cut in two
    assert len(read_all(path, rate_hz=RATE, window_s=0.05)) == 2


def test_as_fast_as_possible_moves_on_by_50_ms_a_read(tmp_path):
    path = write_wav(tmp_path / "sound.wav", ramp(1000))
    started = time.monotonic()
    sounds = read_all(path, rate_hz=RATE, window_s=0.1)
    assert time.monotonic() - started < 0.5
    assert [round(sound.time_s * RATE) + 1 for sound in sounds] == [400, 800, 1000]
    np.testing.assert_array_equal(sounds[0].samples[:400], 0)
    np.testing.assert_allclose(sounds[0].samples[400:], ramp(400), atol=1e-7)
    np.testing.assert_allclose(sounds[2].samples, ramp(1000)[200:], atol=1e-7)


def test_another_rate_is_resampled(tmp_path):
    rate_hz = 44_100
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz)
    path = write_wav(tmp_path / "tone.wav", tone, rate_hz)
    sound = read_all(path, rate_hz=RATE, window_s=1.0)[-1]
    assert sound.rate_hz == RATE
    assert sound.samples.shape == (RATE,)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(sound.samples[400:-400], expected[400:-400], atol=2e-3)


def test_plays_in_real_time_from_its_opening(tmp_path):
    path = write_wav(tmp_path / "sound.wav", ramp(6000))  # 0.75 s
    before_s = time.monotonic()
    with open_microphone(str(path), rate_hz=RATE, window_s=0.1) as microphone:
        after_s = time.monotonic()
        ends = []
        with pytest.raises(CaptureEnded):
            while True:
                sound = microphone.read(0.1)
                position = round(float(sound.samples[-1]) * 2**15) + 1  # the ramp says
                ends.append(position)
                began_s = sound.time_s - (position - 1) / RATE
                assert before_s - 1e-3 <= began_s <= after_s + 1e-3
                assert time.monotonic() - sound.time_s < 0.1
                time.sleep(0.05)
    assert ends == sorted(ends)
    assert ends[-1] == 6000
    assert 0.75 <= time.monotonic() - before_s < 1.0


def test_no_such_file(tmp_path):
    with pytest.raises(CaptureError, match="no such file: .*nothing.wav") as caught:
        open_microphone(str(tmp_path / "nothing.wav"), rate_hz=RATE, window_s=1)
    assert "sim://digits" in caught.value.hint
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a WAV file"),
        (b"ID3 an mp3 file, say", "is not a WAV file"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0", "is cut off"),
        (b"RIFF\0\0\0\0WAVEdata\x02\0\0\0ab", "does not say its format"),
        (
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0"
            + struct.pack("<HHIIHH", 7, 1, 8000, 8000, 1, 8)
            + b"data\x02\0\0\0ab",
            "format 0x7 with 8 bits",
        ),
        (
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0"
            + struct.pack("<HHIIHH", 1, 0, 8000, 0, 0, 16)
            + b"data\x02\0\0\0ab",
            "0 channels",
        ),
        (
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0"
            + struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
            + b"data\0\0\0\0",
            "holds no sound",
        ),
    ],
)
def test_damaged_files_are_refused_with_a_fix(tmp_path, content, message):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=message) as caught:
        open_microphone(str(path), rate_hz=RATE, window_s=1)
    assert "ffmpeg" in caught.value.hint


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "sound.wav").mkdir()
    with pytest.raises(CaptureError, match="cannot be read: Is a directory"):
        open_microphone(str(tmp_path / "sound.wav"), rate_hz=RATE, window_s=1)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ConfigError, match="opened by http://"):
        open_microphone("http://127.0.0.1/sound", rate_hz=RATE, window_s=1)


def test_close_is_idempotent_and_final(tmp_path):
    path = write_wav(tmp_path / "sound.wav", ramp(800))
    with open_microphone(str(path), rate_hz=RATE, window_s=0.1) as microphone:
        microphone.read(0)
    microphone.close()
    with pytest.raises(CaptureError, match="is closed"):
        microphone.read(0)
