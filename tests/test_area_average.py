import cv2
import numpy as np
import pytest

from mla_edge.area_average import AreaAverage, has_simple_ratio
from mla_edge.preprocess import Preprocessor
from mla_edge.signals import Frame, InputSpec, Sample

SIMPLE = [
    ((480, 480), (128, 128)),  # what a camera of 640 x 480 comes to: 15 to 4
    ((480, 480), (224, 224)),  # 15 to 7
    ((480, 640), (64, 96)),  # 15 to 2 down, 20 to 3 across: not odd
    ((45, 99), (12, 90)),  # 15 to 4 down, 11 to 10 across
    ((90, 21), (84, 6)),
    ((105, 1200), (28, 320)),  # of three bands the last is not full
]


def of_opencv(picture, small):
    return cv2.resize(picture, small[::-1], interpolation=cv2.INTER_AREA)


def is_odd(size, small):
    return (size, small) != SIMPLE[2]


@pytest.mark.parametrize(("size", "small"), [pair for pair in SIMPLE if is_odd(*pair)])
def test_it_is_what_opencv_makes_to_the_bit(size, small):
    assert has_simple_ratio(size, small)
    average, made = AreaAverage(size, small), np.empty((*small, 3), np.uint8)
    rng = np.random.default_rng(0)
    for top in (2, 256, 256, 256):  # black and white is farthest from the mean
        picture = rng.integers(0, top, (*size, 3)).astype(np.uint8)
        picture *= 255 if top == 2 else 1
        average(picture, made)
        assert np.array_equal(made, of_opencv(picture, small))


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_plain_picture_stays_as_it_is(value):
    picture, made = np.full((480, 480, 3), value, np.uint8), np.empty((128, 128, 3), np.uint8)
    AreaAverage((480, 480), (128, 128))(picture, made)
    assert (made == value).all()


@pytest.mark.parametrize(
    ("size", "small"),
    [
        SIMPLE[2],
        ((512, 512), (128, 128)),  # a whole number: OpenCV is fast
        ((128, 128), (128, 128)),
        ((64, 64), (128, 128)),  # enlarged
        ((720, 720), (128, 128)),  # 45 to 8: float32 might round otherwise
        ((480, 128), (128, 128)),  # only down
    ],
)
def test_other_ratios_are_left_to_opencv(size, small):
    assert not has_simple_ratio(size, small)


def test_a_preprocessor_makes_the_same_of_pictures_of_any_size():
    rng = np.random.default_rng(1)
    preprocess = Preprocessor([InputSpec("image", "image", (1, 3, 128, 128))])
    for height, width in ((480, 640), (480, 640), (512, 512), (480, 640), (481, 640)):
        picture = rng.integers(0, 256, (height, width, 3), np.uint8)
        tensor = preprocess(Sample({"image": Frame(picture, 0.0)}))["image"]
        left = (width - height) // 2
        middle = picture[:, left : left + height]
        assert np.array_equal(tensor[0].transpose(1, 2, 0), of_opencv(middle, (128, 128)))
