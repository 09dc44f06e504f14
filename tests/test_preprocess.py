import subprocess
import sys

import numpy as np
import pytest

from mla_edge.errors import ConfigError, InferenceError
from mla_edge.preprocess import GreyShrinker, Preprocessor, resample
from mla_edge.signals import Clip, Frame, InputSpec, Reading, Sample, Sound

IMAGE = InputSpec("image", "image", (1, 3, 8, 16))
AUDIO = InputSpec("audio", "audio", (1, 100), 1000)
CLIP = InputSpec("mouth", "clip", (1, 4, 8, 16), 25)
IMU = InputSpec("imu", "tensor", (1, 6))


def sounding(samples, rate_hz=1000):
    return Sample({"audio": Sound(np.asarray(samples, np.float32), rate_hz, 0.0)})


def seeing(image):
    return Sample({"image": Frame(image, 0.0)})


def test_a_picture_keeps_its_middle_and_its_proportions():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:16] = 255  # the part above the crop to twice as wide as high
    image[16:48, :32] = (10, 20, 30)
    tensor = Preprocessor([IMAGE])(seeing(image))["image"]
    assert tensor.shape == (1, 3, 8, 16)
    assert tensor.dtype == np.float32
    assert tensor[0, :, :, :8].tolist() == [[[value] * 8] * 8 for value in (10, 20, 30)]
    assert not tensor[0, :, :, 8:].any()


def test_a_wide_picture_loses_its_sides():
    image = np.full((8, 40, 3), 255, np.uint8)
    image[:, 12:28] = 7
    assert (Preprocessor([IMAGE])(seeing(image))["image"] == 7).all()


def test_a_small_picture_is_enlarged():
    image = np.full((2, 3, 3), 9, np.uint8)
    assert (Preprocessor([IMAGE])(seeing(image))["image"] == 9).all()


def test_shrinking_averages_areas():
    image = np.zeros((16, 32, 3), np.uint8)
    image[::2] = 200  # stripes of one line: picking lines would give 0 or 200
    assert (Preprocessor([IMAGE])(seeing(image))["image"] == 100).all()


def watching(frames, rate_hz=25):
    return Sample({"mouth": Clip(frames, rate_hz, 0.0)})


def greys(*values):
    return np.array(values, np.uint8)[:, None, None] * np.ones((8, 16), np.uint8)


def shown(sample):
    """The grey of each frame of the clip, which must be even."""
    tensor = Preprocessor([CLIP])(sample)["mouth"]
    assert tensor.dtype == np.float32
    assert (tensor == tensor[:, :, :1, :1]).all()
    return tensor[0, :, 0, 0].tolist()


def test_a_clip_of_the_right_length_is_copied_the_newest_last():
    assert shown(watching(greys(1, 2, 3, 4))) == [1, 2, 3, 4]


def test_the_newest_frames_are_kept_and_the_oldest_is_repeated():
    assert shown(watching(greys(1, 2, 3, 4, 5, 6))) == [3, 4, 5, 6]
    assert shown(watching(greys(1, 2))) == [1, 1, 1, 2]


def test_a_clip_at_another_rate_gives_the_frames_nearest_in_time():
    assert shown(watching(greys(*range(10)), 50)) == [3, 5, 7, 9]
    assert shown(watching(greys(*range(10)), 30)) == [5, 7, 8, 9]  # 3.6, 2.4, 1.2 back
    assert shown(watching(greys(1, 2), 12.5)) == [1, 1, 1, 2]  # halfway is the older


def test_each_frame_of_a_clip_is_prepared_as_a_picture_and_turned_grey():
    frames = np.random.default_rng(0).integers(0, 256, (4, 50, 70, 3), np.uint8)
    clip = Preprocessor([CLIP])(watching(frames))["mouth"][0]
    pictures = Preprocessor([IMAGE])
    for frame, grey in zip(frames, clip):
        red, green, blue = pictures(seeing(frame))["image"][0]
        expected = 0.299 * red + 0.587 * green + 0.114 * blue
        assert np.abs(grey - expected).max() < 0.51


def test_shrinking_a_clip_once_or_twice_is_the_same():
    """What a camera's history kept small is what the whole pictures would have given."""
    frames = np.random.default_rng(0).integers(0, 256, (4, 50, 70, 3), np.uint8)
    small = np.zeros((4, 8, 16), np.uint8)
    shrink = GreyShrinker(8, 16)
    for frame, grey in zip(frames, small):
        shrink(frame, grey)
    once = Preprocessor([CLIP])(watching(frames))["mouth"].copy()
    assert (Preprocessor([CLIP])(watching(small))["mouth"] == once).all()


def test_sound_of_the_right_length_is_copied():
    samples = np.linspace(-1, 1, 100, dtype=np.float32)
    assert (Preprocessor([AUDIO])(sounding(samples))["audio"][0] == samples).all()


def test_the_newest_sound_is_kept_and_short_sound_is_padded_before_it():
    preprocess = Preprocessor([AUDIO])
    assert preprocess(sounding(np.arange(300)))["audio"][0].tolist() == [*range(200, 300)]
    assert preprocess(sounding([1, 2]))["audio"][0].tolist() == [0] * 98 + [1, 2]


def test_sound_at_another_rate_is_resampled():
    seconds = np.arange(400) / 4000
    tone = np.sin(2 * np.pi * 50 * seconds)
    tensor = Preprocessor([AUDIO])(sounding(tone, 4000))["audio"][0]
    expected = np.sin(2 * np.pi * 50 * np.arange(100) / 1000)
    assert np.abs(tensor - expected)[20:80].max() < 0.02


def test_resampling_keeps_pitch_and_length():
    tone = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000).astype(np.float32)
    low = resample(tone, 48000, 8000)
    assert len(low) == 8000
    assert low.dtype == np.float32
    assert np.abs(np.fft.rfft(low)).argmax() == 440
    assert resample(low, 8000, 8000) is low


def test_the_mask_says_what_is_there_in_the_order_of_the_inputs():
    preprocess = Preprocessor([IMAGE, AUDIO, IMU])
    imu = Reading(np.arange(6.0), 0.0)
    both = Sample({"imu": imu, "audio": Sound(np.ones(100, np.float32), 1000, 0.0)})
    tensors = preprocess(both)
    assert tensors["present"].tolist() == [[0, 1, 1]]
    assert not tensors["image"].any()
    assert tensors["imu"].tolist() == [[0, 1, 2, 3, 4, 5]]
    assert tensors["present"].dtype == tensors["imu"].dtype == np.float32


def test_a_missing_modality_leaves_nothing_of_the_call_before():
    preprocess = Preprocessor([IMAGE, AUDIO])
    preprocess(sounding(np.ones(100)))
    tensors = preprocess(seeing(np.ones((8, 16, 3), np.uint8)))
    assert not tensors["audio"].any()
    assert tensors["present"].tolist() == [[1, 0]]


def test_one_input_has_no_mask():
    assert list(Preprocessor([AUDIO])(sounding(np.zeros(100)))) == ["audio"]


def test_buffers_are_used_again():
    preprocess = Preprocessor([IMAGE, AUDIO])
    first = dict(preprocess(sounding(np.zeros(100))))
    second = preprocess(sounding(np.ones(100)))
    assert all(first[name] is second[name] for name in second)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (InputSpec("x", "smell", (1, 3)), "'x' is of kind 'smell'"),
        (InputSpec("x", "image", (1, 1, 8, 8)), r"'x' of kind image cannot .* \[1, 1, 8, 8\]"),
        (InputSpec("x", "image", (1, 3, 0, 8)), "cannot have the shape"),
        (InputSpec("x", "audio", (1, 100)), "the rate None"),
        (InputSpec("x", "audio", (100,), 8000), "cannot have the shape"),
        (InputSpec("x", "clip", (1, 4, 8, 8)), "the rate None"),
        (InputSpec("x", "clip", (1, 3, 4, 8, 8), 25), "cannot have the shape"),
        (InputSpec("x", "clip", (2, 4, 8, 8), 25), "cannot have the shape"),
        (InputSpec("x", "tensor", (3, 3)), "cannot have the shape"),
    ],
)
def test_an_input_that_cannot_be_filled_is_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        Preprocessor([spec])


@pytest.mark.parametrize(
    ("name", "signal", "message"),
    [
        (
            "image",
            Frame(np.zeros((8, 16, 4), np.uint8), 0.0),
            r"expected uint8 .* \[8, 16, 4\]",
        ),
        ("image", Frame(np.zeros((0, 16, 3), np.uint8), 0.0), r"found uint8 \[0, 16, 3\]"),
        ("image", Frame(np.zeros((8, 16, 3), np.float32), 0.0), "found float32"),
        ("image", Frame(np.full((8, 16, 3), np.inf), 0.0), "not finite"),
        ("audio", Sound(np.zeros(100, np.int16), 1000, 0.0), "found int16"),
        ("audio", Sound(np.array([np.nan], np.float32), 1000, 0.0), "not finite"),
        ("imu", Reading(np.zeros(5), 0.0), r"imu: expected \[1, 6\], found \[5\]"),
        ("imu", Reading(np.full(6, np.nan), 0.0), "imu: has values that are not finite"),
        ("imu", Frame(np.zeros((8, 16, 3), np.uint8), 0.0), "expected a Reading"),
        ("mouth", Frame(np.zeros((8, 16, 3), np.uint8), 0.0), "expected a Clip, found Frame"),
        ("mouth", Clip(np.zeros((8, 16), np.uint8), 25, 0.0), r"found uint8 \[8, 16\]"),
        ("mouth", Clip(np.zeros((4, 8, 16, 4), np.uint8), 25, 0.0), r"\[4, 8, 16, 4\]"),
        ("mouth", Clip(np.zeros((0, 8, 16), np.uint8), 25, 0.0), r"found uint8 \[0, 8, 16\]"),
        ("mouth", Clip(np.zeros((4, 8, 16)), 25, 0.0), "found float64"),
        ("mouth", Clip(np.full((4, 8, 16), np.nan), 25, 0.0), "mouth: has values that are not"),
        ("mouth", Clip(np.zeros((4, 8, 16), np.uint8), np.nan, 0.0), "found nan frames a sec"),
        ("depth", Reading(np.zeros(5), 0.0), "no input 'depth'"),
    ],
)
def test_a_signal_that_does_not_fit_is_refused_by_name(name, signal, message):
    with pytest.raises(InferenceError, match=message):
        Preprocessor([IMAGE, AUDIO, CLIP, IMU])(Sample({name: signal}))


def test_sound_that_is_not_finite_is_refused_at_another_rate_too():
    with pytest.raises(InferenceError, match="audio: has values that are not finite"):
        Preprocessor([AUDIO])(sounding([np.nan] * 400, 4000))


@pytest.mark.parametrize("missing", ["cv2", "soxr"])
def test_a_missing_library_is_named_with_its_fix(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from mla_edge.errors import MissingDependency\n"
        "try:\n"
        "    import mla_edge.preprocess\n"
        "except MissingDependency as error:\n"
        "    assert 'pip install' in error.hint, error.hint\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
