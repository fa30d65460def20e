"""Single trajectory distillation: the student learns jumps along the very path that a job will walk.

    L = E d( J(x_j, j -> s; student), target ),  x_j on the teacher's path from one fixed start level

    target teacher      x_s, the stored state
           consistency  J(x_{j-1}, j-1 -> s; student without gradient), or x_{j-1} itself where s = j - 1
           mix          a mean of the two

Source: Single Trajectory Distillation (arXiv 2412.18945), section 3; the target `teacher` is ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from stdcli.config.distill import StdSection
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import PredictionType
from stdcli.diffusion.solvers import jump
from stdcli.distill.batch import Batch
from stdcli.distill.distances import jump_gain
from stdcli.distill.method import Prediction
from stdcli.distill.roles import Roles
from stdcli.distill.target_sampler import (
    TargetSampler,
    proportional_choices,
    scheduled_choices,
    window_choices,
)

WINDOW_SHARE = 0.3
"""Of the path's levels, that a jump may take; `random_range_rate` of STD's released video recipe."""


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
    ids = [level.id for level in levels]
    if section.policy == "window":
        window = section.window or math.ceil(WINDOW_SHARE * ids[0])
        free = window_choices(ids, window=window, anchor=section.anchor)
    else:
        free = proportional_choices(levels, gamma=section.gamma, anchor=section.anchor)
    return TargetSampler(free, scheduled_choices(ids, step_counts), section.p_sched)


@dataclass(frozen=True)
class Std:
    """The method; attributes as in `method.Method`.

    Attributes:
        table: all levels by id.
        target_sampler: draws s.
        kind: of the target.
        mix: weight of the consistency target in "mix", in [0, 1].
        uses_ema: whether the consistency target uses averaged weights.
        weighs_jumps: whether errors are divided by `jump_gain`.
        prediction: what the networks predict, for that.
    """

    table: Sequence[Level]
    target_sampler: TargetSampler
    kind: Literal["teacher", "consistency", "mix"] = "teacher"
    mix: float = 0.5
    uses_ema: bool = False
    weighs_jumps: bool = False
    prediction: PredictionType = PredictionType.EPSILON

    name = "std"
    states = "path"
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType({"sampler": "jump", "final": "level0"})

    @property
    def reads(self) -> frozenset[str]:
        """What a batch must have."""
        needed = {"teacher": {"target"}, "consistency": {"next"}, "mix": {"target", "next"}}
        return frozenset(needed[self.kind])

    def predict(self, roles: Roles, batch: Batch) -> Prediction:
        """J(x_j, j -> s; student)."""
        level, to_level = batch.levels(self.table)
        denoised = roles.student(batch.states, level, batch.cond, to_level=to_level)
        return Prediction(jump(batch.states, denoised, from_level=level, to_level=to_level), denoised)

    def target(self, roles: Roles, batch: Batch) -> Tensor:
        """See the head of the file."""
        if self.kind == "teacher":
            return batch.targets
        student_jump = self._student_jump(roles, batch)
        return (
            student_jump if self.kind == "consistency" else torch.lerp(batch.targets, student_jump, self.mix)
        )

    def scale(self, batch: Batch) -> Tensor | None:
        """`jump_gain`, so that jumps of all lengths count alike."""
        if not self.weighs_jumps:
            return None
        return jump_gain(*batch.levels(self.table), kind=self.prediction)

    def _student_jump(self, roles: Roles, batch: Batch) -> Tensor:
        level, to_level = batch.next_levels(self.table)
        denoised = roles.ema_student(batch.next_states, level, batch.cond, to_level=to_level)
        return jump(batch.next_states, denoised, from_level=level, to_level=to_level)
