"""The K-step loop: students, teachers and the bank's paths all run through `sample`.

The loop sees a function from (state, level) to `Denoised`; it knows neither networks nor conditions nor
guidance. Nothing here draws noise: it comes from the caller, per level, so that a path does not depend on its
batch.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level, SamplingPath, level_below
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import add_noise, jump, start_state
from stdcli.errors import NumericsError

Denoise = Callable[[Tensor, Level], Denoised]
"""(state [B, ...] float32 at least, its level) -> x0 and eps."""

OnStep = Callable[[int, Level, Tensor], Tensor | None]
"""(index into `path.levels`, that level, state there) -> None, or a state to go on with."""


def sample(
    denoise: Denoise,
    x: Tensor,
    path: SamplingPath,
    *,
    schedule: NoiseSchedule,
    sampler: Literal["jump", "renoise"] = "jump",
    gamma: float = 0.0,
    make_step_noise: Callable[[int], Tensor] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Walk states down a path with exactly `path.evaluations` evaluations.

    "jump" moves along the path, x <- J(x, j -> j'). With gamma > 0 it jumps below j' and adds noise up to j'
    (TCD). "renoise" noises the predicted x0 anew, x <- alpha' x0 + sigma' z (LCM). The last step is a plain
    jump always.

    Args:
        denoise: called once per level, with the state in float32 at least.
        x: [B, ...], states at `path.levels[0]`.
        path: levels to visit.
        schedule: the model's own; gamma > 0 looks up points between levels in it.
        sampler: see above.
        gamma: stochasticity in [0, 1], for "jump".
        make_step_noise: index i -> fresh standard normal noise of x's shape for `path.levels[i]`, 0 < i < K;
            called only by "renoise" and gamma > 0.
        on_step: called with every state of the path, the start (index 0) and the end (index K) included. What
            it returns, if anything, takes the state's place (blending in inpainting).

    Returns:
        [B, ...], states at `path.levels[-1]`, dtype of `x`.

    Raises:
        NumericsError: a state holds NaN or infinity; names the level.
        LevelError: the network's prediction is undefined at a level of the path.
        ValueError: unknown sampler, gamma out of range or with "renoise", or noise is needed and not given.
    Source: Song 2021 (DDIM) eq. 12; Luo 2023 (LCM), multistep sampling; Zheng 2024 (TCD), strategic
        stochastic sampling.
    """
    _check_sampler(sampler, gamma, path, make_step_noise=make_step_noise)
    targets = target_levels(path, schedule=schedule, sampler=sampler, gamma=gamma)
    state = x.to(torch.promote_types(x.dtype, torch.float32))
    state = _arrive(state, 0, path, on_step=on_step)
    for index, (level, to_level) in enumerate(pairwise(path.levels), start=1):
        denoised, target = denoise(state, level), targets[index - 1]
        if index == path.evaluations or (sampler == "jump" and gamma == 0):
            state = jump(state, denoised, from_level=level, to_level=to_level)
        elif sampler == "jump":
            state = jump(state, denoised, from_level=level, to_level=target)
            state = add_noise(state, make_step_noise(index), from_level=target, to_level=to_level)
        else:
            state = start_state(denoised.x0, make_step_noise(index), to_level)
        state = _arrive(state, index, path, on_step=on_step)
    return state.to(x.dtype)


def target_levels(
    path: SamplingPath,
    *,
    schedule: NoiseSchedule,
    sampler: Literal["jump", "renoise"] = "jump",
    gamma: float = 0.0,
) -> tuple[Level, ...]:
    """Where each evaluation of a path aims, for networks that are told.

    "jump" aims at the next level, or with gamma > 0 below it; "renoise" at the end of the path, every time.

    Args:
        path: levels to visit.
        schedule: as in `sample`, like the other two.

    Returns:
        K levels, one per evaluation; the last is `path.levels[-1]`.
    """
    *between, end = path.levels[1:]
    if sampler == "renoise":
        return (end,) * path.evaluations
    return (*(level_below(schedule, level, gamma) if gamma else level for level in between), end)


def sample_trajectory(denoise: Denoise, x: Tensor, path: SamplingPath, *, schedule: NoiseSchedule) -> Tensor:
    """All states of a deterministic path, the start included.

    Args:
        denoise: as in `sample`.
        x: [B, ...], states at `path.levels[0]`.
        path: levels to visit; of `make_teacher_path` for a teacher's full path.
        schedule: the model's own.

    Returns:
        [B, len(path.levels), ...], dtype of `x`; [:, i] lies at `path.levels[i]`.

    Raises:
        NumericsError: a state holds NaN or infinity; names the level.
        LevelError: the network's prediction is undefined at a level of the path.
    """
    states: list[Tensor] = []

    def keep(index: int, level: Level, state: Tensor) -> None:
        states.append(state.to(x.dtype))

    sample(denoise, x, path, schedule=schedule, on_step=keep)
    return torch.stack(states, dim=1)


def _check_sampler(
    sampler: str, gamma: float, path: SamplingPath, *, make_step_noise: Callable[[int], Tensor] | None
) -> None:
    if sampler not in ("jump", "renoise"):
        raise ValueError(f"sampler {sampler!r} is neither 'jump' nor 'renoise'")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma {gamma} is not in [0, 1]")
    if sampler == "renoise" and gamma > 0:
        raise ValueError("gamma belongs to the jump sampler; renoise is as random as can be")
    is_random = sampler == "renoise" or gamma > 0
    if is_random and path.evaluations > 1 and make_step_noise is None:
        raise ValueError(f"sampler {sampler!r} with gamma {gamma} needs make_step_noise")


def _arrive(state: Tensor, index: int, path: SamplingPath, *, on_step: OnStep | None) -> Tensor:
    """Check a state, show it, and take what is given for it."""
    level = path.levels[index]
    is_finite = torch.isfinite(state)
    if not bool(is_finite.all()):
        raise NumericsError(
            "a latent holds NaN or infinity",
            where=f"{level}, after {index} of {path.evaluations} evaluations",
            got=f"{int((~is_finite).sum())} of {state.numel()} values not finite",
            expected="finite values",
            hint="--dtype float32, or a lower --guidance",
        )
    replaced = None if on_step is None else on_step(index, level, state)
    return state if replaced is None else replaced
