"""Latent consistency distillation, held against plain numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from stdcli.diffusion.levels import level_table, pick_levels
from stdcli.distill.batch import Batch
from stdcli.distill.methods.lcm import Lcm, boundary
from tests.tiny_methods import (
    AVERAGE_STD,
    SD,
    STD,
    condition_of,
    draw,
    mean_of,
    noise_in,
    roles_of,
    scales,
    time_of,
    unmean_of,
)

TABLE = level_table(SD, 50)
J = (37, 12, 1)


def batch_of(j=J, *, first: int = 0) -> Batch:
    paths = range(first, first + len(j))
    return Batch(
        sample_ids=torch.tensor(list(paths)),
        sample_index=torch.arange(len(j)),
        level_ids=torch.tensor(j),
        target_ids=torch.zeros(len(j), dtype=torch.int64),
        states=torch.stack([draw(k, what=2) for k in paths]),
        next_ids=torch.tensor([id_ - 1 for id_ in j]),
        next_states=torch.stack([draw(k, what=3) for k in paths]),
        targets=None,
        real_latents=None,
        cond=condition_of([mean_of(k) for k in paths]),
        uncond=condition_of([unmean_of(k) for k in paths]),
        guidance=torch.full((len(j),), 3.0, dtype=torch.float64),
    )


def bound_by_hand(x: torch.Tensor, j: int, *, mean: float, std: float) -> torch.Tensor:
    """c_skip x + c_out x0hat."""
    t = time_of(j)
    alpha, sigma = scales(t)
    x0 = (x - sigma * noise_in(x, t, mean=mean, std=std)) / alpha
    c_skip = 0.25 / ((10 * t) ** 2 + 0.25)
    c_out = 10 * t / ((10 * t) ** 2 + 0.25) ** 0.5
    return c_skip * x + c_out * x0


def test_the_boundary_acts_at_0_alone() -> None:
    c_skip, c_out = boundary(torch.tensor([0, 19, 739]))
    assert c_skip[0] == 1 and c_out[0] == 0
    assert 0 < c_skip[1] <= 7e-6 and c_skip[2] < c_skip[1]
    assert c_out[1] == pytest.approx(190 / (190**2 + 0.25) ** 0.5) and c_out[2] > 1 - 1e-8
    assert c_skip.dtype == torch.float64
    torch.testing.assert_close(c_skip, 1 - c_out**2, rtol=0, atol=1e-12)  # of unit variance where x is


def test_predictions_and_targets_by_hand() -> None:
    roles, batch, method = roles_of(ema=AVERAGE_STD), batch_of(), Lcm(TABLE, 37)
    state, target = method.predict(roles, batch).state, method.target(roles, batch)
    for k, j in enumerate(J):
        expected = bound_by_hand(batch.states[k].double(), j, mean=mean_of(k), std=STD)
        torch.testing.assert_close(state[k].double(), expected, rtol=0, atol=1e-4)
        expected = bound_by_hand(batch.next_states[k].double(), j - 1, mean=mean_of(k), std=AVERAGE_STD)
        torch.testing.assert_close(target[k].double(), expected, rtol=0, atol=1e-4)
    assert state.requires_grad and not target.requires_grad
    assert [times for times, _, _ in roles.module.asked] == [[739, 239, 19], [719, 219, 0]]


def test_below_level_1_the_target_is_the_state_at_level_0_itself() -> None:
    batch = batch_of()
    assert torch.equal(Lcm(TABLE, 37).target(roles_of(), batch)[2], batch.next_states[2])


def test_a_batch_is_its_items_one_by_one() -> None:
    method, roles, together = Lcm(TABLE, 37), roles_of(), batch_of()
    state, target = method.predict(roles, together).state, method.target(roles, together)
    for k, j in enumerate(J):
        alone = batch_of((j,), first=k)
        torch.testing.assert_close(method.predict(roles, alone).state[0], state[k])
        torch.testing.assert_close(method.target(roles, alone)[0], target[k])


def test_what_the_method_asks_for() -> None:
    method = Lcm(TABLE, 37)
    assert method.states == "data" and method.needs == {"next", "teacher"} and method.ema_decay
    assert method.sampling == {"sampler": "renoise", "final": "x0"}
    draws = torch.rand(37, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert method.target_sampler.select(torch.arange(1, 38), draws).tolist() == [0] * 37


def test_times_do_not_come_from_the_target_level() -> None:
    """Only j decides about the boundary: a batch that says s = 5 is predicted alike."""
    method, batch = Lcm(TABLE, 37), batch_of()
    other = dataclasses.replace(batch, target_ids=torch.full((3,), 5))
    assert torch.equal(method.predict(roles_of(), batch).state, method.predict(roles_of(), other).state)
    assert pick_levels(TABLE, other.target_ids).t.tolist() == [99, 99, 99]
