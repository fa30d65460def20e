"""Latent consistency distillation: clean latents noised anew at every level, each mapped to x0 at once.

    L = E d( f(x_j; student), f(x_{j-1}; target network) ),  x_j = alpha_j x0 + sigma_j eps
    f(x, t) = c_skip(t) x + c_out(t) x0hat(x, t),  f(x, 0) = x
    x_{j-1} one step of the guided teacher from x_j

Source: Luo 2023 (LCM) algorithm 1 and appendix on the boundary scalings. Changed: levels above the start of
the bank's paths are left out, since no job visits them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stdcli.distill.consistency import target_decay
from stdcli.distill.learner import Prediction
from stdcli.distill.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from stdcli.config.distill import DistillSettings
    from stdcli.diffusion.levels import Level
    from stdcli.diffusion.predictions import Denoised
    from stdcli.distill.batch import Batch
    from stdcli.distill.loss_terms import LossTerms
    from stdcli.distill.roles import Roles
    from stdcli.distill.target_sampler import TargetSampler
    from stdcli.distill.teacher_paths import TeacherPaths
    from stdcli.training.train_step import Loss

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0
"""Of the released scheduler."""


def boundary(t: Tensor, *, scaling: float = TIMESTEP_SCALING) -> tuple[Tensor, Tensor]:
    """c_skip and c_out at model times t, float64 of t's shape; (1, 0) at t = 0.

    Args:
        t: model times.
        scaling: factor on them; the larger, the sooner above 0 the network's x0 is taken as it is.

    Source: Luo 2023 (LCM), released scheduler: sigma_data 0.5, times scaled by 10.
    """
    scaled = t.double() * scaling
    total = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total.sqrt()


@dataclass(frozen=True)
class Lcm(Method):
    """The method of a run; further attributes as in `Method`.

    Attributes:
        table: all levels by id.
        start_id: the noisiest level in use.
        ema_decay: of the average of the student that the target network is; None is the student itself.
    """

    table: Sequence[Level]
    start_id: int
    ema_decay: float | None = 0.95

    name: ClassVar[str] = "lcm"
    title: ClassVar[str] = "Latent Consistency Distillation"
    citation: ClassVar[str] = "latent consistency distillation ([LCM](https://arxiv.org/abs/2310.04378))"
    borrows: ClassVar[frozenset[str]] = frozenset({"std.target_weights", "std.target_decay"})
    states: ClassVar[Literal["data"]] = "data"
    predicts_x0: ClassVar[bool] = True
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType({"sampler": "renoise", "final": "x0"})
    needs: ClassVar[frozenset[str]] = frozenset({"next", "teacher"})
    timestep_scaling: ClassVar[float] = TIMESTEP_SCALING

    @classmethod
    def conflicts(cls, config: DistillSettings) -> Iterator[tuple[str, str]]:
        """All jumps end at one level."""
        if config.student.s_embedding:
            yield "student.s_embedding", f"belongs to method std: {cls.name} has one target level"

    @classmethod
    def from_settings(cls, config: DistillSettings, *, paths: TeacherPaths, table: Sequence[Level]) -> Lcm:
        """See `Method`."""
        return cls(table, paths.start_id, ema_decay=target_decay(config))

    @property
    def target_sampler(self) -> TargetSampler:
        """s = 0."""
        from stdcli.distill.target_sampler import TargetSampler

        return TargetSampler.lowest(self.start_id)

    def losses(self, roles: Roles, terms: LossTerms, batch: Batch, step: int) -> Iterator[Loss]:
        """See the head of the file."""
        prediction = self.predict(roles, batch)
        yield from terms.losses(prediction, self.target(roles, batch), batch, step=step)

    def predict(self, roles: Roles, batch: Batch) -> Prediction:
        """f(x_j; student), with gradients."""
        level, to_level = batch.levels(self.table)
        denoised = roles.student(batch.states, level, batch.cond, to_level=to_level)
        return Prediction(self._bound(batch.states, denoised, level), denoised)

    def target(self, roles: Roles, batch: Batch) -> Tensor:
        """f(x_{j-1}; target network), without gradients; x_{j-1} itself at level 0."""
        level, to_level = batch.next_levels(self.table)
        denoised = roles.ema_student(batch.next_states, level, batch.cond, to_level=to_level)
        return self._bound(batch.next_states, denoised, level)

    def _bound(self, x: Tensor, denoised: Denoised, level: Level) -> Tensor:
        from stdcli.diffusion.combine import combine

        c_skip, c_out = boundary(level.t, scaling=self.timestep_scaling)
        return combine((c_skip, x), (c_out, denoised.x0))


METHOD = Lcm
