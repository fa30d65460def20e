"""Distances between states, one number per item."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import PredictionType, output_weights


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


def jump_gain(from_level: Level, to_level: Level, *, kind: PredictionType = PredictionType.EPSILON) -> Tensor:
    """How a constant error of a network's output arrives: the derivative of the jump by it, without its sign.

        epsilon  |sigma_s - alpha_s sigma_j / alpha_j|
        v        |alpha_j sigma_s - alpha_s sigma_j|
        sample   |alpha_s - sigma_s alpha_j / sigma_j|
        flow     |alpha_j sigma_s - alpha_s sigma_j| / (alpha_j + sigma_j)

    Zero for no jump, growing with its length, and finite wherever the output says anything: v, sample and
    flow in pure noise too.

    Args:
        from_level: j, of [B] tensors.
        to_level: s, likewise, with less noise.
        kind: what the output is.

    Returns:
        float64 [B].

    Raises:
        LevelError: the output says nothing at a level (epsilon in pure noise).
    Source: Song 2021 (DDIM) eq. 12, its derivative by the prediction.
    """
    to_x0, to_eps = output_weights(from_level.alpha, from_level.sigma, kind)
    return torch.as_tensor(to_level.alpha * to_x0 + to_level.sigma * to_eps).abs()
