"""Teach the decoder what the denoiser gets wrong: the last stage of training a small teacher.

A small denoiser's estimate of x0 carries leftover noise and lacks texture. The decoder is trained on just
such estimates, made from pictures whose truth is known, with a loss that counts pixels, edges and how much
texture there is (not where each grain lies, which nobody can know). The latents keep their meaning: only the
decoder's refinement learns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import PredictionType, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.models.scratch import StylizerNetworks, encode_style, predict
from stdcli.runtime.seeding import fold
from stdcli.teacher.denoiser import noisy_start
from stdcli.teacher.pairs import PairBatch

HIGHEST_T = 300  # of the estimates: about where a few-step path takes its last jump
P_EXACT = 0.15  # of the samples have exact latents, so that encoding and decoding stays faithful
TEXTURE_WINDOW_PX = 16
TEXTURE_WEIGHT = 1.0


def train_decoder(
    codec: PatchAutoencoder,
    networks: StylizerNetworks,
    schedule: NoiseSchedule,
    *,
    make_batch: Callable[[int], PairBatch],
    steps: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train `codec.refine` on one-step estimates of a trained denoiser.

    Args:
        codec: its refinement is trained in place; its linear part is not.
        networks: trained; not changed.
        schedule: the networks' own.
        make_batch: step -> pictures and their styles.
        steps: optimiser steps.
        learning_rate: AdamW's, cosine to zero.
        seed: of timesteps and noise.
        on_step: called with (step, loss) after each step.
    """
    optimiser = torch.optim.AdamW(codec.refine.parameters(), lr=learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    device = codec.project.weight.device
    for step in range(steps):
        batch = make_batch(step)
        truth = batch.pictures.to(device)
        latents = _estimates(codec, networks, schedule, batch, fold(seed, "decoder", step))
        loss = decoder_loss(codec.decode(latents).sample, truth)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        decay.step()
        if on_step is not None:
            on_step(step, loss.item())


@torch.no_grad()
def _estimates(
    codec: PatchAutoencoder,
    networks: StylizerNetworks,
    schedule: NoiseSchedule,
    batch: PairBatch,
    generator: torch.Generator,
) -> torch.Tensor:
    """Latents of a batch as the denoiser would have them: noised, and estimated in one step."""
    device = codec.project.weight.device
    x0 = codec.encode(batch.pictures.to(device)).latents
    t = torch.randint(1, HIGHEST_T, (len(x0),), generator=generator)
    exact = torch.rand(len(x0), generator=generator) < P_EXACT
    level = Level(id=t, t=t, alpha=schedule.alphas[t], sigma=schedule.sigmas[t])
    x = noisy_start(codec, batch, x0, level, generator)
    style = encode_style(networks.style_encoder, batch.styles.to(device))
    output = predict(networks.unet, x, t.to(device), style)
    estimate = to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=PredictionType.V).x0
    return torch.where(exact.to(device).view(-1, 1, 1, 1), x0, estimate)


def decoder_loss(pictures: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """L1 of pixels, of neighbour differences, and of the amount of texture per window.

    Args:
        pictures: [B, 3, H, W] in [-1, 1].
        truth: the same shape.

    Returns:
        A scalar, 0 for equal pictures.
    """
    loss = (pictures - truth).abs().mean()
    for dim in (2, 3):
        loss = loss + 0.5 * (pictures.diff(dim=dim) - truth.diff(dim=dim)).abs().mean()
    texture = (_texture(pictures) - _texture(truth)).abs().mean()
    return loss + TEXTURE_WEIGHT * texture


def _texture(pictures: torch.Tensor) -> torch.Tensor:
    """Root mean square of the fine detail of luminance, per overlapping window."""
    grey = pictures.mean(1, keepdim=True)
    detail = grey - F.avg_pool2d(F.pad(grey, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    energy = F.avg_pool2d(detail.square(), TEXTURE_WINDOW_PX, stride=TEXTURE_WINDOW_PX // 2)
    return (energy + 1e-6).sqrt()
