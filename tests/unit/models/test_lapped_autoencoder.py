"""The lapped codec's transform against sums written out, and its form as an autoencoder of diffusers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stdcli.models.lapped_autoencoder import LappedAutoencoder
from stdcli.teacher.networks import build_lapped_codec

WIDTHS = (8, 8, 4, 4)


def make_codec(channels: int = 5, seed: int = 0) -> LappedAutoencoder:
    codec = build_lapped_codec(latent_channels=channels, widths=WIDTHS, seed=seed)
    torch.nn.init.normal_(codec.mean, generator=torch.Generator().manual_seed(seed))
    return codec


@torch.no_grad()
def test_encoding_filters_mirrored_windows() -> None:
    codec = make_codec()
    x = torch.rand(1, 3, 24, 16, generator=torch.Generator().manual_seed(1))
    z = codec.encode(x).latents
    assert z.shape == (1, 5, 3, 2)
    padded = np.pad(x[0].numpy(), ((0, 0), (4, 4), (4, 4)), mode="reflect")
    weight, bias = codec.project.weight.numpy(), codec.project.bias.numpy()
    for row in range(3):
        for column in range(2):
            window = padded[:, 8 * row : 8 * row + 16, 8 * column : 8 * column + 16]
            expected = (weight * window).sum((1, 2, 3)) + bias
            assert np.allclose(z[0, :, row, column], expected, atol=1e-4)


@torch.no_grad()
def test_linear_decoding_adds_up_overlapping_windows() -> None:
    codec = make_codec()
    z = torch.randn(1, 5, 3, 2, generator=torch.Generator().manual_seed(2))
    canvas = np.zeros((3, 8 * 5 + 8, 8 * 4 + 8))
    repeated = np.pad(z[0].numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    for row in range(5):
        for column in range(4):
            window = np.einsum("c,cpyx->pyx", repeated[:, row, column], codec.reconstruct.weight.numpy())
            canvas[:, 8 * row : 8 * row + 16, 8 * column : 8 * column + 16] += window
    expected = canvas[:, 12:-12, 12:-12] + codec.mean.numpy()[:, None, None]
    assert np.allclose(codec.decode_linear(z)[0], expected, atol=1e-4)
    assert torch.equal(codec.decode(z).sample, codec.decode_linear(z))  # the correction starts from nothing


def test_the_correction_sees_latents_and_reconstruction_and_learns() -> None:
    codec = make_codec()
    torch.nn.init.normal_(codec.refine.leave.weight, generator=torch.Generator().manual_seed(3))
    z = torch.randn(1, 5, 2, 2, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    linear = torch.zeros(1, 3, 16, 16, requires_grad=True)
    codec.refine(z, linear).square().sum().backward()
    assert z.grad.abs().min() > 0 and linear.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in codec.refine.parameters())


@torch.no_grad()
def test_it_is_saved_and_loaded_as_diffusers_does(tmp_path: Path) -> None:
    codec = make_codec()
    codec.save_pretrained(tmp_path)
    again = LappedAutoencoder.from_pretrained(tmp_path)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(x).sample, codec(x).sample)
    assert again.config.latent_channels == 5 and tuple(again.config.widths) == WIDTHS
    assert codec(x, return_dict=False)[0].shape == x.shape
    assert codec.encode(x, return_dict=False)[0].shape == (2, 5, 2, 2)


def test_the_factor_is_eight() -> None:
    with pytest.raises(ValueError, match="widths"):
        LappedAutoencoder(widths=(8, 8, 8))
    with pytest.raises(ValueError, match="block_out_channels"):
        LappedAutoencoder(block_out_channels=(1, 1, 1))
