"""Both sides of a pair at one level q: variances in closed form, what critics are told, where q lies."""

from __future__ import annotations

import pytest
import torch

from stdcli.config.distill import DistillConfig
from stdcli.diffusion.levels import level_table, pick_levels
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.adversarial_term import AdversarialTerm, Reach
from stdcli.distill.learner import Prediction
from stdcli.distill.pushed_pairs import draw_above, push_both
from stdcli.training.train_step import Loss
from tests.tiny_methods import SD, scales, time_of
from tests.unit.distill.test_std import batch_of

FLOW = NoiseSchedule.flow(3.0)
TABLE = level_table(SD, 50)
REACH, CEILING = 250.0, 739  # of four phases; where 37 of 50 levels begin
S = torch.tensor([0, 5, 19, 28, 36])


def levels_of(schedule: NoiseSchedule, u: float):
    level = pick_levels(level_table(schedule, 50), S)
    draws = torch.full((len(S),), u, dtype=torch.float64)
    return level, draw_above(schedule, level, draws, reach=REACH, ceiling=CEILING)


@pytest.mark.parametrize(
    ("u", "times"),  # t_s 0, 99, 379, 559, 719; to 250, 349, 629, 739, 739
    [
        (0.0, [0, 99, 379, 559, 719]),
        (0.5, [125, 224, 504, 649, 729]),
        (1 - 2**-53, [249, 348, 628, 738, 738]),
    ],
)
def test_q_lies_from_s_up_to_its_reach_and_below_the_start_by_hand(u, times) -> None:
    _, pushed = levels_of(SD, u)
    assert pushed.t.tolist() == times and pushed.t.dtype == torch.int64
    expected = [scales(t) for t in times]
    for item, (alpha, sigma) in enumerate(expected):
        assert pushed.alpha[item].item() == pytest.approx(alpha, rel=1e-12)
        assert pushed.sigma[item].item() == pytest.approx(sigma, rel=1e-12)


def test_q_of_a_flow_is_any_time() -> None:
    level, pushed = levels_of(FLOW, 0.25)
    for t, q in zip(level.t.tolist(), pushed.t.tolist(), strict=True):
        high = max(min(t + 250, 739), t)
        assert q == pytest.approx(t + 0.25 * (high - t), rel=1e-12)


def test_q_is_uniform() -> None:
    level = pick_levels(TABLE, torch.full((50_000,), 5))
    u = torch.rand(50_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = draw_above(SD, level, u, reach=REACH, ceiling=CEILING).t - 99
    counts = rows.bincount(minlength=250)
    assert len(counts) == 250
    chi2 = float(((counts - 200.0) ** 2 / 200).sum())
    assert 160 < chi2 < 350, "249 degrees of freedom: 249 +- 22"


@pytest.mark.parametrize("is_clean", [False, True])
@pytest.mark.parametrize("schedule", [SD, FLOW])
def test_both_sides_have_the_variance_of_noise_added_from_where_they_were(schedule, is_clean) -> None:
    """Of states of variance v at s: r^2 v + sigma_q^2 - r^2 sigma_s^2; of clean ones a_q^2 v + sigma_q^2."""
    rng = torch.Generator().manual_seed(1)
    level, pushed = levels_of(schedule, 0.6)
    shape = (len(S), 1, 200, 200)
    jumped, real, noise, real_noise = (
        torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(4)
    )
    jumped, real = 0.7 * jumped, 0.9 * real
    pair = push_both(
        jumped,
        real,
        level=level,
        pushed_level=pushed,
        noise=noise,
        real_noise=real_noise,
        is_clean=is_clean,
    )
    assert pair.level is pushed and pair.real_level is pushed
    for item in range(len(S)):
        alpha, sigma = level.alpha[item].item(), level.sigma[item].item()
        to_alpha, to_sigma = pushed.alpha[item].item(), pushed.sigma[item].item()
        ratio = to_alpha / alpha
        fake = ratio**2 * 0.49 + to_sigma**2 - ratio**2 * sigma**2
        true = to_alpha**2 * 0.81 + to_sigma**2 if is_clean else fake + ratio**2 * (0.81 - 0.49)
        assert pair.fake[item].var().item() == pytest.approx(fake, rel=0.03)
        assert pair.real[item].var().item() == pytest.approx(true, rel=0.03)
        fresh = [latents[item] - ratio * x[item] for latents, x in ((pair.fake, jumped), (pair.real, real))]
        if not is_clean and pushed.t[item] > level.t[item]:
            both = torch.stack([noise.flatten() for noise in fresh])
            assert abs(float(torch.corrcoef(both)[0, 1])) < 0.03, "the two noises are independent"


def test_a_level_below_s_is_refused() -> None:
    level, below = (pick_levels(TABLE, torch.tensor([k])) for k in (6, 5))
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="upwards"):
        push_both(one, one, level=level, pushed_level=below, noise=one, real_noise=one, is_clean=False)


class Noting:
    """An adversary that keeps what it is shown."""

    def __init__(self) -> None:
        self.pairs = []

    def generator_loss(self, pair, condition, *, generator):
        self.pairs.append(pair)
        return pair.fake.sum()

    def discriminator_loss(self, pair, condition, *, generator):
        return {"total": pair.real.sum()}


def term_of(adversary: Noting, *, judges_target: bool, seed: int = 3) -> AdversarialTerm:
    reach = Reach(REACH, CEILING)
    given = {"variant": "xq-xq", "weight": 0.5, "start_step": 0, "learning_rate": 1e-4, "schedule": SD}
    return AdversarialTerm(
        adversary, table=TABLE, seed=seed, reach=reach, judges_target=judges_target, **given
    )


def shown(batch, *, judges_target: bool, seed: int = 3):
    adversary = Noting()
    term = term_of(adversary, judges_target=judges_target, seed=seed)
    state = batch.targets + 1
    prediction = Prediction(state, Denoised(state, state))
    student = Loss("student", state.sum(), {})
    list(term.losses(student, term.pair(prediction, batch.targets, batch), batch, step=0))
    return adversary.pairs[0]


def test_the_methods_target_stands_for_the_real_latents() -> None:
    batch = batch_of()
    pair = shown(batch, judges_target=True)
    assert torch.equal(pair.level.t, pair.real_level.t), "the critic is told q on both sides"
    for item, s in enumerate((28, 19, 0, 0)):
        assert time_of(s) <= pair.level.t[item] < min(time_of(s) + 250, 739)
        (alpha, _), (to_alpha, _) = scales(time_of(s)), scales(int(pair.level.t[item]))
        fresh = (pair.fake - pair.real)[item] - to_alpha / alpha  # states one apart: the noises' difference
        deviation = (2 * (1 - (to_alpha / alpha) ** 2)) ** 0.5
        assert float(fresh.std()) == pytest.approx(deviation, rel=0.6), "each side has noise of its own"


def test_draws_are_those_of_the_items_and_the_seed() -> None:
    pair = shown(batch_of(), judges_target=True)
    again = shown(batch_of(), judges_target=True)
    assert torch.equal(pair.fake, again.fake) and torch.equal(pair.real, again.real)
    other = shown(batch_of(), judges_target=True, seed=4)
    assert not torch.equal(pair.level.t, other.level.t) and not torch.equal(pair.fake, other.fake)


def test_target_and_levels_go_together() -> None:
    against = {"weight": 0.1, "real": "target"}
    with pytest.raises(ValueError, match=r"adversary\.real: target needs --set adversary\.levels=xq-xq"):
        DistillConfig(method="tcd", bank="b", adversary=against)
    with pytest.raises(
        ValueError, match=r"adversary\.real: target is a state, and lcm compares clean latents"
    ):
        DistillConfig(method="lcm", bank="b", adversary=against | {"levels": "xq-xq"})
    config = DistillConfig(method="tcd", bank="b", adversary=against | {"levels": "xq-xq"})
    assert config.adversary.real == "target"
