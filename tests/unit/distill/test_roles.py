"""Student, average and teacher behind one weight set, each held against plain numbers."""

from __future__ import annotations

import pytest
import torch

from stdcli.diffusion.levels import level_table, pick_levels
from stdcli.models.condition import Condition
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
    taught,
    time_of,
    unmean_of,
)

TABLE = level_table(SD, 50)
J = (37, 10, 1)
LEVEL = pick_levels(TABLE, torch.tensor(J))
X = torch.stack([draw(k) for k in range(3)])
COND, UNCOND = condition_of([mean_of(k) for k in range(3)]), condition_of([unmean_of(k) for k in range(3)])


def teacher(guidance, *, cond=COND, uncond=UNCOND):
    roles = roles_of()
    told = torch.tensor(guidance, dtype=torch.float64)
    return roles, roles.teacher(X, LEVEL, cond, uncond, guidance=told)


@pytest.mark.parametrize("guidance", [(2.0, 1.0, 7.5), (3.0, 3.0, 3.0), (0.0, 1.0, 2.0)])
def test_defect_2_each_item_is_guided_by_its_own(guidance) -> None:
    roles, denoised = teacher(guidance)
    for k, j in enumerate(J):
        told = {"mean": mean_of(k), "unmean": unmean_of(k), "guidance": guidance[k]}
        eps = taught(X[k].double(), time_of(j), **told)
        alpha, sigma = scales(time_of(j))
        torch.testing.assert_close(denoised.eps[k].double(), eps, rtol=0, atol=1e-5)
        torch.testing.assert_close(denoised.x0[k].double(), (X[k] - sigma * eps) / alpha, rtol=0, atol=1e-4)
    assert [batch for _, _, batch in roles.module.asked] == [6]


def test_sides_are_not_to_be_swapped() -> None:
    guidance = (2.0, 1.5, 7.5)
    _, right = teacher(guidance)
    _, wrong = teacher(guidance, cond=UNCOND, uncond=COND)
    assert (right.eps - wrong.eps).abs().amax((1, 2, 3)).min() > 1e-3


def test_without_guidance_there_is_one_forward() -> None:
    roles, denoised = teacher((1.0, 1.0, 1.0))
    assert roles.module.asked == [([739, 199, 19], None, 3)]
    eps = noise_in(X[1].double(), 199, mean=mean_of(1), std=0.7)
    torch.testing.assert_close(denoised.eps[1].double(), eps, rtol=0, atol=1e-6)


def test_one_level_for_all_items() -> None:
    roles = roles_of()
    found = roles.teacher(X, TABLE[10], COND, UNCOND, guidance=torch.tensor([2.0, 3.0, 4.0]))
    eps = taught(X[2].double(), 199, mean=mean_of(2), unmean=unmean_of(2), guidance=4.0)
    torch.testing.assert_close(found.eps[2].double(), eps, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("ema", "weights", "std"),
    [(None, None, STD), (AVERAGE_STD, None, AVERAGE_STD), (AVERAGE_STD, 1.5, 1.5), (None, 1.5, 1.5)],
)
def test_which_weights_answer(ema, weights, std) -> None:
    roles = roles_of(ema=ema)
    given = None if weights is None else {"std": torch.tensor(weights, dtype=torch.float64)}
    found = roles.ema_student(X, LEVEL, COND, to_level=LEVEL, weights=given)
    for k, j in enumerate(J):
        eps = noise_in(X[k].double(), time_of(j), mean=mean_of(k), std=std)
        torch.testing.assert_close(found.eps[k].double(), eps, rtol=0, atol=1e-6)
    assert not found.eps.requires_grad
    live = roles.student(X, LEVEL, COND, to_level=LEVEL)
    eps = noise_in(X[0].double(), 739, mean=mean_of(0), std=STD)
    torch.testing.assert_close(live.eps[0].double().detach(), eps, rtol=0, atol=1e-6)
    assert live.eps.requires_grad


def test_stored_half_precision_is_guided_under_autocast_too() -> None:
    roles = roles_of()
    roles.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    halves = [Condition(c.encoder_hidden_states.half()) for c in (COND, UNCOND)]
    guidance = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
    found = roles.teacher(X, LEVEL, *halves, guidance=guidance)
    _, expected = teacher((2.0, 3.0, 4.0))
    torch.testing.assert_close(found.x0, expected.x0, rtol=0, atol=0.05)
