"""The network that sees the photo, against the best linear estimate in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.models.painter_unet import (
    HIGHEST,
    LOWEST,
    PainterUNet,
    make_wide_scheduler,
    noise_ratio,
    sees_photo,
)
from stdcli.teacher.networks import StylizerNetworks, build_networks, predict

CHANNELS = 3


@pytest.fixture(scope="module")
def networks() -> StylizerNetworks:
    sizes = {"style_dim": 16, "style_width": 32, "style_layers": 1, "cross_dim": 16}
    networks = build_networks(latent_channels=CHANNELS, channels=(32, 32), sees_photo=True, **sizes)
    networks.unet.variances.copy_(torch.tensor([2.0, 0.1, 0.01]))
    return networks


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_scheduler_rises_geometrically_as_the_network_believes() -> None:
    schedule = NoiseSchedule.from_config(make_wide_scheduler().config)
    ratios = schedule.sigmas / schedule.alphas
    assert ratios[0].item() == pytest.approx(LOWEST) and ratios[-1].item() == pytest.approx(HIGHEST)
    steps = ratios[1:] / ratios[:-1]
    assert torch.allclose(steps, steps[:1].expand_as(steps), rtol=1e-9)
    assert torch.allclose(ratios, noise_ratio(torch.arange(1000)), rtol=1e-9)


@torch.no_grad()
def test_untrained_it_gives_the_best_linear_estimate(networks: StylizerNetworks) -> None:
    """Regressing paintings on (state, photo) over many draws finds the same estimate, and its error."""
    schedule = NoiseSchedule.from_config(make_wide_scheduler().config)
    variances = networks.unet.variances
    for t in (100, 700):
        alpha, sigma = schedule.alphas[t].item(), schedule.sigmas[t].item()
        photo = 3 * draws(1, 8, CHANNELS, 32, 32)
        painting = photo + variances.sqrt().view(1, -1, 1, 1) * draws(2, *photo.shape)
        x = alpha * painting + sigma * draws(3, *photo.shape)
        v = predict(networks.unet, x, torch.full((8,), t), torch.zeros(8, 16), photo)
        estimate = alpha * x - sigma * v
        for channel in range(CHANNELS):
            seen = torch.stack([part[:, channel].flatten() for part in (x, photo)], 1).double()
            wanted = painting[:, channel].flatten().double()
            weights = torch.linalg.lstsq(seen, wanted[:, None]).solution
            fitted = (seen @ weights)[:, 0]
            assert (estimate[:, channel].flatten() - fitted).abs().max() < 0.03 * wanted.std()
            error = (estimate[:, channel].flatten() - wanted).square().mean().item()
            d = variances[channel].item()
            assert error == pytest.approx(d * sigma**2 / (alpha**2 * d + sigma**2), rel=0.05)


def test_what_it_learns_is_in_units_of_what_is_left(networks: StylizerNetworks) -> None:
    """The output of the last layer moves v by the estimate's own error over sigma, channel by channel."""
    photo, x, t = draws(1, 1, CHANNELS, 8, 8), draws(2, 1, CHANNELS, 8, 8), torch.tensor([400])
    with torch.no_grad():
        before = predict(networks.unet, x, t, torch.zeros(1, 16), photo)
        networks.unet.conv_out.bias.fill_(1.0)
        after = predict(networks.unet, x, t, torch.zeros(1, 16), photo)
        networks.unet.conv_out.bias.zero_()
    ratio = noise_ratio(t).item()
    alpha2 = 1 / (1 + ratio**2)
    d = networks.unet.variances
    expected = (d / (alpha2 * d + ratio**2 * alpha2)).sqrt()
    assert torch.allclose((after - before)[0, :, 3, 4], expected, rtol=1e-4)


@torch.no_grad()
def test_it_is_saved_and_loaded_with_its_variances(networks: StylizerNetworks, tmp_path: Path) -> None:
    plain = PainterUNet.from_config(dict(networks.unet.config) | {"encoder_hid_dim_type": None})
    plain.variances.copy_(networks.unet.variances)
    plain.save_pretrained(tmp_path)
    again = PainterUNet.from_pretrained(tmp_path)
    assert torch.equal(again.variances, networks.unet.variances)
    assert again.config.in_channels == 2 * CHANNELS and again.config.out_channels == CHANNELS


def test_it_is_told_apart(networks: StylizerNetworks) -> None:
    sizes = {"style_dim": 16, "style_width": 32, "style_layers": 1, "cross_dim": 16}
    blind = build_networks(latent_channels=CHANNELS, channels=(32, 32), **sizes).unet
    assert sees_photo(networks.unet) and not sees_photo(blind)
