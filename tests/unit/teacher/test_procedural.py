"""Procedural styles: the same on every picture, deterministic, inside the range."""

from __future__ import annotations

import math

import pytest
import torch

from stdcli.teacher import procedural
from stdcli.teacher.procedural import COLOURINGS, TEXTURES, Dice, random_style

MAKERS = sorted(set(COLOURINGS + TEXTURES), key=lambda maker: maker.__name__)
NAMES = [maker.__name__.strip("_") for maker in MAKERS]


def dice(seed: int) -> Dice:
    return Dice(torch.Generator().manual_seed(seed))


def pictures(count: int = 2, *, height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("seed", range(20))
def test_one_generator_state_gives_one_style(seed: int) -> None:
    first = random_style(torch.Generator().manual_seed(seed))(pictures())
    again = random_style(torch.Generator().manual_seed(seed))(pictures())
    other = random_style(torch.Generator().manual_seed(seed + 1000))(pictures())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == pictures().shape
    assert first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("seed", range(20))
def test_a_style_treats_each_picture_alone(seed: int) -> None:
    style = random_style(torch.Generator().manual_seed(seed))
    both = pictures()
    assert torch.equal(style(both), torch.cat([style(both[:1]), style(both[1:])]))


@pytest.mark.parametrize("maker", MAKERS, ids=NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_a_function_of_the_picture(maker, seed: int) -> None:
    step = maker(dice(seed))
    x = pictures()
    kept = x.clone()
    result = step(x)
    assert torch.equal(x, kept)  # the input is left alone
    assert torch.equal(result, step(x))
    assert result.shape == x.shape
    assert torch.isfinite(result).all()
    assert not torch.equal(result, x)


def test_tint_maps_luminance_onto_a_line_of_colours() -> None:
    step = procedural._tint(dice(0))
    ends = step(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 4))
    middle = step(torch.full((1, 3, 4, 4), 0.25))
    assert torch.allclose(middle, 0.75 * ends[:1] + 0.25 * ends[1:], atol=1e-6)


def test_posterize_leaves_few_tones() -> None:
    assert len(procedural._posterize(dice(3))(pictures()).unique()) <= 6


def test_mosaic_tiles_hold_the_mean_colour() -> None:
    side = dice(1).integer(4, 12)  # a mosaic's first throw
    step = procedural._mosaic(dice(1))
    x = pictures(1, height=side * 2, width=side * 2)
    tile = step(x)[0, :, 1:side, 1:side]
    wanted = x[0, :, :side, :side].mean((1, 2))
    assert torch.allclose(tile, wanted.view(3, 1, 1).expand_as(tile), atol=1e-6)


def test_waves_have_the_period_and_direction_asked_for() -> None:
    wave = procedural._wave(torch.zeros(1, 3, 24, 24), angle=0.0, period_px=6.0, phase=0.5)[0, 0]
    assert torch.allclose(wave[0], wave[-1])  # constant along y
    x = torch.arange(24.0)
    assert torch.allclose(wave[0], torch.sin(x * 2 * math.pi / 6 + 0.5), atol=1e-5)


def test_luminance_weights() -> None:
    red, green, blue = torch.eye(3).view(3, 3, 1, 1)
    assert [procedural.luma(c[None]).item() for c in (red, green, blue)] == pytest.approx(
        [0.299, 0.587, 0.114]
    )


def test_dice_stay_in_range() -> None:
    roll = dice(0)
    whole = [roll.integer(2, 4) for _ in range(200)]
    assert set(whole) == {2, 3, 4}
    real = [roll.uniform(-1, 3) for _ in range(200)]
    assert -1 <= min(real) < -0.8 and 2.8 < max(real) < 3
