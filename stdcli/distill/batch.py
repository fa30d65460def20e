"""What one micro-batch of distillation is, wherever its states come from.

Legend: B items, C latent channels, space: cells, h w of pictures and F h w of clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from stdcli.diffusion.levels import Level, pick_levels
from stdcli.models.condition import Condition


@dataclass(frozen=True)
class Batch:
    """B states, each with all that belongs to its own path. Numbers are on the CPU, the rest on the device.

    Attributes:
        sample_ids: int64 [B], for messages.
        sample_index: int64 [B], for randomness: no two items of a run share one.
        level_ids: int64 [B], j.
        target_ids: int64 [B], s < j.
        states: [B, C, *space] float32, at j.
        next_ids: int64 [B], the level below j that `next_states` lie at; None where they are not read.
        next_states: [B, C, *space] float32, the teacher's step from `states`; None where not read.
        targets: [B, C, *space] float32, the stored path at s; None where not read.
        real_latents: [B, C, *space] float32, clean latents for the adversary; None without one.
        cond: B conditions.
        uncond: B unconditional conditions.
        guidance: float64 [B], of the teacher, in the Imagen form.
        to_level: s where it lies between levels, one per item; None is the level of `target_ids`.
    """

    sample_ids: Tensor
    sample_index: Tensor
    level_ids: Tensor
    target_ids: Tensor
    states: Tensor
    next_ids: Tensor | None
    next_states: Tensor | None
    targets: Tensor | None
    real_latents: Tensor | None
    cond: Condition
    uncond: Condition
    guidance: Tensor
    to_level: Level | None = None

    def levels(self, table: Sequence[Level]) -> tuple[Level, Level]:
        """j and s, one per item."""
        return pick_levels(table, self.level_ids), self._to_level(table)

    def next_levels(self, table: Sequence[Level]) -> tuple[Level, Level]:
        """Where `next_states` lie, and s."""
        return pick_levels(table, self.next_ids), self._to_level(table)

    def _to_level(self, table: Sequence[Level]) -> Level:
        return pick_levels(table, self.target_ids) if self.to_level is None else self.to_level
