"""Steps of the loop against gradients, clipping and updates in plain numbers."""

from __future__ import annotations

import math

import pytest
import torch

from stdcli.errors import ConfigError, NumericsError
from stdcli.runtime.devices import choose
from stdcli.training.train_step import Loss, TrainStep, make_accelerator
from stdcli.training.trained_module import TrainedModule
from tests.tiny_accelerator import forget_accelerator

LR = 0.1
POINTS = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def accelerator():
    forget_accelerator()
    yield make_accelerator(choose("cpu", "float32"))
    forget_accelerator()


def trained_of(name: str, *, start: float = 1.0, most: float = 1e9, lr: float = LR) -> TrainedModule:
    module = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.constant_(module.weight, start)
    parameters = {"weight": module.weight}
    optimizer = torch.optim.SGD(parameters.values(), lr=99.0)
    return TrainedModule(name, parameters, optimizer, lambda step: lr / (step + 1), most)


def squares(trained: TrainedModule, number: int, *, batch: int = 2) -> torch.Tensor:
    """Per item (w . x)^2, whose gradient is 2 (w . x) x."""
    x = POINTS[number * batch : (number + 1) * batch]
    return (x @ trained.parameters["weight"].T).square()[:, 0]


def gradient_by_hand(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (2 * (x @ w)[:, None] * x).mean(0)


def step_of(accelerator, trained_modules, losses, *, accumulation: int = 1) -> TrainStep:
    return TrainStep(accelerator, trained_modules, losses, accumulation, lambda: "samples 4, 5")


def test_a_step_is_the_mean_of_its_micro_batches(accelerator) -> None:
    trained, asked = trained_of("one"), []

    def losses(number):
        asked.append(number)
        errors = squares(trained, number)
        yield Loss("one", errors.mean(), {"each": errors.detach()})

    metrics = step_of(accelerator, [trained], losses, accumulation=4).take(0)
    w, x = torch.ones(3), POINTS[:8]
    gradient = gradient_by_hand(w, x)
    torch.testing.assert_close(trained.parameters["weight"][0], w - LR * gradient)
    assert asked == [0, 1, 2, 3]
    assert metrics["loss/one"] == pytest.approx(float(((x @ w) ** 2).mean()))
    assert metrics["each"] == pytest.approx(metrics["loss/one"])
    assert metrics["grad/one_norm"] == pytest.approx(float(gradient.norm())) and metrics["lr/one"] == LR


def test_accumulation_is_a_larger_batch(accelerator) -> None:
    found = []
    for accumulation, batch in ((1, 4), (2, 2), (4, 1)):
        trained = trained_of("one")

        def losses(number, trained=trained, batch=batch):
            yield Loss("one", squares(trained, number, batch=batch).mean())

        step_taker = step_of(accelerator, [trained], losses, accumulation=accumulation)
        norms = [step_taker.take(step)["grad/one_norm"] for step in range(3)]
        found.append((trained.parameters["weight"].detach(), norms))
    for weight, norms in found[1:]:
        torch.testing.assert_close(weight, found[0][0], rtol=1e-6, atol=1e-7)
        assert norms == pytest.approx(found[0][1], rel=1e-6)


def test_micro_batches_and_rates_follow_the_number_of_the_step(accelerator) -> None:
    trained, asked = trained_of("one"), []

    def losses(number):
        asked.append(number)
        yield Loss("one", squares(trained, 0).mean())

    step_taker = step_of(accelerator, [trained], losses, accumulation=3)
    assert step_taker.take(2)["lr/one"] == pytest.approx(LR / 3) and asked == [6, 7, 8]


def test_long_gradients_are_cut_short_once_all_are_there(accelerator) -> None:
    trained = trained_of("one", start=5.0, most=0.5)

    def losses(number):
        yield Loss("one", squares(trained, number).mean())

    metrics = step_of(accelerator, [trained], losses, accumulation=2).take(0)
    gradient = gradient_by_hand(torch.full((3,), 5.0), POINTS[:4])
    assert gradient.norm() > 0.5 and metrics["grad/one_norm"] == pytest.approx(float(gradient.norm()))
    moved = torch.full((3,), 5.0) - LR * 0.5 * gradient / gradient.norm()
    torch.testing.assert_close(trained.parameters["weight"][0].detach(), moved, rtol=1e-5, atol=1e-6)


def test_short_gradients_are_left_alone(accelerator) -> None:
    trained = trained_of("one", start=0.01, most=1.0)

    def losses(number):
        yield Loss("one", squares(trained, number).mean())

    step_of(accelerator, [trained], losses).take(0)
    gradient = gradient_by_hand(torch.full((3,), 0.01), POINTS[:2])
    moved = trained.parameters["weight"][0].detach()
    torch.testing.assert_close(moved, torch.full((3,), 0.01) - LR * gradient)


def test_each_learner_gets_its_own_gradients_of_weights_before_the_step(accelerator) -> None:
    first, second = trained_of("first", start=1.0), trained_of("second", start=2.0, lr=0.5)

    def losses(number):
        yield Loss("first", squares(first, number).mean() + 0 * squares(second, number).detach().sum())
        seen = squares(first, number).detach()  # what the first one says now, as a discriminator sees it
        yield Loss("second", (squares(second, number) * seen).mean())

    metrics = step_of(accelerator, [first, second], losses, accumulation=2).take(0)
    x = POINTS[:4]
    torch.testing.assert_close(first.parameters["weight"][0], 1 - LR * gradient_by_hand(torch.ones(3), x))
    seen = (x.sum(1) ** 2)[:, None]
    gradient = (2 * (x.sum(1) * 2)[:, None] * x * seen).mean(0)
    torch.testing.assert_close(second.parameters["weight"][0], 2 - 0.5 * gradient, rtol=1e-5, atol=1e-5)
    assert metrics["lr/second"] == 0.5
    assert first.parameters["weight"].grad is None and second.parameters["weight"].grad is None


@pytest.mark.parametrize("bad", ["first", "second"])
@pytest.mark.parametrize("at", [0, 1])
def test_a_loss_that_is_not_finite_moves_nothing(accelerator, bad, at) -> None:
    trained_modules = [trained_of("first"), trained_of("second")]

    def losses(number):
        for trained in trained_modules:
            factor = math.nan if trained.name == bad and number == at else 1.0
            yield Loss(trained.name, factor * squares(trained, number).mean())

    with pytest.raises(NumericsError) as told:
        step_of(accelerator, trained_modules, losses, accumulation=2).take(0)
    assert told.value.what == f"loss/{bad} is not finite" and told.value.where == "samples 4, 5"
    assert all(bool((trained.parameters["weight"] == 1).all()) for trained in trained_modules)


def test_a_gradient_that_is_not_finite_moves_nothing(accelerator) -> None:
    trained_modules = [trained_of("first"), trained_of("second", start=0.0)]

    def losses(number):
        yield Loss("first", squares(trained_modules[0], number).mean())
        yield Loss("second", squares(trained_modules[1], number).sqrt().mean())  # 0, of infinite slope

    with pytest.raises(NumericsError, match="grad/second_norm is not finite"):
        step_of(accelerator, trained_modules, losses).take(0)
    assert (
        bool((trained_modules[0].parameters["weight"] == 1).all())
        and not trained_modules[1].parameters["weight"].any()
    )


def test_one_in_five_learns_in_its_own_steps_alone(accelerator) -> None:
    """Without a loss it keeps its weights, Adam's moments and count, and is neither clipped nor reported."""
    often, seldom = trained_of("often"), trained_of("seldom")
    seldom.optimizer, calls = torch.optim.AdamW(seldom.parameters.values(), lr=99.0), []
    seldom.after_update = [lambda: calls.append(len(taken))]
    seldom.clip = lambda clip=seldom.clip: calls.append("clip") or clip()
    alone, taken = trained_of("seldom"), []
    alone.optimizer = torch.optim.AdamW(alone.parameters.values(), lr=99.0)

    def losses(number):
        yield Loss("often", squares(often, number, batch=1).mean())
        if number // 2 % 5 == 0:
            yield Loss("seldom", squares(seldom, number, batch=1).mean())

    def only(number):
        yield Loss("seldom", squares(alone, number, batch=1).mean())

    step_taker = step_of(accelerator, [often, seldom], losses, accumulation=2)
    for step in range(11):
        before = seldom.parameters["weight"].detach().clone(), seldom.state()
        taken.append(step_taker.take(step))
        if step % 5 == 0:
            step_of(accelerator, [alone], only, accumulation=2).take(step)
            continue
        assert torch.equal(seldom.parameters["weight"], before[0])
        assert all(torch.equal(value, before[1][name]) for name, value in seldom.state().items())
        assert not any("seldom" in name for name in taken[-1])
    assert calls == ["clip", 0, "clip", 5, "clip", 10]
    assert torch.equal(seldom.parameters["weight"], alone.parameters["weight"])
    assert {int(entry["step"]) for entry in seldom.optimizer.state.values()} == {3}
    assert all(metrics["grad/often_norm"] > 0 for metrics in taken)


def test_what_one_loss_leaves_in_another_ones_weights_never_moves_them(accelerator) -> None:
    first, second = trained_of("first"), trained_of("second")

    def losses(number):
        if number == 0:
            yield Loss("first", (squares(first, 0) + squares(second, 0)).mean())
        else:
            yield Loss("second", squares(second, 1).mean())

    step_taker = step_of(accelerator, [first, second], losses)
    step_taker.take(0)
    assert second.parameters["weight"].grad is None and bool((second.parameters["weight"] == 1).all())
    step_taker.take(1)
    gradient = gradient_by_hand(torch.ones(3), POINTS[2:4])
    torch.testing.assert_close(second.parameters["weight"][0].detach(), 1 - LR / 2 * gradient)


def test_means_are_of_items_and_nan_without_any(accelerator) -> None:
    trained = trained_of("one")

    def losses(number):
        values = torch.arange(number, dtype=torch.float64)  # none, then one
        metrics = {
            "some": values + 3,
            "none": values[:0],
            "half": torch.tensor([number], dtype=torch.bfloat16),
        }
        yield Loss("one", squares(trained, number).mean(), metrics)

    metrics = step_of(accelerator, [trained], losses, accumulation=3).take(0)
    assert metrics["some"] == pytest.approx((3 + 3 + 4) / 3) and math.isnan(metrics["none"])
    assert metrics["half"] == 1


def test_fsdp_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError) as told:
        make_accelerator(choose("cpu", "float32"))
    assert told.value.what == "FSDP is not supported yet" and told.value.hint


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "no"), ("bfloat16", "bf16")])
def test_precision_follows_the_dtype(dtype, precision) -> None:
    forget_accelerator()
    made = make_accelerator(choose("cpu", dtype))
    assert made.mixed_precision == precision and made.device.type == "cpu"
