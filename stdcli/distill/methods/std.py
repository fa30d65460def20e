"""Single trajectory distillation: the student learns jumps along the very path that a job will walk.

    L = E d( J(x_j, j -> s; student), target ),  x_j on the teacher's path from one fixed start level

    target teacher      x_s, the stored state
           consistency  J(x_{j-1}, j-1 -> s; student without gradient), or x_{j-1} itself where s = j - 1
           mix          a mean of the two

Source: Single Trajectory Distillation (arXiv 2412.18945), section 3; the target `teacher` is ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stdcli.config.schema import Count, Decay, Section, Share
from stdcli.distill.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.distill.batch import Batch
    from stdcli.distill.learner import Prediction
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.roles import Roles
    from stdcli.distill.target_sampler import TargetSampler
    from stdcli.distill.teacher_paths import TeacherPaths
    from stdcli.training.train_step import Loss

WINDOW_SHARE = 0.3
"""Of the path's levels, that a jump may take; `random_range_rate` of STD's released video recipe."""
NEEDS = {"teacher": {"target"}, "consistency": {"next"}, "mix": {"target", "next"}}


class StdSection(Section):
    """Single trajectory distillation: from a state of the teacher's path at level j to one at s < j."""

    target: Literal["teacher", "consistency", "mix"] = "teacher"
    """What the student's jump to s is held against: the stored state there, the student's own jump to s from
    the teacher's state at j - 1, or a mean of the two."""
    mix: Share = 0.5
    """Weight of the student's own jump in "mix"."""
    policy: Literal["window", "proportional"] = "window"
    """Where s is drawn from: at most `window` levels below j, or from where t_s >= gamma t_j."""
    window: Count | None = None
    """Levels of "window"; else 0.3 of the path, as in the released video recipe: 12 of 37 levels."""
    gamma: Share = 0.7
    """The paper's gamma, for "proportional"."""
    p_sched: Share = 0.5
    """How often s is the next level of a K-step path on which j lies, K being one of `step_counts`."""
    anchor: bool = True
    """Whether s = j - 1 may be drawn, where the target is the teacher's own step."""
    target_weights: Literal["current", "average"] = "current"
    """Weights of the network that a consistency target comes from."""
    target_decay: Decay = 0.95
    """Of that average."""
    jump_weight: Literal["none", "inverse-square"] = "none"
    """"inverse-square" divides an error by what a unit of the network's output contributes over the jump, so
    that long and short jumps count alike. A loss of l2 is so divided by its square, but one of huber, the
    default, by it once: that is linear in errors far above `huber_c`."""


def make_target_sampler(
    section: StdSection, levels: Sequence[Level], step_counts: Sequence[int]
) -> TargetSampler:
    """The choice of s that the settings describe.

    Args:
        section: policy, window or gamma, anchor, p_sched.
        levels: stored levels of the bank, falling to level 0.
        step_counts: Ks that the student is for.

    Raises:
        LevelError: a K has no path below the start level.
    """
    from stdcli.distill.target_sampler import (
        TargetSampler,
        proportional_choices,
        scheduled_choices,
        window_choices,
    )

    ids = [level.id for level in levels]
    if section.policy == "window":
        window = section.window or math.ceil(WINDOW_SHARE * ids[0])
        free = window_choices(ids, window=window, anchor=section.anchor)
    else:
        free = proportional_choices(levels, gamma=section.gamma, anchor=section.anchor)
    return TargetSampler(free, scheduled_choices(ids, step_counts), section.p_sched)


@dataclass(frozen=True)
class Std(Method):
    """The method of a run; further attributes as in `Method`.

    Attributes:
        table: all levels by id.
        target_sampler: draws s.
        kind: of the target.
        mix: weight of the consistency target in "mix", in [0, 1].
        ema_decay: of the averaged weights that the consistency target uses; None takes the current ones.
        weighs_jumps: whether errors are divided by `jump_gain`.
        prediction: what the networks predict, for that.
    """

    table: Sequence[Level]
    target_sampler: TargetSampler
    kind: Literal["teacher", "consistency", "mix"] = "teacher"
    mix: float = 0.5
    ema_decay: float | None = None
    weighs_jumps: bool = False
    prediction: str = "epsilon"

    name: ClassVar[str] = "std"
    title: ClassVar[str] = "Single Trajectory Distillation"
    citation: ClassVar[str] = "[Single Trajectory Distillation](https://arxiv.org/abs/2412.18945)"
    section: ClassVar[type[Section]] = StdSection
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType({"sampler": "jump", "final": "level0"})

    @classmethod
    def conflicts(cls, config: DistillSettings) -> Iterator[tuple[str, str]]:
        """Online there are no stored states to jump to."""
        target = config.section_of(cls).target
        if config.is_online and target != "consistency":
            yield "bank", f"target {target} needs one: only stored paths know the state at s"

    @classmethod
    def from_settings(cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]) -> Std:
        """See `Method`."""
        section = config.section_of(cls)
        has_ema = section.target != "teacher" and section.target_weights == "average"
        return cls(
            table,
            make_target_sampler(section, paths.stored_levels(table), config.step_counts),
            section.target,
            mix=section.mix,
            ema_decay=section.target_decay if has_ema else None,
            weighs_jumps=section.jump_weight == "inverse-square",
            prediction=paths.manifest.prediction,
        )

    @property
    def needs(self) -> frozenset[str]:
        """What a batch must have."""
        return frozenset(NEEDS[self.kind])

    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """See the head of the file."""
        prediction = self.predict(roles, batch)
        target, scale = self.target(roles, batch), self.scale(batch)
        yield from terms.losses(prediction, target, batch, scale=scale, step=step)

    def predict(self, roles: Roles, batch: Batch) -> Prediction:
        """J(x_j, j -> s; student), with gradients."""
        from stdcli.distill.jumps import student_jump

        return student_jump(roles, batch, self.table)

    def target(self, roles: Roles, batch: Batch) -> Tensor:
        """What it is held against, [B, C, *space], without gradients."""
        from stdcli.distill.jumps import target_jump

        if self.kind == "teacher":
            return batch.targets
        own = target_jump(roles, batch, self.table)
        return own if self.kind == "consistency" else batch.targets.lerp(own, self.mix)

    def scale(self, batch: Batch) -> Tensor | None:
        """float64 [B] that errors are divided by, so that all jumps count alike; None leaves them."""
        from stdcli.diffusion.predictions import PredictionType
        from stdcli.distill.distances import jump_gain

        if not self.weighs_jumps:
            return None
        return jump_gain(*batch.levels(self.table), kind=PredictionType(self.prediction))


METHOD = Std
