"""Cuts between scenes."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from stdcli.media.cuts import THRESHOLD, content_change, is_cut


def flat(*rgb: int, height: int = 90, width: int = 160) -> np.ndarray:
    return np.broadcast_to(np.uint8(rgb), (height, width, 3)).copy()


def hsv(*rgb: int) -> np.ndarray:
    h, s, v = colorsys.rgb_to_hsv(*(value / 255 for value in rgb))
    return np.array([180 * h, 255 * s, 255 * v])


@pytest.mark.parametrize(
    ("before", "after"),
    [((10, 10, 10), (250, 250, 250)), ((200, 40, 30), (30, 90, 160)), ((120, 130, 20), (100, 140, 40))],
)
def test_change_between_flat_frames_is_that_of_their_colors(before, after):
    difference = np.abs(hsv(*before) - hsv(*after))
    difference[0] = min(difference[0], 180 - difference[0])
    assert content_change(flat(*before), flat(*after)) == pytest.approx(difference.mean(), abs=1)


def test_hue_is_a_circle():
    assert content_change(flat(200, 0, 6), flat(200, 6, 0)) < 2


def test_change_is_a_mean_over_the_frame():
    half = flat(20, 20, 20)
    half[:, :80] = 200
    assert content_change(flat(20, 20, 20), half) == pytest.approx(180 / 3 / 2, abs=0.5)


def test_noise_motion_and_fading_are_no_cuts():
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8)
    noisy = np.clip(scene + rng.normal(0, 20, scene.shape), 0, 255).astype(np.uint8)
    assert not is_cut(scene, noisy)
    assert not is_cut(scene, np.roll(scene, 3, 1))
    assert not is_cut(scene, (scene * 0.9).astype(np.uint8))
    assert content_change(scene, scene) == 0


def test_another_scene_is_a_cut():
    rng = np.random.default_rng(0)
    one, two = (
        np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8) for _ in range(2)
    )
    assert is_cut(one, two)
    assert content_change(one, two) > 2 * THRESHOLD


def test_the_smallest_frames_are_compared():
    assert is_cut(flat(0, 0, 0, height=1, width=1), flat(255, 255, 255, height=1, width=1))
    with pytest.raises(ValueError, match="different sizes"):
        is_cut(flat(0, 0, 0), flat(0, 0, 0, width=161))
