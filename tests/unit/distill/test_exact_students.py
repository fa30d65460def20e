"""A student that is the exact flow map of a Gaussian: what is left of its loss are the teacher's errors.

The teacher steps along the exact noise, so a step of size h errs by h^2, and the mean absolute error falls to
a quarter where there are twice as many levels (or, for progressive distillation, twice as many steps).
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stdcli.config.distill import DistillConfig
from stdcli.config.distill_methods import find_method
from stdcli.diffusion.levels import level_table, pick_levels
from stdcli.diffusion.solvers import jump
from stdcli.distill.batch import Batch
from stdcli.distill.loss_terms import LossTerms
from tests.tiny_methods import ABAR, SD, condition_of, roles_of

MEAN, STD = 0.3, 0.4
ITEMS = 2000
TIMES = torch.tensor(ABAR, dtype=torch.float64)
CONSISTENCY = {"tcd": (), "pcm": (), "tdd": (), "hyper-sd": (8, 4, 2, 1)}  # and segments of the stages
LINEAR = {"kind": "huber", "huber_c": 1e-9}  # the mean absolute error


class Exact(nn.Module):
    """Predicts the noise by which one jump lands where the flow of N(mean, std^2) goes.

    Args:
        std: of the data that the student believes in.
        ends_clean: whether time 0 is clean data as a target, not level 0.
    """

    kind, has_target_time, teacher = "lora", True, None

    def __init__(self, std: float = STD, *, ends_clean: bool = False) -> None:
        super().__init__()
        self.std = nn.Parameter(torch.tensor(std, dtype=torch.float64))
        self.ends_clean, self._teaches = ends_clean, False

    def trainable(self) -> dict[str, nn.Parameter]:
        return {"std": self.std}

    def forward(self, x: Tensor, t, condition, *, target_time=None) -> Tensor:
        abar, std = TIMES[t], STD if self._teaches else self.std
        alpha, sigma = (v.sqrt()[:, None, None] for v in (abar, 1 - abar))
        noise = sigma * (x - alpha * MEAN) / (alpha**2 * std**2 + sigma**2)
        if self._teaches:
            return noise
        to_abar = TIMES[target_time]
        if self.ends_clean:
            to_abar = torch.where(target_time == 0, torch.ones_like(to_abar), to_abar)
        to_alpha, to_sigma = (v.sqrt()[:, None, None] for v in (to_abar, 1 - to_abar))
        spread = ((to_alpha**2 * std**2 + to_sigma**2) / (alpha**2 * std**2 + sigma**2)).sqrt()
        end = to_alpha * MEAN + spread * (x - alpha * MEAN)
        eps = (end / to_alpha - x / alpha) / (to_sigma / to_alpha - sigma / alpha)
        return torch.where((to_sigma == sigma).expand_as(x), noise, eps)

    @contextmanager
    def as_teacher(self):
        self._teaches = True
        try:
            yield
        finally:
            self._teaches = False


def batch_of(method, table, *, stage: int) -> Batch:
    """Noised data at levels of a stage, with the teacher's step below each."""
    generator = torch.Generator().manual_seed(5)
    sampler = method.target_sampler.of_stage(stage)
    starts = torch.tensor(sorted(sampler.free))
    ids = starts[torch.randint(len(starts), (ITEMS,), generator=generator)]
    data, noise = torch.randn(2, ITEMS, 1, 1, generator=generator, dtype=torch.float64)
    level, next_level = (pick_levels(table, which) for which in (ids, ids - 1))
    alpha, sigma = (v[:, None, None] for v in (level.alpha, level.sigma))
    x, cond = alpha * (MEAN + STD * data) + sigma * noise, condition_of([MEAN])
    teacher = roles_of(Exact()).teacher(x, level, cond, cond, guidance=torch.ones(1))
    return Batch(
        sample_ids=ids,
        sample_index=torch.arange(ITEMS),
        level_ids=ids,
        target_ids=sampler.select(ids, torch.rand(ITEMS, 2, generator=generator, dtype=torch.float64)),
        states=x,
        next_ids=ids - 1,
        next_states=jump(x, teacher, from_level=level, to_level=next_level),
        targets=None,
        real_latents=None,
        cond=cond,
        uncond=cond,
        guidance=torch.ones(ITEMS),
    )


def method_of(name: str, num_levels: int, **given):
    config = DistillConfig(method=name, bank="b", **given)
    table = level_table(SD, num_levels)
    paths = SimpleNamespace(start_id=3 * num_levels // 4)
    return find_method(name).from_settings(config, paths=paths, table=table), table


def loss_of(student: Exact, method, table, *, stage: int, stages: int = 1) -> float:
    step = stage * 1000 // stages  # of the 1000 that a run has
    batch = batch_of(method, table, stage=stage)
    (loss,) = method.losses(roles_of(student), LossTerms(len(table) - 1, **LINEAR), batch, step)
    return float(loss.value.detach())


@pytest.mark.parametrize(
    ("name", "stage", "stages"),
    [(name, k, len(parts) or 1) for name, parts in CONSISTENCY.items() for k in range(len(parts) or 1)],
)
def test_what_is_left_of_the_loss_falls_with_the_square_of_the_teachers_step(name, stage, stages) -> None:
    left = [
        loss_of(Exact(), *method_of(name, count), stage=stage, stages=stages) for count in (25, 50, 100, 200)
    ]
    assert left[0] < 3e-3 and all(3.2 < one / two < 4.9 for one, two in pairwise(left))
    off = loss_of(Exact(1.05 * STD), *method_of(name, 100), stage=stage, stages=stages)
    assert off > 2 * left[2], "a student of another spread has more"


def test_what_is_left_of_progressive_distillation_falls_with_the_square_of_its_steps() -> None:
    left = []
    for steps in (5, 10, 20, 40):
        given = {"lightning": {"counts": [steps]}, "steps": steps, "step_counts": [steps]}
        method, table = method_of("lightning", 200, **given)
        left.append(loss_of(Exact(ends_clean=True), method, table, stage=0))
        off = loss_of(Exact(1.05 * STD, ends_clean=True), method, table, stage=0)
    assert all(3.0 < one / two < 5.0 for one, two in pairwise(left)), left
    assert off > 2 * left[-1]
