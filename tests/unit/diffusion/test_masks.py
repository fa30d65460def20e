"""What is known along a path, in closed form."""

from __future__ import annotations

import pytest
import torch

from stdcli.diffusion.levels import Level
from stdcli.diffusion.masks import LatentBlend, shrink_mask


def test_a_cell_is_repainted_where_any_pixel_is() -> None:
    mask = torch.zeros(1, 1, 16, 24)
    mask[0, 0, 7, 8] = 1  # last row of the first cell, first column of the second
    mask[0, 0, 15, 23] = 1
    assert shrink_mask(mask, (2, 3))[0, 0].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert shrink_mask(mask, (16, 24)).equal(mask)


def test_a_cell_of_a_clip_is_repainted_where_any_pixel_of_its_frames_is() -> None:
    mask = torch.zeros(1, 1, 4, 16, 24)
    mask[0, 0, 1, 7, 8] = 1
    mask[0, 0, 2, 15, 23] = 1
    shrunk = shrink_mask(mask, (2, 2, 3))
    assert shrunk[0, 0].tolist() == [[[0, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]]
    for frame in range(4):
        assert shrink_mask(mask, (4, 2, 3))[:, :, frame].equal(shrink_mask(mask[:, :, frame], (2, 3)))


@pytest.mark.parametrize("shape", [(1, 1, 5, 1, 1), (2, 1, 5, 4, 4)], ids=["frames", "cells"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_clip_keeps_what_is_known_of_each_frame(index: int, shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    latents, noise, state = (torch.randn(2, 3, 5, 4, 4, generator=rng) for _ in range(3))
    mask = (torch.rand(shape, generator=rng) < 0.5).float()
    mask[:, :, 1], mask[:, :, 3] = 0, 1
    level = Level(id=1, t=857.5, alpha=0.1425, sigma=0.8575)
    blended = LatentBlend(latents, noise, mask, evaluations=2)(index, level, state)
    kept = latents if index == 2 else 0.1425 * latents + 0.8575 * noise
    for item in range(2):
        for frame in range(5):
            own = mask.expand(2, 1, 5, 4, 4)[item, 0, frame]
            expected = own * state[item, :, frame] + (1 - own) * kept[item, :, frame]
            assert (blended[item, :, frame] - expected).abs().max() < 1e-6


@pytest.mark.parametrize("index", [0, 1, 2])
def test_what_is_known_lies_at_each_levels_own_noise(index: int) -> None:
    rng = torch.Generator().manual_seed(0)
    latents, noise, state = (torch.randn(2, 3, 4, 4, generator=rng) for _ in range(3))
    mask = (torch.rand(2, 1, 4, 4, generator=rng) < 0.5).float()
    level = Level(id=1, t=399, alpha=0.8, sigma=0.6)
    known = LatentBlend(latents, noise, mask, evaluations=2)(index, level, state)
    there = latents if index == 2 else 0.8 * latents + 0.6 * noise  # clean at the end
    expected = mask * state + (1 - mask) * there
    assert (known - expected).abs().max() < 1e-6
