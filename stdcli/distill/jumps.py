"""The student's jumps that methods compare: from the states of a batch, and from the teacher's next ones."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stdcli.diffusion.levels import Level
from stdcli.diffusion.solvers import jump
from stdcli.distill.batch import Batch
from stdcli.distill.learner import Prediction
from stdcli.distill.roles import Roles


def student_jump(roles: Roles, batch: Batch, table: Sequence[Level]) -> Prediction:
    """J(x_j, j -> s; student), with gradients."""
    level, to_level = batch.levels(table)
    denoised = roles.student(batch.states, level, batch.cond, to_level=to_level)
    return Prediction(jump(batch.states, denoised, from_level=level, to_level=to_level), denoised)


def target_jump(roles: Roles, batch: Batch, table: Sequence[Level]) -> Tensor:
    """J(x_{j-1}, j-1 -> s; target network), [B, C, *space], without gradients; x_{j-1} where s = j - 1."""
    level, to_level = batch.next_levels(table)
    denoised = roles.ema_student(batch.next_states, level, batch.cond, to_level=to_level)
    return jump(batch.next_states, denoised, from_level=level, to_level=to_level)
