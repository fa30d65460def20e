"""DMD2 on a teacher with a known answer, written from outside: a generator and a fake score on one base.

The base knows data N(m, s^2): its x0 of a state x at a level is m + alpha s^2 (x - alpha m) / (alpha^2 s^2 +
sigma^2), with m and s as its weights. As generator it maps pure noise z at one level to x_g = x0(z), which is
affine in z; as fake score it learns the law of x_g; as teacher it knows the data's. The generator is perfect
where x_g has the data's mean and deviation, and both scores then agree everywhere.

Source: Yin 2024 (DMD2) eq. 2 and 3; without its adversarial term.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from stdcli.diffusion.levels import Level, level_table, pick_levels
from stdcli.diffusion.predictions import PredictionType
from stdcli.diffusion.solvers import start_state
from stdcli.distill.batch import Batch
from stdcli.distill.learner import FAKE_SCORE, STUDENT, Learner
from stdcli.distill.method import Method
from stdcli.distill.roles import Roles
from stdcli.distill.target_sampler import TargetSampler
from stdcli.runtime.seeding import fold
from stdcli.training.train_step import Loss
from tests.tiny_methods import SD, condition_of

MEAN, STD = 0.7, 0.4
TABLE = level_table(SD, 50)
START_ID = 30
EVERY = 5


class Gaussian(nn.Module):
    """Stands where a student does; predicts the clean latent."""

    kind, has_target_time, teacher = "lora", False, None

    def __init__(self, *, mean: float, std: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.log_std = nn.Parameter(torch.tensor(std, dtype=torch.float64).log())
        self._weights: Mapping[str, Tensor] | None = None

    def trainable(self) -> dict[str, nn.Parameter]:
        return {"mean": self.mean, "log_std": self.log_std}

    def forward(self, x: Tensor, t: Tensor, condition: object, *, target_time: object = None) -> Tensor:
        weights = self._weights or self.trainable()
        alpha, sigma = (scale[t].view(-1, 1, 1, 1) for scale in (SD.alphas, SD.sigmas))
        mean, variance = weights["mean"], (2 * weights["log_std"]).exp()
        return mean + alpha * variance * (x.double() - alpha * mean) / (alpha**2 * variance + sigma**2)

    @contextmanager
    def using(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        before, self._weights = self._weights, weights
        try:
            yield
        finally:
            self._weights = before

    def as_teacher(self):
        data = torch.tensor([MEAN, STD], dtype=torch.float64)
        return self.using({"mean": data[0], "log_std": data[1].log()})


def made_by(weights: Mapping[str, Tensor]) -> tuple[float, float]:
    """Mean and deviation of what a generator of these weights makes of N(0, 1) at the start level."""
    alpha, sigma = float(TABLE[START_ID].alpha), float(TABLE[START_ID].sigma)
    mean, variance = weights["mean"].item(), (2 * weights["log_std"]).exp().item()
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return mean * (1 - alpha * gain), gain


class Noise:
    """A source of pure noise at the start level; batch n from n alone."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def batch(self, number: int) -> Batch:
        size = self.batch_size
        index = torch.arange(number * size, (number + 1) * size)
        ids = torch.full((size,), START_ID)
        return Batch(
            sample_ids=index,
            sample_index=index,
            level_ids=ids,
            target_ids=torch.zeros_like(ids),
            states=torch.randn(size, 2, 4, 4, generator=fold(0, "start", number), dtype=torch.float64),
            next_ids=None,
            next_states=None,
            targets=None,
            real_latents=None,
            cond=condition_of([0.0] * size),
            uncond=condition_of([0.0] * size),
            guidance=torch.ones(size, dtype=torch.float64),
        )


@dataclass(frozen=True)
class TwoScores(Method):
    """The method; attributes as in `Method`.

    Attributes:
        table: all levels by id.
        every: steps between those of the generator.
        seed: of levels and noise.
    """

    table: Sequence[Level]
    every: int = EVERY
    seed: int = 0

    name = "two-scores"
    title = "DMD2 on a closed form"
    citation = "DMD2 on a closed form"
    sampling = MappingProxyType({"sampler": "renoise", "final": "x0"})
    needs = frozenset({"teacher"})
    target_sampler = TargetSampler({START_ID: (0,)}, {})

    @classmethod
    def from_settings(cls, config, *, paths, table):
        return cls(table)

    def learners(self, roles: Roles) -> list[Learner]:
        return [*super().learners(roles), Learner(FAKE_SCORE, roles.add(FAKE_SCORE))]

    def losses(self, roles: Roles, terms, batch: Batch, step: int) -> Iterator[Loss]:
        level, to_level = batch.levels(self.table)
        made = roles.student(batch.states, level, batch.cond, to_level=to_level).x0
        if step % self.every == 0:
            x, at = self._noised(made.detach(), batch, "generator")
            with torch.no_grad():
                fake = roles.evaluate(FAKE_SCORE, x, at, batch.cond, to_level=to_level).x0
            real = roles.teacher(x, at, batch.cond, batch.uncond, guidance=batch.guidance).x0
            scale = (made.detach() - real).abs().mean((1, 2, 3), keepdim=True)
            wanted = made.detach() - (fake - real) / scale
            yield Loss(STUDENT, 0.5 * (made - wanted).square().mean())
        x, at = self._noised(made.detach(), batch, "fake")
        fake = roles.evaluate(FAKE_SCORE, x, at, batch.cond, to_level=to_level).x0
        yield Loss(FAKE_SCORE, (fake - made.detach()).square().mean())

    def _noised(self, clean: Tensor, batch: Batch, what: str) -> tuple[Tensor, Level]:
        generator = fold(self.seed, what, int(batch.sample_index[0]))
        ids = torch.randint(1, 49, (len(clean),), generator=generator)
        noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        level = pick_levels(self.table, ids)
        return start_state(clean, noise, level), level


def roles_around(module: Gaussian) -> Roles:
    """The roles of a run on such a base."""
    return Roles(module, PredictionType.SAMPLE, torch.device("cpu"), autocast=nullcontext)
