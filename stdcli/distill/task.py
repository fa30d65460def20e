"""What a distillation learns from a micro-batch: the student's loss, then the discriminator's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from stdcli.diffusion.levels import Level
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.adversary import Adversary, RealFakeBatch, Variant, make_real_fake_batch
from stdcli.distill.batch import Batch
from stdcli.distill.batch_sources import BatchSource
from stdcli.distill.distances import distance
from stdcli.distill.method import Method, Prediction
from stdcli.distill.roles import Roles
from stdcli.runtime.seeding import fold
from stdcli.training.loop import Loss

STUDENT, DISCRIMINATOR = "student", "discriminator"
BUCKETS = 4
"""Ranges of levels whose losses are reported apart."""


@dataclass(frozen=True)
class AdversarialTerm:
    """The adversary of a run.

    Attributes:
        adversary: features and discriminator.
        discriminator: the discriminator as its gradients must pass it.
        variant: levels of what it compares.
        weight: of the student's part.
        start_number: micro-batch from which the student sees it.
        schedule: of the model.
    """

    adversary: Adversary
    discriminator: Callable
    variant: Variant
    weight: float
    start_number: int
    schedule: NoiseSchedule


@dataclass
class DistillTask:
    """Losses of a run.

    Attributes:
        method: what is learned.
        source: where micro-batches come from.
        roles: what evaluates.
        table: all levels by id.
        start_id: the noisiest level in use.
        loss: distance.
        huber_c: of "huber".
        seed: of the adversary's draws.
        adversarial: None without an adversary.
        current: the micro-batch at hand, for messages.
    """

    method: Method
    source: BatchSource
    roles: Roles
    table: Sequence[Level]
    start_id: int
    loss: Literal["huber", "l2"]
    huber_c: float
    seed: int
    adversarial: AdversarialTerm | None = None
    current: Batch | None = field(default=None, init=False)

    def losses(self, number: int) -> Iterator[Loss]:
        """See `training.loop.Losses`."""
        batch = self.current = self.source.batch(number)
        prediction = self.method.predict(self.roles, batch)
        errors = self._errors(prediction, batch)
        metrics = {"loss/distance": errors.detach(), **self._by_level(errors.detach(), batch.level_ids)}
        if self.adversarial is None:
            yield Loss(STUDENT, errors.mean(), metrics)
            return
        adversarial, generator = self.adversarial, fold(self.seed, "adversary", int(batch.sample_index[0]))
        pair = self._pair(prediction, batch)
        total, is_seen = errors.mean(), number >= adversarial.start_number
        with torch.set_grad_enabled(is_seen):
            seen = adversarial.adversary.generator_loss(pair, batch.cond, generator=generator)
        metrics["loss/adversarial"] = seen.detach().reshape(1)
        yield Loss(STUDENT, total + adversarial.weight * seen if is_seen else total, metrics)
        parts = adversarial.adversary.discriminator_loss(
            pair, batch.cond, generator=generator, discriminator=adversarial.discriminator
        )
        named = {f"discriminator/{k}": v.detach().reshape(1) for k, v in parts.items() if k != "total"}
        yield Loss(DISCRIMINATOR, parts["total"], named)

    def describe(self) -> str:
        """What is being trained on."""
        ids = [] if self.current is None else self.current.sample_ids.tolist()
        return f"samples {', '.join(map(str, ids))}"

    def _errors(self, prediction: Prediction, batch: Batch) -> Tensor:
        """One error per item, [B]."""
        target, scale = self.method.target(self.roles, batch), self.method.scale(batch)
        predicted = prediction.state
        if scale is not None:
            factor = (1 / scale).float().reshape(-1, *[1] * (predicted.ndim - 1)).to(predicted.device)
            predicted, target = predicted * factor, target * factor
        return distance(predicted, target, kind=self.loss, huber_c=self.huber_c)

    def _by_level(self, errors: Tensor, level_ids: Tensor) -> dict[str, Tensor]:
        """Errors by the range of j, named after its lowest and highest level."""
        edges = [round(k * self.start_id / BUCKETS) for k in range(BUCKETS + 1)]
        found = {}
        for low, high in pairwise(edges):
            inside = ((level_ids > low) & (level_ids <= high)).to(errors.device)
            found[f"loss/level_{low + 1}_to_{high}"] = errors[inside]
        return found

    def _pair(self, prediction: Prediction, batch: Batch) -> RealFakeBatch:
        numbers = batch.sample_index.tolist()
        draws = [fold(self.seed, "adversary level", number) for number in numbers]
        noises = [fold(self.seed, "adversary noise", number) for number in numbers]
        shape = batch.states.shape[1:]
        from_level, to_level = batch.levels(self.table)
        return make_real_fake_batch(
            self.adversarial.variant,
            schedule=self.adversarial.schedule,
            from_level=from_level,
            to_level=to_level,
            jumped=prediction.state,
            x0=prediction.denoised.x0,
            real=batch.real_latents,
            noise=torch.stack([torch.randn(shape, generator=g) for g in noises]).to(batch.states.device),
            u=torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in draws]),
        )
