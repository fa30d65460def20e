"""Guidance in both forms."""

import pytest
import torch

from stdcli.diffusion.guidance import from_omega, guide, to_omega

COND, UNCOND = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 0.5]])


@pytest.mark.parametrize(
    ("guidance", "expected"), [(2.0, [5.0, -2.5]), (7.5, [16.0, -10.75]), (0.5, [2.0, -0.25])]
)
def test_imagen_form_by_hand(guidance, expected):
    assert guide(COND, UNCOND, guidance)[0].tolist() == pytest.approx(expected)


def test_omega_form_is_the_same_prediction():
    for omega in (0.0, 0.5, 5.0):
        assert to_omega(from_omega(omega)) == omega
        torch.testing.assert_close(guide(COND, UNCOND, from_omega(omega)), COND + omega * (COND - UNCOND))
    assert to_omega(1.0) == 0 and from_omega(5.0) == 6


def test_off_and_unconditional_are_exact():
    cond, uncond = (torch.randn(2, 9, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(guide(cond, uncond, 1.0), cond)
    assert torch.equal(guide(cond, uncond, 0.0), uncond)
    assert guide(cond, None, 1.0) is cond


def test_one_guidance_per_sample():
    cond, uncond = COND.repeat(3, 1), UNCOND.repeat(3, 1)
    guided = guide(cond, uncond, torch.tensor([1.0, 2.0, 7.5], dtype=torch.float64))
    assert guided.tolist() == [[3.0, -1.0], [5.0, -2.5], [16.0, -10.75]]


def test_half_precision_is_combined_in_float32():
    cond, uncond = COND.half() * 1.001, UNCOND.half()
    guided = guide(cond, uncond, 7.5)
    assert guided.dtype == torch.float32
    torch.testing.assert_close(guided, uncond.float() + 7.5 * (cond.float() - uncond.float()))


@pytest.mark.parametrize("guidance", [2.0, 0.0, torch.ones(1)])
def test_guidance_without_unconditional_prediction(guidance):
    with pytest.raises(ValueError, match="needs an unconditional prediction"):
        guide(COND, None, guidance)
