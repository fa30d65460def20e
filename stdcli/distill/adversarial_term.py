"""The adversary as a term of a method's losses: its part of the student's, and the discriminator's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.adversary import Adversary
from stdcli.distill.batch import Batch
from stdcli.distill.learner import Learner, Prediction
from stdcli.distill.pushed_pairs import draw_above, push_both
from stdcli.distill.real_fake_pairs import RealFakeBatch, Variant, make_real_fake_batch
from stdcli.runtime.seeding import fold
from stdcli.training.train_step import Loss

DISCRIMINATOR = "discriminator"


@dataclass(frozen=True)
class Reach:
    """How far up both sides of a pair are noised.

    Attributes:
        width: of the range of q above s, in model times.
        ceiling: model time that q stays below; where paths start.
    """

    width: float
    ceiling: float


@dataclass(frozen=True)
class AdversarialTerm:
    """The adversary of a run.

    Attributes:
        adversary: features and discriminator.
        variant: levels of what it compares; "xq-xq" needs `reach`.
        weight: of the student's part.
        start_step: step from which the student sees it; the discriminator learns from the first.
        learning_rate: of the discriminator.
        schedule: of the model.
        table: all levels by id.
        seed: of the draws.
        reach: of the level q of "xq-xq".
        judges_target: whether the real states of "xq-xq" are the method's targets, not the real latents.
    """

    adversary: Adversary
    variant: Variant | Literal["xq-xq"]
    weight: float
    start_step: int
    learning_rate: float
    schedule: NoiseSchedule
    table: Sequence[Level]
    seed: int
    reach: Reach | None = None
    judges_target: bool = False

    def learner(self) -> Learner:
        """The discriminator."""
        module = self.adversary.discriminator
        return Learner(
            DISCRIMINATOR,
            dict(module.named_parameters()),
            learning_rate=self.learning_rate,
            buffers=dict(module.named_buffers()),
            after_update=[module.update_spectral_norm],
        )

    def losses(self, student: Loss | None, pair: RealFakeBatch, batch: Batch, *, step: int) -> Iterator[Loss]:
        """The student's loss with the adversary's part added, then the discriminator's.

        Args:
            student: its loss so far, None where it rests; one graph with what is added, so that both are
                differentiated at once.
            pair: what is told apart.
            batch: what it belongs to.
            step: of the run, from 0.
        """
        generator = fold(self.seed, "adversary", int(batch.sample_index[0]))
        is_seen = step >= self.start_step
        if student is not None:
            with torch.set_grad_enabled(is_seen):
                seen = self.adversary.generator_loss(pair, batch.cond, generator=generator)
            yield replace(
                student,
                value=student.value + self.weight * seen if is_seen else student.value,
                metrics={**student.metrics, "loss/adversarial": seen.detach().reshape(1)},
            )
        parts = self.adversary.discriminator_loss(pair, batch.cond, generator=generator)
        named = {f"discriminator/{k}": v.detach().reshape(1) for k, v in parts.items() if k != "total"}
        yield Loss(DISCRIMINATOR, parts["total"], named)

    def pair(self, prediction: Prediction, target: Tensor, batch: Batch) -> RealFakeBatch:
        """The student's states and real ones at the levels of the variant.

        Args:
            prediction: what the student says of the batch.
            target: what that is held against, [B, C, *space].
            batch: with real latents, unless the targets stand for them.
        """
        if self.variant == "xq-xq":
            return self._pushed(prediction, target, batch)
        from_level, to_level = batch.levels(self.table)
        return make_real_fake_batch(
            self.variant,
            schedule=self.schedule,
            from_level=from_level,
            to_level=to_level,
            jumped=prediction.state,
            x0=prediction.denoised.x0,
            real=batch.real_latents,
            noise=self._noise("adversary noise", batch),
            u=self._u(batch),
        )

    def _pushed(self, prediction: Prediction, target: Tensor, batch: Batch) -> RealFakeBatch:
        _, level = batch.levels(self.table)
        pushed_level = draw_above(
            self.schedule, level, self._u(batch), reach=self.reach.width, ceiling=self.reach.ceiling
        )
        return push_both(
            prediction.state,
            target if self.judges_target else batch.real_latents,
            level=level,
            pushed_level=pushed_level,
            noise=self._noise("adversary fake noise", batch),
            real_noise=self._noise("adversary noise", batch),
            is_clean=not self.judges_target,
        )

    def _u(self, batch: Batch) -> Tensor:
        """One draw in [0, 1) per item, float64."""
        draws = [fold(self.seed, "adversary level", number) for number in batch.sample_index.tolist()]
        return torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in draws])

    def _noise(self, what: str, batch: Batch) -> Tensor:
        """Standard normal, like the states."""
        shape = batch.states.shape[1:]
        noises = [fold(self.seed, what, number) for number in batch.sample_index.tolist()]
        return torch.stack([torch.randn(shape, generator=g) for g in noises]).to(batch.states.device)
