"""What an adversary tells apart: a student's states and real ones, at the levels of a variant.

Legend: B batch, C latent channels, space: cells h w or F h w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level, levels_at
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import start_state

Variant = Literal["x0", "xs", "xs-x0", "xs-xr", "xs-xR"]

OPEN = 1e-9  # how near draws come to 0 and 1, where rounding would put a flow's r on s or j


@dataclass(frozen=True, slots=True)
class RealFakeBatch:
    """What is told apart: latents [B, C, *space], and levels with [B] tensors in every field.

    Clean latents have id -1, alpha 1, sigma 0 and t 0, the time at which a network is asked about them.

    Attributes:
        fake: the student's.
        real: to be told from them.
        level: where `fake` is, and what the features are told of both sides.
        real_level: where `real` is, which nothing that judges may know.
        given: what both sides came from, shown beside each to a critic that sees it; None hides it.
        given_level: where that is.
    """

    fake: Tensor
    real: Tensor
    level: Level
    real_level: Level
    given: Tensor | None = None
    given_level: Level | None = None


def make_real_fake_batch(
    variant: Variant,
    *,
    schedule: NoiseSchedule,
    from_level: Level,
    to_level: Level,
    jumped: Tensor,
    x0: Tensor,
    real: Tensor,
    noise: Tensor,
    u: Tensor,
) -> RealFakeBatch:
    """Set a student's jump j -> s against real latents at the level of a variant.

        variant  fake  real
        x0       x0    clean
        xs       x_s   r = s
        xs-x0    x_s   clean
        xs-xr    x_s   r < s, uniform in t (vp) or sigma (flow); clean where s is the table's first row
        xs-xR    x_s   s < r < j, likewise; r = s where nothing lies between

    Args:
        variant: see above.
        schedule: the model's own.
        from_level: j, where the student jumped from; [B] fields, as of `pick_levels`.
        to_level: s, likewise.
        jumped: the student's states at s, [B, C, *space].
        x0: its predictions of clean latents, same shape.
        real: clean real latents, same shape.
        noise: standard normal, same shape.
        u: float64 [B] CPU, uniform draws in [0, 1).

    Source: STD, asymmetric adversarial loss; variants of the released code.
    """
    u = u.clamp(OPEN, 1 - OPEN)
    match variant:
        case "x0" | "xs-x0":
            real_level = clean_like(to_level)
        case "xs":
            real_level = to_level
        case "xs-xr":
            real_level = _below(schedule, to_level, u)
        case "xs-xR":
            real_level = _between(schedule, to_level, from_level, u=u)
        case _:
            raise ValueError(f"no such variant of the adversarial loss: {variant!r}")
    state = start_state(real, noise, real_level)
    fake, level = (x0, real_level) if variant == "x0" else (jumped, to_level)
    return RealFakeBatch(fake, state, level, real_level=real_level)


def clean_like(level: Level) -> Level:
    """Clean data, as often as `level` has samples."""
    return Level(
        id=torch.full_like(level.id, -1),
        t=torch.zeros_like(level.t),
        alpha=torch.ones_like(level.alpha),
        sigma=torch.zeros_like(level.sigma),
    )


def _below(schedule: NoiseSchedule, level: Level, u: Tensor) -> Level:
    """Uniformly below a level; clean data below the first row."""
    t = u * level.t
    below, clean = levels_at(schedule, t.floor() if schedule.kind == "vp" else t), clean_like(level)
    has_room = level.t > 0
    return Level(
        id=torch.where(has_room, below.id, clean.id),
        t=below.t,
        alpha=torch.where(has_room, below.alpha, clean.alpha),
        sigma=torch.where(has_room, below.sigma, clean.sigma),
    )


def _between(schedule: NoiseSchedule, low: Level, high: Level, *, u: Tensor) -> Level:
    """Uniformly between two levels, both excluded; the lower one where nothing lies between."""
    if schedule.kind == "flow":
        return levels_at(schedule, torch.lerp(low.t, high.t, u))
    between = high.t - low.t - 1
    t = low.t + 1 + (u * between).floor().long()
    return levels_at(schedule, torch.where(between > 0, t, low.t))
