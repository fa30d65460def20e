"""A student's states at s and real ones, both noised up to one level q, where an adversary tells them apart.

Legend: B batch, C latent channels, space: cells h w or F h w.
"""

from __future__ import annotations

from torch import Tensor

from stdcli.diffusion.levels import Level, levels_at
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import add_noise
from stdcli.distill.real_fake_pairs import OPEN, RealFakeBatch, clean_like


def push_both(
    jumped: Tensor,
    real: Tensor,
    *,
    level: Level,
    pushed_level: Level,
    noise: Tensor,
    real_noise: Tensor,
    is_clean: bool,
) -> RealFakeBatch:
    """Set a student's states at s against real ones, both under fresh noise at one level q.

    Args:
        jumped: the student's states at s, [B, C, *space].
        real: same shape; clean latents, or other states at s.
        level: s; [B] fields, as of `pick_levels`.
        pushed_level: q, likewise, at least as noisy.
        noise, real_noise: standard normal, same shape, independent.
        is_clean: whether `real` is clean, else it lies at s.

    Raises:
        ValueError: a q is cleaner than its s.

    Source: Wang 2024 (PCM, arXiv 2405.18407), adversarial consistency loss.
    """
    from_level = clean_like(level) if is_clean else level
    fake = add_noise(jumped, noise, from_level=level, to_level=pushed_level)
    state = add_noise(real, real_noise, from_level=from_level, to_level=pushed_level)
    return RealFakeBatch(fake, state, pushed_level, real_level=pushed_level)


def draw_above(schedule: NoiseSchedule, level: Level, u: Tensor, *, reach: float, ceiling: float) -> Level:
    """q uniform in [t_s, min(t_s + reach, ceiling)), whole rows where the schedule has rows; s without room.

    Args:
        schedule: the model's own.
        level: s; [B] fields.
        u: float64 [B] CPU, uniform draws in [0, 1).
        reach, ceiling: model times.
    """
    t = level.t.double()
    drawn = t + u.clamp(max=1 - OPEN) * ((t + reach).clamp(max=ceiling) - t).clamp(min=0.0)
    return levels_at(schedule, drawn.floor() if schedule.kind == "vp" else drawn)
