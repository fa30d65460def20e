"""Steps, tables and timesteps against the schedulers of diffusers, an implementation of its own.

diffusers keeps its tables in float32. Tables are compared at that accuracy; steps are compared in float64
after its tables were replaced by ones computed here with numpy, so that a wrong formula cannot hide behind
rounding.
"""

import math

import diffusers
import numpy as np
import pytest
import torch

from stdcli.diffusion.levels import level_table, make_sampling_path, make_teacher_path
from stdcli.diffusion.predictions import PredictionType, to_x0_eps
from stdcli.diffusion.sample import sample, sample_trajectory
from stdcli.diffusion.schedule import NoiseSchedule

BETAS = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
}
SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
SHAPE = (2, 3, 4, 4)


def draw(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(x, t):
    """A smooth stand-in for a network, different at every time and pixel."""
    return torch.sin(1.3 * x + 0.01 * float(t)) + 0.2 * torch.cos(x.flip(-1))


def denoiser(kind):
    def denoise(x, level):
        return to_x0_eps(network(x, level.t), x, alpha=level.alpha, sigma=level.sigma, kind=kind)

    return denoise


def give_float64_tables(scheduler, *, zero_snr=False):
    roots = np.sqrt(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    if zero_snr:
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    scheduler.alphas_cumprod = torch.from_numpy(roots**2)
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    return scheduler


def ddim(**options):
    scheduler = diffusers.DDIMScheduler(
        **BETAS, timestep_spacing="trailing", set_alpha_to_one=False, clip_sample=False, **options
    )
    return give_float64_tables(scheduler, zero_snr=options.get("rescale_betas_zero_snr", False))


def run(scheduler, x, timesteps, **options):
    states = [x]
    for t in timesteps:
        states.append(scheduler.step(network(states[-1], t), t, states[-1], **options).prev_sample)
    return states


@pytest.mark.parametrize(
    "options",
    [
        BETAS,
        BETAS | {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        BETAS | {"beta_schedule": "squaredcos_cap_v2"},
        BETAS | {"rescale_betas_zero_snr": True},
        {"trained_betas": [0.01, 0.05, 0.2, 0.6]},
        {"trained_betas": np.linspace(1e-4, 0.03, 300).tolist(), "rescale_betas_zero_snr": True},
    ],
)
def test_tables_from_a_scheduler_configuration(options):
    scheduler = diffusers.DDIMScheduler(**options)
    ours = NoiseSchedule.from_config(dict(scheduler.config))
    theirs = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(ours.alphas**2, theirs, rtol=5e-5, atol=1e-9)
    torch.testing.assert_close(ours.sigmas**2, 1 - theirs, rtol=5e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("size", [50, 20, 4])
def test_teacher_path_is_ddim(kind, size):
    scheduler = ddim(prediction_type=kind)
    scheduler.set_timesteps(size)
    plan = make_teacher_path(SD, num_solver_steps=size, strength=1.0)
    assert list(plan.timesteps) == scheduler.timesteps.tolist()
    theirs = torch.stack(run(scheduler, draw(0), scheduler.timesteps.tolist()), dim=1)
    ours = sample_trajectory(denoiser(PredictionType(kind)), draw(0), plan, schedule=SD)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_teacher_path_from_the_middle_is_ddim():
    scheduler = ddim()
    scheduler.set_timesteps(50)
    plan = make_teacher_path(SD, num_solver_steps=50, strength=0.75)
    theirs = run(scheduler, draw(0), scheduler.timesteps.tolist()[-37:])
    ours = sample_trajectory(denoiser(PredictionType.EPSILON), draw(0), plan, schedule=SD)
    torch.testing.assert_close(ours, torch.stack(theirs, dim=1), rtol=1e-9, atol=1e-9)


def test_zero_terminal_snr_path_is_ddim():
    scheduler = ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    scheduler.set_timesteps(10)
    schedule = SD.rescale_zero_terminal_snr()
    plan = make_teacher_path(schedule, num_solver_steps=10, strength=1.0)
    ours = sample_trajectory(denoiser(PredictionType.V), draw(0), plan, schedule=schedule)
    theirs = run(scheduler, draw(0), scheduler.timesteps.tolist())
    torch.testing.assert_close(ours, torch.stack(theirs, dim=1), rtol=1e-9, atol=1e-9)


def test_start_state_is_add_noise():
    scheduler = ddim()
    table = level_table(SD, 50)
    for id_ in (0, 1, 28, 37, 50):
        theirs = scheduler.add_noise(draw(0), draw(1), torch.tensor([table[id_].t]))
        ours = table[id_].alpha * draw(0) + table[id_].sigma * draw(1)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


STRENGTHS = sorted({*(round(0.01 * i, 2) for i in range(1, 101)), 1 / 3, 0.123, 0.755})


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8, 11, 22, 37])
def test_timesteps_are_tcds(steps):
    scheduler, compared = diffusers.TCDScheduler(**BETAS), 0
    for strength in STRENGTHS:
        start = math.floor(50 * strength + 1e-9)
        if start < steps or start != int(50 * strength):
            continue
        scheduler.set_timesteps(steps, strength=strength)
        assert (
            list(make_sampling_path(SD, steps=steps, strength=strength).timesteps)
            == scheduler.timesteps.tolist()
        )
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("steps", [1, 4, 6])
def test_gamma_sampling_is_tcd(kind, gamma, steps):
    scheduler = give_float64_tables(diffusers.TCDScheduler(**BETAS, prediction_type=kind))
    scheduler.set_timesteps(steps, strength=0.75)
    timesteps = scheduler.timesteps.tolist()
    theirs = run(scheduler, draw(0), timesteps, eta=gamma, generator=torch.Generator().manual_seed(9))
    ours, generator = [], torch.Generator().manual_seed(9)
    sample(
        denoiser(PredictionType(kind)),
        draw(0),
        make_sampling_path(SD, steps=steps, strength=0.75),
        schedule=SD,
        gamma=gamma,
        make_step_noise=lambda index: torch.randn(SHAPE, generator=generator, dtype=torch.float64),
        on_step=lambda index, level, x: ours.append(x),
    )
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-9, atol=1e-9)


def test_explicit_timesteps_off_the_grid_are_tcds():
    timesteps = [749, 512, 300, 77]
    scheduler = give_float64_tables(diffusers.TCDScheduler(**BETAS))
    scheduler.set_timesteps(timesteps=timesteps, strength=1.0)
    theirs = run(scheduler, draw(0), timesteps, eta=0.0)
    ours = sample_trajectory(
        denoiser(PredictionType.EPSILON), draw(0), make_sampling_path(SD, timesteps=timesteps), schedule=SD
    )
    torch.testing.assert_close(ours, torch.stack(theirs, dim=1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 4, 8])
def test_renoise_is_lcm(kind, steps):
    """LCM's boundary scalings differ from 0 and 1 by less than 1e-6 here; a large scaling removes them."""
    options = {"prediction_type": kind, "clip_sample": False, "timestep_scaling": 1e9}
    scheduler = give_float64_tables(diffusers.LCMScheduler(**BETAS, **options))
    scheduler.set_timesteps(steps, strength=0.75)
    timesteps = scheduler.timesteps.tolist()
    theirs = run(scheduler, draw(0), timesteps, generator=torch.Generator().manual_seed(9))
    ours, generator = [], torch.Generator().manual_seed(9)
    plan = make_sampling_path(SD, steps=steps, strength=0.75, final="x0")
    assert list(plan.timesteps) == timesteps
    sample(
        denoiser(PredictionType(kind)),
        draw(0),
        plan,
        schedule=SD,
        sampler="renoise",
        make_step_noise=lambda index: torch.randn(SHAPE, generator=generator, dtype=torch.float64),
        on_step=lambda index, level, x: ours.append(x),
    )
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [5, 10])
def test_flow_path_is_euler(shift, steps):
    """Its tables are float32 and its states are cast to it, hence the tolerance."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=[j / steps for j in range(steps, 0, -1)])
    schedule = NoiseSchedule.from_config(dict(scheduler.config, _class_name=type(scheduler).__name__))
    plan = make_teacher_path(schedule, num_solver_steps=steps, strength=1.0)
    np.testing.assert_allclose(plan.timesteps, scheduler.timesteps.numpy(), rtol=1e-6)
    np.testing.assert_allclose([level.sigma for level in plan.levels], scheduler.sigmas.numpy(), rtol=1e-6)
    theirs = run(scheduler, draw(0).float(), scheduler.timesteps)
    ours = sample_trajectory(denoiser(PredictionType.FLOW), draw(0), plan, schedule=schedule)
    torch.testing.assert_close(ours, torch.stack(theirs, dim=1).double(), rtol=1e-5, atol=1e-5)


def test_flow_table_is_diffusers_training_table():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    np.testing.assert_allclose(
        NoiseSchedule.flow(3.0).sigmas[1:].flip(0), scheduler.sigmas.numpy(), rtol=1e-6
    )
