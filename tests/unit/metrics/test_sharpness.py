"""Sharpness against closed forms."""

from math import log2

import numpy as np
import pytest
from PIL import Image

from stdcli.metrics.metric import NotMeasurable, Subject
from stdcli.metrics.sharpness import ROUNDING, laplacian_variance, measure
from tests.tiny_subjects import NoBackbones, flat, noise, smooth


def gap(result, *styles) -> float:
    frames = result if result.ndim == 4 else result[None]
    return measure(Subject(frames, styles=styles), NoBackbones())


def board(amplitude: int) -> np.ndarray:
    """Black and white fields of one pixel, 128 +- amplitude."""
    signs = np.indices((40, 60)).sum(0) % 2 * 2 - 1
    return np.repeat((128 + amplitude * signs)[..., None], 3, axis=2).astype(np.uint8)


def test_a_picture_is_as_sharp_as_itself_and_flat_pictures_as_each_other():
    assert gap(noise(0), noise(0)) == 0
    assert gap(flat(30), flat(200)) == 0


def test_laplacian_of_a_board_and_of_noise():
    assert laplacian_variance(board(10)) == pytest.approx((8 * 10) ** 2, rel=1e-9)
    gray = np.repeat(noise(0, 200, 200)[..., :1], 3, axis=2)
    assert laplacian_variance(gray) == pytest.approx(20 * (256**2 - 1) / 12, rel=0.05)


def test_ramps_have_only_the_variance_of_their_rounding():
    y, x = np.mgrid[:40, :60][..., None]
    slopes = np.random.default_rng(0).uniform(0.5, 2.5, (300, 2))
    ramps = [np.round(a * x + b * y).astype(np.uint8).repeat(3, axis=2) for a, b in slopes]
    assert np.mean([laplacian_variance(ramp) for ramp in ramps]) == pytest.approx(ROUNDING, rel=0.05)


def test_octaves_between_boards_both_ways():
    expected = log2((64 * 40**2 + 20 / 12) / (64 * 10**2 + 20 / 12))
    assert gap(board(40), board(10)) == pytest.approx(expected, rel=1e-9)
    assert gap(board(10), board(40)) == pytest.approx(expected, rel=1e-9)
    assert expected == pytest.approx(4, rel=1e-3)


def test_a_flat_result_is_far_and_finite():
    assert gap(flat(128), board(10)) == pytest.approx(log2(64 * 10**2 / ROUNDING + 1), rel=1e-9)


def test_softer_and_sharper_frames_do_not_cancel():
    frames = np.stack([board(5), board(20)])
    assert gap(frames, board(10)) == pytest.approx(2, rel=1e-2)
    alone = [gap(frame, style) for frame in frames for style in (board(10), noise(0), smooth(1))]
    assert gap(frames, smooth(1), noise(0), board(10)) == pytest.approx(np.mean(alone), rel=1e-9)


def test_styles_are_shrunk_to_the_result_and_never_enlarged():
    picture = smooth(0, 60, 60)
    large = np.asarray(Image.fromarray(picture).resize((240, 240), Image.Resampling.BICUBIC))
    apart = log2((laplacian_variance(picture) + ROUNDING) / (laplacian_variance(large) + ROUNDING))
    assert gap(picture, large) < 0.3 < 3 < apart
    assert gap(large, picture) == pytest.approx(apart, rel=1e-9)


def test_a_picture_of_two_pixels_has_no_inside():
    with pytest.raises(NotMeasurable, match="3 px"):
        gap(noise(0, 2, 30), noise(1))
