"""Schedules against numpy and published values."""

import hashlib
import json

import diffusers
import numpy as np
import pytest
import torch

from stdcli.diffusion.schedule import NoiseSchedule, ScheduleError


def scaled_linear_alpha_bars(start=0.00085, end=0.012, total=1000):
    return np.cumprod(1 - np.linspace(start**0.5, end**0.5, total) ** 2)


SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)


def test_scaled_linear_is_the_cumulative_product():
    bars = scaled_linear_alpha_bars()
    np.testing.assert_allclose(SD.alphas.numpy(), np.sqrt(bars), rtol=1e-12)
    np.testing.assert_allclose(SD.sigmas.numpy(), np.sqrt(1 - bars), rtol=1e-11)


def test_published_values_of_the_sd_schedule():
    assert SD.alphas[0].item() ** 2 == pytest.approx(0.99915, abs=5e-6)
    assert SD.sigmas[0].item() == pytest.approx(0.02916, abs=1e-5)
    assert SD.alphas[999].item() ** 2 == pytest.approx(0.00466, abs=5e-6)
    assert (SD.sigmas[749] / SD.alphas[749]).item() == pytest.approx(4.08, abs=5e-3)


def test_linear_and_cosine_against_numpy():
    linear = NoiseSchedule.linear(0.0001, 0.02, 1000)
    np.testing.assert_allclose(linear.alphas**2, np.cumprod(1 - np.linspace(0.0001, 0.02, 1000)), rtol=1e-11)
    grid = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    bars = np.cumprod(1 - np.minimum(1 - grid[1:] / grid[:-1], 0.999))
    cosine = NoiseSchedule.cosine(1000)
    np.testing.assert_allclose(cosine.alphas**2, bars, rtol=1e-9)
    assert (cosine.alphas[-1] / cosine.alphas[-2]).item() ** 2 == pytest.approx(0.001, rel=1e-9)


@pytest.mark.parametrize("schedule", [SD, NoiseSchedule.linear(1e-4, 0.02, 100), NoiseSchedule.cosine(64)])
def test_vp_tables_are_float64_and_on_the_circle(schedule):
    assert schedule.alphas.dtype == schedule.sigmas.dtype == torch.float64
    assert len(schedule.alphas) == schedule.num_train_timesteps
    torch.testing.assert_close(
        schedule.alphas**2 + schedule.sigmas**2, torch.ones_like(schedule.alphas), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize(("shift", "expected"), [(1, 0.75), (3, 0.9), (5, 0.9375), (8, 0.96)])
def test_flow_shift(shift, expected):
    schedule = NoiseSchedule.flow(shift)
    assert schedule.sigmas[750].item() == pytest.approx(expected, abs=1e-12)
    assert schedule.sigmas[0].item() == 0 and schedule.alphas[0].item() == 1
    assert schedule.sigmas[1000].item() == 1 and schedule.alphas[1000].item() == 0
    assert torch.equal(schedule.alphas, 1 - schedule.sigmas)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["UniPCMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "SASolver"]
)
def test_flow_sigmas_of_other_schedulers_are_theirs(name):
    """diffusers' own objects visit 1000 points of the way to noise; that of UniPC's ends in noise."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    schedule = NoiseSchedule.from_config({"_class_name": type(scheduler).__name__, **scheduler.config})
    scheduler.set_timesteps(1000)
    assert schedule.kind == "flow"
    sigmas = scheduler.sigmas[:-1].double().flip(0)
    rows = 0.999 * np.arange(1, 1001) + (name == "UniPCMultistep")
    expected = np.interp(rows, np.arange(1001), schedule.sigmas.numpy())
    np.testing.assert_allclose(sigmas.numpy(), expected, rtol=0, atol=1e-5)
    times = scheduler.timesteps.double().flip(0)
    torch.testing.assert_close(times, 1000 * sigmas, rtol=0, atol=1.001)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete", "FlowMatchLCM"])
def test_flow_schedulers_have_our_sigmas_and_times(name):
    scheduler = getattr(diffusers, f"{name}Scheduler")(shift=3.0)
    schedule = NoiseSchedule.from_config({"_class_name": type(scheduler).__name__, **scheduler.config})
    torch.testing.assert_close(scheduler.sigmas.double().flip(0), schedule.sigmas[1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(
        scheduler.timesteps.double().flip(0), 1000 * schedule.sigmas[1:], rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}, "'EDMEulerScheduler' is not known"),
        ({"_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": 3.0}, "is not known"),
        ({"_class_name": "SomeFlowMatchScheduler"}, "is not known"),
        ({"_class_name": "DDIMScheduler", "prediction_type": "flow_prediction"}, "belongs to use_flow"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "'continuous'"),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "use_dynamic_shifting": True},
         "use_dynamic_shifting"),
    ],
)  # fmt: skip
def test_schedulers_of_other_formulations_are_refused(config, message):
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    with pytest.raises(ScheduleError, match=message):
        NoiseSchedule.from_config({"num_train_timesteps": 1000, **betas, **config})


def test_zero_terminal_snr_keeps_the_first_row_and_ends_in_noise():
    rescaled = SD.rescale_zero_terminal_snr()
    assert rescaled.alphas[-1].item() == 0 and rescaled.sigmas[-1].item() == 1
    assert rescaled.alphas[0].item() == pytest.approx(SD.alphas[0].item(), rel=1e-14)
    middle = (SD.alphas[500] - SD.alphas[999]) * SD.alphas[0] / (SD.alphas[0] - SD.alphas[999])
    assert rescaled.alphas[500].item() == pytest.approx(middle.item(), rel=1e-12)
    with pytest.raises(ScheduleError, match="only VP"):
        NoiseSchedule.flow().rescale_zero_terminal_snr()


def test_betas_may_end_in_one():
    schedule = NoiseSchedule.from_betas([0.1, 0.5, 1.0])
    assert schedule.alphas.tolist() == pytest.approx([0.9**0.5, 0.45**0.5, 0.0])
    assert schedule.sigmas.tolist() == pytest.approx([0.1**0.5, 0.55**0.5, 1.0])


@pytest.mark.parametrize(
    "betas", [[0.1], [0.1, 0.0], [0.1, -0.1], [1.0, 0.1], [0.1, 1.1], [0.1, float("nan")]]
)
def test_wrong_betas_are_refused(betas):
    with pytest.raises(ScheduleError, match="beta"):
        NoiseSchedule.from_betas(betas)


@pytest.mark.parametrize("shift", [0, -1, float("inf"), float("nan")])
def test_wrong_shift_is_refused(shift):
    with pytest.raises(ScheduleError, match="shift"):
        NoiseSchedule.flow(shift)


def test_wrong_tables_are_refused():
    ramp = torch.linspace(0, 1, 4, dtype=torch.float64)
    with pytest.raises(ScheduleError, match="neither 'vp' nor 'flow'"):
        NoiseSchedule("ve", ramp.flip(0), ramp, 4)
    with pytest.raises(ScheduleError, match=r"float64 \[5\]"):
        NoiseSchedule("flow", ramp.flip(0), ramp, 4)
    with pytest.raises(ScheduleError, match="float64"):
        NoiseSchedule("vp", ramp.flip(0).float(), ramp, 4)
    with pytest.raises(ScheduleError, match=r"\[0, 1\]"):
        NoiseSchedule("vp", 2 * ramp.flip(0), ramp, 4)
    with pytest.raises(ScheduleError, match="must fall"):
        NoiseSchedule("vp", ramp, ramp, 4)
    with pytest.raises(ScheduleError, match="at least 2"):
        NoiseSchedule.linear(0.1, 0.2, 1)


VP_CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}


def test_from_config_reads_every_kind():
    assert NoiseSchedule.from_config(VP_CONFIG).fingerprint() == SD.fingerprint()
    rescaled = NoiseSchedule.from_config(VP_CONFIG | {"rescale_betas_zero_snr": True})
    assert rescaled.fingerprint() == SD.rescale_zero_terminal_snr().fingerprint()
    cosine = NoiseSchedule.from_config(VP_CONFIG | {"beta_schedule": "squaredcos_cap_v2"})
    assert cosine.fingerprint() == NoiseSchedule.cosine(1000).fingerprint()
    linear = NoiseSchedule.from_config(VP_CONFIG | {"beta_schedule": "linear"})
    assert linear.fingerprint() == NoiseSchedule.linear(0.00085, 0.012, 1000).fingerprint()
    trained = NoiseSchedule.from_config(
        json.loads(json.dumps(VP_CONFIG | {"trained_betas": [0.1, 0.2, 0.3]}))
    )
    assert trained.alphas.tolist() == pytest.approx([0.9**0.5, 0.72**0.5, 0.504**0.5])
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 1000}
    assert NoiseSchedule.from_config(flow).fingerprint() == NoiseSchedule.flow(3.0).fingerprint()


@pytest.mark.parametrize("key", ["beta_schedule", "beta_start", "beta_end", "num_train_timesteps"])
def test_from_config_names_the_missing_key(key):
    with pytest.raises(ScheduleError, match=key):
        NoiseSchedule.from_config({k: v for k, v in VP_CONFIG.items() if k != key})


def test_from_config_refuses_what_it_cannot_do():
    with pytest.raises(ScheduleError, match="'sigmoid' is not supported"):
        NoiseSchedule.from_config(VP_CONFIG | {"beta_schedule": "sigmoid"})
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    with pytest.raises(ScheduleError, match="use_dynamic_shifting=True"):
        NoiseSchedule.from_config(flow | {"use_dynamic_shifting": True})


def test_fingerprint_is_the_documented_hash_and_tells_schedules_apart():
    tiny = NoiseSchedule.from_betas([0.19, 1.0])
    text = "vp\n9.00000e-01 4.35890e-01\n0.00000e+00 1.00000e+00"
    assert tiny.fingerprint() == hashlib.sha256(text.encode()).hexdigest()
    others = [
        SD,
        SD.rescale_zero_terminal_snr(),
        NoiseSchedule.linear(0.00085, 0.012, 1000),
        NoiseSchedule.scaled_linear(0.00085, 0.0120001, 1000),
        NoiseSchedule.flow(),
        NoiseSchedule.flow(3.0),
        NoiseSchedule.cosine(1000),
    ]
    assert len({schedule.fingerprint() for schedule in others}) == len(others)
