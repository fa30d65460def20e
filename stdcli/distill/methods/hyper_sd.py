"""Trajectory segmented consistency distillation: jumps stay inside segments of the path, which grow by stage.

    k segments of a stage end at the levels floor(i j0 / k), i = 0..k;  e(j) the nearest of them below j
    S(j) = {e(j) .. j-1}, uniformly; loss as in `distill/consistency.py`

One segment, the last stage, is `tcd`. An adversary's weight rises from stage to stage in equal parts, up to
`adversary.weight` in the last: long jumps blur, and short ones have little to gain from it.

Source: Ren 2024 (Hyper-SD, arXiv 2404.13686), section 3.1, with 8, 4, 2, 1 segments. Its weights of the two
losses are not published; those here are ours. Left out: human feedback, which needs a reward model. The
article's unified student of one step is one segment with an adversary, sampled with gamma 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from stdcli.config.stages import StageCounts, StagedSection
from stdcli.distill.consistency import Consistency, target_decay
from stdcli.distill.stages import StagedSampler, stage_conflicts, stages_of
from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.distill.batch import Batch
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.roles import Roles
    from stdcli.distill.teacher_paths import TeacherPaths
    from stdcli.training.train_step import Loss


class HyperSdSection(StagedSection):
    """Trajectory segmented consistency distillation: stages, each with fewer segments than the one before."""

    segments: StageCounts = (8, 4, 2, 1)
    """Equal parts of the path that jumps do not leave, in each stage."""

    def stage_counts(self) -> tuple[str, Sequence[int]]:
        """See `StagedSection`."""
        return "segments", self.segments


def segment_choices(start_id: int, segments: int) -> Mapping[int, tuple[int, ...]]:
    """Level j -> the levels of its segment below it, falling.

    Args:
        start_id: j0, where the paths start.
        segments: k, in 1..j0.

    Source: Ren 2024 (Hyper-SD) section 3.1, on level ids.
    """
    edges = [i * start_id // segments for i in range(segments + 1)]
    lowest = {j: max(edge for edge in edges if edge < j) for j in range(1, start_id + 1)}
    return {j: tuple(range(j - 1, low - 1, -1)) for j, low in lowest.items()}


@dataclass(frozen=True)
class HyperSd(Consistency):
    """The method of a run; attributes as in `Consistency`."""

    name: ClassVar[str] = "hyper-sd"
    title: ClassVar[str] = "Hyper-SD: Trajectory Segmented Consistency Distillation"
    citation: ClassVar[str] = (
        "trajectory segmented consistency distillation ([Hyper-SD](https://arxiv.org/abs/2404.13686))"
    )
    section: ClassVar[type[StagedSection]] = HyperSdSection

    @classmethod
    def conflicts(cls, config: DistillSettings) -> Iterator[tuple[str, str]]:
        """Every stage needs a step."""
        yield from stage_conflicts(config.section_of(cls), config.train.steps)

    @classmethod
    def from_settings(
        cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]
    ) -> HyperSd:
        """See `Method`.

        Raises:
            ConfigError: more segments than levels.
        """
        from stdcli.distill.target_sampler import TargetSampler

        section = config.section_of(cls)
        segments = section.segments
        if segments[0] > paths.start_id:
            problem = f"{segments[0]} segments do not fit in {paths.start_id} levels"
            fitting = [count for count in segments if count <= paths.start_id] or [1]
            hint = f"--set hyper_sd.segments={','.join(map(str, fitting))}"
            raise ConfigError("too many segments", [("hyper_sd.segments", problem)], hint=hint)
        samplers = [TargetSampler(segment_choices(paths.start_id, count), {}) for count in segments]
        target_sampler = StagedSampler(stages_of(section, config.train.steps), tuple(samplers))
        return cls(table, target_sampler, ema_decay=target_decay(config))

    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """See the head of the file."""
        stages = self.target_sampler.stages
        terms = terms.with_adversary_at((stages.at(step) + 1) / len(stages))
        yield from super().losses(roles, terms, batch, step)


METHOD = HyperSd
