"""Where an ideal critic pushes a perfect student, in one dimension, where everything is known.

Data are normal with variance V, so states at t are normal with variance V alpha^2 + sigma^2, and the ideal
critic is the log ratio of their densities, given what it is told. The push is what it does to the student's
scale c: d/dc of its mean verdict on c x_s, at c = 1. Below 0 it takes noise away, which is what r < s is
for.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stdcli.diffusion.levels import levels_at
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.adversary import Adversary
from stdcli.distill.real_fake_pairs import RealFakeBatch, make_real_fake_batch
from stdcli.models.condition import Condition

V = 0.1
SCHEDULE = NoiseSchedule.scaled_linear(0.05, 0.6, 10)
S = torch.tensor([1, 2, 4, 8])
DRAWS = torch.arange(8, dtype=torch.float64).add(0.5) / 8  # of each s; they divide s evenly
VARIANCES = (V * SCHEDULE.alphas**2 + SCHEDULE.sigmas**2).numpy()


def perfect_pair(variant: str) -> RealFakeBatch:
    """Every s with every draw; the pixels of a fake are the quantiles of its distribution."""
    told = S.repeat_interleave(len(DRAWS))
    to_level, from_level = levels_at(SCHEDULE, told), levels_at(SCHEDULE, torch.full_like(told, 9))
    quantiles = torch.special.ndtri((torch.arange(4096, dtype=torch.float64) + 0.5) / 4096)
    jumped = quantiles.view(1, 1, 64, 64) * torch.from_numpy(VARIANCES)[told].sqrt().view(-1, 1, 1, 1)
    still = torch.zeros_like(jumped)
    return make_real_fake_batch(
        variant,
        schedule=SCHEDULE,
        from_level=from_level,
        to_level=to_level,
        jumped=jumped,
        x0=still,
        real=still,
        noise=still,
        u=DRAWS.repeat(len(S)),
    )


class Shown:
    """Latents as they are, with a second channel that holds the time; keeps who was shown at what time."""

    channels = (2,)

    def __init__(self, tells: bool) -> None:
        self._tells = tells
        self.seen = []

    def __call__(self, latents, level, *, generator):
        times = level.t.double() if self._tells else torch.zeros(len(latents), dtype=torch.float64)
        self.seen.append((latents, times))
        return [torch.stack([latents.flatten(1), times[:, None].expand(-1, latents[0].numel())], dim=1)]


class First(nn.Module):
    """Of every state its first row, so that what is shown is seen."""

    def forward(self, features, vector):
        return features[0][:, 0]


class Ideal(nn.Module):
    """log p_real(x | time) - log p_fake(x | time), from the variances of all that was shown at that time."""

    def __init__(self, real: list[tuple[float, float]], fake: list[tuple[float, float]]) -> None:
        super().__init__()
        self._sides = real, fake

    def forward(self, features, vector):
        x, times = features[0][:, 0], features[0][:, 1, 0]
        real, fake = (torch.stack([self._log(side, t, row) for t, row in zip(times, x, strict=True)])
                      for side in self._sides)  # fmt: skip
        return real - fake

    @staticmethod
    def _log(side, time, x):
        found = torch.tensor([v for t, v in side if t == time], dtype=torch.float64)
        return (-x.square()[:, None] / found / 2 - found.log() / 2).logsumexp(1) - np.log(len(found))


def push(variant: str, *, tells: bool = True) -> np.ndarray:
    """At every s, of our losses."""
    pair, shown, condition = perfect_pair(variant), Shown(tells), Condition(torch.ones(1, 1, 1))
    rng = torch.Generator().manual_seed(0)
    adversary = Adversary(shown, First())
    adversary.discriminator_loss(pair, condition, generator=rng)
    sides = {}
    for latents, times in shown.seen:
        side = "real" if latents is pair.real else "fake"
        rows = (pair.real_level if side == "real" else pair.level).id
        at = [0.0 if row < 0 else VARIANCES[row] for row in rows.tolist()]
        sides[side] = list(zip(times.tolist(), at, strict=True))
    adversary.discriminator = Ideal(**sides)
    scale = torch.ones(len(pair.fake), 1, 1, 1, dtype=torch.float64, requires_grad=True)
    scaled = RealFakeBatch(pair.fake * scale, pair.real, pair.level, real_level=pair.real_level)
    adversary.generator_loss(scaled, condition, generator=rng).backward()
    return -scale.grad.view(len(S), -1).mean(1).numpy() * len(pair.fake)


def slope(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """x d/dx log density of a mixture, by weights of every row."""
    density = weights * np.exp(-(x[:, None] ** 2) / 2 / VARIANCES) / np.sqrt(VARIANCES)
    return -(x[:, None] ** 2) * (density / VARIANCES).sum(1, keepdims=True) / density.sum(1, keepdims=True)


def closed_form(real: dict[int, np.ndarray], fake: dict[int, np.ndarray]) -> list[float]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    found = []
    for s in S.tolist():
        x = nodes * np.sqrt(VARIANCES[s])
        found.append((weights @ (slope(real[s], x) - slope(fake[s], x)) / weights.sum()).item())
    return found


ROWS = np.arange(10)
BELOW = {s: (ROWS < s) / s for s in S.tolist()}
AT = {s: (ROWS == s) * 1.0 for s in S.tolist()}


def test_at_one_common_time_r_below_s_takes_noise_away() -> None:
    expected = closed_form(BELOW, AT)
    assert max(expected) < -0.2
    np.testing.assert_allclose(push("xs-xr"), expected, atol=0.01)


def test_a_critic_that_is_told_no_time_pushes_the_same_way() -> None:
    of_all = [dict.fromkeys(BELOW, sum(side.values())) for side in (BELOW, AT)]
    expected = closed_form(*of_all)
    assert np.mean(expected) < -0.2
    np.testing.assert_allclose(push("xs-xr", tells=False), expected, atol=0.01)


@pytest.mark.parametrize("tells", [True, False])
def test_at_equal_levels_a_perfect_student_is_left_alone(tells) -> None:
    np.testing.assert_allclose(push("xs", tells=tells), 0, atol=1e-9)
