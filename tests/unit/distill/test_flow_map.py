"""Flow maps: the exact map of a Gaussian has no loss, its jumps compose, every pair of levels is drawn."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
import torch
from diffusers import FlowMapEulerDiscreteScheduler
from torch import nn

from stdcli.config.distill import DistillConfig
from stdcli.diffusion.levels import level_table, pick_levels
from stdcli.diffusion.predictions import PredictionType, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import jump
from stdcli.distill.batch import Batch
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.methods.flow_map import FlowMap
from stdcli.distill.target_sampler import TargetSampler
from tests.tiny_methods import SD, STD, condition_of, draw, mean_of, roles_of, scales, time_of

TABLE = level_table(SD, 50)
PATHS, J, S = (0, 3, 1, 4), (37, 20, 30, 1), (5, 19, 0, 0)


def mapped(x: torch.Tensor, t: int, target_time: int, *, mean: float, std: float = STD) -> torch.Tensor:
    """Where the probability-flow ODE of data N(mean, std^2) takes a state: its quantile stays."""
    (alpha, sigma), (to_alpha, to_sigma) = scales(t), scales(target_time)
    spread = ((to_alpha**2 * std**2 + to_sigma**2) / (alpha**2 * std**2 + sigma**2)) ** 0.5
    return to_alpha * mean + spread * (x - alpha * mean)


class Exact(nn.Module):
    """Predicts the one noise with which the jump to where it is told ends on the exact path."""

    def __init__(self, *, is_told: bool = True) -> None:
        super().__init__()
        self.is_told = is_told

    def forward(self, x, t, condition, *, target_time=None):
        means = condition.encoder_hidden_states.double().mean((1, 2)).tolist()
        rows = []
        for state, now, then, mean in zip(x.double(), t.tolist(), target_time.tolist(), means, strict=True):
            then = then if self.is_told else max(now - 20, 0)
            (alpha, sigma), (to_alpha, to_sigma) = scales(now), scales(then)
            end = mapped(state, now, then, mean=mean)
            rows.append((end - to_alpha / alpha * state) / (to_sigma - to_alpha * sigma / alpha))
        return torch.stack(rows)


def batch_of(j=J, s=S, *, states=None) -> Batch:
    """States of the exact paths."""
    starts = torch.stack([draw(path).double() for path in PATHS]) if states is None else states
    if states is None:
        told = zip(starts, PATHS, j, strict=True)
        starts = torch.stack([mapped(x, time_of(37), time_of(n), mean=mean_of(p)) for x, p, n in told])
    told = zip(starts, PATHS, j, s, strict=True)
    ends = [mapped(x, time_of(a), time_of(b), mean=mean_of(p)) for x, p, a, b in told]
    return Batch(
        sample_ids=torch.tensor(PATHS),
        sample_index=torch.arange(len(PATHS)),
        level_ids=torch.tensor(j),
        target_ids=torch.tensor(s),
        states=starts,
        next_ids=None,
        next_states=None,
        targets=torch.stack(ends),
        real_latents=None,
        cond=condition_of([mean_of(path) for path in PATHS]),
        uncond=condition_of([0.0] * len(PATHS)),
        guidance=torch.ones(len(PATHS), dtype=torch.float64),
    )


def loss_of(student: nn.Module, batch: Batch) -> float:
    method = FlowMap(TABLE, TargetSampler({}, {}))
    (found,) = method.losses(roles_of(student), LossTerms(37, "l2"), batch, 0)
    return float(found.value)


def test_the_exact_map_of_a_gaussian_has_no_loss_and_one_that_is_not_told_has() -> None:
    assert loss_of(Exact(), batch_of()) < 1e-13
    assert loss_of(Exact(is_told=False), batch_of()) > 1e-4


def test_jumps_of_the_exact_map_compose() -> None:
    """J(J(x; 37 -> k); k -> s) = J(x; 37 -> s), each jump as the method makes it."""
    method, roles = FlowMap(TABLE, TargetSampler({}, {})), roles_of(Exact())
    top, between, end = (37,) * 4, (30, 21, 8, 1), (29, 3, 0, 0)
    whole = batch_of(top, end)
    first = method.predict(roles, dataclasses.replace(whole, target_ids=torch.tensor(between))).state
    second = method.predict(roles, batch_of(between, end, states=first)).state
    torch.testing.assert_close(second, method.predict(roles, whole).state, rtol=0, atol=1e-9)
    torch.testing.assert_close(second, whole.targets, rtol=0, atol=1e-9)
    assert loss_of(Exact(), batch_of(between, end, states=first)) < 1e-13


class Paths:
    """What `from_settings` asks of teacher paths."""

    def __init__(self, kept: tuple[int, ...]) -> None:
        self.kept, self.start_id = kept, kept[0]
        self.manifest = type("Manifest", (), {"prediction": "epsilon"})

    def stored_levels(self, table):
        return [table[id_] for id_ in self.kept]


def made(kept: tuple[int, ...], **settings: object) -> FlowMap:
    config = DistillConfig(method="flow-map", bank="b", step_counts=[1, 2, 4], **settings)
    return FlowMap.from_settings(config, paths=Paths(kept), table=TABLE)


def test_every_pair_of_stored_levels_is_drawn_alike() -> None:
    method = made((9, 8, 6, 3, 1, 0), flow_map={"p_sched": 0})
    assert method.needs == {"target"} and method.ema_decay is None and method.sees_target
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(6000, 2, dtype=torch.float64, generator=generator)
    for j, below in ((9, (8, 6, 3, 1, 0)), (6, (3, 1, 0)), (1, (0,))):
        found = Counter(method.target_sampler.select(torch.full((6000,), j), draws).tolist())
        assert found.keys() == set(below)
        expected = 6000 / len(below)
        chi_square = sum((n - expected) ** 2 / expected for n in found.values())
        assert chi_square < 18.5  # of 4 degrees of freedom: one in a thousand


def test_jumps_of_one_step_to_many_are_drawn_too() -> None:
    sampler = made(tuple(range(37, -1, -1)), flow_map={"p_sched": 1}).target_sampler
    assert set(sampler.scheduled[37]) == {0, 19, 28}, "1, 2 and 4 steps from the start"
    ids, draws = torch.full((64,), 37), torch.rand(64, 2, dtype=torch.float64)
    assert set(sampler.select(ids, draws).tolist()) == {0, 19, 28}


def test_jumps_may_be_weighed() -> None:
    assert made((37, 20, 0)).scale(batch_of()) is None
    assert made((37, 20, 0), flow_map={"jump_weight": "inverse-square"}).scale(batch_of()) is not None


def test_the_target_is_an_input_of_its_students_whatever_is_set() -> None:
    assert DistillConfig(method="flow-map", bank="b").has_target_time
    assert not DistillConfig(bank="b").has_target_time
    assert DistillConfig(bank="b", student={"s_embedding": True}).has_target_time


def test_diffusers_flow_map_scheduler_steps_as_flow_jumps_do_and_not_as_vp_jumps() -> None:
    scheduler = FlowMapEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    x, output = draw(0).double()[None], draw(1).double()[None]
    flow, vp = level_table(NoiseSchedule.flow(1.0), 50), TABLE
    for table, kind, fits in (
        (flow, PredictionType.FLOW, True),
        (vp, PredictionType.EPSILON, False),
        (vp, PredictionType.V, False),
    ):
        for a, b in itertools.combinations((40, 25, 7, 0), 2):
            level, below = (pick_levels(table, torch.tensor([id_])) for id_ in (a, b))
            denoised = to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=kind)
            ours = jump(x, denoised, from_level=level, to_level=below)
            theirs = scheduler.step(output, level.t.double(), x, r_timestep=below.t.double()).prev_sample
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-6) is fits, (kind, a, b)


def test_times_of_a_shifted_flow_are_those_of_the_scheduler() -> None:
    scheduler = FlowMapEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    scheduler.set_timesteps(50)
    table = level_table(NoiseSchedule.flow(3.0), 50)
    found = [level.t for level in table][:0:-1]
    assert found == pytest.approx(scheduler.timesteps.tolist(), rel=1e-6)
