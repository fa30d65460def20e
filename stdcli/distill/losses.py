"""Distances between states, one number per item."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level


def distance(
    predicted: Tensor, target: Tensor, *, kind: Literal["huber", "l2"], huber_c: float = 1e-3
) -> Tensor:
    """Pseudo-Huber, mean of sqrt(e^2 + c^2) - c, or the mean of e^2, over everything but the batch.

    Args:
        predicted: [B, ...].
        target: same shape.
        kind: which.
        huber_c: c > 0; far below the errors it is the mean absolute error.

    Returns:
        float32 [B] at least, >= 0.
    Source: Song 2023 (improved consistency training) eq. 7; c = 1e-3 in LCM, TCD, PCM and STD.
    """
    error = predicted.float() - target.float()
    squared = error.square()
    per_value = squared if kind == "l2" else (squared + huber_c**2).sqrt() - huber_c
    return per_value.flatten(1).mean(1)


def jump_gain(from_level: Level, to_level: Level) -> Tensor:
    """How a constant error of the predicted noise arrives: |sigma_s - alpha_s sigma_j / alpha_j|.

    Zero for no jump, and growing with its length.

    Args:
        from_level: of [B] tensors.
        to_level: likewise, with less noise.

    Returns:
        float64 [B].
    Source: Song 2021 (DDIM) eq. 12, its derivative by epsilon.
    """
    ratio = to_level.alpha / from_level.alpha
    return torch.as_tensor(to_level.sigma - ratio * from_level.sigma).abs()
