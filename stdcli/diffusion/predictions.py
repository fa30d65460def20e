"""What networks predict. The only module that knows the difference between epsilon, v, x0 and flow.

A prediction is out = a x0 + b eps with known a and b, and the state is x = alpha x0 + sigma eps; two
equations give x0 and eps. Everything else in the toolkit sees `Denoised`.

    kind      out                      a       b      undefined where
    epsilon   eps                      0       1      alpha = 0
    v         alpha eps - sigma x0     -sigma  alpha  never
    sample    x0                       1       0      sigma = 0
    flow      eps - x0                 -1      1      never
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from stdcli.diffusion.combine import Scale, combine
from stdcli.diffusion.levels import LevelError


class PredictionType(StrEnum):
    """What a network was trained to predict; values as in diffusers' scheduler configurations, and "flow"."""

    EPSILON = "epsilon"
    V = "v_prediction"
    SAMPLE = "sample"
    FLOW = "flow"


@dataclass(frozen=True, slots=True)
class Denoised:
    """A network's opinion on a state, both halves [B, ...] and float32 at least.

    Args:
        x0: the clean latent it sees in the state.
        eps: the noise it sees in the state; x = alpha x0 + sigma eps.
    """

    x0: Tensor
    eps: Tensor


def to_x0_eps(output: Tensor, x: Tensor, *, alpha: Scale, sigma: Scale, kind: PredictionType) -> Denoised:
    """Split a state into x0 and noise by what the network said.

    Args:
        output: [B, ...], what the network returned for `x`.
        x: [B, ...], the state the network was given.
        alpha: signal scale of the state, number or float64 [B], in [0, 1].
        sigma: noise scale of the state, likewise.
        kind: what `output` is.

    Returns:
        x0 and eps, float32 or the wider dtype of `output` and `x`.

    Raises:
        LevelError: the prediction says nothing at this level (epsilon in pure noise, sample in clean data).
        ValueError: alpha or sigma do not fit the batch.
    Source: Song 2021 (DDIM) eq. 9 (eps); Salimans 2022 (progressive distillation) appendix D (v); Lipman 2023
        (flow).
    """
    a, b = _weights(alpha, sigma, kind)
    determinant = alpha * b - sigma * a
    if bool(torch.as_tensor(determinant == 0).any()):
        problem = "pure noise (alpha 0)" if kind is PredictionType.EPSILON else "clean data (sigma 0)"
        raise LevelError(f"a network that predicts {kind} says nothing in {problem}; use a level beside it")
    return Denoised(
        x0=combine((b / determinant, x), (-sigma / determinant, output)),
        eps=combine((alpha / determinant, output), (-a / determinant, x)),
    )


def from_x0_eps(denoised: Denoised, *, alpha: Scale, sigma: Scale, kind: PredictionType) -> Tensor:
    """What a network of this kind returns when it means `denoised`; of true x0 and eps, its training target.

    Args:
        denoised: x0 and eps [B, ...].
        alpha: signal scale of the state, number or float64 [B], in [0, 1].
        sigma: noise scale of the state, likewise.
        kind: what the network predicts.

    Returns:
        [B, ...], float32 or the dtype of `denoised` if wider.
    Source: as `to_x0_eps`.
    """
    a, b = _weights(alpha, sigma, kind)
    return combine((a, denoised.x0), (b, denoised.eps))


def _weights(alpha: Scale, sigma: Scale, kind: PredictionType) -> tuple[Scale, Scale]:
    """(a, b) of out = a x0 + b eps."""
    match PredictionType(kind):
        case PredictionType.EPSILON:
            return 0.0, 1.0
        case PredictionType.V:
            return -sigma, alpha
        case PredictionType.SAMPLE:
            return 1.0, 0.0
        case PredictionType.FLOW:
            return -1.0, 1.0
