"""The codec's linear part against numpy's singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stdcli.errors import NumericsError
from stdcli.teacher.codec_fitting import crops, fit_components, psnr_db, refine_decoder
from stdcli.teacher.networks import build_codec
from tests.tiny_pictures import noise_set

KEPT = 10


def smooth_pictures(seed: int = 0) -> torch.Tensor:
    """[24, 3, 32, 32] in [-1, 1] with strong correlation between neighbours."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(24, 3, 8, 8, generator=rng) * 2 - 1
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (fine + 0.05 * torch.randn(fine.shape, generator=rng)).clamp(-1, 1)


def to_patches(pictures: torch.Tensor) -> np.ndarray:
    """[patches, 192] in float64."""
    x = pictures.numpy().astype(np.float64)
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 8, 8, w // 8, 8).transpose(0, 2, 4, 1, 3, 5).reshape(-1, c * 64)


@pytest.mark.parametrize("temper", [0.0, 0.5, 1.0])
def test_reconstruction_is_that_of_the_singular_vectors(temper: float) -> None:
    pictures = smooth_pictures()
    codec = build_codec(latent_channels=KEPT, hidden_channels=8)
    fit_components(codec, pictures, temper=temper)
    with torch.no_grad():
        decoded = codec(pictures).sample
    patches = to_patches(pictures)
    mean = patches.mean(0)
    _, values, rows = np.linalg.svd(patches - mean, full_matrices=False)
    truth = (patches - mean) @ rows[:KEPT].T @ rows[:KEPT] + mean
    assert np.abs(to_patches(decoded) - truth).max() < 1e-5
    dropped = (values[KEPT:] ** 2).sum() / patches.size  # Eckart and Young
    assert (decoded - pictures).square().mean().item() == pytest.approx(dropped, rel=1e-4)


@pytest.mark.parametrize("temper", [0.0, 0.5, 1.0])
def test_latents_are_centered_and_scaled_by_a_power_of_the_deviation(temper: float) -> None:
    pictures = smooth_pictures()
    codec = build_codec(latent_channels=KEPT, hidden_channels=8)
    fit_components(codec, pictures, temper=temper)
    with torch.no_grad():
        latents = codec.encode(pictures).latents.transpose(0, 1).flatten(1).double()
    assert latents.mean(1).abs().max() < 1e-5
    patches = to_patches(pictures)
    eigenvalues = np.linalg.svd(patches - patches.mean(0), compute_uv=False) ** 2
    expected = 32 * eigenvalues**temper / (eigenvalues**temper).sum()
    assert np.allclose(latents.var(1).numpy(), expected[:KEPT], rtol=1e-3)


def test_training_the_correction_lowers_the_loss_and_leaves_the_linear_part() -> None:
    pictures = noise_set(2, seed=0)
    codec = build_codec(latent_channels=KEPT, hidden_channels=8)
    generator = torch.Generator().manual_seed(0)
    fit_components(codec, crops((pictures,), count=8, crop_px=32, generator=generator), temper=0.5)
    codec.reconstruct.bias.data += 0.5  # something to correct that is not noise
    linear = codec.project.weight.clone()
    losses: list[float] = []
    refine_decoder(
        codec,
        (pictures,),
        steps=12,
        batch_size=4,
        crop_px=32,
        generator=generator,
        learning_rate=1e-2,
        on_step=lambda step, loss, psnr: losses.append(loss),
    )
    assert len(losses) == 12
    assert sum(losses[-3:]) < sum(losses[:3])
    assert torch.equal(codec.project.weight, linear)


def test_no_steps_leave_the_codec_linear() -> None:
    codec = build_codec(latent_channels=KEPT, hidden_channels=8)
    before = {k: v.clone() for k, v in codec.state_dict().items()}
    refine_decoder(
        codec, (noise_set(1, seed=0),), steps=0, batch_size=1, crop_px=16, generator=torch.Generator()
    )
    assert all(torch.equal(v, before[k]) for k, v in codec.state_dict().items())


def test_a_diverging_correction_is_told_with_its_step() -> None:
    codec = build_codec(latent_channels=KEPT, hidden_channels=8)
    codec.refine[-1].bias.data.fill_(float("nan"))
    with pytest.raises(NumericsError, match="refinement step 0"):
        refine_decoder(
            codec, (noise_set(1, seed=0),), steps=2, batch_size=1, crop_px=16, generator=torch.Generator()
        )


def test_crops_are_drawn_from_all_sets_by_size() -> None:
    dark = noise_set(3, seed=0)
    bright = noise_set(1, seed=1)
    for sizes in bright.sizes:
        for picture in sizes:
            picture.fill_(255)
    drawn = crops((dark, bright), count=400, crop_px=8, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (400, 3, 8, 8)
    share = (drawn.amin((1, 2, 3)) == 1).float().mean().item()
    assert share == pytest.approx(1 / 4, abs=4 * (0.25 * 0.75 / 400) ** 0.5)


@pytest.mark.parametrize(("mse", "db"), [(4.0, 0.0), (0.04, 20.0), (4e-4, 40.0)])
def test_psnr_of_a_mean_squared_error(mse: float, db: float) -> None:
    """The peak-to-peak range of [-1, 1] is 2, so the peak power is 4."""
    assert psnr_db(mse) == pytest.approx(db, abs=1e-4)
