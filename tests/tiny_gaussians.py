"""A base with a known answer, as generator, fake score and teacher at once: truth for matching distributions.

The base knows data N(m, s^2): its x0 of a state x at a level is m + alpha s^2 (x - alpha m) / (alpha^2 s^2 +
sigma^2), with m and s as its weights. As generator it maps pure noise z at one level to x_g = x0(z), which is
affine in z; as fake score it learns the law of x_g; as teacher it knows the data's. The generator is perfect
where x_g has the data's mean and deviation, and both scores then agree everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from stdcli.diffusion.levels import level_table
from stdcli.diffusion.predictions import PredictionType
from stdcli.distill.batch import Batch
from stdcli.distill.roles import Roles
from stdcli.runtime.seeding import fold
from tests.tiny_methods import SD, condition_of

MEAN, STD = 0.7, 0.4
TABLE = level_table(SD, 50)
START_ID = 30


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


def law_of(weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of what a generator of these weights makes of N(0, 1) at the start level."""
    alpha, sigma = float(TABLE[START_ID].alpha), float(TABLE[START_ID].sigma)
    mean, variance = weights["mean"], (2 * weights["log_std"]).exp()
    gain = alpha * variance / (alpha**2 * variance + sigma**2)
    return mean * (1 - alpha * gain), gain


def perfect() -> Gaussian:
    """The generator that makes the data."""
    alpha, sigma = float(TABLE[START_ID].alpha), float(TABLE[START_ID].sigma)
    return Gaussian(mean=MEAN / (1 - alpha * STD), std=(STD * sigma**2 / (alpha - alpha**2 * STD)) ** 0.5)


def noise_batch(number: int, size: int, *, side: int = 4) -> Batch:
    """Pure noise at the start level; batch n from n alone."""
    index = torch.arange(number * size, (number + 1) * size)
    ids = torch.full((size,), START_ID)
    return Batch(
        sample_ids=index,
        sample_index=index,
        level_ids=ids,
        target_ids=torch.zeros_like(ids),
        states=torch.randn(size, 2, side, side, generator=fold(0, "start", number), dtype=torch.float64),
        next_ids=None,
        next_states=None,
        targets=None,
        real_latents=None,
        cond=condition_of([0.0] * size),
        uncond=condition_of([0.0] * size),
        guidance=torch.ones(size, dtype=torch.float64),
    )


class Noise:
    """A source of such batches."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size

    def batch(self, number: int) -> Batch:
        return noise_batch(number, self.batch_size)


def roles_around(module: Gaussian) -> Roles:
    """The roles of a run on such a base."""
    return Roles(module, PredictionType.SAMPLE, SD, torch.device("cpu"), autocast=nullcontext)
