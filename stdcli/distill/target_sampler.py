"""Where a jump from level j of a path ends: the choice of s below j.

Every choice is a table made beforehand, j -> the levels it may be, so that what is drawn needs no network, no
state and no luck to be checked. Ids are those of stored levels; a bank that keeps only some has only those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level, select_levels

TargetChoices = Mapping[int, tuple[int, ...]]
"""Level id j -> the ids s < j that may be drawn, falling; at least one each."""


def window_choices(ids: Sequence[int], *, window: int, anchor: bool) -> TargetChoices:
    """s in j - window .. j - 1 (STD's released scripts, with the anchor j - 1 that they leave out).

    Args:
        ids: of the stored levels, falling to 0.
        window: R, in levels, >= 1.
        anchor: whether the next stored level below may be drawn; where nothing else is there it is.
    Source: STD, released `ddim_random_s`; changed: anchor, level ids, levels down to 1.
    """
    return _choices(ids, lambda j, s: s >= j - window, anchor=anchor)


def proportional_choices(levels: Sequence[Level], *, gamma: float, anchor: bool) -> TargetChoices:
    """s with t_s in [gamma t_j, t_j), the paper's lower limit.

    Args:
        levels: stored levels, falling to level 0.
        gamma: in [0, 1]; larger is nearer.
        anchor: as in `window_choices`.
    Source: STD, section on the choice of s (gamma).
    """
    t = {level.id: level.t for level in levels}
    return _choices([level.id for level in levels], lambda j, s: t[s] >= gamma * t[j], anchor=anchor)


def scheduled_choices(ids: Sequence[int], step_counts: Sequence[int]) -> TargetChoices:
    """The next levels of the K-step paths that visit j; levels that none visits are left out.

    Args:
        ids: of the stored levels, falling from the start to 0.
        step_counts: the Ks; each at most the start's id.

    Raises:
        LevelError: a K has no path.
    """
    stored, found = set(ids), {}
    for steps in step_counts:
        visited = (*select_levels(ids[0], steps), 0)
        for j, s in pairwise(visited):
            if j in stored and s in stored:
                found.setdefault(j, set()).add(s)
    return {j: tuple(sorted(nexts, reverse=True)) for j, nexts in found.items()}


def phase_choices(start_id: int, phases: int) -> TargetChoices:
    """s = the lower end of the phase that holds j; phases are the jumps of a plan of as many steps.

    Args:
        start_id: j0, where the paths start.
        phases: M, in 1..j0.

    Raises:
        LevelError: there are not so many levels.
    Source: Wang 2024 (PCM), phases, on level ids.
    """
    edges = (*select_levels(start_id, phases), 0)
    return {j: (max(edge for edge in edges if edge < j),) for j in range(start_id, 0, -1)}


def near_choices(levels: Sequence[Level], step_counts: Sequence[int], *, reach: float) -> TargetChoices:
    """s on the plans of the Ks: the nearest level of theirs below j, and those at most `reach` below it.

    Args:
        levels: the start and all levels below it, falling to level 0.
        step_counts: the Ks, whose plans (without the start, with level 0) are the grid.
        reach: in model times, >= 0.

    Raises:
        LevelError: a K has no path.
    Source: Wang 2024 (TDD), choice of target timesteps.
    """
    start = levels[0].id
    visited = {id_ for steps in step_counts for id_ in select_levels(start, steps)}
    grid = [level for level in levels if level.id == 0 or level.id in visited - {start}]
    found = {}
    for level in levels[:-1]:
        below = [other for other in grid if other.id < level.id]
        found[level.id] = tuple(other.id for other in below if other.t >= below[0].t - reach)
    return found


@dataclass(frozen=True)
class TargetSampler:
    """Draws s for a batch of j.

    Attributes:
        free: choices from any level.
        scheduled: choices of the paths that will be walked; not for every level.
        p_sched: how often the latter are taken where there are any.
    """

    free: TargetChoices
    scheduled: TargetChoices
    p_sched: float = 0.0

    @classmethod
    def lowest(cls, start_id: int) -> TargetSampler:
        """s = 0 from every level up to the start's: consistency models."""
        return cls(dict.fromkeys(range(1, start_id + 1), (0,)), {})

    def of_stage(self, stage: int) -> TargetSampler:
        """Itself: all stages of a run are alike. See `stages.StagedSampler`."""
        return self

    def select(self, level_ids: Tensor, draws: Tensor) -> Tensor:
        """One s per j, uniformly among its choices.

        Args:
            level_ids: int64 [B], j.
            draws: float64 [B, 2] in [0, 1): the first decides between the choices, the second among them.

        Returns:
            int64 [B].

        Raises:
            KeyError: a level without choices.
        """
        return torch.tensor(
            [self._pick(j, *row) for j, row in zip(level_ids.tolist(), draws.tolist(), strict=True)]
        )

    def _pick(self, j: int, kind: float, position: float) -> int:
        is_scheduled = kind < self.p_sched and j in self.scheduled
        choices = self.scheduled[j] if is_scheduled else self.free[j]
        return choices[int(position * len(choices))]


def _choices(ids: Sequence[int], admits, *, anchor: bool) -> TargetChoices:
    found = {}
    for position, j in enumerate(ids[:-1]):
        below = ids[position + 1 :]
        admitted = [s for s in below if admits(j, s)]
        if not anchor:
            admitted = [s for s in admitted if s != below[0]]
        found[j] = tuple(admitted) or (below[0],)
    return found
