"""Digits as ink, and the pictures they are in."""

import numpy as np
import pytest

from mla_edge.errors import ConfigError
from mla_edge.simulator.glyphs import (
    FONTS,
    HAND,
    HEIGHT,
    MARKS,
    WRITERS,
    glyph,
    mark,
    pick_style,
)
from mla_edge.simulator.scene import (
    Card,
    Pose,
    compose,
    degrade,
    digit_extent,
    draw_card,
    make_card,
    occluder,
)

STYLES = [*range(len(FONTS)), HAND, HAND + 450, HAND + WRITERS - 1]


def rng(*seed):
    return np.random.default_rng(seed)


def centred(ink, width=64):
    canvas = np.zeros((HEIGHT, width), np.float32)
    left = max(0, (width - ink.shape[1]) // 2)
    part = ink[:, :width]
    canvas[:, left : left + part.shape[1]] = part
    return canvas


@pytest.mark.parametrize("style", STYLES)
def test_a_style_draws_ten_different_digits(style):
    drawn = [centred(glyph(digit, style, rng(1))) for digit in range(10)]
    for digit, ink in enumerate(drawn):
        assert ink.dtype == np.float32 and ink.min() == 0 and ink.max() == 1
        assert 0.01 < ink.mean() < 0.5
        assert not ink[[0, -1]].any(), "the ink keeps clear of the rim"
        for other in drawn[:digit]:
            assert np.abs(ink - other).mean() > 0.1 * max(ink.mean(), other.mean())


def test_hands_differ_and_fonts_differ():
    drawn = [centred(glyph(5, style, rng(1))) for style in STYLES]
    for number, ink in enumerate(drawn):
        for other in drawn[:number]:
            assert np.abs(ink - other).mean() > 0.005


def test_a_glyph_depends_on_its_generator_alone():
    assert np.array_equal(glyph(3, HAND + 7, rng(4)), glyph(3, HAND + 7, rng(4)))
    assert glyph(3, HAND + 7, rng(4)).tobytes() != glyph(3, HAND + 7, rng(5)).tobytes()


def test_splits_share_no_hand_and_test_has_fonts_of_its_own():
    picked = {
        split: {pick_style(split, generator) for _ in range(3000)}
        for split, generator in (("train", rng(1)), ("calibrate", rng(2)), ("test", rng(3)))
    }
    hands = {split: {s for s in styles if s >= HAND} for split, styles in picked.items()}
    fonts = {split: {s for s in styles if s < HAND} for split, styles in picked.items()}
    assert len(hands["train"]) > 300
    assert not hands["train"] & hands["calibrate"] and not hands["train"] & hands["test"]
    assert not hands["calibrate"] & hands["test"]
    assert len(fonts["test"] - fonts["train"]) == 2 and fonts["train"] == fonts["calibrate"]


def test_marks_are_drawn():
    for kind in range(len(MARKS)):
        ink = mark(kind, rng(kind))
        assert ink.shape[0] == HEIGHT and ink.max() == 1


@pytest.mark.parametrize("size", [(128, 128), (240, 320), (320, 240), (64, 64)])
@pytest.mark.parametrize("level", [0, 0.5, 1])
def test_compose_draws_any_ink_at_any_size(size, level):
    generator = rng(*size)
    small = np.zeros((28, 28), np.float32)
    small[4:24, 12:16] = 1  # as in data sets of handwritten digits
    for ink in (None, small, glyph(8, 0, generator)) * 8:
        image = compose(generator, ink, *size, level=level)
        assert image.dtype == np.uint8 and image.shape == (*size, 3)


def test_compose_repeats_itself_from_the_same_seed():
    ink = glyph(2, 0, rng(1))
    first = compose(rng(9), ink, 128, 128)
    assert np.array_equal(first, compose(rng(9), ink, 128, 128))
    assert not np.array_equal(first, compose(rng(10), ink, 128, 128))


def test_compose_does_not_touch_the_ink():
    ink = glyph(2, 0, rng(1))
    kept = ink.copy()
    for seed in range(10):
        compose(rng(seed), ink, 64, 64)
    assert np.array_equal(ink, kept)


def test_a_bitmap_without_ink_is_refused():
    with pytest.raises(ConfigError, match="no ink"):
        compose(rng(1), np.zeros((28, 28), np.float32), 128, 128)


def test_the_digit_is_drawn_where_its_pose_says():
    ink = np.ones((20, 10), np.float32)
    black, white = np.zeros(3, np.float32), np.full(3, 255, np.float32)
    card = Card(np.pad(ink, 1), black, white, 0.6, 0.8)
    image = np.full((240, 320, 3), 128, np.float32)
    pose = Pose(x=100, y=120, height=100, angle=0)
    draw_card(image, card, pose)
    rows, columns = np.nonzero(image[..., 0] < 60)
    assert abs(rows.min() - 70) <= 3 and abs(rows.max() - 170) <= 3
    assert abs(columns.min() - 75) <= 3 and abs(columns.max() - 125) <= 3
    rows, columns = np.nonzero(image[..., 0] > 250)
    assert abs(rows.min() - 40) <= 2 and abs(rows.max() - 200) <= 2
    assert abs(columns.min() - 40) <= 2 and abs(columns.max() - 160) <= 2
    assert (image[:, 200:] == 128).all(), "nothing else was touched"
    assert digit_extent(card, pose) == pytest.approx((25, 50))
    turned = digit_extent(card, pose._replace(angle=np.pi / 2))
    assert turned == pytest.approx((50, 25))


def test_a_card_outside_the_picture_draws_nothing():
    image = np.zeros((64, 64, 3), np.float32)
    draw_card(image, make_card(rng(1), glyph(1, 0, rng(1))), Pose(-500, 30, 40, 0.0))
    assert not image.any()


def test_the_horizon_of_a_sheet_without_edges_is_paper():
    ink = np.pad(np.ones((20, 10), np.float32), 1)
    sheet = Card(ink, np.zeros(3, np.float32), np.full(3, 255, np.float32), np.inf, np.inf)
    image = np.zeros((64, 128, 3), np.float32)
    draw_card(image, sheet, Pose(x=32, y=32, height=8, angle=0, tilt_x=0.25))
    assert (image[:, 64] > 254).all()  # column 64 is infinitely far
    assert image[32, 32].tolist() == [0, 0, 0]


def test_degrade_leaves_the_picture_alone_and_can_do_nothing():
    image = compose(rng(1), glyph(4, 0, rng(1)), 96, 128)
    kept = image.copy()
    assert np.array_equal(degrade(image, rng(2)), kept)
    degrade(image, rng(2), blur_px=2, occlude=0.5, noise=20)
    assert np.array_equal(image, kept)


def test_blur_takes_detail_and_noise_adds_it():
    image = compose(rng(1), glyph(4, 0, rng(1)), 96, 128)

    def detail(picture):
        return np.abs(np.diff(picture.astype(float), axis=1)).mean()

    assert detail(degrade(image, rng(2), blur_px=2)) < 0.7 * detail(image)
    assert detail(degrade(image, rng(2), noise=30)) > 1.5 * detail(image)
    assert degrade(image, rng(2), blur_px=2).mean() == pytest.approx(image.mean(), abs=2)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_occlusion_hides_its_share_from_each_of_the_four_sides(share):
    image = np.full((96, 128, 3), 7, np.uint8)
    sides = set()
    for seed in range(40):
        changed = (degrade(image, rng(seed), occlude=share) != 7).any(axis=2)
        rows, columns = np.nonzero(changed)
        sides.add((rows.min(), rows.max(), columns.min(), columns.max()))
        assert changed.mean() == pytest.approx(share, abs=0.02)
    assert len(sides) == 4


def test_an_occluder_over_everything_and_over_nothing():
    (rows, columns), pixels = occluder(rng(1), 60, 80, 1.0)
    assert pixels.shape == (rows.stop - rows.start, columns.stop - columns.start, 3)
    assert pixels.shape[:2] == (60, 80)
