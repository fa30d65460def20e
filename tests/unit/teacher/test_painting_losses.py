"""What results are judged by: closed forms, shifted pictures, and Wasserstein distances by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stdcli.teacher import painting_losses
from stdcli.teacher.painting_losses import content_distance, draw_filters, fidelity_loss, texture_distance


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int, *, px: int = 64, blur_px: int = 1) -> torch.Tensor:
    """[2, 3, px, px] in [0, 1]; the larger the blur, the coarser."""
    picture = torch.rand(2, 3, px + blur_px - 1, px + blur_px - 1, generator=rng(seed))
    return F.avg_pool2d(picture, blur_px, stride=1)


def test_content_distance_of_a_constant_offset() -> None:
    """An offset survives every average: 0.1^2 (1 + 1 + 2 + 4)."""
    pictures = noise(0)
    distance = content_distance(pictures + 0.1, pictures)
    assert distance.tolist() == pytest.approx([0.08, 0.08], rel=1e-4)


def test_content_distance_of_a_tint_weighs_more() -> None:
    """Red up by 0.3 is grey up by 0.1, and 0.2, -0.1, -0.1 of colour: (0.01 + 4 x 0.02) (1 + 1 + 2 + 4)."""
    pictures = noise(0)
    tint = torch.tensor([0.3, 0.0, 0.0]).view(1, 3, 1, 1)
    assert content_distance(pictures + tint, pictures).tolist() == pytest.approx([0.72, 0.72], rel=1e-4)


def test_content_distance_of_a_checkerboard_counts_at_the_finest_scale_only() -> None:
    board = torch.ones(1, 3, 16, 16)
    board[..., ::2, ::2], board[..., 1::2, 1::2] = -1, -1
    assert content_distance(0.2 * board, torch.zeros_like(board)).item() == pytest.approx(0.04, rel=1e-5)


def test_each_picture_is_judged_on_its_own() -> None:
    pictures, others = noise(0, blur_px=5), noise(1)
    for distance in (content_distance, lambda a, b: texture_distance(a, b, generator=rng())):
        mixed = distance(pictures, torch.stack([pictures[0], others[1]]))
        assert mixed.shape == (2,)
        assert mixed[0] < 0.2 * mixed[1]


def test_fidelity_of_a_known_error() -> None:
    """A vertical edge of height 1 in 8 columns: errors 1/2, horizontal differences 1/7, vertical none."""
    pictures = torch.zeros(1, 1, 8, 8)
    decoded = pictures.clone()
    decoded[..., 4:] = 1
    assert fidelity_loss(decoded, pictures).item() == pytest.approx(1 / 2 + 1 / 7)


def test_filters_ignore_flat_areas_and_have_unit_norm() -> None:
    filters = draw_filters(40, rng())
    assert filters.shape == (40, 3, 7, 7)
    assert filters.sum((2, 3)).abs().max() < 1e-5
    assert torch.allclose(filters.flatten(1).norm(dim=1), torch.ones(40), atol=1e-5)


def test_filters_look_in_all_directions_and_mostly_at_luminance() -> None:
    filters = draw_filters(2000, rng())
    energy = filters.square().sum((0, 1))
    assert torch.allclose(energy, energy.T, rtol=0.2, atol=0.2)
    gray = filters.sum(1).square().sum((1, 2)) / 3
    draws = np.random.default_rng(0).standard_normal((3, 100_000)) ** 2
    expected = draws[0] / (draws[0] + (draws[1] + draws[2]) / 4)  # chroma has half the weight
    assert gray.mean().item() == pytest.approx(expected.mean(), abs=0.03)


def test_a_shifted_picture_has_the_same_texture() -> None:
    """The same patches elsewhere: a distance of sampling noise, far below that of another texture."""
    pictures = noise(0, px=96, blur_px=5)
    shifted = pictures.roll((13, 29), (2, 3))
    same, other = (
        texture_distance(x, pictures, generator=rng(1)).mean() for x in (shifted, noise(1, px=96, blur_px=2))
    )
    assert same < 0.15 * other


def test_the_texture_distance_sees_what_a_histogram_does_not() -> None:
    """The same pixels in random order: no colour differs, every patch does."""
    pictures = noise(0, px=64, blur_px=7)
    order = torch.randperm(64 * 64, generator=rng(3))
    shuffled = pictures.flatten(2)[..., order].view_as(pictures)
    different, same = (texture_distance(x, pictures, generator=rng(1)).mean() for x in (shuffled, pictures))
    assert different > 5 * same


def test_the_wasserstein_distance_is_that_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every place drawn: the mean difference of sorted values, here by numpy."""
    ours, theirs = (torch.randn(2, 3, 5, 6, generator=rng(seed)) * (seed + 1) for seed in (0, 1))
    distance = painting_losses._wasserstein(ours, theirs, generator=rng())
    for i in range(2):
        columns = [np.sort(x[i].numpy().reshape(3, -1), axis=1) for x in (ours, theirs)]
        assert distance[i].item() == pytest.approx(np.abs(columns[0] - columns[1]).mean(), rel=1e-5)


def test_shifted_distributions_differ_by_the_shift() -> None:
    """Wasserstein-1 of x and x + c is |c|, at whatever places each is drawn, but for sampling."""
    ours = torch.rand(1, 2, 100, 100, generator=rng())
    distance = painting_losses._wasserstein(ours, ours + 3, generator=rng(1))
    assert distance.item() == pytest.approx(3, abs=0.05)


def test_small_pictures_skip_the_scales_that_do_not_fit() -> None:
    """12 pixels hold a filter of 7 once, at the finest scale; nothing fails and colours still count."""
    flat, other = torch.full((1, 3, 12, 12), 0.2), torch.full((1, 3, 12, 12), 0.6)
    gray_share = texture_distance(flat, other, generator=rng()).item()
    assert 0.2 < gray_share < 0.4 * 3**0.5  # |0.4 (1, 1, 1) . u| for unit directions u near grey


def test_gradients_reach_the_picture_and_lower_the_distance() -> None:
    styles = noise(5, blur_px=3)
    pictures = torch.full_like(styles, 0.5).add(0.05 * noise(6)).requires_grad_()
    optimizer = torch.optim.Adam([pictures], lr=0.02)
    first = None
    for step in range(30):
        distance = texture_distance(pictures, styles, generator=rng(step)).mean()
        first = first or distance.item()
        optimizer.zero_grad()
        distance.backward()
        optimizer.step()
    assert distance.item() < 0.5 * first


def test_the_generator_decides_the_filters() -> None:
    pictures, styles = noise(0), noise(1)
    one, again, other = (texture_distance(pictures, styles, generator=rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
