"""Jumps and noising against formulas written out."""

import math

import pytest
import torch

from stdcli.diffusion.levels import CLEAN, Level, level_table, pick_levels
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import add_noise, jump, start_state

SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
TABLE = level_table(SD, 50)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_jump_by_hand():
    here, there = Level(2, 2, 0.6, 0.8), Level(1, 1, 0.8, 0.6)
    denoised = Denoised(x0=torch.tensor([[1.0]]), eps=torch.tensor([[2.0]]))
    moved = jump(torch.tensor([[2.2]]), denoised, from_level=here, to_level=there)
    assert moved.item() == pytest.approx(0.8 * 1 + 0.6 * 2)


def test_jump_to_clean_data_is_the_prediction():
    x0, eps = draw(2, 3), draw(2, 3, seed=1)
    assert torch.equal(jump(x0, Denoised(x0, eps), from_level=TABLE[10], to_level=CLEAN), x0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_jump_to_the_same_level_is_exact(dtype):
    x = draw(2, 3, 4, 4, dtype=torch.float32).to(dtype)
    denoised = Denoised(draw(2, 3, 4, 4, seed=1), draw(2, 3, 4, 4, seed=2))
    for level in (*TABLE[::10], CLEAN):
        moved = jump(x, denoised, from_level=level, to_level=level)
        assert torch.equal(moved, x) and moved.dtype == dtype


def test_jump_per_sample_keeps_those_that_stay():
    x, denoised = draw(3, 2, 2, 2), Denoised(draw(3, 2, 2, 2, seed=1), draw(3, 2, 2, 2, seed=2))
    source, target = torch.tensor([30, 20, 10]), torch.tensor([29, 20, 0])
    moved = jump(x, denoised, from_level=pick_levels(TABLE, source), to_level=pick_levels(TABLE, target))
    assert torch.equal(moved[1], x[1])
    for index in (0, 2):
        level = TABLE[target[index]]
        truth = level.alpha * denoised.x0[index] + level.sigma * denoised.eps[index]
        torch.testing.assert_close(moved[index], truth, rtol=1e-14, atol=1e-15)


def test_jump_takes_one_level_on_either_side():
    x, denoised = draw(2, 3), Denoised(draw(2, 3, seed=1), draw(2, 3, seed=2))
    moved = jump(x, denoised, from_level=pick_levels(TABLE, torch.tensor([9, 7])), to_level=TABLE[7])
    assert torch.equal(moved[1], x[1])
    torch.testing.assert_close(moved[0], TABLE[7].alpha * denoised.x0[0] + TABLE[7].sigma * denoised.eps[0])


def test_jump_in_half_precision_rounds_once():
    denoised = Denoised(15 * draw(1, 64, dtype=torch.float32), draw(1, 64, seed=1, dtype=torch.float32))
    x = draw(1, 64, seed=2).to(torch.bfloat16)
    moved = jump(x, denoised, from_level=TABLE[50], to_level=TABLE[40])
    truth = TABLE[40].alpha * denoised.x0.double() + TABLE[40].sigma * denoised.eps.double()
    assert moved.dtype == torch.bfloat16
    torch.testing.assert_close(moved.double(), truth, rtol=2**-8, atol=1e-6)


def test_start_state():
    x0, noise = draw(2, 3, 4, 4, dtype=torch.float32), draw(2, 3, 4, 4, seed=1, dtype=torch.float32)
    truth = SD.alphas[739] * x0.double() + SD.sigmas[739] * noise.double()
    torch.testing.assert_close(start_state(x0, noise, TABLE[37]).double(), truth, rtol=1e-6, atol=1e-6)
    assert start_state(x0.half(), noise, TABLE[37]).dtype == torch.float16
    per_sample = start_state(x0, noise, pick_levels(TABLE, torch.tensor([37, 3])))
    torch.testing.assert_close(per_sample[1:], start_state(x0[1:], noise[1:], TABLE[3]))
    torch.testing.assert_close(per_sample[:1], start_state(x0[:1], noise[:1], TABLE[37]))


@pytest.mark.parametrize("schedule", [SD, NoiseSchedule.flow(3.0)])
def test_add_noise_reaches_the_marginal_of_the_upper_level(schedule):
    """Signal and variance must be those of x = alpha x0 + sigma eps at the upper level."""
    table = level_table(schedule, 50)
    low, high = table[12], table[31]
    one, zero = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    signal = add_noise(low.alpha * one, zero, from_level=low, to_level=high).item()
    from_old_noise = add_noise(low.sigma * one, zero, from_level=low, to_level=high).item()
    from_new_noise = add_noise(zero, one, from_level=low, to_level=high).item()
    assert signal == pytest.approx(high.alpha, rel=1e-12)
    assert math.hypot(from_old_noise, from_new_noise) == pytest.approx(high.sigma, rel=1e-12)


def test_add_noise_leaves_pure_noise_as_it_is():
    pure = Level(50, 999, 0.0, 1.0)
    x, noise = draw(2, 3), draw(2, 3, seed=1)
    assert torch.equal(add_noise(x, noise, from_level=pure, to_level=pure), x)
    assert torch.equal(add_noise(x, noise, from_level=TABLE[5], to_level=pure), noise)
    with pytest.raises(ValueError, match="upwards, not from"):
        add_noise(x, noise, from_level=pure, to_level=TABLE[5])


def test_add_noise_stays_where_it_is_and_never_goes_down():
    x, noise = draw(2, 3), draw(2, 3, seed=1)
    assert torch.equal(add_noise(x, noise, from_level=TABLE[5], to_level=TABLE[5]), x)
    with pytest.raises(ValueError, match=r"upwards, not from level 6 \(t 119\) to level 5 \(t 99\)"):
        add_noise(x, noise, from_level=TABLE[6], to_level=TABLE[5])
