"""Latent consistency distillation: clean latents noised anew at every level, each mapped to x0 at once.

    L = E d( f(x_j; student), f(x_{j-1}; target network) ),  x_j = alpha_j x0 + sigma_j eps
    f(x, t) = c_skip(t) x + c_out(t) x0hat(x, t),  f(x, 0) = x
    x_{j-1} one step of the guided teacher from x_j

Source: Luo 2023 (LCM) algorithm 1 and appendix on the boundary scalings. Changed: levels above the start of
the bank's paths are left out, since no job visits them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from stdcli.diffusion.combine import combine
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised
from stdcli.distill.batch import Batch
from stdcli.distill.method import Prediction
from stdcli.distill.roles import Roles
from stdcli.distill.target_sampler import TargetSampler, lowest_choices

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


def boundary(t: Tensor) -> tuple[Tensor, Tensor]:
    """c_skip and c_out at model times t, float64 of t's shape; (1, 0) at t = 0.

    Source: Luo 2023 (LCM), released scheduler: sigma_data 0.5, times scaled by 10.
    """
    scaled = t.double() * TIMESTEP_SCALING
    total = scaled**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total, scaled / total.sqrt()


@dataclass(frozen=True)
class Lcm:
    """The method; attributes as in `method.Method`.

    Attributes:
        table: all levels by id.
        start_id: the noisiest level in use.
        uses_ema: whether the target network is an average of the student.
    """

    table: Sequence[Level]
    start_id: int
    uses_ema: bool = True

    name = "lcm"
    states = "data"
    reads = frozenset({"next"})
    sampling: ClassVar[Mapping[str, Any]] = MappingProxyType({"sampler": "renoise", "final": "x0"})

    @property
    def target_sampler(self) -> TargetSampler:
        """s = 0."""
        return TargetSampler(lowest_choices(range(self.start_id + 1)), {})

    def predict(self, roles: Roles, batch: Batch) -> Prediction:
        """f(x_j; student)."""
        level, to_level = batch.levels(self.table)
        denoised = roles.student(batch.states, level, batch.cond, to_level=to_level)
        return Prediction(_bound(batch.states, denoised, level), denoised)

    def target(self, roles: Roles, batch: Batch) -> Tensor:
        """f(x_{j-1}; target network); x_{j-1} itself at level 0."""
        level, to_level = batch.next_levels(self.table)
        denoised = roles.ema_student(batch.next_states, level, batch.cond, to_level=to_level)
        return _bound(batch.next_states, denoised, level)

    def scale(self, batch: Batch) -> Tensor | None:
        """None: every jump ends at x0."""
        return None


def _bound(x: Tensor, denoised: Denoised, level: Level) -> Tensor:
    c_skip, c_out = boundary(torch.as_tensor(level.t))
    return combine((c_skip, x), (c_out, denoised.x0))
