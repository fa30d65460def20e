"""The roles of a distillation, named sets of weights on one base: student, ema_student, teacher, others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stdcli.diffusion.guidance import guide
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised, PredictionType, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.learner import EMA_STUDENT
from stdcli.distill.student import Student
from stdcli.models.condition import Condition

LORA_UP = ".lora_B.weight"


@dataclass
class Roles:
    """Evaluates the base under the weights of a role.

    Attributes:
        module: the trained one.
        prediction: what the network predicts.
        schedule: of the model.
        device: where it is.
        autocast: makes a context of mixed precision.
        weights: role -> its weights by name, where they are neither the student's own nor the base's.
    """

    module: Student
    prediction: PredictionType
    schedule: NoiseSchedule
    device: torch.device
    autocast: Callable[[], AbstractContextManager]
    weights: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def add(self, role: str) -> dict[str, nn.Parameter]:
        """A further set of weights to train, which begins as the student is now; its name -> parameter."""
        trained = self.module.trainable()
        self.weights[role] = {name: nn.Parameter(value.detach().clone()) for name, value in trained.items()}
        return self.weights[role]

    def student(self, x: Tensor, level: Level, cond: Condition, *, to_level: Level) -> Denoised:
        """The student, with gradients."""
        with self.autocast():
            output = self.module(x, self._t(level), cond, target_time=self._t(to_level))
        return self._split(output, x, level)

    @torch.no_grad()
    def ema_student(
        self,
        x: Tensor,
        level: Level,
        cond: Condition,
        *,
        to_level: Level,
        weights: Mapping[str, Tensor] | None = None,
    ) -> Denoised:
        """The student without gradients: with given weights, else its average, else its current ones."""
        weights = self.weights.get(EMA_STUDENT) if weights is None else weights
        with self.autocast(), nullcontext() if weights is None else self.module.using(weights):
            output = self.module(x, self._t(level), cond, target_time=self._t(to_level))
        return self._split(output, x, level)

    def evaluate(self, role: str, x: Tensor, level: Level, cond: Condition, *, to_level: Level) -> Denoised:
        """The network with the weights of an added role, with gradients to them."""
        with self.autocast(), self.module.using(self.weights[role]):
            output = self.module(x, self._t(level), cond, target_time=self._t(to_level))
        return self._split(output, x, level)

    @torch.no_grad()
    def teacher(
        self,
        x: Tensor,
        level: Level,
        cond: Condition,
        uncond: Condition,
        *,
        guidance: Tensor,
        towards: str | None = None,
        share: float = 0.0,
    ) -> Denoised:
        """The guided teacher; one forward where all guidance is 1, else a doubled one.

        Args:
            x: states [B, C, *space].
            level: one level, or one per item.
            cond, uncond: B conditions each.
            guidance: [B], in the Imagen form.
            towards: an added role.
            share: a of W + a B A, with that role's adapters; 0 is the teacher itself. Low-rank students only.
        """
        t = self._t(level)
        if bool((guidance == 1).all()):
            with self.autocast(), self._teaching(towards, share):
                return self._split(self.module(x, t, cond), x, level)
        # autocast knows no concatenation of stored half precision and another
        times = torch.cat([t, t]) if isinstance(t, Tensor) else t
        doubled, conditions = torch.cat([x, x]), cond.concat(uncond)
        with self.autocast(), self._teaching(towards, share):
            both = self.module(doubled, times, conditions)
        return self._split(guide(*both.chunk(2), guidance), x, level)

    def _teaching(self, towards: str | None, share: float) -> AbstractContextManager:
        if not share:
            return self.module.as_teacher()
        weights = self.weights[towards].items()
        return self.module.using({k: share * v if k.endswith(LORA_UP) else v for k, v in weights})

    def _t(self, level: Level) -> Tensor | float:
        return level.t.to(self.device) if isinstance(level.t, Tensor) else level.t

    def _split(self, output: Tensor, x: Tensor, level: Level) -> Denoised:
        return to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=self.prediction)
