"""A method with two sets of weights and 1:5 updates, trained in the loop, against closed forms."""

from __future__ import annotations

import pytest
import torch

from stdcli.distill.learner import FAKE_SCORE, STUDENT
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.task import DistillTask
from stdcli.runtime.devices import choose
from stdcli.training.train_step import TrainStep, make_accelerator
from stdcli.training.trained_module import TrainedModule
from tests.tiny_accelerator import forget_accelerator
from tests.tiny_two_scores import (
    EVERY,
    MEAN,
    START_ID,
    STD,
    TABLE,
    Gaussian,
    Noise,
    TwoScores,
    made_by,
    roles_around,
)


@pytest.fixture(autouse=True)
def accelerator():
    forget_accelerator()
    yield make_accelerator(choose("cpu", "float32"))
    forget_accelerator()


def step_of(accelerator, module: Gaussian, *, every: int = EVERY, rates: tuple[float, float], batch: int):
    """The loop over a generator and its fake score, and both by name."""
    method, roles = TwoScores(TABLE, every), roles_around(module)
    task = DistillTask(method, Noise(batch), roles, LossTerms(START_ID))
    trained = []
    for learner, rate in zip(method.learners(roles), rates, strict=True):
        optimizer = torch.optim.AdamW(learner.parameters.values(), lr=rate, weight_decay=0.0)
        lr = {"lr_schedule": lambda step, rate=rate: rate, "max_grad_norm": 1e9}
        trained.append(TrainedModule(learner.name, learner.parameters, optimizer=optimizer, **lr))
    step_taker = TrainStep(accelerator, trained, task.losses, 1, task.describe)
    return step_taker, {one.name: one for one in trained}


def test_the_generator_comes_to_the_data_and_the_fake_score_to_the_generator(accelerator) -> None:
    """Mean and deviation of what is made are affine in the noise, so both optima are known to the digit."""
    step_taker, trained = step_of(accelerator, Gaussian(mean=-0.5, std=2.0), rates=(0.05, 0.05), batch=64)
    first = made_by(trained[STUDENT].parameters)
    for step in range(600):
        step_taker.take(step)
    mean, std = made_by(trained[STUDENT].parameters)
    assert abs(first[0] - MEAN) > 0.9 and abs(first[1] - STD) > 0.3
    assert mean == pytest.approx(MEAN, abs=0.03) and std == pytest.approx(STD, abs=0.02)
    fake = trained[FAKE_SCORE].parameters
    assert fake["mean"].item() == pytest.approx(mean, abs=0.03)
    assert fake["log_std"].exp().item() == pytest.approx(std, abs=0.03)


def test_the_fake_score_recovers_the_affine_map_of_a_still_generator(accelerator) -> None:
    module = Gaussian(mean=0.3, std=1.4)
    step_taker, trained = step_of(accelerator, module, every=10**6, rates=(0.0, 0.05), batch=64)
    for step in range(1, 300):
        step_taker.take(step)
    mean, std = made_by(trained[STUDENT].parameters)
    fake = trained[FAKE_SCORE].parameters
    assert fake["mean"].item() == pytest.approx(mean, abs=0.02)
    assert fake["log_std"].exp().item() == pytest.approx(std, abs=0.02)
    assert module.mean.item() == 0.3, "one that gets no loss moved"


def test_in_four_of_five_steps_the_generator_keeps_every_bit(accelerator) -> None:
    step_taker, trained = step_of(accelerator, Gaussian(mean=-0.5, std=2.0), rates=(0.02, 0.02), batch=4)
    student, fake = trained[STUDENT], trained[FAKE_SCORE]
    for step in range(12):
        before = {name: value.clone() for name, value in student.state().items()}
        faked = fake.parameters["mean"].item()
        metrics = step_taker.take(step)
        same = before.keys() == student.state().keys() and all(
            torch.equal(value, before[name]) for name, value in student.state().items()
        )
        assert same == (step % EVERY != 0) and fake.parameters["mean"].item() != faked
        assert (f"grad/{STUDENT}_norm" in metrics) == (f"lr/{STUDENT}" in metrics) == (step % EVERY == 0)
        assert metrics[f"grad/{FAKE_SCORE}_norm"] > 0
    assert {int(entry["step"]) for entry in student.optimizer.state.values()} == {3}
    assert {int(entry["step"]) for entry in fake.optimizer.state.values()} == {12}


def test_an_added_role_begins_as_the_student_and_is_trained_alone() -> None:
    module = Gaussian(mean=-0.5, std=2.0)
    roles, batch = roles_around(module), Noise(3).batch(0)
    level, to_level = batch.levels(TABLE)
    added = roles.add(FAKE_SCORE)
    found = roles.evaluate(FAKE_SCORE, batch.states, level, batch.cond, to_level=to_level).x0
    own = roles.student(batch.states, level, batch.cond, to_level=to_level).x0
    assert torch.equal(found, own)
    found.sum().backward()
    assert module.mean.grad is None and module.log_std.grad is None
    assert added["mean"].grad is not None and added["log_std"].grad is not None
    with torch.no_grad():
        added["mean"].add_(1)
    assert not torch.equal(
        roles.evaluate(FAKE_SCORE, batch.states, level, batch.cond, to_level=to_level).x0, own
    )
    assert torch.equal(roles.student(batch.states, level, batch.cond, to_level=to_level).x0, own)
