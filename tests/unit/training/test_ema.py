"""Averages of weights against the sum they stand for."""

from __future__ import annotations

import pytest
import torch

from stdcli.training.ema import Ema


def closed_form(values: list[float], decay: float) -> float:
    """a_n = sum_k w_k (1 - d_k) prod_(j > k) d_j, with d_n = min(decay, (1 + n) / (10 + n))."""
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(len(values) - 1)]
    total, weight = 0.0, 1.0
    for value, d in zip(reversed(values[1:]), reversed(decays), strict=True):
        total += value * (1 - d) * weight
        weight *= d
    return total + values[0] * weight


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_the_average_is_the_weighted_sum_of_what_it_saw(decay: float) -> None:
    values = [4.0, -1.0, 2.5, 3.0, 0.5, 8.0, -2.0, 1.0]
    live = {"w": torch.tensor([values[0]], dtype=torch.float64)}
    ema = Ema(live, decay=decay)
    for value in values[1:]:
        live["w"].fill_(value)
        ema.update()
    assert ema.average["w"].item() == pytest.approx(closed_form(values, decay), rel=1e-12)
    assert ema.updates == len(values) - 1


def test_the_decay_reaches_its_limit() -> None:
    live = {"w": torch.zeros(1, dtype=torch.float64)}
    ema = Ema(live, decay=0.9)
    ema.updates = 1000
    live["w"].fill_(1)
    ema.update()
    assert ema.average["w"].item() == pytest.approx(0.1)


def test_whole_numbers_are_not_averaged() -> None:
    ema = Ema({"ids": torch.arange(3), "w": torch.zeros(2)}, decay=0.9)
    ema.update()
    assert set(ema.average) == {"w"}


def test_applied_weights_are_averages_inside_and_themselves_afterwards() -> None:
    linear = torch.nn.Linear(3, 2)
    ema = Ema(linear.state_dict(), decay=0.9)
    with torch.no_grad():
        linear.weight += 1
    ema.update()
    live, average = linear.weight.detach().clone(), ema.average["weight"].clone()
    assert not torch.equal(live, average)
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        assert torch.equal(linear.weight, average)
        raise RuntimeError("inside")
    assert torch.equal(linear.weight, live)
    assert torch.equal(ema.average["weight"], average)
