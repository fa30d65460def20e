"""Pairs at levels worked out by hand, losses of critics with known logits, and who gets a gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stdcli.diffusion.levels import Level, level_table, pick_levels
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.adversary import Adversary
from stdcli.distill.discriminator import Discriminator
from stdcli.distill.real_fake_pairs import RealFakeBatch, make_real_fake_batch
from stdcli.models.condition import Condition

SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
FLOW = NoiseSchedule.flow(3.0)
LAST = 1 - 2**-53  # the largest draw
U = torch.tensor([0.0, 0.5, 0.99, LAST], dtype=torch.float64)
J, S = [37, 28, 1, 10], [28, 10, 0, 9]  # on 50 steps: t 739, 559, 19, 199 -> 559, 199, 0, 179


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=rng(seed))


def pair_of(
    variant: str, schedule: NoiseSchedule = SD, *, u: torch.Tensor = U, j=J, s=S, size: int = 50
) -> RealFakeBatch:
    table = level_table(schedule, size)
    return make_real_fake_batch(
        variant,
        schedule=schedule,
        from_level=pick_levels(table, torch.tensor(j)),
        to_level=pick_levels(table, torch.tensor(s)),
        jumped=normal(len(j), 2, 3, 3, seed=1),
        x0=normal(len(j), 2, 3, 3, seed=2),
        real=normal(len(j), 2, 3, 3, seed=3),
        noise=normal(len(j), 2, 3, 3, seed=4),
        u=u,
    )


def assert_clean(level: Level, where=slice(None)) -> None:
    for value, expected in ((level.id, -1), (level.t, 0), (level.alpha, 1), (level.sigma, 0)):
        assert (value[where] == expected).all()


@pytest.mark.parametrize(
    ("variant", "rows"),
    [
        ("xs", [559, 199, 0, 179]),
        ("xs-xr", [0, 99, None, 178]),
        ("xs-xR", [560, 379, 18, 198]),
    ],
)
def test_vp_levels_by_hand(variant, rows) -> None:
    pair = pair_of(variant)
    assert torch.equal(pair.fake, normal(4, 2, 3, 3, seed=1))
    assert pair.level.t.tolist() == [559, 199, 0, 179]
    assert pair.real_level.t.tolist() == [row or 0 for row in rows]
    assert pair.real_level.t.dtype == torch.int64
    real, noise = normal(4, 2, 3, 3, seed=3), normal(4, 2, 3, 3, seed=4)
    for item, row in enumerate(rows):
        alpha, sigma = (1.0, 0.0) if row is None else (SD.alphas[row].item(), SD.sigmas[row].item())
        assert (pair.real_level.alpha[item], pair.real_level.sigma[item]) == (alpha, sigma)
        torch.testing.assert_close(pair.real[item], alpha * real[item] + sigma * noise[item])
    if variant == "xs-xr":
        assert pair.real_level.id[2] == -1 and torch.equal(pair.real[2], real[2])


@pytest.mark.parametrize(
    ("variant", "sigma_of"),
    [
        ("xs", lambda s, j, u: s),
        ("xs-xr", lambda s, j, u: u * s),
        ("xs-xR", lambda s, j, u: s + u * (j - s)),
    ],
)
def test_flow_levels_by_hand(variant, sigma_of) -> None:
    pair, table = pair_of(variant, FLOW), level_table(FLOW, 50)
    for item, (j, s, u) in enumerate(zip(J, S, U.tolist(), strict=True)):
        sigma = sigma_of(table[s].sigma, table[j].sigma, u)
        assert pair.real_level.sigma[item].item() == pytest.approx(sigma, abs=1e-8)
        assert pair.real_level.alpha[item].item() == pytest.approx(1 - sigma, abs=1e-8)
        assert pair.real_level.t[item].item() == pytest.approx(1000 * sigma, abs=1e-5)


@pytest.mark.parametrize("schedule", [SD, FLOW])
def test_clean_variants(schedule) -> None:
    for variant in ("x0", "xs-x0"):
        pair = pair_of(variant, schedule)
        assert_clean(pair.real_level)
        assert pair.real_level.t.dtype == pair.level.t.dtype
        assert torch.equal(pair.real, normal(4, 2, 3, 3, seed=3))
        assert torch.equal(pair.fake, normal(4, 2, 3, 3, seed=2 if variant == "x0" else 1))
    assert_clean(pair_of("x0", schedule).level)
    assert pair_of("xs-x0", schedule).level.sigma[0] > 0.4


@pytest.mark.parametrize("schedule", [SD, FLOW])
@pytest.mark.parametrize("u", [0.0, 0.3, LAST])
def test_r_lies_strictly_where_it_should_for_all_levels(schedule, u) -> None:
    j = list(range(1, 51)) * 2
    s = [j - 1 for j in range(1, 51)] + [j // 2 for j in range(1, 51)]
    draws = torch.full((100,), u, dtype=torch.float64)
    below = pair_of("xs-xr", schedule, u=draws, j=j, s=s)
    low, high = below.real_level.sigma, below.level.sigma
    assert ((low < high) | (high == 0)).all()
    between = pair_of("xs-xR", schedule, u=draws, j=j, s=s)
    from_sigma = pick_levels(level_table(schedule, 50), torch.tensor(j)).sigma
    assert (between.real_level.sigma > between.level.sigma).all()
    assert (between.real_level.sigma < from_sigma).all()


def test_without_room_between_r_is_s() -> None:
    pair = pair_of("xs-xR", u=U[:3], j=[5, 9, 999], s=[4, 7, 999], size=1000)
    assert pair.level.t.tolist() == [3, 6, 998]
    assert pair.real_level.t.tolist() == [3, 7, 998]


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="no such variant"):
        pair_of("xs-xq")


class Plain:
    """Latents as one feature map."""

    channels = (2,)

    def __call__(self, latents, level, *, generator):
        return [latents.flatten(2)]


class Shaken(Plain):
    """The same with an augmentation: a random offset per sample."""

    def __call__(self, latents, level, *, generator):
        return [latents.flatten(2) + torch.rand(len(latents), 1, 1, generator=generator)]


class Linear(nn.Module):
    """Logit of a token: w f, whatever the condition."""

    def __init__(self, *weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, features, vector):
        return torch.einsum("bct,c->bt", features[0], self.weight)


CONDITION = Condition(torch.ones(1, 1, 3))


def level_of(batch: int) -> Level:
    return pick_levels(level_table(SD, 50), torch.full((batch,), 5))


def pair_with(fake, real) -> RealFakeBatch:
    return RealFakeBatch(fake, real, level_of(len(fake)), real_level=level_of(len(real)))


def known_pair() -> RealFakeBatch:
    """Logits of `Linear(1.0)`: fake -3 and 0.25, real 2 and 0.5."""
    fake, real = ([[[[v]]] for v in values] for values in ((-3.0, 0.25), (2.0, 0.5)))
    return pair_with(torch.tensor(fake), torch.tensor(real))


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


def test_hinge_by_hand() -> None:
    adversary = Adversary(Plain(), Linear(1.0))
    losses = adversary.discriminator_loss(known_pair(), CONDITION, generator=rng())
    assert losses["real"].item() == pytest.approx((0 + 0.5) / 2)
    assert losses["fake"].item() == pytest.approx((0 + 1.25) / 2)
    assert losses["total"].item() == pytest.approx(0.875)
    assert losses["gradient_penalty"].item() == losses["r1"].item() == 0
    assert adversary.generator_loss(known_pair(), CONDITION, generator=rng()).item() == pytest.approx(1.375)


def test_non_saturating_by_hand() -> None:
    adversary = Adversary(Plain(), Linear(1.0), loss="non-saturating")
    losses = adversary.discriminator_loss(known_pair(), CONDITION, generator=rng())
    assert losses["real"].item() == pytest.approx((softplus(-2) + softplus(-0.5)) / 2)
    assert losses["fake"].item() == pytest.approx((softplus(-3) + softplus(0.25)) / 2)
    loss = adversary.generator_loss(known_pair(), CONDITION, generator=rng()).item()
    assert loss == pytest.approx((softplus(3) + softplus(-0.25)) / 2)


def test_wgan_is_not_offered() -> None:
    with pytest.raises(KeyError, match="wgan"):
        Adversary(Plain(), Linear(1.0), loss="wgan")


def test_gradient_penalty_of_a_linear_critic() -> None:
    """D of a sample is the sum over T tokens of w f, so its gradient has the norm |w| sqrt(T)."""
    adversary = Adversary(Plain(), Linear(0.3, -0.4), gradient_penalty=10.0)
    pair = pair_with(normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1))
    losses = adversary.discriminator_loss(pair, CONDITION, generator=rng())
    assert losses["gradient_penalty"].item() == pytest.approx((0.5 * 3 - 1) ** 2)
    expected = losses["real"] + losses["fake"] + 10 * losses["gradient_penalty"]
    torch.testing.assert_close(losses["total"], expected)
    losses["gradient_penalty"].backward()
    slope = 2 * (0.5 * 3 - 1) * 3 * torch.tensor([0.3, -0.4]) / 0.5
    torch.testing.assert_close(adversary.discriminator.weight.grad, slope)


def test_gradient_penalty_looks_between_fake_and_real() -> None:
    """Of D = f^2 / 2 the gradient is the place itself: uniform between 3 and 5, so E (f - 1)^2 = 28 / 3."""

    class Square(Linear):
        def forward(self, features, vector):
            return self.weight * features[0].square().sum(1) / 2

    adversary = Adversary(Plain(), Square(1.0), gradient_penalty=1.0)
    pair = pair_with(torch.full((20_000, 1, 1, 1), 3.0), torch.full((20_000, 1, 1, 1), 5.0))
    penalty = adversary.discriminator_loss(pair, CONDITION, generator=rng())["gradient_penalty"]
    assert penalty.item() == pytest.approx(28 / 3, rel=0.02)


def test_clips_are_judged_as_pictures_of_as_many_cells() -> None:
    """[B, C, F, h, w]: the same noise, the same shares between fake and real, the same losses."""
    fake, real = normal(3, 2, 4, 3, 2), normal(3, 2, 4, 3, 2, seed=1)
    adversary = Adversary(Plain(), Linear(0.3, -0.4), gradient_penalty=10.0, r1=7.0)
    losses = [
        adversary.discriminator_loss(pair_with(*pair), CONDITION, generator=rng())
        for pair in ((fake, real), (fake.flatten(3), real.flatten(3)))
    ]
    assert losses[0]["gradient_penalty"] > 0 < losses[0]["r1"]
    for name, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][name], rtol=1e-6, atol=0)


def test_r1_of_a_linear_critic() -> None:
    """Noise of deviation s moves a logit w f by s |w| in the mean square."""
    adversary = Adversary(Plain(), Linear(0.3, -0.4), r1=7.0, r1_sigma=0.2)
    pair = pair_with(normal(4, 2, 64, 64), normal(4, 2, 64, 64, seed=1))
    losses = adversary.discriminator_loss(pair, CONDITION, generator=rng())
    assert losses["r1"].item() == pytest.approx((0.2 * 0.5) ** 2, rel=0.05)
    torch.testing.assert_close(losses["total"], losses["real"] + losses["fake"] + 7 * losses["r1"])


def test_r1_compares_under_the_same_augmentation() -> None:
    pair = pair_with(normal(2, 2, 3, 3), normal(2, 2, 3, 3, seed=1))
    quiet = Adversary(Shaken(), Linear(1.0, 2.0), r1=1.0, r1_sigma=0.0)
    assert quiet.discriminator_loss(pair, CONDITION, generator=rng())["r1"].item() < 1e-12
    losses = [quiet.discriminator_loss(pair, CONDITION, generator=rng(seed))["real"] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


class Encoder(nn.Module):
    """Features of a network with weights, of two kinds."""

    channels = (16, 24)

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Conv2d(2, width, 3, padding=1) for width in self.channels)

    def forward(self, latents, level, *, generator):
        return [net(latents).relu().flatten(2) for net in self.nets]


def real_adversary(**options) -> Adversary:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Encoder().requires_grad_(False)
    return Adversary(encoder, Discriminator((16, 24), 3, seed=0), **options)


def real_pair() -> RealFakeBatch:
    return pair_with(normal(4, 2, 5, 5).requires_grad_(), normal(4, 2, 5, 5, seed=1))


@pytest.mark.parametrize("loss", ["hinge", "non-saturating"])
def test_the_generators_gradient_reaches_latents_and_nothing_else(loss) -> None:
    adversary, pair = real_adversary(loss=loss), real_pair()
    before = {name: value.clone() for name, value in adversary.discriminator.state_dict().items()}
    adversary.generator_loss(pair, CONDITION, generator=rng()).backward()
    assert pair.fake.grad.abs().sum((1, 2, 3)).min() > 0
    assert all(weight.grad is None for weight in adversary.discriminator.parameters())
    assert all(weight.requires_grad for weight in adversary.discriminator.parameters())
    assert all(torch.equal(before[k], v) for k, v in adversary.discriminator.state_dict().items())


def test_both_sides_see_the_same_logits() -> None:
    adversary, pair = real_adversary(), real_pair()
    maps = adversary.features(pair.fake, pair.level, generator=rng())
    logits = adversary.discriminator(maps, torch.ones(4, 3))
    assert adversary.generator_loss(pair, CONDITION, generator=rng()).item() == pytest.approx(
        -logits.mean().item()
    )
    losses = adversary.discriminator_loss(pair, CONDITION, generator=rng())
    torch.testing.assert_close(losses["fake"], F.relu(1 + logits).mean())


@pytest.mark.parametrize("options", [{}, {"gradient_penalty": 0.1, "r1": 0.1}])
def test_the_discriminators_gradient_reaches_heads_and_nothing_else(options) -> None:
    adversary, pair = real_adversary(**options), real_pair()
    adversary.features.requires_grad_(True)
    pair.real.requires_grad_()
    adversary.discriminator_loss(pair, CONDITION, generator=rng())["total"].backward()
    assert pair.fake.grad is None and pair.real.grad is None
    assert all(weight.grad is None for weight in adversary.features.parameters())
    weights = list(adversary.discriminator.parameters())
    assert all(weight.grad is not None for weight in weights)
    assert all(weight.grad.norm() > 0 for weight in weights if weight.ndim > 1)


def test_the_condition_is_told() -> None:
    adversary, pair = real_adversary(), real_pair()
    conditions = Condition(normal(4, 1, 3)), Condition(normal(4, 1, 3).flip(0))
    losses = [adversary.generator_loss(pair, condition, generator=rng()).item() for condition in conditions]
    assert abs(losses[0] - losses[1]) > 1e-4


def test_all_states_are_shown_at_the_level_of_the_fake_ones() -> None:
    class Timed(Plain):
        def __call__(self, latents, level, *, generator):
            return [0 * latents.flatten(2) + level.t.view(-1, 1, 1) / 100]

    pair = pair_of("xs-xr")
    adversary = Adversary(Timed(), Linear(1.0, 0.0), gradient_penalty=1.0, r1=1.0)
    assert adversary.generator_loss(pair, CONDITION, generator=rng()).item() == pytest.approx(-9.37 / 4)
    losses = adversary.discriminator_loss(pair, CONDITION, generator=rng())
    assert losses["fake"].item() == pytest.approx(1 + 9.37 / 4)
    assert losses["real"].item() == pytest.approx((0 + 0 + 1 + 0) / 4)
    assert losses["r1"].item() == 0
    assert not torch.equal(pair.real_level.t, pair.level.t)


def test_the_discriminator_learns_to_tell_noisy_from_clean() -> None:
    adversary = real_adversary()
    optimizer = torch.optim.Adam(adversary.discriminator.parameters(), lr=3e-3)
    losses = []
    for step in range(30):
        clean = normal(8, 2, 1, 1, seed=2 * step).expand(-1, -1, 5, 5)
        pair = pair_with(clean + 0.5 * normal(8, 2, 5, 5, seed=2 * step + 1), clean)
        loss = adversary.discriminator_loss(pair, CONDITION, generator=rng(step))["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        adversary.discriminator.update_spectral_norm()
        losses.append(loss.item())
    assert losses[0] > 1.8 and losses[-1] < 1.0
