"""A teacher with a known answer: for data N(m, s^2) the exact noise and the whole ODE path are closed forms.

At a level the state is N(alpha m, alpha^2 s^2 + sigma^2), so
    eps-hat = sigma (x - alpha m) / (alpha^2 s^2 + sigma^2)
    x0-hat = m + alpha s^2 (x - alpha m) / (alpha^2 s^2 + sigma^2)
and along the probability-flow ODE (x - alpha m) / sqrt(alpha^2 s^2 + sigma^2) does not change.
"""

import math
from itertools import pairwise

import pytest
import torch

from stdcli.diffusion.levels import Level, level_table, make_sampling_path, make_teacher_path, pick_levels
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.predictions import Denoised, PredictionType, to_x0_eps
from stdcli.diffusion.sample import sample, sample_trajectory
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import jump

MEAN, STD = 0.7, 0.4
SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
SCHEDULES = {"sd": SD, "flow": NoiseSchedule.flow(3.0), "cosine": NoiseSchedule.cosine(1000)}


def spread(level, std=STD):
    return math.sqrt((level.alpha * std) ** 2 + level.sigma**2)


def teacher(kind=PredictionType.EPSILON, std=STD):
    """A network of any kind that knows the data's distribution."""

    def denoise(x, level):
        centered = (x - level.alpha * MEAN) / spread(level, std) ** 2
        x0, eps = MEAN + level.alpha * std**2 * centered, level.sigma * centered
        outputs = {
            PredictionType.EPSILON: eps,
            PredictionType.V: level.alpha * eps - level.sigma * x0,
            PredictionType.SAMPLE: x0,
            PredictionType.FLOW: eps - x0,
        }
        return to_x0_eps(outputs[kind], x, alpha=level.alpha, sigma=level.sigma, kind=kind)

    return denoise


def exact(x, source, target):
    """The ODE's solution from level `source` to level `target`."""
    return target.alpha * MEAN + spread(target) / spread(source) * (x - source.alpha * MEAN)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def end_of(schedule, steps):
    """The end of a path of `steps` equal steps, and where it should be."""
    plan = make_sampling_path(schedule, steps=steps, strength=0.75, num_solver_steps=1000)
    x = draw(64)[:, None]
    end = sample(teacher(), x, plan, schedule=schedule)
    return end, exact(x, plan.levels[0], plan.levels[-1])


@pytest.mark.parametrize("name", SCHEDULES)
def test_path_converges_to_the_closed_form_at_first_order(name):
    """Errors halve with the step, as of a first-order solver, and extrapolating them away leaves nothing."""
    ends = {steps: end_of(SCHEDULES[name], steps) for steps in (25, 50, 125, 250)}
    errors = [(end - truth).abs().max().item() for end, truth in ends.values()]
    for (coarse, error), (fine, smaller) in pairwise(zip(ends, errors, strict=True)):
        assert error / smaller == pytest.approx(fine / coarse, rel=0.1)
    extrapolated = 2 * ends[250][0] - ends[125][0]
    torch.testing.assert_close(extrapolated, ends[250][1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_state_of_a_fine_path_lies_on_the_curve(name):
    plan = make_teacher_path(SCHEDULES[name], num_solver_steps=1000, strength=0.75)
    x = draw(16)[:, None]
    states = sample_trajectory(teacher(), x, plan, schedule=SCHEDULES[name])
    for index in range(0, len(plan.levels), 50):
        truth = exact(x, plan.levels[0], plan.levels[index])
        torch.testing.assert_close(states[:, index], truth, rtol=0, atol=8e-3)


@pytest.mark.parametrize("name", ["sd", "flow"])
def test_every_state_of_a_clips_path_lies_on_the_curve(name):
    """[B, C, F, h, w], channels and frames with spreads of their own; and each value as it goes alone."""
    path = make_teacher_path(SCHEDULES[name], num_solver_steps=1000, strength=0.75)
    scale = torch.tensor([0.5, 1.5]).view(2, 1, 1, 1) + torch.arange(3).view(3, 1, 1) / 4
    x = scale * draw(2, 2, 3, 2, 4)
    states = sample_trajectory(teacher(), x, path, schedule=SCHEDULES[name])
    assert states.shape == (2, len(path.levels), 2, 3, 2, 4)
    for index in range(0, len(path.levels), 50):
        truth = exact(x, path.levels[0], path.levels[index])
        torch.testing.assert_close(states[:, index], truth, rtol=0, atol=2e-2)
    alone = sample_trajectory(teacher(), x.reshape(-1, 1), path, schedule=SCHEDULES[name])
    torch.testing.assert_close(alone.reshape(2, 2, 3, 2, 4, -1).movedim(-1, 1), states, rtol=0, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_clips_of_a_batch_jump_each_between_its_own_levels(name):
    """Data of zero spread, for which one jump is exact, on [B, C, F, h, w]."""
    table = level_table(SCHEDULES[name], 50)
    source, target = (pick_levels(table, torch.tensor(ids)) for ids in ((40, 30, 20), (31, 30, 2)))
    x = draw(3, 2, 4, 3, 5)
    denoised = Denoised(torch.full_like(x, MEAN), torch.zeros_like(x))
    for k in range(3):
        denoised.eps[k] = (x[k] - source.alpha[k] * MEAN) / source.sigma[k]
    moved = jump(x, denoised, from_level=source, to_level=target)
    for k in range(3):
        truth = target.alpha[k] * MEAN + target.sigma[k] / source.sigma[k] * (x[k] - source.alpha[k] * MEAN)
        torch.testing.assert_close(moved[k], truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [PredictionType.EPSILON, PredictionType.V, PredictionType.SAMPLE])
def test_all_predictions_walk_the_same_path(kind):
    plan = make_sampling_path(SD, steps=6, strength=0.95)
    x = draw(8)[:, None]
    expected = sample(teacher(), x, plan, schedule=SD)
    torch.testing.assert_close(sample(teacher(kind), x, plan, schedule=SD), expected, rtol=0, atol=1e-12)


def test_flow_prediction_walks_the_same_path():
    schedule = SCHEDULES["flow"]
    plan = make_sampling_path(schedule, steps=6, strength=0.9)
    x = draw(8)[:, None]
    expected = sample(teacher(), x, plan, schedule=schedule)
    torch.testing.assert_close(
        sample(teacher(PredictionType.FLOW), x, plan, schedule=schedule), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_point_is_reached_in_any_number_of_steps(name, steps):
    """Data of zero spread: x0-hat is m at once, and the first eps-hat holds for the whole path."""
    plan = make_sampling_path(SCHEDULES[name], steps=steps, strength=0.75)
    start, end = plan.levels[0], plan.levels[-1]
    x = draw(8)[:, None]
    truth = end.alpha * MEAN + end.sigma * (x - start.alpha * MEAN) / start.sigma
    torch.testing.assert_close(
        sample(teacher(std=0.0), x, plan, schedule=SCHEDULES[name]), truth, rtol=0, atol=1e-12
    )


def test_zero_terminal_snr_reaches_the_data_from_pure_noise():
    schedule = SD.rescale_zero_terminal_snr()
    plan = make_sampling_path(schedule, steps=1000, strength=1.0)
    x = draw(64)[:, None]
    end = sample(teacher(PredictionType.V), x, plan, schedule=schedule)
    torch.testing.assert_close(end, exact(x, plan.levels[0], plan.levels[-1]), rtol=0, atol=8e-3)


def squared_gain_of_jump(source, target):
    """The teacher is linear in the state: its jump scales the distance from the mean."""
    gain = (target.alpha * source.alpha * STD**2 + target.sigma * source.sigma) / spread(source) ** 2
    return gain**2


def variance_after(schedule, plan, gamma):
    """Variance at the end of a path that starts in the marginal; gamma None is renoising."""
    variance = spread(plan.levels[0]) ** 2
    for source, target in pairwise(plan.levels[:-1]):
        if gamma is None:
            gain = target.alpha * source.alpha * STD**2 / spread(source) ** 2
            variance = gain**2 * variance + target.sigma**2
            continue
        if schedule.kind == "vp":
            row = int((1 - gamma) * target.t + 1e-6)
            alpha, sigma = schedule.alphas[row].item(), schedule.sigmas[row].item()
        else:
            sigma = (1 - gamma) * target.sigma
            alpha = 1 - sigma
        below = Level(0, 0, alpha, sigma)
        kept = (target.alpha / alpha) ** 2
        variance = kept * squared_gain_of_jump(source, below) * variance + target.sigma**2 - kept * sigma**2
    return squared_gain_of_jump(*plan.levels[-2:]) * variance


@pytest.mark.parametrize("name", ["sd", "flow"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, None])
def test_stochastic_sampling_has_the_closed_forms_variance(name, gamma):
    """Stale noise, a wrong root or a level off by one changes the variance of 40,000 samples."""
    schedule = SCHEDULES[name]
    plan = make_sampling_path(schedule, steps=6, strength=0.9)
    start, end = plan.levels[0], plan.levels[-1]
    options = {"sampler": "renoise"} if gamma is None else {"gamma": gamma}
    x = start.alpha * MEAN + spread(start) * draw(40_000)
    noise = {"make_step_noise": lambda index: draw(40_000, seed=index)}
    out = sample(teacher(), x, plan, schedule=schedule, **options, **noise)
    assert out.mean().item() == pytest.approx(end.alpha * MEAN, abs=0.006)
    assert out.var().item() == pytest.approx(variance_after(schedule, plan, gamma), rel=0.03)


def test_float32_walk_stays_near_float64():
    plan = make_teacher_path(SD, num_solver_steps=50, strength=1.0)
    x = torch.stack([make_noise((4, 8, 8), 0, index) for index in range(2)])
    single = sample_trajectory(teacher(), x, plan, schedule=SD)
    double = sample_trajectory(teacher(), x.double(), plan, schedule=SD)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=5e-6)
