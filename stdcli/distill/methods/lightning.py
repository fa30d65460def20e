"""Progressive distillation as in SDXL-Lightning: one jump of a stage does what two did in the stage before.

    P(K)  the levels of a job of K steps, K = `lightning.counts` of the stage;  j in P(K), s the next of P(K)
    m(j)  the level of P(2K) between the two
    L = E d( J(x_j, j -> s; student), J(J(x_j, j -> m; before), m -> s; before) )
    x_j = alpha_j x0 + sigma_j eps
    before  the student as the stage before left it; in the first stage the guided teacher

The last jump of a plan ends in clean data, as the last step of the sampler does, not at level 0.

With an adversary (`adversary.weight`) the real states are the targets, and the critic sees the state at j
beside the one at s, so that the student keeps to its path. In the last part of each stage
(`lightning.unconditional`) the state at j is hidden from it, which lets the student leave a path that it
cannot follow in so few steps.

Source: Lin 2024 (SDXL-Lightning, arXiv 2402.13929), sections 3.1 to 3.4; Salimans 2022 (progressive
distillation). Changed: levels above the start of the bank's paths are left out, since no job visits them; the
distance stays beside the adversary; the critic is that of this package, not a copy of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stdcli.config.schema import Share
from stdcli.config.stages import StageCounts, StagedSection
from stdcli.distill.learner import STAGE_STUDENT
from stdcli.distill.method import Method
from stdcli.distill.stages import StagedSampler, stage_conflicts, stages_of
from stdcli.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.diffusion.predictions import Denoised
    from stdcli.distill.batch import Batch
    from stdcli.distill.learner import Prediction
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.real_fake_pairs import RealFakeBatch
    from stdcli.distill.roles import Roles
    from stdcli.distill.teacher_paths import TeacherPaths
    from stdcli.training.train_step import Loss

    Denoise = Callable[[Tensor, Level, Level], Denoised]
    """(states, their levels, levels where they go) -> x0 and eps."""


class LightningSection(StagedSection):
    """Progressive distillation: each stage halves the steps."""

    counts: StageCounts = (8, 4)
    """Steps of a job in each stage, each half of those before; the student is for the last. The teacher of
    the first takes twice as many."""
    unconditional: Share = 0.5
    """Last part of each stage, in which the adversary no longer sees the state at j."""

    def stage_counts(self) -> tuple[str, Sequence[int]]:
        """See `StagedSection`."""
        return "counts", self.counts

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().conflicts()
        for before, count in pairwise(self.counts):
            if 2 * count != before:
                yield "counts", f"{count} follows {before}, and a stage has half the steps of the one before"


@dataclass(frozen=True)
class Halving:
    """The jumps of a stage.

    Attributes:
        ends: j -> s, both of P(K).
        mids: j -> m.
    """

    ends: Mapping[int, int]
    mids: Mapping[int, int]

    @classmethod
    def of(cls, start_id: int, steps: int) -> Halving:
        """Those of K steps.

        Args:
            start_id: j0, where the paths start.
            steps: K, at most half of j0.

        Raises:
            LevelError: K is more.
        """
        from stdcli.diffusion.levels import select_levels

        visited = (*select_levels(start_id, 2 * steps), 0)  # every second one is of the K-step plan
        return cls(
            ends=dict(zip(visited[:-1:2], visited[2::2], strict=True)),
            mids=dict(zip(visited[:-1:2], visited[1::2], strict=True)),
        )


@dataclass(frozen=True)
class Lightning(Method):
    """The method of a run; further attributes as in `Method`.

    Attributes:
        table: all levels by id.
        target_sampler: by stage; j in P(K) alone, and one s for each.
        mids: of each stage, j -> m.
        unconditional: last part of a stage, in which the adversary does not see x_j; in [0, 1].
    """

    table: Sequence[Level]
    target_sampler: StagedSampler
    mids: tuple[Mapping[int, int], ...]
    unconditional: float = 0.5

    name: ClassVar[str] = "lightning"
    title: ClassVar[str] = "SDXL-Lightning: Progressive Distillation"
    citation: ClassVar[str] = "progressive distillation ([SDXL-Lightning](https://arxiv.org/abs/2402.13929))"
    section: ClassVar[type[StagedSection]] = LightningSection
    states: ClassVar[Literal["data"]] = "data"
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType({"sampler": "jump", "final": "x0"})
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    judges_transitions: ClassVar[bool] = True
    keeps_stage_weights: ClassVar[bool] = True

    @classmethod
    def conflicts(cls, config: DistillSettings) -> Iterator[tuple[str, str]]:
        """The student is for one number of steps, and the adversary's real states are the targets."""
        count, given = config.section_of(cls).counts[-1], config.adversary
        yield from stage_conflicts(config.section_of(cls), config.train.steps)
        if config.steps != count:
            yield "steps", f"{config.steps} is not {count}, the last of lightning.counts"
        if config.student.s_embedding:
            yield (
                "student.s_embedding",
                "belongs to method std: lightning has one target level per level",
            )
        for name in ("real", "levels"):
            if getattr(given, name) != type(given).model_fields[name].default:
                yield f"adversary.{name}", "is not used: the real states of lightning are its targets"

    @classmethod
    def supported_steps(cls, config: DistillSettings) -> tuple[int, ...]:
        """The last stage's."""
        return config.section_of(cls).counts[-1:]

    @classmethod
    def from_settings(
        cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]
    ) -> Lightning:
        """See `Method`.

        Raises:
            ConfigError: the teacher of the first stage takes more steps than there are levels.
        """
        from stdcli.distill.target_sampler import TargetSampler

        section, start_id = config.section_of(cls), paths.start_id
        if 2 * section.counts[0] > start_id:
            problem = (
                f"{section.counts[0]} steps are taught by twice as many, and there are {start_id} levels"
            )
            fitting = [count for count in section.counts if 2 * count <= start_id]
            hint = (
                f"--set lightning.counts={','.join(map(str, fitting))}"
                if fitting
                else "a bank of more levels"
            )
            raise ConfigError("too many steps for these paths", [("lightning.counts", problem)], hint=hint)
        halvings = [Halving.of(start_id, count) for count in section.counts]
        samplers = [TargetSampler({j: (s,) for j, s in halving.ends.items()}, {}) for halving in halvings]
        stages = stages_of(section, config.train.steps)
        mids = tuple(halving.mids for halving in halvings)
        return cls(table, StagedSampler(stages, tuple(samplers)), mids, section.unconditional)

    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """See the head of the file."""
        stages = self.target_sampler.stages
        batch = replace(batch, to_level=_clean_at_zero(batch.levels(self.table)[1]))
        prediction, target = self.predict(roles, batch), self.target(roles, batch, stages.at(step))
        pair = None
        if terms.adversarial is not None:
            is_shown = stages.progress(step) < 1 - self.unconditional
            pair = self.transitions(prediction, target, batch, is_shown=is_shown)
        yield from terms.losses(prediction, target, batch, step=step, pair=pair)

    def predict(self, roles: Roles, batch: Batch) -> Prediction:
        """J(x_j, j -> s; student), with gradients."""
        from stdcli.distill.jumps import student_jump

        return student_jump(roles, batch, self.table)

    def target(self, roles: Roles, batch: Batch, stage: int) -> Tensor:
        """J(J(x_j, j -> m), m -> s) of the stage before, [B, C, *space], without gradients.

        Args:
            roles: what evaluates.
            batch: states at j, levels of the stage.
            stage: from 0, whose teacher is the guided one.
        """
        import torch

        from stdcli.diffusion.levels import pick_levels

        level, to_level = batch.levels(self.table)
        mids = torch.tensor([self.mids[stage][j] for j in batch.level_ids.tolist()])
        mid_level = pick_levels(self.table, mids)
        return _walk(_before(roles, batch, stage), batch.states, (level, mid_level, to_level))

    def transitions(
        self, prediction: Prediction, target: Tensor, batch: Batch, *, is_shown: bool
    ) -> RealFakeBatch:
        """What the adversary tells apart: the student's states at s from the targets, x_j shown or not."""
        from stdcli.distill.real_fake_pairs import RealFakeBatch

        level, to_level = batch.levels(self.table)
        given = batch.states if is_shown else None
        return RealFakeBatch(prediction.state, target, to_level, to_level, given=given, given_level=level)


def _before(roles: Roles, batch: Batch, stage: int) -> Denoise:
    """What teaches in a stage."""
    if stage == 0:
        return lambda x, level, to_level: roles.teacher(
            x, level, batch.cond, batch.uncond, guidance=batch.guidance
        )
    weights = roles.weights[STAGE_STUDENT]
    return lambda x, level, to_level: roles.ema_student(
        x, level, batch.cond, to_level=to_level, weights=weights
    )


def _walk(denoise: Denoise, x: Tensor, levels: Sequence[Level]) -> Tensor:
    """States after one jump between each level and the next."""
    from stdcli.diffusion.solvers import jump

    for level, to_level in pairwise(levels):
        x = jump(x, denoise(x, level, to_level), from_level=level, to_level=to_level)
    return x


def _clean_at_zero(level: Level) -> Level:
    """The same levels, clean data in place of level 0; networks are told time 0 of it."""
    import torch

    from stdcli.diffusion.levels import CLEAN

    is_last = level.id == 0
    return replace(
        level,
        id=torch.where(is_last, torch.full_like(level.id, CLEAN.id), level.id),
        alpha=torch.where(is_last, torch.full_like(level.alpha, CLEAN.alpha), level.alpha),
        sigma=torch.where(is_last, torch.full_like(level.sigma, CLEAN.sigma), level.sigma),
    )


METHOD = Lightning
