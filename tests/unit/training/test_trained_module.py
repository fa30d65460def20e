"""Learning rates by hand, and trained modules that go on where they stopped."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from stdcli.training.trained_module import TrainedModule, make_lr_schedule


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.5),  # of 4: 2 x 1/4
        ("cosine", 3, 2.0),
        ("cosine", 4, 2.0),
        ("cosine", 7, 1 + math.cos(math.pi / 4)),  # 3 of 12
        ("cosine", 10, 1.0),
        ("cosine", 15, 1 + math.cos(math.pi * 11 / 12)),
        ("constant", 1, 1.0),
        ("constant", 4, 2.0),
        ("constant", 15, 2.0),
    ],
)
def test_rates_by_hand(schedule, step, expected) -> None:
    rate = make_lr_schedule(2.0, steps=16, warmup_steps=4, schedule=schedule)
    assert rate(step) == pytest.approx(expected)


def test_without_a_warm_up_the_first_rate_is_the_peak() -> None:
    assert make_lr_schedule(3.0, steps=5, warmup_steps=0, schedule="cosine")(0) == 3.0


def trained_of(*, scaled: bool = False, seed: int = 0, most: float = 1.0) -> TrainedModule:
    draw = torch.Generator().manual_seed(seed)
    module = torch.nn.Linear(3, 2)
    module.register_buffer("power", torch.randn(4, generator=draw))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw))
    parameters = dict(module.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=1.0, weight_decay=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3, enabled=scaled)
    return TrainedModule(
        "net",
        parameters,
        optimizer,
        make_lr_schedule(0.1, steps=8, warmup_steps=2, schedule="cosine"),
        most,
        buffers=dict(module.named_buffers()),
        scaler=scaler,
    )


def take(trained: TrainedModule, steps: range) -> list[float]:
    norms = []
    for step in steps:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        trained.backward((F.linear(x, **trained.parameters) - 1).square().mean())
        norms.append(trained.clip())
        trained.update(step)
        with torch.no_grad():
            trained.buffers["power"].mul_(0.9)
    return norms


def values(trained: TrainedModule) -> list[torch.Tensor]:
    return [*(p.detach().clone() for p in trained.parameters.values()), trained.buffers["power"].clone()]


def test_steps_are_those_of_plain_torch() -> None:
    trained, plain = trained_of(), torch.nn.Linear(3, 2)
    plain.load_state_dict({name: value.detach() for name, value in trained.parameters.items()})
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1.0, weight_decay=0.01)
    norms = take(trained, range(4))
    rates = [0.05, 0.1, 0.1, 0.05 * (1 + math.cos(math.pi / 6))]
    for step, rate in enumerate(rates):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (plain(x) - 1).square().mean().backward()
        norm = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
        assert norms[step] == pytest.approx(float(norm))
        for p in plain.parameters():
            p.grad *= min(1.0, 1.0 / float(norm))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    for ours, theirs in zip(trained.parameters.values(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_restored_learner_takes_the_same_steps(scaled) -> None:
    straight, other = trained_of(scaled=scaled), trained_of(scaled=scaled, seed=9)
    take(straight, range(4))
    kept = {name: value.detach().clone() for name, value in straight.state().items()}
    assert {name.split(".")[0] for name in kept} == {"net"}
    other.restore(kept)
    assert take(other, range(4, 7)) == take(straight, range(4, 7))
    assert all(torch.equal(a, b) for a, b in zip(values(straight), values(other), strict=True))
    assert straight.scaler.get_scale() == other.scaler.get_scale()


def test_the_scale_of_losses_and_its_growth_come_back() -> None:
    straight = trained_of(scaled=True)
    take(straight, range(4))  # doubled after 3, one good step since
    assert straight.state()["net.scaler"].tolist() == [2048, 1]
    other = trained_of(scaled=True)
    other.restore(straight.state())
    take(other, range(4, 5))
    assert other.state()["net.scaler"].tolist() == [2048, 2]
    assert "net.scaler" not in trained_of().state()


def test_norms_are_told_and_clipped_without_the_scale() -> None:
    assert take(trained_of(scaled=True), range(1)) == pytest.approx(take(trained_of(), range(1)))


def test_an_overflow_halves_the_scale_and_leaves_the_step_out() -> None:
    trained = trained_of(scaled=True)
    before = values(trained)
    trained.backward(F.linear(torch.full((1, 3), 3e38), **trained.parameters).sum())
    assert not math.isfinite(trained.clip())
    trained.update(0)
    assert all(torch.equal(a, b) for a, b in zip(before, values(trained), strict=True))
    assert trained.scaler.get_scale() == 512


def test_half_a_state_is_refused() -> None:
    trained = trained_of()
    take(trained, range(1))
    state = trained.state()
    del state["net.buffers.power"]
    with pytest.raises(KeyError, match="power"):
        trained_of().restore(state)
