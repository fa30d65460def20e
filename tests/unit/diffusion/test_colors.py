"""Colours by the optimal transport between Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stdcli.diffusion.colors import (
    _SMALLEST_VARIANCE as EPSILON,
)
from stdcli.diffusion.colors import color_statistics, match_colors, mix_colors, pool_colors


def gaussian(seed: int, *, mean: tuple[float, ...], mixing: list[list[float]]) -> torch.Tensor:
    """[1, 3, 64, 64] of correlated colours."""
    rng = torch.Generator().manual_seed(seed)
    flat = torch.randn(3, 64 * 64, generator=rng, dtype=torch.float64)
    pixels = torch.tensor(mixing, dtype=torch.float64) @ flat + torch.tensor(mean).double()[:, None]
    return pixels.view(1, 3, 64, 64)


def moments(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    flat = pictures[0].flatten(1)
    return flat.mean(1), torch.cov(flat, correction=0)


PICTURE = gaussian(0, mean=(0.5, 0.45, 0.55), mixing=[[0.09, 0, 0], [0.04, 0.06, 0], [0, 0.03, 0.07]])
STYLE = gaussian(1, mean=(0.6, 0.4, 0.5), mixing=[[0.05, 0.03, 0], [0, 0.07, 0], [0.02, 0, 0.08]])


def test_colors_get_the_mean_and_covariance_of_the_style() -> None:
    result = match_colors(PICTURE, STYLE)
    assert result.min() > 0 and result.max() < 1  # nothing was clamped
    (mean, cov), (wanted_mean, wanted_cov) = moments(result), moments(STYLE)
    assert torch.allclose(mean, wanted_mean, rtol=0, atol=1e-12)
    # both covariances are regularised: T (S_p + e) T = S_s + e, so cov = S_s + e (1 - T T)
    gain = torch.linalg.eigvalsh(wanted_cov).max() / torch.linalg.eigvalsh(moments(PICTURE)[1]).min()
    assert (cov - wanted_cov).abs().max() < EPSILON * (1 + gain)
    assert (cov - moments(PICTURE)[1]).abs().max() > 10 * EPSILON


def test_a_symmetric_positive_map_is_recovered() -> None:
    """The transport between Gaussians related by a positive definite matrix is that matrix."""
    matrix = torch.tensor([[1.4, 0.6, 0.0], [0.6, 0.9, -0.3], [0.0, -0.3, 0.6]], dtype=torch.float64)
    centered = PICTURE - PICTURE.mean((2, 3), keepdim=True)
    style = torch.einsum("ij,bjhw->bihw", matrix, centered) + 0.5
    # flipped, so that equality pixel by pixel comes from the map and not from a copy
    result = match_colors(PICTURE, style.flip(3))
    assert (result - style).abs().mean() < 0.002  # the variances are regularised
    assert (PICTURE - style).abs().mean() > 0.03


def test_a_flat_picture_takes_the_mean_color() -> None:
    flat = torch.full((1, 3, 8, 8), 0.3)
    result = match_colors(flat, STYLE.float())
    assert torch.allclose(result, STYLE.float().mean((2, 3), keepdim=True).expand_as(result), atol=1e-5)


def test_colors_stay_in_range() -> None:
    rng = torch.Generator().manual_seed(0)
    extreme = (torch.rand(1, 3, 32, 32, generator=rng) > 0.5).float()
    assert ((match_colors(extreme, extreme.flip(2)) >= 0) & (match_colors(extreme, 1 - extreme) <= 1)).all()


def test_statistics_are_those_of_numpy() -> None:
    statistics = color_statistics(torch.cat([PICTURE, STYLE]))
    for i, picture in enumerate((PICTURE, STYLE)):
        flat = picture[0].flatten(1).numpy()
        assert np.allclose(statistics.mean[i, :, 0].numpy(), flat.mean(1), atol=1e-12)
        assert np.allclose(statistics.covariance[i].numpy(), np.cov(flat, bias=True), atol=1e-12)


def test_stored_statistics_do_what_the_picture_does() -> None:
    both = torch.cat([PICTURE, PICTURE.flip(3)])
    assert torch.equal(match_colors(both, color_statistics(STYLE)), match_colors(both, STYLE))
    assert torch.allclose(match_colors(both[:1], STYLE), match_colors(both, STYLE)[:1], atol=1e-12)


def test_mixed_colors_lie_between() -> None:
    styles = [color_statistics(PICTURE), color_statistics(STYLE)]
    mixed = mix_colors(styles, (3, 1))
    assert torch.allclose(mixed.mean, 0.75 * styles[0].mean + 0.25 * styles[1].mean)
    assert torch.allclose(mixed.covariance, 0.75 * styles[0].covariance + 0.25 * styles[1].covariance)


def test_the_dtype_of_pictures_is_kept() -> None:
    assert match_colors(PICTURE.float(), STYLE.float()).dtype == torch.float32


def test_pooled_colors_are_those_of_pictures_side_by_side() -> None:
    third = gaussian(2, mean=(0.2, 0.7, 0.4), mixing=[[0.02, 0, 0], [0.01, 0.03, 0], [0, 0.01, 0.05]])
    pooled = pool_colors([color_statistics(torch.cat([PICTURE, STYLE])), color_statistics(third)])
    together = color_statistics(torch.cat([PICTURE, STYLE, third], 3))
    assert pooled.mean.shape == (1, 3, 1) and pooled.covariance.shape == (1, 3, 3)
    assert torch.allclose(pooled.mean, together.mean, rtol=0, atol=1e-14)
    assert torch.allclose(pooled.covariance, together.covariance, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="no statistics"):
        pool_colors([])


def test_given_content_makes_one_map_for_all_pictures() -> None:
    """Pictures of one pool, matched with it, are parts of the pool matched as a whole."""
    parts = torch.cat([PICTURE, 0.5 * PICTURE.flip(2) + 0.1])
    whole = torch.cat(list(parts[:, None]), 3)
    content = pool_colors([color_statistics(part[None]) for part in parts])
    result = match_colors(parts, STYLE, content=content)
    assert torch.allclose(torch.cat(list(result[:, None]), 3), match_colors(whole, STYLE), atol=1e-10)
    assert torch.equal(match_colors(parts[1:], STYLE, content=content), result[1:])
    assert (result - match_colors(parts, STYLE)).abs().mean() > 0.03
