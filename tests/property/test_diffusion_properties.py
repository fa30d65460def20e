"""Laws that hold for all levels, predictions and strengths."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stdcli.diffusion.combine import combine
from stdcli.diffusion.guidance import from_omega, guide, to_omega
from stdcli.diffusion.levels import (
    Level,
    LevelError,
    level_below,
    level_table,
    make_sampling_path,
    select_levels,
    start_level,
)
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.predictions import Denoised, PredictionType, from_x0_eps, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import add_noise, jump, start_state

SCHEDULES = {
    "sd": NoiseSchedule.scaled_linear(0.00085, 0.012, 1000),
    "zero-snr": NoiseSchedule.scaled_linear(0.00085, 0.012, 1000).rescale_zero_terminal_snr(),
    "cosine": NoiseSchedule.cosine(1000),
    "flow": NoiseSchedule.flow(3.0),
}
TABLES = {name: level_table(schedule, 50) for name, schedule in SCHEDULES.items()}

schedules = st.sampled_from(sorted(SCHEDULES))
ids = st.integers(0, 50)
seeds = st.integers(0, 2**32)
strengths = st.floats(0.0, 1.0, exclude_min=True)


def draw(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def is_defined(kind, level):
    return not (
        (kind is PredictionType.EPSILON and level.alpha == 0)
        or (kind is PredictionType.SAMPLE and level.sigma == 0)
    )


@given(schedules, ids, st.sampled_from(PredictionType), seeds)
def test_predictions_round_trip(name, id_, kind, seed):
    """x0, eps -> state and output -> x0, eps, for every kind at every level where it is defined."""
    level = TABLES[name][id_]
    at = {"alpha": level.alpha, "sigma": level.sigma, "kind": kind}
    truth = Denoised(x0=draw(seed, 2, 3), eps=draw(seed + 1, 2, 3))
    x = start_state(truth.x0, truth.eps, level)
    output = from_x0_eps(truth, **at)
    if not is_defined(kind, level):
        with pytest.raises(LevelError):
            to_x0_eps(output, x, **at)
        return
    back = to_x0_eps(output, x, **at)
    amplified = 1 / min(scale for scale in (level.alpha, level.sigma, 1.0) if scale > 0)
    torch.testing.assert_close(back.x0, truth.x0, rtol=0, atol=1e-14 * amplified + 1e-14)
    torch.testing.assert_close(back.eps, truth.eps, rtol=0, atol=1e-14 * amplified + 1e-14)
    torch.testing.assert_close(from_x0_eps(back, **at), output, rtol=0, atol=1e-13 * amplified)


@given(schedules, ids, st.sampled_from(PredictionType), st.sampled_from(PredictionType), seeds)
def test_kinds_convert_into_each_other(name, id_, first, second, seed):
    """Whatever a network predicts, its x0 and eps put the state together again."""
    level = TABLES[name][id_]
    if not (is_defined(first, level) and is_defined(second, level)):
        return
    x, output = draw(seed, 2, 3), draw(seed + 1, 2, 3)
    one = to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=first)
    size = 1 + one.x0.abs().max().item() + one.eps.abs().max().item()
    torch.testing.assert_close(start_state(one.x0, one.eps, level), x, rtol=0, atol=1e-14 * size)
    other_output = from_x0_eps(one, alpha=level.alpha, sigma=level.sigma, kind=second)
    two = to_x0_eps(other_output, x, alpha=level.alpha, sigma=level.sigma, kind=second)
    amplified = 1 / min(scale for scale in (level.alpha, level.sigma, 1.0) if scale > 0)
    torch.testing.assert_close(two.x0, one.x0, rtol=0, atol=1e-14 * size * amplified)
    torch.testing.assert_close(two.eps, one.eps, rtol=0, atol=1e-14 * size * amplified)


@given(schedules, ids, seeds, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_jump_to_the_same_level_is_the_identity(name, id_, seed, dtype):
    x = draw(seed, 2, 3).to(dtype)
    denoised = Denoised(draw(seed + 1, 2, 3), draw(seed + 2, 2, 3))
    assert torch.equal(jump(x, denoised, from_level=TABLES[name][id_], to_level=TABLES[name][id_]), x)


@given(schedules, st.lists(ids, min_size=3, max_size=3, unique=True).map(sorted), seeds)
def test_jumps_compose_under_the_exact_eps(name, three, seed):
    """With the true x0 and eps, J(j -> s) = J(u -> s) after J(j -> u), and both lie on the mixture."""
    low, middle, high = (TABLES[name][id_] for id_ in three)
    denoised = Denoised(draw(seed, 2, 3), draw(seed + 1, 2, 3))
    x = start_state(denoised.x0, denoised.eps, high)
    direct = jump(x, denoised, from_level=high, to_level=low)
    via = jump(jump(x, denoised, from_level=high, to_level=middle), denoised, from_level=middle, to_level=low)
    assert torch.equal(direct, via)
    torch.testing.assert_close(direct, start_state(denoised.x0, denoised.eps, low), rtol=0, atol=1e-13)


@given(schedules, ids, ids, seeds)
def test_jump_with_a_recomputed_eps_composes(name, one, two, seed):
    """The network's eps, read again from the state it led to, is the same eps."""
    high, low = TABLES[name][max(one, two, 1)], TABLES[name][max(min(one, two), 1)]
    denoised = Denoised(draw(seed, 2, 3), draw(seed + 1, 2, 3))
    moved = jump(start_state(denoised.x0, denoised.eps, high), denoised, from_level=high, to_level=low)
    if low.alpha > 0:
        again = to_x0_eps(denoised.eps, moved, alpha=low.alpha, sigma=low.sigma, kind=PredictionType.EPSILON)
        torch.testing.assert_close(again.x0, denoised.x0, rtol=0, atol=1e-13 / low.alpha)


@given(st.integers(1, 1000), st.data())
def test_selection_is_k_different_levels_from_the_start_down(start, data):
    steps = data.draw(st.integers(1, start))
    chosen = select_levels(start, steps)
    assert len(chosen) == steps and chosen[0] == start and chosen[-1] >= 1
    gaps = [before - after for before, after in pairwise(chosen)]
    assert all(gap in (math.floor(start / steps), math.ceil(start / steps)) for gap in gaps)


@given(st.sampled_from(["sd", "cosine", "flow"]), st.integers(1, 60), strengths)
def test_a_plan_has_exactly_k_evaluations_or_says_what_would_fit(name, steps, strength):
    try:
        plan = make_sampling_path(SCHEDULES[name], steps=steps, strength=strength)
    except LevelError as error:
        assert "the nearest that fits" in str(error)
        return
    assert plan.evaluations == len(set(plan.timesteps)) == steps
    assert all(before > after for before, after in pairwise(plan.timesteps))
    if name != "flow":
        assert plan.timesteps[0] <= 1000 * strength < plan.timesteps[0] + 1 + 20 + 1e-6


@given(st.sampled_from([50, 100, 200, 250, 500, 1000]), strengths)
def test_start_level_is_the_last_at_or_below_the_strength(size, strength):
    level = start_level(size, strength)
    assert level / size <= strength + 1e-9 / size * 2 and strength < (level + 1) / size


@given(st.sampled_from(["sd", "cosine", "flow"]), st.integers(1, 49), st.floats(0.0, 1.0), seeds)
def test_noise_added_from_below_restores_the_level(name, id_, gamma, seed):
    level = TABLES[name][id_]
    below = level_below(SCHEDULES[name], level, gamma)
    assert below.sigma <= level.sigma
    one, zero = torch.ones(1), torch.zeros(1)
    signal = add_noise(below.alpha * one, zero, from_level=below, to_level=level).item()
    noises = [
        add_noise(below.sigma * one, zero, from_level=below, to_level=level).item(),
        add_noise(zero, one, from_level=below, to_level=level).item(),
    ]
    assert signal == pytest.approx(level.alpha, rel=1e-6)
    assert math.hypot(*noises) == pytest.approx(level.sigma, rel=1e-6)


@given(st.floats(0, 30), seeds)
def test_guidance_forms_agree(guidance, seed):
    cond, uncond = draw(seed, 2, 3), draw(seed + 1, 2, 3)
    omega = to_omega(guidance)
    assert from_omega(omega) == pytest.approx(guidance, abs=1e-14)
    truth = cond + omega * (cond - uncond)
    torch.testing.assert_close(guide(cond, uncond, guidance), truth, rtol=0, atol=1e-13 * (1 + guidance))


@given(seeds, st.integers(0, 2**63 - 1), st.integers(1, 6), st.integers(1, 6))
def test_noise_of_a_sample_does_not_depend_on_its_batch(seed, sample_id, before, after):
    """Stacked with any neighbours, in any order, a sample keeps its noise."""
    batch = torch.stack(
        [
            make_noise((2, 3, 3), seed, sample_id ^ index)
            for index in (*range(1, before), 0, *range(7, 7 + after))
        ]
    )
    assert torch.equal(batch[before - 1], make_noise((2, 3, 3), seed, sample_id))


@given(st.integers(1, 4), st.integers(0, 3), seeds)
def test_per_sample_scales_equal_single_ones(size, extra_dims, seed):
    x, y = draw(seed, size, *[2] * extra_dims), draw(seed + 1, size, *[2] * extra_dims)
    scales = draw(seed + 2, size)
    together = combine((scales, x), (2.0, y))
    for index in range(size):
        alone = combine((scales[index].item(), x[index : index + 1]), (2.0, y[index : index + 1]))
        assert torch.equal(together[index : index + 1], alone)
    assert torch.equal(combine((scales[0], x)), combine((scales[0].item(), x)))


def test_levels_compare_by_value():
    assert Level(1, 19, 0.9, 0.1) == Level(1, 19, 0.9, 0.1) != Level(2, 19, 0.9, 0.1)
