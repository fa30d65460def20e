"""The adversary as a term of a method's losses: its part of the student's, and the discriminator's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from stdcli.diffusion.levels import Level
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.adversary import Adversary, RealFakeBatch, Variant, make_real_fake_batch
from stdcli.distill.batch import Batch
from stdcli.distill.learner import Learner, Prediction
from stdcli.runtime.seeding import fold
from stdcli.training.train_step import Loss

DISCRIMINATOR = "discriminator"


@dataclass(frozen=True)
class AdversarialTerm:
    """The adversary of a run.

    Attributes:
        adversary: features and discriminator.
        variant: levels of what it compares.
        weight: of the student's part.
        start_step: step from which the student sees it; the discriminator learns from the first.
        learning_rate: of the discriminator.
        schedule: of the model.
        table: all levels by id.
        seed: of the draws.
    """

    adversary: Adversary
    variant: Variant
    weight: float
    start_step: int
    learning_rate: float
    schedule: NoiseSchedule
    table: Sequence[Level]
    seed: int

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

    def pair(self, prediction: Prediction, batch: Batch) -> RealFakeBatch:
        """The student's states and real latents at the levels of the variant.

        Args:
            prediction: what the student says of the batch.
            batch: with real latents.
        """
        numbers = batch.sample_index.tolist()
        draws = [fold(self.seed, "adversary level", number) for number in numbers]
        noises = [fold(self.seed, "adversary noise", number) for number in numbers]
        shape = batch.states.shape[1:]
        from_level, to_level = batch.levels(self.table)
        return make_real_fake_batch(
            self.variant,
            schedule=self.schedule,
            from_level=from_level,
            to_level=to_level,
            jumped=prediction.state,
            x0=prediction.denoised.x0,
            real=batch.real_latents,
            noise=torch.stack([torch.randn(shape, generator=g) for g in noises]).to(batch.states.device),
            u=torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in draws]),
        )
