"""Distribution matching against closed forms: gradients, both optima, and who moves when."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from stdcli.diffusion.predictions import PredictionType, to_x0_eps
from stdcli.distill.learner import FAKE_SCORE, STUDENT
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.methods.dmd2 import Dmd2, Dmd2Section
from stdcli.distill.task import DistillTask
from stdcli.errors import NumericsError
from stdcli.runtime.devices import choose
from stdcli.training.train_step import TrainStep, make_accelerator
from stdcli.training.trained_module import TrainedModule
from tests.tiny_accelerator import forget_accelerator
from tests.tiny_gaussians import (
    MEAN,
    START_ID,
    STD,
    TABLE,
    Gaussian,
    Noise,
    law_of,
    noise_batch,
    perfect,
    roles_around,
)
from tests.tiny_methods import SD

EVERY = 5


@pytest.fixture(autouse=True)
def accelerator():
    forget_accelerator()
    yield make_accelerator(choose("cpu", "float32"))
    forget_accelerator()


def method_of(**section) -> Dmd2:
    return Dmd2(TABLE, START_ID, Dmd2Section(**section))


def step_of(accelerator, module: Gaussian, *, rates: tuple[float, float], batch: int, every: int = EVERY):
    """The loop over a generator and its fake score, and both by name."""
    method, roles = method_of(every=every), roles_around(module)
    task = DistillTask(method, Noise(batch), roles, LossTerms(START_ID))
    trained = []
    for learner, rate in zip(method.learners(roles), rates, strict=True):
        optimizer = torch.optim.AdamW(learner.parameters.values(), lr=rate, weight_decay=0.0)
        lr = {"lr_schedule": lambda step, rate=rate: rate, "max_grad_norm": 1e9}
        trained.append(TrainedModule(learner.name, learner.parameters, optimizer=optimizer, **lr))
    step_taker = TrainStep(accelerator, trained, task.losses, 1, task.describe)
    return step_taker, {one.name: one for one in trained}


def mean_distance(a: float, b: float, alpha: float, sigma: float) -> float:
    """E |x_g - x0_real(x_tau)|, a folded normal: x_g = a z + b, x_tau = alpha x_g + sigma eps."""
    k = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    mean, variance = (b - MEAN) * (1 - k * alpha), (a * (1 - k * alpha)) ** 2 + (k * sigma) ** 2
    bell = math.sqrt(2 * variance / math.pi) * math.exp(-(mean**2) / (2 * variance))
    return bell + mean * math.erf(mean / math.sqrt(2 * variance))


@pytest.mark.parametrize("tau", [0.1, 0.4, 0.8])
@pytest.mark.parametrize(("mean", "std"), [(-0.5, 2.0), (1.6, 0.5)])
def test_the_students_gradient_is_that_of_the_divergence(mean, std, tau) -> None:
    """Per level: (sigma^2/alpha^2) dKL(N(alpha b, alpha^2 a^2 + sigma^2) || the data's), over the scale."""
    module = Gaussian(mean=mean, std=std)
    roles, batch = roles_around(module), noise_batch(0, 2, side=256)
    level, to_level = batch.levels(TABLE)
    b, a = law_of(module.trainable())
    roles.add(FAKE_SCORE)
    roles.weights[FAKE_SCORE] = {"mean": b.detach(), "log_std": a.detach().log()}
    made = roles.student(batch.states, level, batch.cond, to_level=to_level).x0
    loss = method_of(tau=(tau, tau)).student_loss(roles, made, batch)
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss.value, parameters)

    alpha, sigma = float(SD.alphas[round(1000 * tau)]), float(SD.sigmas[round(1000 * tau)])
    ours, theirs = (alpha * a) ** 2 + sigma**2, (alpha * STD) ** 2 + sigma**2
    divergence = 0.5 * ((theirs / ours).log() + (ours + (alpha * (b - MEAN)) ** 2) / theirs - 1)
    scale = sigma**2 / alpha**2 / mean_distance(a.item(), b.item(), alpha, sigma)
    expected = torch.autograd.grad(divergence, parameters)
    for ours, theirs in zip(found, expected, strict=True):
        assert float(ours) == pytest.approx(scale * float(theirs), rel=0.04)
    assert loss.learner == STUDENT and loss.metrics["loss/distribution"].shape == (2,)


def test_a_perfect_student_has_no_gradient() -> None:
    module = perfect()
    roles, batch = roles_around(module), noise_batch(0, 4)
    mean, std = (value.detach() for value in law_of(module.trainable()))
    assert (float(mean), float(std)) == (pytest.approx(MEAN), pytest.approx(STD))
    roles.weights[FAKE_SCORE] = {"mean": mean, "log_std": std.log()}
    level, to_level = batch.levels(TABLE)
    made = roles.student(batch.states, level, batch.cond, to_level=to_level).x0
    method_of().student_loss(roles, made, batch).value.backward()
    assert abs(module.mean.grad) < 1e-12 and abs(module.log_std.grad) < 1e-12


def test_the_generator_comes_to_the_data_and_the_fake_score_to_the_generator(accelerator) -> None:
    """Mean and deviation of what is made are affine in the noise, so both optima are known to the digit."""
    step_taker, trained = step_of(accelerator, Gaussian(mean=-0.5, std=2.0), rates=(0.05, 0.05), batch=64)
    first = [value.item() for value in law_of(trained[STUDENT].parameters)]
    for step in range(600):
        step_taker.take(step)
    mean, std = (value.item() for value in law_of(trained[STUDENT].parameters))
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
    mean, std = (value.item() for value in law_of(trained[STUDENT].parameters))
    fake = trained[FAKE_SCORE].parameters
    assert fake["mean"].item() == pytest.approx(mean, abs=0.02)
    assert fake["log_std"].exp().item() == pytest.approx(std, abs=0.02)
    assert module.mean.item() == 0.3, "one that gets no loss moved"


@pytest.mark.parametrize("kind", list(PredictionType))
def test_the_fake_scores_loss_is_in_what_the_network_predicts(kind) -> None:
    """An error e of the output counts e^2, whatever the level; nothing else is in the loss."""
    roles, batch, error = roles_around(Gaussian(mean=0.0, std=1.0)), noise_batch(0, 3), 0.25
    roles = dataclasses.replace(roles, prediction=kind)
    made = 0.5 * noise_batch(1, 3).states
    asked = {}

    def evaluate(role, x, level, cond, *, to_level):
        noise = (x - level.alpha.view(-1, 1, 1, 1) * made) / level.sigma.view(-1, 1, 1, 1)
        alpha, sigma = level.alpha.view(-1, 1, 1, 1), level.sigma.view(-1, 1, 1, 1)
        output = {
            PredictionType.EPSILON: noise,
            PredictionType.V: alpha * noise - sigma * made,
            PredictionType.SAMPLE: made,
            PredictionType.FLOW: noise - made,
        }[kind]
        asked[role] = level.t.tolist()
        return to_x0_eps(output + error, x, alpha=level.alpha, sigma=level.sigma, kind=kind)

    roles.evaluate = evaluate
    loss = method_of().fake_loss(roles, made, batch)
    assert loss.learner == FAKE_SCORE
    assert float(loss.value) == pytest.approx(error**2, rel=1e-4)
    assert len(set(asked[FAKE_SCORE])) == 3 and all(20 <= t <= 980 for t in asked[FAKE_SCORE])


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


def test_what_is_not_finite_is_an_error_and_moves_nothing(accelerator) -> None:
    step_taker, trained = step_of(accelerator, Gaussian(mean=-0.5, std=2.0), rates=(0.02, 0.02), batch=4)
    with torch.no_grad():
        trained[FAKE_SCORE].parameters["mean"].fill_(math.inf)
    with pytest.raises(NumericsError, match="loss/student is not finite"):
        step_taker.take(0)
    assert trained[STUDENT].parameters["mean"].item() == -0.5


def test_the_critic_compares_both_at_one_level_each_under_its_own_noise() -> None:
    batch = noise_batch(0, 3, side=128)
    real = torch.full_like(batch.states, 2.0)
    made = torch.full_like(batch.states, -1.0)
    pair = method_of().pair(roles_around(perfect()), made, dataclasses.replace(batch, real_latents=real))
    assert torch.equal(pair.level.t, pair.real_level.t) and len(set(pair.level.t.tolist())) == 3
    for k in range(3):
        alpha, sigma = float(pair.level.alpha[k]), float(pair.level.sigma[k])
        for side, clean in ((pair.fake, -1.0), (pair.real, 2.0)):
            assert float(side[k].mean()) == pytest.approx(alpha * clean, abs=0.03)
            assert float(side[k].std()) == pytest.approx(sigma, rel=0.03)
        both = torch.stack([pair.fake[k].flatten(), pair.real[k].flatten()])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.03


def test_an_added_role_begins_as_the_student_and_is_trained_alone() -> None:
    module = Gaussian(mean=-0.5, std=2.0)
    roles, batch = roles_around(module), noise_batch(0, 3)
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
