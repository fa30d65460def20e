"""States that the student makes itself: where its own K-step walks come through, without gradient.

A student is asked about states that it made, not the teacher. Learning from those is DMD2's backward
simulation; MCM takes its own clean latents too, after a single evaluation, and noises them afresh.

Source: Yin 2024 (DMD2) section 4.5, backward simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stdcli.diffusion.levels import CLEAN, Level, SamplingPath, select_levels
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.sample import Denoise, sample
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import start_state
from stdcli.models.condition import Condition
from stdcli.runtime.seeding import fold

DenoiseUnder = Callable[[Tensor, Level, Condition], Denoised]
"""(states, one level, their conditions) -> x0 and eps."""


@torch.no_grad()
def walked_x0(
    denoise: Denoise,
    x: Tensor,
    levels: Sequence[Level],
    *,
    schedule: NoiseSchedule,
    make_step_noise: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """Clean latents after one evaluation at each level, renoised in between: `sample` without its last steps.

    Args:
        denoise: the student.
        x: [B, C, *space], states at the first level: starts of paths, or noised data.
        levels: at least one, falling; a single one may have [B] fields.
        schedule: the model's own.
        make_step_noise: as of `sample`; needed for more than one level.

    Returns:
        [B, C, *space], no gradients.

    Raises:
        NumericsError: a state holds NaN or infinity; names the level.
    """
    path = SamplingPath((*levels, CLEAN))
    return sample(denoise, x, path, schedule=schedule, sampler="renoise", make_step_noise=make_step_noise)


@dataclass(frozen=True)
class OwnStates:
    """States along the walks that the student is for.

    Attributes:
        denoise: the student as it is now.
        schedule: of the model.
        table: all levels by id.
        start_id: where all walks begin.
        step_counts: the Ks.
        seed: of the noise.
    """

    denoise: DenoiseUnder
    schedule: NoiseSchedule
    table: Sequence[Level]
    start_id: int
    step_counts: Sequence[int]
    seed: int

    def draw(self, draws: Tensor) -> list[tuple[int, int]]:
        """K, uniform among the step counts, and k, uniform in 0..K-1, for each item.

        Args:
            draws: float64 [B, 2] in [0, 1).
        """
        counts = [self.step_counts[int(first * len(self.step_counts))] for first in draws[:, 0].tolist()]
        return [
            (steps, int(second * steps)) for steps, second in zip(counts, draws[:, 1].tolist(), strict=True)
        ]

    def make(
        self, starts: Tensor, cond: Condition, *, draws: Tensor, sample_index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """States that K-step walks have after k evaluations: those that `sample` with renoise has there.

        Items are walked together where K and k agree; their noise is their own.

        Args:
            starts: [B, C, *space], states at the start level.
            cond: B conditions.
            draws: float64 [B, 2] in [0, 1), for K and k.
            sample_index: int64 [B], of the noise.

        Returns:
            [B, C, *space] of `starts`' dtype without gradients, and their level ids int64 [B].

        Raises:
            NumericsError: a state holds NaN or infinity; names the level.
        """
        drawn = self.draw(draws)
        states, ids = starts.clone(), torch.empty(len(starts), dtype=torch.int64)
        for steps, done in sorted(set(drawn)):
            rows = torch.tensor([row for row, item in enumerate(drawn) if item == (steps, done)])
            levels = [self.table[id_] for id_ in select_levels(self.start_id, steps)[: done + 1]]
            ids[rows] = levels[-1].id
            if done:
                place = rows.to(starts.device)
                states[place] = self._walk(
                    starts[place], cond.rows(place), levels, numbers=sample_index[rows].tolist()
                )
        return states, ids

    def _walk(self, x: Tensor, cond: Condition, levels: Sequence[Level], *, numbers: Sequence[int]) -> Tensor:
        """Down to the last level, where nothing is evaluated."""

        def noise_at(index: int) -> Tensor:
            drawn = [fold(self.seed, "own noise", number, index) for number in numbers]
            return torch.stack([torch.randn(x.shape[1:], generator=generator) for generator in drawn]).to(x)

        def denoise(state: Tensor, level: Level) -> Denoised:
            return self.denoise(state, level, cond)

        *walked, end = levels
        x0 = walked_x0(denoise, x, walked, schedule=self.schedule, make_step_noise=noise_at)
        return start_state(x0, noise_at(len(walked)), end)
