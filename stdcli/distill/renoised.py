"""Noised data of which a share is the student's own: its clean latents, noised afresh.

A job asks a student about states that it made itself, and noised data look different. So some items take one
evaluation of the student, without gradient, and its clean latent is noised to another level.

Source: Zhai 2024 (MCM, arXiv 2406.06890), mixed trajectory distillation; one evaluation, not a whole job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level, pick_levels
from stdcli.diffusion.solvers import start_state
from stdcli.distill.own_states import DenoiseUnder
from stdcli.models.condition import Condition
from stdcli.runtime.seeding import fold


@dataclass(frozen=True)
class Renoised:
    """Replaces some noised data by the student's own.

    Attributes:
        denoise: the student as it is now.
        table: all levels by id.
        level_ids: where own states may lie, all above 0.
        share: how often an item is one, in [0, 1].
        seed: of draws and noise.
    """

    denoise: DenoiseUnder
    table: Sequence[Level]
    level_ids: Sequence[int]
    share: float
    seed: int

    @torch.no_grad()
    def mix(self, x: Tensor, ids: Tensor, cond: Condition, *, sample_index: Tensor) -> tuple[Tensor, Tensor]:
        """States, of which some are alpha_i x0 + sigma_i eps with the student's x0, and all their levels.

        Args:
            x: [B, C, *space], noised data.
            ids: int64 [B], their levels.
            cond: B conditions.
            sample_index: int64 [B], of all draws.

        Returns:
            [B, C, *space] of x's dtype, and int64 [B]; x and ids themselves where none is replaced.
        """
        draws = [fold(self.seed, "renoised", number) for number in sample_index.tolist()]
        u = torch.stack([torch.rand(2, generator=generator, dtype=torch.float64) for generator in draws])
        is_own = u[:, 0] < self.share
        if not is_own.any():
            return x, ids
        drawn = torch.tensor([self.level_ids[int(v * len(self.level_ids))] for v in u[:, 1].tolist()])
        rows = is_own.nonzero().flatten()
        place = rows.to(x.device)
        x0 = self.denoise(x[place], pick_levels(self.table, ids[rows]), cond.rows(place)).x0
        noise = [torch.randn(x.shape[1:], generator=draws[row]) for row in rows.tolist()]
        own = start_state(x0, torch.stack(noise).to(x), pick_levels(self.table, drawn[rows]))
        mixed = x.clone()
        mixed[place] = own.to(x.dtype)
        return mixed, torch.where(is_own, drawn, ids)
