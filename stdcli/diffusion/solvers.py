"""Moves between levels: the jump along the path, and noise forward. Knows neither networks nor schedules."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stdcli.diffusion.combine import Scale, combine
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised


def jump(x: Tensor, denoised: Denoised, *, from_level: Level, to_level: Level) -> Tensor:
    """Move states along the path: J(x, j -> s) = alpha_s x0 + sigma_s eps; J(x, j -> j) is x itself.

    Args:
        x: [B, ...], states at `from_level`.
        denoised: x0 and eps [B, ...] seen in `x`.
        from_level: where `x` is; one level, or one per sample (fields [B]).
        to_level: where to go, likewise.

    Returns:
        [B, ...], states at `to_level`, dtype of `x`; samples whose two levels agree are returned bit by bit.

    Raises:
        ValueError: levels per sample do not fit the batch.
    Source: Song 2021 (DDIM) eq. 12 with zero variance; Euler's step for flow models.
    """
    stays = _is_equal(from_level.alpha, to_level.alpha) & _is_equal(from_level.sigma, to_level.sigma)
    if not stays.ndim and stays:
        return x
    moved = combine((to_level.alpha, denoised.x0), (to_level.sigma, denoised.eps)).to(x.dtype)
    if not stays.any():
        return moved
    return torch.where(stays.to(x.device).reshape(-1, *[1] * (x.ndim - 1)), x, moved)


def start_state(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """Clean latents noised to a level: alpha x0 + sigma noise.

    Args:
        x0: [B, ...], clean latents.
        noise: same shape, standard normal, any device.
        level: one level, or one per sample.

    Returns:
        [B, ...], dtype and device of `x0`.
    Source: Ho 2020 (DDPM) eq. 4; Meng 2022 (SDEdit) start of the path.
    """
    return combine((level.alpha, x0), (level.sigma, noise.to(x0.device))).to(x0.dtype)


def add_noise(x: Tensor, noise: Tensor, *, from_level: Level, to_level: Level) -> Tensor:
    """Noise states forward from a level to a noisier one: r x + sqrt(sigma_to^2 - r^2 sigma_from^2) noise.

    r = alpha_to / alpha_from keeps the signal in proportion; for VP the root is sqrt(1 - r^2).

    Args:
        x: [B, ...], states at `from_level`; in pure noise they stay as they are.
        noise: same shape, standard normal, independent of `x`.
        from_level: where `x` is; one level, or one per sample (fields [B]).
        to_level: at least as noisy; one level, or one per sample where `from_level` is.

    Returns:
        [B, ...], states at `to_level`, dtype of `x`.

    Raises:
        ValueError: `to_level` is cleaner than `from_level`.
    Source: Zheng 2024 (TCD), strategic stochastic sampling, the step back up.
    """
    is_pure = _is_equal(from_level.alpha, 0.0)
    if is_pure.all():
        if not _is_equal(to_level.alpha, 0.0).all():
            raise ValueError(f"noise can only be added upwards, not from {from_level} to {to_level}")
        return x
    ratio = to_level.alpha / from_level.alpha
    if is_pure.any():
        ratio = torch.where(is_pure & _is_equal(to_level.alpha, 0.0), 1.0, ratio)
    variance = to_level.sigma**2 - (ratio * from_level.sigma) ** 2
    if bool(torch.as_tensor(variance < -1e-12).any()):
        raise ValueError(f"noise can only be added upwards, not from {from_level} to {to_level}")
    is_each = isinstance(variance, Tensor)
    root = variance.clamp(min=0.0).sqrt() if is_each else math.sqrt(max(variance, 0.0))
    return combine((ratio, x), (root, noise.to(x.device))).to(x.dtype)


def _is_equal(first: Scale, second: Scale) -> Tensor:
    return torch.as_tensor(first, dtype=torch.float64) == torch.as_tensor(second, dtype=torch.float64)
