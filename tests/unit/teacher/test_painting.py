"""The closed-form painting: flattening, strokes along edges, their strength."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stdcli.teacher import painting
from stdcli.teacher.painting import (
    brush_strokes,
    detail_contrast,
    flatten_detail,
    luminance,
    paint,
)

SIDE = 48


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int = 0, *, batch: int = 1, side: int = SIDE) -> torch.Tensor:
    return torch.randn(batch, 1, side, side, generator=rng(seed))


def stripes(angle: float, *, side: int = SIDE) -> torch.Tensor:
    """Smooth waves [1, 1, side, side] whose crests run at `angle` from the x axis."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    across = y * math.cos(angle) - x * math.sin(angle)
    return (0.5 + 0.3 * torch.sin(across * 0.5))[None, None]


def correlation_along(picture: torch.Tensor, angle: float, distance: float = 4) -> float:
    """Correlation between pixels and those `distance` further on at an angle."""
    dx, dy = round(distance * math.cos(angle)), round(distance * math.sin(angle))
    inner = picture[0, 0, 8:-8, 8:-8]
    moved = picture[0, 0, 8 + dy : SIDE - 8 + dy, 8 + dx : SIDE - 8 + dx]
    return float(np.corrcoef(inner.flatten().numpy(), moved.flatten().numpy())[0, 1])


def test_flat_areas_and_straight_edges_are_left_alone() -> None:
    picture = torch.full((1, 3, 32, 32), 0.3)
    picture[..., 16:] = 0.8
    assert (flatten_detail(picture) - picture).abs().max() < 0.02
    assert torch.allclose(flatten_detail(picture * 0 + 0.3), picture * 0 + 0.3, atol=1e-5)


def test_speckles_go_and_edges_stay_sharp() -> None:
    picture = torch.full((1, 3, 32, 64), 0.3)
    picture[..., 32:] = 0.8
    speckled = picture + 0.05 * torch.randn(picture.shape, generator=rng())
    result = flatten_detail(speckled)
    assert (result - picture).std() < 0.5 * 0.05
    step = result[..., 33].mean() - result[..., 30].mean()
    assert step > 0.45  # a blur of that strength leaves 0.3


def test_a_constant_plus_a_picture_is_flattened_alike() -> None:
    picture = torch.rand(1, 3, 24, 24, generator=rng()) * 0.5
    assert torch.allclose(flatten_detail(picture + 0.25), flatten_detail(picture) + 0.25, atol=1e-4)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135, 160])
def test_strokes_follow_the_edges(degrees: float) -> None:
    angle = math.radians(degrees)
    strokes = brush_strokes(stripes(angle), noise())
    along, across = correlation_along(strokes, angle), correlation_along(strokes, angle + math.pi / 2)
    assert along > 0.5
    assert abs(across) < 0.25


def test_strokes_are_the_noises_own() -> None:
    guide = stripes(0.5)
    one, again, other = (brush_strokes(guide, noise(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.15
    assert torch.allclose(brush_strokes(guide, -2 * noise(1)), -one, atol=1e-5)  # linear but for its scale
    assert one.std().item() == pytest.approx(1, abs=1e-4)


def test_every_picture_of_a_batch_has_its_own_strokes() -> None:
    guides = torch.cat([stripes(0.2), stripes(1.3)])
    both = brush_strokes(guides, noise(3, batch=2))
    for i in range(2):
        alone = brush_strokes(guides[i : i + 1], noise(3, batch=2)[i : i + 1])
        assert torch.allclose(both[i : i + 1], alone, atol=1e-5)


def test_strokes_are_as_strong_as_the_styles_detail_and_the_noise() -> None:
    picture = torch.full((3, 3, SIDE, SIDE), 0.5)
    styles = 0.5 + 0.1 * torch.randn(3, 3, 32, 32, generator=rng())
    ratio = torch.tensor([0.0, 0.075, 2.0])
    painted = paint(picture, styles, noise=noise(4, batch=3), ratio=ratio) - picture
    contrast = detail_contrast(styles).flatten()
    expected = 0.5 * contrast * torch.tensor([0.0, 0.5, 1.0])
    assert torch.allclose(painted.std((1, 2, 3), correction=0), expected, rtol=0.01, atol=1e-5)
    assert torch.allclose(painted[:, :1], painted[:, 1:2], atol=1e-6)  # grey on grey
    assert torch.allclose(detail_contrast(2 * styles), 2 * detail_contrast(styles))


def test_more_noise_makes_strokes_follow_the_noise() -> None:
    """In a clear picture strokes follow its edges; drowned in noise, they no longer do."""
    angle = 0.0
    picture = stripes(angle).expand(1, 3, -1, -1) * 0.2
    styles = torch.rand(1, 3, 32, 32, generator=rng())
    along = []
    for ratio in (0.05, 20.0):
        painted = paint(picture, styles, noise=noise(5), ratio=torch.tensor([ratio]))
        strokes = luminance(painted - flatten_detail(picture))
        along.append(correlation_along(strokes, angle) - correlation_along(strokes, angle + math.pi / 2))
    assert along[0] > along[1] + 0.3


def test_luminance_is_that_of_rec_601() -> None:
    colours = torch.eye(3).view(3, 3, 1, 1)
    assert luminance(colours).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])


def test_a_blur_is_a_gaussian() -> None:
    """Of an impulse: standard deviation as asked, sum kept."""
    impulse = torch.zeros(1, 1, 33, 33)
    impulse[..., 16, 16] = 1
    blurred = painting._blur(impulse, 2.0)[0, 0]
    at = torch.arange(33.0) - 16
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert (blurred.sum(0) * at**2).sum().sqrt().item() == pytest.approx(2, rel=0.03)
