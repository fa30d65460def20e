"""Sizes on the way through a stylizer: padded to what the model takes, cut back exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stdcli.inference.padded_frames import compute_size, stylize_frames


@pytest.mark.parametrize(
    ("size", "max_size", "expected"),
    [
        ((61, 75), None, (64, 80)),
        ((64, 80), None, (64, 80)),
        ((1, 1), None, (16, 16)),
        ((61, 75), 75, (64, 80)),
        ((200, 100), 50, (64, 32)),
        ((1400, 1920), 264, (192, 272)),
    ],
)
def test_size_is_padded_after_shrinking(size, max_size, expected):
    assert compute_size(size, max_size=max_size, multiple_px=16) == expected


def test_padding_is_cut_off_again():
    """A stylizer that changes nothing gives the very bytes; one that moves by a pixel does just that."""
    frames = np.random.default_rng(0).integers(0, 256, (2, 61, 75, 3), dtype=np.uint8)
    seen = []

    def keep(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels.shape)
        return pixels

    assert np.array_equal(stylize_frames(frames, keep, max_size=None, multiple_px=16), frames)
    assert seen == [(2, 3, 64, 80)]
    moved = stylize_frames(frames, lambda pixels: pixels.roll(1, 3), max_size=None, multiple_px=16)
    assert np.array_equal(moved[:, :, 1:], frames[:, :, :-1])


def test_a_smaller_computation_comes_back_at_full_size():
    flat = np.full((1, 90, 60, 3), 77, np.uint8)
    result = stylize_frames(flat, lambda pixels: -pixels, max_size=45, multiple_px=16)
    assert np.array_equal(result, np.full((1, 90, 60, 3), 255 - 77, np.uint8))
