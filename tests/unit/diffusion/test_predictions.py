"""Conversions of predictions against formulas by hand, at the ends of schedules and in half precision."""

import diffusers
import pytest
import torch

from stdcli.diffusion.levels import LevelError, make_sampling_path
from stdcli.diffusion.predictions import (
    Denoised,
    PredictionType,
    check_path,
    from_x0_eps,
    prediction_of,
    to_x0_eps,
)
from stdcli.diffusion.schedule import NoiseSchedule

SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
EPS, V, SAMPLE, FLOW = PredictionType


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_names_are_those_of_scheduler_configurations():
    assert [str(kind) for kind in PredictionType] == ["epsilon", "v_prediction", "sample", "flow"]


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, FLOW),
        ({"_class_name": "FlowMatchLCMScheduler", "prediction_type": "epsilon"}, FLOW),
        ({"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, FLOW),
        ({"use_flow_sigmas": True, "prediction_type": "flow_prediction"}, FLOW),
        ({"use_flow_sigmas": True, "prediction_type": "v_prediction"}, V),
        (diffusers.UniPCMultistepScheduler.from_config({"use_flow_sigmas": True}).config, FLOW),
        ({"_class_name": "UniPCMultistepScheduler"}, EPS),
        ({"_class_name": "DDIMScheduler", "prediction_type": "sample"}, SAMPLE),
    ],
)
def test_what_a_scheduler_configuration_says_of_its_network(config, kind):
    assert prediction_of(config) is kind


def test_values_by_hand():
    """At alpha .6, sigma .8 the state of x0 = 1, eps = 2 is 2.2."""
    x = torch.tensor([[2.2]], dtype=torch.float64)
    said = {EPS: 2.0, V: 0.6 * 2 - 0.8 * 1, SAMPLE: 1.0}
    for kind, value in said.items():
        denoised = to_x0_eps(torch.full_like(x, value), x, alpha=0.6, sigma=0.8, kind=kind)
        assert (denoised.x0.item(), denoised.eps.item()) == pytest.approx((1, 2), abs=1e-12)
        output = from_x0_eps(denoised, alpha=0.6, sigma=0.8, kind=kind)
        assert output.item() == pytest.approx(value, abs=1e-12)


def test_flow_values_by_hand():
    """At sigma .75 the state of x0 = 1, eps = 3 is 2.5, and the velocity is 2."""
    x, velocity = torch.full((1, 1), 2.5, dtype=torch.float64), torch.full((1, 1), 2.0, dtype=torch.float64)
    denoised = to_x0_eps(velocity, x, alpha=0.25, sigma=0.75, kind=FLOW)
    assert denoised.x0.item() == 2.5 - 0.75 * 2 and denoised.eps.item() == 2.5 + 0.25 * 2
    assert from_x0_eps(denoised, alpha=0.25, sigma=0.75, kind=FLOW).item() == 2


def test_epsilon_is_kept_bit_by_bit():
    output, x = draw(2, 3, 4, 4, dtype=torch.float32), draw(2, 3, 4, 4, seed=1, dtype=torch.float32)
    assert torch.equal(to_x0_eps(output, x, alpha=0.068, sigma=0.9977, kind=EPS).eps, output)
    assert torch.equal(to_x0_eps(output, x, alpha=0.068, sigma=0.9977, kind=SAMPLE).x0, output)


def test_levels_per_sample_equal_one_at_a_time():
    output, x = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    rows = torch.tensor([999, 5, 500])
    for kind in (EPS, V, SAMPLE):
        batched = to_x0_eps(output, x, alpha=SD.alphas[rows], sigma=SD.sigmas[rows], kind=kind)
        target = from_x0_eps(batched, alpha=SD.alphas[rows], sigma=SD.sigmas[rows], kind=kind)
        torch.testing.assert_close(target, output, rtol=0, atol=1e-10)
        for index, row in enumerate(rows.tolist()):
            at = {"alpha": SD.alphas[row].item(), "sigma": SD.sigmas[row].item(), "kind": kind}
            single = to_x0_eps(output[index : index + 1], x[index : index + 1], **at)
            torch.testing.assert_close(batched.x0[index : index + 1], single.x0, rtol=1e-13, atol=0)
            torch.testing.assert_close(batched.eps[index : index + 1], single.eps, rtol=1e-13, atol=1e-15)


def test_a_batch_of_other_size_is_refused():
    with pytest.raises(ValueError, match=r"scales \[2\] do not fit a batch of shape \[3, 1\]"):
        to_x0_eps(draw(3, 1), draw(3, 1), alpha=SD.alphas[:2], sigma=SD.sigmas[:2], kind=V)


def test_v_works_in_pure_noise_and_epsilon_does_not():
    rescaled = SD.rescale_zero_terminal_snr()
    alpha, sigma = rescaled.alphas[-1].item(), rescaled.sigmas[-1].item()
    output, x = draw(2, 3), draw(2, 3, seed=1)
    denoised = to_x0_eps(output, x, alpha=alpha, sigma=sigma, kind=V)
    assert torch.equal(denoised.x0, -output) and torch.equal(denoised.eps, x)
    with pytest.raises(LevelError, match=r"predicts epsilon says nothing in pure noise \(alpha 0\)"):
        to_x0_eps(output, x, alpha=alpha, sigma=sigma, kind=EPS)
    with pytest.raises(LevelError, match="epsilon says nothing"):
        to_x0_eps(output, x, alpha=rescaled.alphas[[0, -1]], sigma=rescaled.sigmas[[0, -1]], kind=EPS)


@pytest.mark.parametrize(("kind", "works"), [(EPS, False), (V, True), (FLOW, True), (SAMPLE, True)])
def test_a_path_from_pure_noise_is_refused_for_epsilon_alone(kind, works):
    plan = make_sampling_path(SD.rescale_zero_terminal_snr(), steps=4, strength=1.0)
    check_path(make_sampling_path(SD, steps=4, strength=1.0), kind)
    if works:
        check_path(plan, kind)
        return
    message = r"level 50 \(t 999\): .* pure noise \(alpha 0\); use a lower strength"
    with pytest.raises(LevelError, match=message):
        check_path(plan, kind)
    check_path(make_sampling_path(SD.rescale_zero_terminal_snr(), steps=4, strength=0.98), kind)


def test_flow_works_at_both_ends_and_sample_not_in_clean_data():
    output, x = draw(2, 3), draw(2, 3, seed=1)
    noise = to_x0_eps(output, x, alpha=0.0, sigma=1.0, kind=FLOW)
    assert torch.equal(noise.x0, x - output) and torch.equal(noise.eps, x)
    clean = to_x0_eps(output, x, alpha=1.0, sigma=0.0, kind=FLOW)
    assert torch.equal(clean.x0, x) and torch.equal(clean.eps, x + output)
    with pytest.raises(LevelError, match=r"predicts sample says nothing in clean data \(sigma 0\)"):
        to_x0_eps(output, x, alpha=1.0, sigma=0.0, kind=SAMPLE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_amplified_at_the_top(dtype):
    """x0 = (x - sigma e)/alpha multiplies rounding by 15 at t 999: maths and result must be float32."""
    alpha, sigma = SD.alphas[999].item(), SD.sigmas[999].item()
    output, x = draw(1, 4, 8, 8).to(dtype), draw(1, 4, 8, 8, seed=1).to(dtype)
    denoised = to_x0_eps(output, x, alpha=alpha, sigma=sigma, kind=EPS)
    assert denoised.x0.dtype == denoised.eps.dtype == torch.float32
    truth = (x.double() - sigma * output.double()) / alpha
    torch.testing.assert_close(denoised.x0.double(), truth, rtol=0, atol=1e-6 * truth.abs().max().item())


def test_float64_stays_and_mixtures_are_widened():
    one, half = draw(1, 2), draw(1, 2).to(torch.bfloat16)
    assert to_x0_eps(one, one, alpha=0.6, sigma=0.8, kind=V).x0.dtype == torch.float64
    assert to_x0_eps(half, one.float(), alpha=0.6, sigma=0.8, kind=V).x0.dtype == torch.float32
    assert from_x0_eps(Denoised(half, half), alpha=0.6, sigma=0.8, kind=V).dtype == torch.float32


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'score'"):
        to_x0_eps(draw(1), draw(1), alpha=0.6, sigma=0.8, kind="score")
