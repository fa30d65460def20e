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

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from stdcli.diffusion.combine import Scale, combine
from stdcli.diffusion.levels import LevelError, SamplingPath
from stdcli.diffusion.schedule import is_flow


class PredictionType(StrEnum):
    """What a network was trained to predict; values as in diffusers' scheduler configurations, and "flow"."""

    EPSILON = "epsilon"
    V = "v_prediction"
    SAMPLE = "sample"
    FLOW = "flow"


def prediction_of(config: Mapping[str, Any]) -> PredictionType:
    """What the network of a diffusers `scheduler_config.json` predicts; of flow models, flow unless said.

    Raises:
        ScheduleError: as `is_flow`.
        ValueError: a prediction type that is not known.
    """
    is_filled_in = "prediction_type" in (config.get("_use_default_values") or ())
    declared = None if is_filled_in else config.get("prediction_type")
    if is_flow(config) and (declared in (None, "flow_prediction") or not config.get("use_flow_sigmas")):
        return PredictionType.FLOW  # the classes for flow models alone read nothing else
    return PredictionType("epsilon" if declared is None else declared)


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
    determinant = _determinant(alpha, sigma, kind)
    to_x0, to_eps = output_weights(alpha, sigma, kind)
    return Denoised(
        x0=combine((b / determinant, x), (to_x0, output)),
        eps=combine((to_eps, output), (-a / determinant, x)),
    )


def output_weights(alpha: Scale, sigma: Scale, kind: PredictionType) -> tuple[Scale, Scale]:
    """How much of a network's output is in the x0 and in the eps that are made of it.

    Returns:
        The derivatives of x0 and eps by the output, at a fixed state; numbers, or float64 [B] like `alpha`.

    Raises:
        LevelError: as `to_x0_eps`.
    """
    determinant = _determinant(alpha, sigma, kind)
    return -sigma / determinant, alpha / determinant


def check_path(path: SamplingPath, kind: PredictionType) -> None:
    """Refuse a path that asks a network where its prediction says nothing.

    Raises:
        LevelError: naming the level.
    """
    for level in path.levels[:-1]:
        try:
            _determinant(level.alpha, level.sigma, kind)
        except LevelError as error:
            raise LevelError(f"{level}: {error}") from error


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


def _determinant(alpha: Scale, sigma: Scale, kind: PredictionType) -> Scale:
    """alpha b - sigma a; where it is 0, the output does not tell x0 and eps apart."""
    a, b = _weights(alpha, sigma, kind)
    determinant = alpha * b - sigma * a
    if bool(torch.as_tensor(determinant == 0).any()):
        is_noise = kind is PredictionType.EPSILON
        problem = "pure noise (alpha 0)" if is_noise else "clean data (sigma 0)"
        remedy = "a lower strength" if is_noise else "a level above it"
        raise LevelError(f"a network that predicts {kind} says nothing in {problem}; use {remedy}")
    return determinant


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
