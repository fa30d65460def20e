"""The K-step loop: what it evaluates, where it lands, whose noise it takes, and what stops it."""

import pytest
import torch

from stdcli.diffusion.levels import CLEAN, LevelError, level_below, make_sampling_path, make_teacher_path
from stdcli.diffusion.predictions import Denoised, PredictionType, to_x0_eps
from stdcli.diffusion.sample import sample, sample_trajectory
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import start_state
from stdcli.errors import NumericsError

SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
FLOW = NoiseSchedule.flow(3.0)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X0, EPS = draw(2, 3, 4, 4), draw(2, 3, 4, 4, seed=1)


def oracle(x, level):
    """A network that knows the picture and the noise: every path is the straight mixture of both."""
    return Denoised(X0, EPS)


def noise_of_level(index):
    return draw(2, 3, 4, 4, seed=100 + index)


@pytest.mark.parametrize("schedule", [SD, FLOW])
@pytest.mark.parametrize("strength", [0.35, 0.5, 0.65, 0.75, 0.85, 0.95])
@pytest.mark.parametrize("steps", [1, 2, 4, 6, 8])
def test_exactly_k_evaluations_at_the_levels_of_the_plan(schedule, strength, steps):
    plan, seen = make_sampling_path(schedule, steps=steps, strength=strength), []

    def denoise(x, level):
        seen.append(level)
        torch.testing.assert_close(x, start_state(X0, EPS, level), rtol=0, atol=1e-12)
        return oracle(x, level)

    end = sample(denoise, start_state(X0, EPS, plan.levels[0]), plan, schedule=schedule)
    assert seen == list(plan.levels[:-1]) and len({level.t for level in seen}) == steps
    torch.testing.assert_close(end, start_state(X0, EPS, plan.levels[-1]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"gamma": 0.4}, {"sampler": "renoise"}])
def test_final_x0_is_the_last_prediction(options):
    plan = make_sampling_path(SD, steps=3, strength=0.75, final="x0")
    end = sample(oracle, EPS, plan, schedule=SD, make_step_noise=noise_of_level, **options)
    assert torch.equal(end, X0)


def test_on_step_sees_every_state_with_its_level():
    plan, seen = make_sampling_path(SD, steps=4, strength=0.75), []
    start = start_state(X0, EPS, plan.levels[0])
    sample(oracle, start, plan, schedule=SD, on_step=lambda *step: seen.append(step))
    assert [index for index, _, _ in seen] == [0, 1, 2, 3, 4]
    for index, level, x in seen:
        assert level == plan.levels[index]
        torch.testing.assert_close(x, start_state(X0, EPS, level), rtol=0, atol=1e-12)


def test_what_on_step_returns_takes_the_states_place():
    plan, entered = make_sampling_path(SD, steps=3, strength=0.75), []

    def denoise(x, level):
        entered.append(x)
        return oracle(x, level)

    def replace(index, level, x):
        return torch.full_like(x, float(index))

    end = sample(denoise, EPS, plan, schedule=SD, on_step=replace)
    assert [x.unique().tolist() for x in (*entered, end)] == [[0.0], [1.0], [2.0], [3.0]]


def test_walk_keeps_the_whole_path():
    plan = make_teacher_path(SD, num_solver_steps=50, strength=0.75)
    states = sample_trajectory(oracle, start_state(X0, EPS, plan.levels[0]).float(), plan, schedule=SD)
    assert states.shape == (2, 38, 3, 4, 4) and states.dtype == torch.float32
    for index, level in enumerate(plan.levels):
        truth = start_state(X0, EPS, level).float()
        torch.testing.assert_close(states[:, index], truth, rtol=0, atol=1e-6)


def test_renoise_takes_fresh_noise_for_every_level_between():
    plan, asked, seen = make_sampling_path(SD, steps=4, strength=0.75), [], []

    def make_step_noise(index):
        asked.append(index)
        return noise_of_level(index)

    options = {"sampler": "renoise", "make_step_noise": make_step_noise}
    sample(oracle, EPS, plan, schedule=SD, on_step=lambda *step: seen.append(step), **options)
    assert asked == [1, 2, 3]
    for index, level, x in seen[1:4]:
        truth = SD.alphas[level.t] * X0 + SD.sigmas[level.t] * noise_of_level(index)
        torch.testing.assert_close(x, truth, rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[4][2], start_state(X0, EPS, plan.levels[4]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", [SD, FLOW])
def test_gamma_jumps_below_and_adds_fresh_noise(schedule):
    plan, asked, seen = make_sampling_path(schedule, steps=4, strength=0.75), [], []

    def make_step_noise(index):
        asked.append(index)
        return noise_of_level(index)

    options = {"gamma": 0.3, "make_step_noise": make_step_noise}
    sample(oracle, EPS, plan, schedule=schedule, on_step=lambda *step: seen.append(step), **options)
    assert asked == [1, 2, 3]
    for index, level, x in seen[1:4]:
        below = level_below(schedule, level, 0.3)
        assert below.sigma < level.sigma
        ratio = level.alpha / below.alpha
        spread = (level.sigma**2 - (ratio * below.sigma) ** 2) ** 0.5
        truth = ratio * (below.alpha * X0 + below.sigma * EPS) + spread * noise_of_level(index)
        torch.testing.assert_close(x, truth, rtol=0, atol=1e-12)


def test_noise_is_not_asked_for_in_one_step():
    plan = make_sampling_path(SD, steps=1, strength=0.75)
    for options in ({"gamma": 1.0}, {"sampler": "renoise"}):
        end = sample(oracle, EPS, plan, schedule=SD, **options)
        torch.testing.assert_close(end, start_state(X0, EPS, plan.levels[1]), rtol=0, atol=1e-12)


def test_half_precision_states_are_walked_in_float32():
    plan, dtypes = make_sampling_path(SD, steps=8, strength=0.95), []

    def denoise(x, level):
        dtypes.append(x.dtype)
        output = torch.tanh(x).to(torch.bfloat16)
        return to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=PredictionType.EPSILON)

    start = draw(1, 3, 4, 4).to(torch.bfloat16)
    end = sample(denoise, start, plan, schedule=SD)
    assert set(dtypes) == {torch.float32} and end.dtype == torch.bfloat16
    assert torch.equal(end, sample(denoise, start.float(), plan, schedule=SD).to(torch.bfloat16))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_names_its_level(bad):
    plan = make_sampling_path(SD, steps=4, strength=0.75)

    def denoise(x, level):
        x0 = X0.clone()
        if level.t == 559:
            x0[1, 2, 3, 0] = bad
        return Denoised(x0, EPS)

    with pytest.raises(NumericsError) as caught:
        sample(denoise, EPS, plan, schedule=SD)
    assert caught.value.where == "level 19 (t 379), after 2 of 4 evaluations"
    assert caught.value.got == "1 of 96 values not finite"
    with pytest.raises(NumericsError, match=r"level 37 \(t 739\), after 0 of 4 evaluations"):
        sample(oracle, EPS * bad, plan, schedule=SD)


def test_zero_terminal_snr_walks_with_v_and_not_with_epsilon():
    schedule = SD.rescale_zero_terminal_snr()
    plan = make_sampling_path(schedule, steps=4, strength=1.0)
    assert plan.levels[0].alpha == 0

    def denoise_with(kind):
        def denoise(x, level):
            if kind is PredictionType.V:
                output = level.alpha * EPS - level.sigma * X0
            else:
                output = EPS
            return to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=kind)

        return denoise

    end = sample(denoise_with(PredictionType.V), EPS, plan, schedule=schedule)
    torch.testing.assert_close(end, start_state(X0, EPS, plan.levels[-1]), rtol=0, atol=1e-12)
    with pytest.raises(LevelError, match="pure noise"):
        sample(denoise_with(PredictionType.EPSILON), EPS, plan, schedule=schedule)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "euler"}, "neither 'jump' nor 'renoise'"),
        ({"gamma": 1.1}, r"gamma 1.1 is not in \[0, 1\]"),
        ({"gamma": float("nan")}, "gamma nan"),
        ({"gamma": 0.1, "sampler": "renoise"}, "gamma belongs to the jump sampler"),
        ({"gamma": 0.1}, "needs make_step_noise"),
        ({"sampler": "renoise"}, "needs make_step_noise"),
    ],
)
def test_wrong_samplers(options, message):
    with pytest.raises(ValueError, match=message):
        sample(oracle, EPS, make_sampling_path(SD, steps=2, strength=0.75), schedule=SD, **options)


def test_clean_level_is_never_given_to_the_network():
    plan, seen = make_sampling_path(SD, steps=2, strength=0.75, final="x0"), []

    def denoise(x, level):
        seen.append(level)
        return oracle(x, level)

    sample(denoise, EPS, plan, schedule=SD)
    assert CLEAN not in seen
