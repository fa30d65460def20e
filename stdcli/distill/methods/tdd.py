"""Target-driven distillation: jumps end near the levels that plans of the wanted numbers of steps visit.

    G = levels of the plans of K steps, K in `step_counts`, without the start, with level 0
    u = max{g in G: t_g <= t_{j-1}};  S(j) = {g in G: t_u - reach T <= t_g <= t_u}, uniformly
    t_s <- floor((1 - stray U) t_s),  U uniform in [0, 1);  not rounded on flow schedules

Loss as in `distill/consistency.py`. Ends so drawn lie off the table of levels.

Source: Wang 2024 (TDD, arXiv 2409.01347), choice of target timesteps, with reach 0.26, stray 0.3, K in 4..8.
Left out: guidance taken apart from the student, since students here have the bank's guidance in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from stdcli.config.schema import Section, Share
from stdcli.distill.consistency import Consistency, target_decay

if TYPE_CHECKING:
    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.diffusion.schedule import NoiseSchedule
    from stdcli.distill.batch import Batch
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.roles import Roles
    from stdcli.distill.teacher_paths import TeacherPaths
    from stdcli.training.train_step import Loss


class TddSection(Section):
    """Target-driven distillation: jumps end where plans of `step_counts` steps do, or a little below."""

    reach: Share = 0.26
    """How far below the nearest such level a jump may end, as a share of the table's times."""
    stray: Share = 0.3
    """How far a jump may end below its level, at most, as a share of the level's time."""


@dataclass(frozen=True)
class Tdd(Consistency):
    """The method of a run; further attributes as in `Consistency`.

    Attributes:
        stray: largest share of t_s that s may lie below its level.
        seed: of those shares.
    """

    stray: float = 0.3
    seed: int = 0

    name: ClassVar[str] = "tdd"
    title: ClassVar[str] = "Target-Driven Distillation"
    citation: ClassVar[str] = "target-driven distillation ([TDD](https://arxiv.org/abs/2409.01347))"
    section: ClassVar[type[Section]] = TddSection
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"sampler": "jump", "final": "level0", "gamma": 0.2}
    )

    @classmethod
    def from_settings(cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]) -> Tdd:
        """See `Method`.

        Raises:
            LevelError: a number of steps has no path among these levels.
        """
        from stdcli.distill.target_sampler import TargetSampler, near_choices

        section, levels = config.section_of(cls), table[paths.start_id :: -1]
        choices = near_choices(levels, config.step_counts, reach=section.reach * _num_times(table))
        sampler = TargetSampler(choices, {})
        return cls(table, sampler, target_decay(config), stray=section.stray, seed=config.seed)

    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """See the head of the file."""
        yield from super().losses(roles, terms, self.strayed(roles.schedule, batch), step)

    def strayed(self, schedule: NoiseSchedule, batch: Batch) -> Batch:
        """The batch with every s moved down, by a share drawn for the item."""
        import torch

        from stdcli.diffusion.levels import levels_at
        from stdcli.runtime.seeding import fold

        draws = [fold(self.seed, "stray", number) for number in batch.sample_index.tolist()]
        u = torch.stack([torch.rand((), generator=draw, dtype=torch.float64) for draw in draws])
        _, to_level = batch.levels(self.table)
        t = (1 - self.stray * u) * to_level.t
        return replace(batch, to_level=levels_at(schedule, t.floor() if schedule.kind == "vp" else t))


def _num_times(table: Sequence[Level]) -> float:
    """T of a table whose last row is the noisiest: rows 0..T-1, or T sigma in [0, T]."""
    return table[-1].t + isinstance(table[-1].t, int)


METHOD = Tdd
