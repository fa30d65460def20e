"""The fitted lapped transform: better than blocks, its components orthonormal, uncorrelated and in order."""

from __future__ import annotations

import pytest
import torch

from stdcli.models.lapped_autoencoder import LappedAutoencoder
from stdcli.teacher.codec_fitting import SIGNAL, fit_components
from stdcli.teacher.lapped import fit_lapped
from stdcli.teacher.networks import build_codec, build_lapped_codec

KEPT = 6


def smooth_pictures() -> torch.Tensor:
    """[48, 3, 32, 32] in about [-1, 1], whose structure knows of no grid."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.randn(48, 3, 48, 48, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(fine, 9, 1), 9, 1)
    return (6 * blurred + 0.2).clamp(-1, 1)


@pytest.fixture(scope="module")
def fitted() -> tuple[torch.Tensor, LappedAutoencoder]:
    pictures = smooth_pictures()
    codec = build_lapped_codec(latent_channels=KEPT, widths=(8, 8, 4, 4))
    fit_lapped(codec, pictures, signal=SIGNAL, steps=60, generator=torch.Generator().manual_seed(0))
    return pictures, codec


@torch.no_grad()
def test_overlapping_windows_keep_more_than_blocks(fitted: tuple[torch.Tensor, LappedAutoencoder]) -> None:
    pictures, lapped = fitted
    blocks = build_codec(latent_channels=KEPT, hidden_channels=8)
    fit_components(blocks, pictures, temper=1.0)
    inner = (..., slice(8, -8), slice(8, -8))
    errors = [(codec(pictures).sample - pictures)[inner].square().mean() for codec in (lapped, blocks)]
    assert errors[0] < 0.7 * errors[1]


@torch.no_grad()
def test_components_are_orthonormal_but_for_one_scale(fitted: tuple[torch.Tensor, LappedAutoencoder]) -> None:
    pictures, codec = fitted
    filters = codec.reconstruct.weight.flatten(1).double()
    gram = filters @ filters.T
    centered = pictures - codec.mean[:, None, None]
    scale = centered.double().square().mean() * 192 / SIGNAL
    assert torch.allclose(gram, scale * torch.eye(KEPT, dtype=torch.float64), atol=1e-5)


@torch.no_grad()
def test_latents_are_uncorrelated_and_in_order(fitted: tuple[torch.Tensor, LappedAutoencoder]) -> None:
    pictures, codec = fitted
    cells = codec.encode(pictures).latents.transpose(0, 1).flatten(1).double()
    spread = torch.cov(cells)
    variance = spread.diagonal()
    assert bool((variance.diff() <= 0).all()) and variance.min() > 0
    roots = variance.sqrt()
    assert ((spread / roots / roots[:, None]) - torch.eye(KEPT).double()).abs().max() < 1e-4


@torch.no_grad()
def test_the_mean_color_has_latents_of_zero(fitted: tuple[torch.Tensor, LappedAutoencoder]) -> None:
    _, codec = fitted
    flat = codec.mean[None, :, None, None].expand(1, 3, 32, 32)
    assert codec.encode(flat).latents.abs().max() < 1e-4
    assert torch.allclose(codec(flat).sample, flat, atol=1e-4)
