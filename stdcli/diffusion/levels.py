"""Levels: which noise levels a path visits. The only place that turns steps and strength into model times.

A level is a row (id, model time t, alpha, sigma) of a table; id 0 is the cleanest. `id`, `t` and noise are
three different things and never share a name. Bank, training and sampling all choose their levels here. Knows
no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from stdcli.diffusion.schedule import NoiseSchedule

SOLVER_STEPS = (50, 100, 200, 250, 500, 1000)
"""Table sizes tried in turn when none is asked for; students are trained on the first."""

_ROUNDING = 1e-9
"""Added before a floor, so that 50 x 0.58 = 28.999999999999996 counts as 29."""


class LevelError(ValueError):
    """No such level or path; the message names the nearest value that works."""


@dataclass(frozen=True, slots=True)
class Level:
    """One noise level, or (with [B] tensors in every field) one level per sample of a batch.

    Args:
        id: row of its table, 0 = cleanest; -1 is clean data.
        t: time the network is given: a whole number in 0..T-1 (vp), T sigma in [0, T] (flow).
        alpha: signal scale in [0, 1].
        sigma: noise scale in [0, 1].
    """

    id: int | Tensor
    t: float | Tensor
    alpha: float | Tensor
    sigma: float | Tensor

    def __str__(self) -> str:
        return f"level {self.id} (t {self.t})"


CLEAN = Level(id=-1, t=-1, alpha=1.0, sigma=0.0)
"""Clean data, where paths with `final="x0"` end. Never given to a network."""


@dataclass(frozen=True, slots=True)
class SamplingPath:
    """The levels of one path, from noise to picture.

    Args:
        levels: K levels to evaluate, then the level the last jump lands on.

    Raises:
        LevelError: fewer than two levels, or the noise rises along the path.
    """

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise LevelError("a path needs at least one level to evaluate and one to end at")
        for level, following in pairwise(self.levels):
            if bool(torch.as_tensor(following.sigma > level.sigma).any()):
                raise LevelError(f"a path runs from noise to picture, but {following} lies above {level}")

    @property
    def evaluations(self) -> int:
        """K: how often the network is evaluated."""
        return len(self.levels) - 1

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Model times of the K evaluations, falling."""
        return tuple(level.t for level in self.levels[:-1])


def level_table(schedule: NoiseSchedule, num_solver_steps: int) -> tuple[Level, ...]:
    """All N + 1 levels of an N-step solver, cleanest first.

    VP: t_0 = 0 and t_j = j k - 1 with k = T // N (level 0 still holds the noise of t = 0).
    Flow: row j T // N, t = T sigma, level 0 exactly clean.

    Args:
        num_solver_steps: N, in 1..T.

    Raises:
        LevelError: N is out of range.
    Source: Luo 2023 (LCM) section 4.3, skipping-step grid; TCD and STD use the same.
    """
    total = schedule.num_train_timesteps
    if not 1 <= num_solver_steps <= total:
        nearest = min(max(num_solver_steps, 1), total)
        raise LevelError(f"{num_solver_steps} solver steps are not in 1..{total}; the nearest is {nearest}")
    ids = range(1, num_solver_steps + 1)
    if schedule.kind == "vp":
        stride = total // num_solver_steps
        rows = [0, *(id_ * stride - 1 for id_ in ids)]
    else:
        rows = [0, *(id_ * total // num_solver_steps for id_ in ids)]
    return tuple(_row_level(schedule, row, id_) for id_, row in enumerate(rows))


def pick_levels(table: Sequence[Level], ids: Tensor) -> Level:
    """One level per sample.

    Args:
        table: of `level_table`.
        ids: int64 [B], each in 0..len(table)-1.

    Returns:
        A level of [B] CPU tensors: ids int64, times too if the table's are whole numbers, the rest float64.

    Raises:
        LevelError: an id lies outside the table.
    """
    if bool(((ids < 0) | (ids >= len(table))).any()):
        raise LevelError(f"level ids {ids.tolist()} are not all in 0..{len(table) - 1}")
    chosen = [table[id_] for id_ in ids.tolist()]
    time_dtype = torch.int64 if all(isinstance(level.t, int) for level in table) else torch.float64
    return Level(
        id=ids.cpu(),
        t=torch.tensor([level.t for level in chosen], dtype=time_dtype),
        alpha=torch.tensor([level.alpha for level in chosen], dtype=torch.float64),
        sigma=torch.tensor([level.sigma for level in chosen], dtype=torch.float64),
    )


def levels_at(schedule: NoiseSchedule, t: Tensor) -> Level:
    """One level per sample at any model times, on a solver's table or not.

    Args:
        t: [B]; rows of the training table, 0..T-1 (vp), or times in [0, T] (flow).

    Returns:
        A level of [B] CPU tensors as of `pick_levels`; the ids are the times, rounded down.

    Raises:
        LevelError: a time is out of range, or no whole number (vp).
    """
    highest = schedule.num_train_timesteps - (schedule.kind == "vp")
    rows = t.cpu().long()
    is_whole = schedule.kind == "flow" or bool((rows == t.cpu()).all())
    if not is_whole or bool(((t < 0) | (t > highest)).any()):
        kind = "whole numbers " if schedule.kind == "vp" else ""
        raise LevelError(f"times {t.tolist()} are not all {kind}in 0..{highest}")
    if schedule.kind == "vp":
        return Level(id=rows, t=rows, alpha=schedule.alphas[rows], sigma=schedule.sigmas[rows])
    sigma = t.cpu().double() / schedule.num_train_timesteps
    return Level(id=rows, t=t.cpu().double(), alpha=1 - sigma, sigma=sigma)


def start_level(num_solver_steps: int, strength: float) -> int:
    """Level where a VP path starts: j = floor(N strength), in 0..N.

    Args:
        strength: fraction of the noise levels that is walked down, in (0, 1].

    Raises:
        LevelError: strength is out of range.
    Source: STD, start level tau_eta = eta T, on the grid of `level_table`.
    """
    _check_strength(strength)
    return math.floor(num_solver_steps * strength + _ROUNDING)


def nearest_level(table: Sequence[Level], sigma: float) -> int:
    """Level whose noise is nearest to `sigma` (the lower of two as near): where a flow path starts."""
    return min(table, key=lambda level: (abs(level.sigma - sigma), level.id)).id


def select_levels(start: int, steps: int) -> tuple[int, ...]:
    """K levels from `start` down, evenly spaced: j - floor(linspace(0, j, K, endpoint=False)).

    Args:
        start: id j of the first level.
        steps: K, in 1..j.

    Returns:
        K different ids, falling, all in 1..j; the first is j.

    Raises:
        LevelError: K is out of range.
    Source: Zheng 2024 (TCD), released scheduler; spacing of LCM.
    """
    if not 1 <= steps <= start:
        raise LevelError(f"{steps} steps are not in 1..{start}, the levels from {start} down to 1")
    # The product must be rounded as linspace rounds it: 30 levels in 22 steps differ from exact arithmetic.
    return tuple(start - math.floor(index * (start / steps)) for index in range(steps))


def make_sampling_path(
    schedule: NoiseSchedule,
    *,
    steps: int | None = None,
    strength: float | None = None,
    num_solver_steps: int | None = None,
    timesteps: Sequence[float] | None = None,
    final: Literal["level0", "x0"] = "level0",
) -> SamplingPath:
    """Path of exactly K evaluations.

    Args:
        steps: K >= 1.
        strength: where to start, in (0, 1]: a fraction of the levels (vp), or sigma (flow).
        num_solver_steps: size N of the table; None takes the first of `SOLVER_STEPS` that has K levels.
        timesteps: model times to evaluate, falling, which win over the three above. They need not lie on any
            table: ids then count the path's own levels, K down to 1.
        final: end at level 0, or at the last x0 prediction.

    Raises:
        LevelError: no such path; the message names the nearest values that work.
    """
    if final not in ("level0", "x0"):
        raise LevelError(f"final {final!r} is neither 'level0' nor 'x0'")
    if timesteps is not None:
        levels = _given_levels(schedule, timesteps)
    elif steps is None or strength is None:
        raise LevelError("a path needs steps and strength, or explicit timesteps")
    else:
        table, start = _choose_table(
            schedule, steps=steps, strength=strength, num_solver_steps=num_solver_steps
        )
        levels = [table[id_] for id_ in (*select_levels(start, steps), 0)]
    return SamplingPath((*levels[:-1], CLEAN if final == "x0" else levels[-1]))


def make_teacher_path(schedule: NoiseSchedule, *, num_solver_steps: int, strength: float) -> SamplingPath:
    """The teacher's path: every level from the start level down to level 0.

    Raises:
        LevelError: strength or table size is out of range, or no level lies below this strength.
    """
    _, start = _choose_table(schedule, steps=1, strength=strength, num_solver_steps=num_solver_steps)
    return make_sampling_path(schedule, steps=start, strength=strength, num_solver_steps=num_solver_steps)


def level_below(schedule: NoiseSchedule, level: Level, gamma: float) -> Level:
    """The point a stochastic step jumps to before it adds noise up to `level`.

    VP: t = floor((1 - gamma) t_level), a row of the training table. Flow: sigma = (1 - gamma) sigma_level.

    Args:
        gamma: in [0, 1]; 0 gives the level itself, 1 the cleanest row.
    Source: Zheng 2024 (TCD), strategic stochastic sampling.
    """
    if schedule.kind == "vp":
        return _row_level(schedule, math.floor((1 - gamma) * level.t + _ROUNDING), level.id)
    return _flow_level(schedule, (1 - gamma) * level.t, level.id)


def _row_level(schedule: NoiseSchedule, row: int, id_: int) -> Level:
    alpha, sigma = schedule.alphas[row].item(), schedule.sigmas[row].item()
    t = row if schedule.kind == "vp" else schedule.num_train_timesteps * sigma
    return Level(id=id_, t=t, alpha=alpha, sigma=sigma)


def _flow_level(schedule: NoiseSchedule, t: float, id_: int) -> Level:
    sigma = t / schedule.num_train_timesteps
    return Level(id=id_, t=float(t), alpha=1 - sigma, sigma=sigma)


def _given_levels(schedule: NoiseSchedule, timesteps: Sequence[float]) -> list[Level]:
    """Levels of explicit model times, and the level the path ends at."""
    if not timesteps:
        raise LevelError("timesteps must name at least one time")
    highest = schedule.num_train_timesteps - (schedule.kind == "vp")
    for t in timesteps:
        if not 0 <= t <= highest:
            nearest = highest if t > highest else 0
            raise LevelError(f"timestep {t} is not in 0..{highest}; the nearest is {nearest}")
        if schedule.kind == "vp" and t != int(t):
            raise LevelError(f"timestep {t} is not a whole number; the nearest is {round(t)}")
    for t, following in pairwise(timesteps):
        if following >= t:
            falling = ",".join(f"{t:g}" for t in sorted(set(timesteps), reverse=True))
            raise LevelError(f"timesteps must fall, but {following} follows {t}; in order they are {falling}")
    if schedule.kind == "flow" and timesteps[-1] == 0:
        raise LevelError("timestep 0 of a flow model is the picture itself; leave it out")
    ids = range(len(timesteps), 0, -1)
    if schedule.kind == "vp":
        levels = [_row_level(schedule, int(t), id_) for t, id_ in zip(timesteps, ids, strict=True)]
    else:
        levels = [_flow_level(schedule, t, id_) for t, id_ in zip(timesteps, ids, strict=True)]
    return [*levels, _row_level(schedule, 0, 0)]


def _choose_table(
    schedule: NoiseSchedule, *, steps: int, strength: float, num_solver_steps: int | None
) -> tuple[tuple[Level, ...], int]:
    """The table to use, and the id of its level where a path of `strength` starts."""
    _check_strength(strength)
    if steps < 1:
        raise LevelError(f"{steps} steps are too few; the nearest is 1")
    total = schedule.num_train_timesteps
    sizes = [size for size in SOLVER_STEPS if size <= total] or [total]
    table, start = (), 0
    for size in sizes if num_solver_steps is None else [num_solver_steps]:
        table = level_table(schedule, size)
        start = start_level(size, strength) if schedule.kind == "vp" else nearest_level(table, strength)
        if start >= steps:
            return table, start
    raise LevelError(_describe_misfit(schedule, table, start, steps=steps, strength=strength))


def _describe_misfit(
    schedule: NoiseSchedule, table: Sequence[Level], start: int, *, steps: int, strength: float
) -> str:
    size = len(table) - 1
    problem = f"{steps} steps do not fit below strength {strength:g} on {size} solver steps"
    advice = [f"at most {start} steps"] if start else []
    if steps <= size:
        needed = steps / size if schedule.kind == "vp" else table[steps].sigma
        advice.append(f"a strength of at least {math.ceil(needed * 1000 - 1e-6) / 1000:g}")
    return f"{problem}; the nearest that fits: {' or '.join(advice or [f'{size} steps at strength 1'])}"


def _check_strength(strength: float) -> None:
    if not 0 < strength <= 1:
        nearest = "1" if strength > 1 else "a small positive number"
        raise LevelError(f"strength {strength} is not in (0, 1]; the nearest is {nearest}")
