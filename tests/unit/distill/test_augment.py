"""Augmentation: each change alone, seen on pictures that only it can change."""

from __future__ import annotations

import pytest
import torch

from stdcli.distill.augment import augment


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 9) -> torch.Tensor:
    return 2 * torch.rand(shape, generator=rng(seed)) - 1


def kept(pictures: torch.Tensor, channel: int = 0) -> torch.Tensor:
    """Value of most pixels of pictures that are flat but for what was cut and shifted."""
    return pictures[:, channel].flatten(1).mode(1).values


def flat(*color: float, batch: int = 400) -> torch.Tensor:
    return torch.tensor(color).view(1, 3, 1, 1).expand(batch, 3, 16, 16)


def spread(values: torch.Tensor, low: float, high: float) -> bool:
    """Whether values fill an interval and stay in it."""
    width = high - low
    inside = values.min() >= low - 1e-5 and values.max() <= high + 1e-5
    return bool(inside and values.min() < low + 0.05 * width and values.max() > high - 0.05 * width)


def test_nothing_changes_at_strength_zero() -> None:
    pictures = noise(5, 3, 24, 17)
    assert torch.equal(augment(pictures, generator=rng(), strength=0.0), pictures)


def test_the_generator_decides_and_each_picture_has_draws_of_its_own() -> None:
    pictures = noise(1, 3, 24, 24).expand(4, -1, -1, -1)
    first = augment(pictures, generator=rng(1))
    assert torch.equal(first, augment(pictures, generator=rng(1)))
    assert not torch.allclose(first, augment(pictures, generator=rng(2)))
    assert len({tuple(picture.flatten()[:50].tolist()) for picture in first}) == 4


def test_brightness_moves_gray() -> None:
    """Grey has no chroma and no contrast."""
    assert spread(kept(augment(flat(0.2, 0.2, 0.2), generator=rng())) - 0.2, -0.5, 0.5)
    assert spread(kept(augment(flat(0.2, 0.2, 0.2), generator=rng(), strength=0.1)) - 0.2, -0.05, 0.05)


def test_contrast_and_saturation() -> None:
    """Stripes of grey have no chroma; a flat colour of mean 0 has both, so its factor is the product."""
    stripes = torch.ones(400, 3, 16, 16)
    stripes[..., ::2] = -1
    striped = augment(stripes, generator=rng())
    steps = (striped[:, 0, :, 1:] - striped[:, 0, :, :-1]).abs().flatten(1).mode(1).values
    contrast = steps / 2
    assert spread(contrast, 0.5, 1.5)
    colored = augment(flat(0.4, -0.4, 0.0), generator=rng())
    saturation = (kept(colored) - kept(colored, 1)) / 0.8 / contrast
    assert spread(saturation, 0.0, 2.0)


def test_pictures_move_by_up_to_an_eighth_and_lose_a_fifth() -> None:
    pictures = noise(1, 1, 32, 16).expand(60, 3, -1, -1)
    moves, losses = set(), []
    for picture, result in zip(pictures, augment(pictures, generator=rng()), strict=True):
        found = []
        for y in range(-5, 6):
            for x in range(-3, 4):
                there = torch.full_like(picture[0], torch.nan)
                there[max(y, 0) : 32 + min(y, 0), max(x, 0) : 16 + min(x, 0)] = picture[
                    0, max(-y, 0) : 32 - max(y, 0), max(-x, 0) : 16 - max(x, 0)
                ]
                seen = (result[0] != 0) & ~there.isnan()
                both = torch.stack([there[seen], result[0][seen]])
                if torch.corrcoef(both)[0, 1] > 0.999:
                    found.append((y, x))
                    losses.append((~there.isnan() & (result[0] == 0)).sum().item())
        assert len(found) == 1
        moves.add(found[0])
    assert {y for y, _ in moves} == set(range(-4, 5))
    assert {x for _, x in moves} == set(range(-2, 3))
    assert max(losses) == 6 * 3, "0.2 of the sides"
    assert sum(loss > 0 for loss in losses) > 50


def test_gradients_flow_where_pixels_are_kept() -> None:
    pictures = noise(3, 3, 16, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, generator=rng()), pictures, fast_mode=True)
    augment(pictures, generator=rng()).square().sum().backward()
    assert (pictures.grad != 0).float().mean() > 0.7


@pytest.mark.parametrize("size", [(1, 1), (3, 40)])
def test_any_size_stays(size) -> None:
    assert augment(noise(2, 3, *size), generator=rng()).shape == (2, 3, *size)
