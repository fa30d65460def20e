"""Pasting by hand-counted distances; what is outside a mask never changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdcli.inference.repaint import fade_in, paste


def smooth(share: float) -> float:
    return share * share * (3 - 2 * share)


def test_the_painting_fades_in_from_the_border_of_the_mask() -> None:
    mask = np.zeros((1, 9, 12), bool)
    mask[0, :, 4:] = True  # reaches three sides of the picture, which are no border
    weight = fade_in(mask, 3)
    expected = [0, 0, 0, 0, *(smooth(d / 4) for d in (1, 2, 3, 4)), 1, 1, 1, 1]
    assert np.allclose(weight[0], np.broadcast_to(expected, (9, 12)), atol=1e-6)


def test_a_narrow_mask_is_painted_in_its_middle() -> None:
    mask = np.zeros((1, 20, 40), bool)
    mask[0, 8:11] = True
    assert np.allclose(fade_in(mask, 8)[0, 7:12, 20], [0, smooth(1 / 2), 1, smooth(1 / 2), 0])


def test_no_feather_is_a_hard_edge() -> None:
    mask = np.random.default_rng(0).random((2, 6, 7)) < 0.5
    assert np.array_equal(fade_in(mask, 0), mask.astype(np.float32))


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_pixels_outside_are_the_same(seed: int, feather_px: int) -> None:
    rng = np.random.default_rng(seed)
    frames, painted = rng.integers(0, 256, (2, 2, 11, 9, 3), dtype=np.uint8)
    masks = rng.random((2, 11, 9)) < rng.random()
    result = paste(frames, painted, masks, feather_px=feather_px)
    assert np.array_equal(result[~masks], frames[~masks])
    low, high = np.minimum(frames, painted), np.maximum(frames, painted)
    assert (result >= low).all() and (result <= high).all()
    if feather_px == 0:
        assert np.array_equal(result[masks], painted[masks])


@pytest.mark.parametrize("weight", [0.5])
def test_halfway_is_the_mean(weight: float) -> None:
    mask = np.ones((1, 1, 3), bool)
    mask[0, 0, 0] = False
    frames, painted = np.full((1, 1, 3, 3), 10, np.uint8), np.full((1, 1, 3, 3), 31, np.uint8)
    assert smooth(weight) == 0.5
    assert paste(frames, painted, mask, feather_px=1)[0, 0, :, 0].tolist() == [10, 20, 31]  # 20.5, even


def test_a_narrow_part_does_not_depend_on_a_wide_one_beside_it() -> None:
    masks = np.zeros((2, 40, 60), bool)
    masks[:, :, 20:23] = True
    masks[1, :, 27:55] = True
    line, beside = (fade_in(one[None], 8)[0, 20, 20:23] for one in masks)
    assert line.tolist() == [0.5, 1, 0.5]
    assert beside.tolist() == line.tolist()
