"""Fit the patch codec: principal components in closed form, then the decoder's small correction by training.

The components are scaled by a power of their standard deviation: 1 keeps them as they are, so that noise
hides detail long before layout; 0 whitens them, so that everything goes at once. In between, texture is
decided at middling noise levels, where a few-step sampler still spends evaluations, and layout survives them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from stdcli.errors import NumericsError
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.teacher.networks import SmallCodec
from stdcli.teacher.painting_losses import fidelity_loss
from stdcli.teacher.pictures import SHORT_SIDES_PX, PictureSet

SIGNAL = 32.0  # variance of a latent, summed over all components of a patch


def crops(
    sets: tuple[PictureSet, ...], *, count: int, crop_px: int, generator: torch.Generator
) -> torch.Tensor:
    """Random crops over all sets, pictures uniformly: float32 [count, 3, crop_px, crop_px] in [-1, 1]."""
    sizes = torch.tensor([len(s) for s in sets])
    out = []
    for _ in range(count):
        which = int(torch.multinomial(sizes.float(), 1, generator=generator))
        index = int(torch.randint(len(sets[which]), (1,), generator=generator))
        size_idx = int(torch.randint(len(SHORT_SIDES_PX), (1,), generator=generator))
        out.append(sets[which].crop(index, size_idx=size_idx, crop_px=crop_px, generator=generator))
    return torch.stack(out) * 2 - 1


def fit_components(codec: PatchAutoencoder, pictures: torch.Tensor, *, temper: float) -> None:
    """Set the codec's linear part to the tempered principal components of picture patches.

    Latents of `pictures` then have mean 0 per channel. Were every component kept, the channels' variances
    would sum to `SIGNAL`, so a noise level hides the same things however many are.

    Args:
        codec: changed in place; its refinement is left as it is.
        pictures: [B, 3, H, W] in [-1, 1], H and W multiples of the patch size.
        temper: exponent p in [0, 1]; component i is scaled by std_i ** (p - 1).
    """
    size = codec.config.patch_size
    patches = F.unfold(pictures, size, stride=size).transpose(1, 2).flatten(0, 1).double()
    mean = patches.mean(0)
    variance, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
    kept = codec.config.latent_channels
    variance, vectors = variance.flip(0).clamp(min=0), vectors.flip(1)[:, :kept]
    scales = variance.clamp(min=1e-12).sqrt() ** (temper - 1)
    scales = (scales * (SIGNAL / (scales**2 * variance).sum()).sqrt())[:kept]
    vectors = vectors * vectors.sum(0).sign().where(vectors.sum(0) != 0, torch.ones(()).double())
    with torch.no_grad():
        forward = (vectors * scales).T
        codec.project.weight.copy_(forward.view_as(codec.project.weight))
        codec.project.bias.copy_(-forward @ mean)
        codec.reconstruct.weight.copy_((vectors / scales).view(-1, kept, 1, 1))
        codec.reconstruct.bias.copy_(mean)


def refine_decoder(
    codec: SmallCodec,
    sets: tuple[PictureSet, ...],
    *,
    steps: int,
    batch_size: int,
    crop_px: int,
    generator: torch.Generator,
    learning_rate: float = 1e-3,
    on_step: Callable[[int, float, float], None] | None = None,
) -> None:
    """Train the decoder's correction, the linear part fixed.

    By `fidelity_loss`. The denoiser's training goes on with it, on latents that are not exact.

    Args:
        codec: from `fit_components` or `lapped.fit_lapped`; its `refine` is trained in place.
        sets: pictures to crop from.
        steps: optimiser steps.
        batch_size: crops per step.
        crop_px: side of a crop.
        generator: source of all randomness.
        learning_rate: AdamW's, cosine to zero.
        on_step: called with (step, loss, psnr_db) after each step, or None.

    Raises:
        NumericsError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(codec.refine.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    device = codec.project.weight.device
    for step in range(steps):
        x = crops(sets, count=batch_size, crop_px=crop_px, generator=generator).to(device)
        with torch.no_grad():
            z = codec.encode(x).latents
        y = codec.decode(z).sample
        loss = fidelity_loss(y, x)
        if not torch.isfinite(loss):
            raise NumericsError(
                "the codec's loss is not finite",
                where=f"refinement step {step}",
                got=loss.item(),
                hint="a lower --set codec.learning_rate=...",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            mse = (y - x).square().mean().item()
            on_step(step, loss.item(), psnr_db(mse))


def psnr_db(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error of pictures in [-1, 1]."""
    return float(10 * torch.log10(torch.tensor(4.0 / max(mse, 1e-12))))
