"""Motion consistency models: own states, the head and the boundary, held against plain numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from stdcli.config.distill import DistillConfig
from stdcli.diffusion.levels import level_table
from stdcli.diffusion.predictions import to_x0_eps
from stdcli.distill.batch import Batch
from stdcli.distill.learner import STUDENT
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.methods.lcm import Lcm, boundary
from stdcli.distill.methods.mcm import Mcm
from stdcli.distill.renoised import Renoised
from stdcli.distill.spatial_head import DECAY, HeadPair, SpatialHead
from tests.tiny_methods import (
    AVERAGE_STD,
    SD,
    STD,
    condition_of,
    draw,
    mean_of,
    noise_in,
    roles_of,
    scales,
    time_of,
)

TABLE = level_table(SD, 50)
J = (37, 12, 1)


def batch_of(j=J) -> Batch:
    paths = range(len(j))
    return Batch(
        sample_ids=torch.tensor(list(paths)),
        sample_index=torch.arange(len(j)),
        level_ids=torch.tensor(j),
        target_ids=torch.zeros(len(j), dtype=torch.int64),
        states=torch.stack([draw(k, what=2) for k in paths]),
        next_ids=torch.tensor([id_ - 1 for id_ in j]),
        next_states=torch.stack([draw(k, what=3) for k in paths]),
        targets=None,
        real_latents=None,
        cond=condition_of([mean_of(k) for k in paths]),
        uncond=condition_of([0.0 for _ in paths]),
        guidance=torch.full((len(j),), 3.0, dtype=torch.float64),
    )


def bound_by_hand(x: torch.Tensor, j: int, *, mean: float, std: float) -> torch.Tensor:
    """c_skip x + c_out x0hat, with four times the time."""
    t = time_of(j)
    alpha, sigma = scales(t)
    x0 = (x - sigma * noise_in(x, t, mean=mean, std=std)) / alpha
    total = (4 * t) ** 2 + 0.25
    return 0.25 / total * x + 4 * t / total**0.5 * x0


def test_the_boundary_by_hand() -> None:
    c_skip, c_out = boundary(torch.tensor([0, 1, 19]), scaling=4.0)
    assert c_skip.tolist() == pytest.approx([1, 0.25 / 16.25, 0.25 / 5776.25])
    assert c_out.tolist() == pytest.approx([0, 4 / 16.25**0.5, 76 / 5776.25**0.5])
    assert torch.equal(boundary(torch.tensor([3]))[0], boundary(torch.tensor([3]), scaling=10.0)[0])


def test_predictions_and_targets_by_hand() -> None:
    roles, batch, method = roles_of(ema=AVERAGE_STD), batch_of(), Mcm(TABLE, 37)
    state, target = method.predict(roles, batch).state, method.target(roles, batch)
    for k, j in enumerate(J):
        expected = bound_by_hand(batch.states[k].double(), j, mean=mean_of(k), std=STD)
        torch.testing.assert_close(state[k].double(), expected, rtol=0, atol=1e-4)
        expected = bound_by_hand(batch.next_states[k].double(), j - 1, mean=mean_of(k), std=AVERAGE_STD)
        torch.testing.assert_close(target[k].double(), expected, rtol=0, atol=1e-4)
    assert torch.equal(target[2], batch.next_states[2]), "level 0 is its own target"


def renoised(share: float, ids=range(1, 38), seed: int = 0) -> Renoised:
    roles = roles_of()
    return Renoised(
        lambda x, level, cond: roles.student(x, level, cond, to_level=TABLE[0]), TABLE, ids, share, seed
    )


@pytest.mark.parametrize(("j", "i"), [(37, 20), (12, 30), (25, 1)])
def test_own_states_have_the_spread_that_a_gaussian_student_gives_them(j: int, i: int) -> None:
    """alpha_i^2 gain^2 v_j + sigma_i^2 around alpha_i times the mean of its x0, for any variance v_j."""
    mean, v_j, side = 0.7, 0.3, 160
    (alpha, sigma), (to_alpha, to_sigma) = scales(time_of(j)), scales(time_of(i))
    eps = torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(1))
    x = alpha * mean + v_j**0.5 * eps
    cond = condition_of([mean])
    found, ids = renoised(1.0, (i,)).mix(x, torch.tensor([j]), cond, sample_index=torch.tensor([3]))
    assert ids.tolist() == [i]
    gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    expected = to_alpha**2 * gain**2 * v_j + to_sigma**2
    assert float(found.var()) == pytest.approx(expected, rel=0.02)
    assert float(found.mean()) == pytest.approx(to_alpha * mean, abs=4 * (expected / found.numel()) ** 0.5)
    # and no other noise than the state's own and the fresh one
    clean = (x - sigma * noise_in(x.double(), time_of(j), mean=mean, std=STD)) / alpha
    fresh = (found - to_alpha * clean) / to_sigma
    assert float(fresh.var()) == pytest.approx(1, rel=0.02)
    assert abs(float((fresh * eps).mean())) < 0.02


def test_a_share_of_the_items_is_own_and_all_of_it_comes_from_the_items_number() -> None:
    count = 400
    x, ids = torch.zeros(count, 1, 1, 1), torch.full((count,), 40)
    cond, numbers = condition_of([0.3] * count), torch.arange(count)
    mixed, levels = renoised(0.3).mix(x, ids, cond, sample_index=numbers)
    is_own = levels != 40
    assert 0.22 < float(is_own.double().mean()) < 0.38
    assert torch.equal(mixed.flatten() != 0, is_own), "the rest is as it was"
    assert levels[is_own].min() == 1 and levels[is_own].max() == 37 and levels[is_own].unique().numel() > 25
    part = slice(150, 170)
    alone = condition_of([0.3] * 20)
    again, same = renoised(0.3).mix(x[part], ids[part], alone, sample_index=numbers[part])
    assert torch.equal(again, mixed[part]) and torch.equal(same, levels[part])
    other, _ = renoised(0.3, seed=1).mix(x, ids, cond, sample_index=numbers)
    assert not torch.equal(other, mixed)
    kept, _ = renoised(0.0).mix(x, ids, cond, sample_index=numbers)
    assert kept is x


def test_own_states_carry_no_gradient() -> None:
    x = torch.ones(2, 1, 2, 2)
    mixed, _ = renoised(1.0).mix(
        x, torch.tensor([9, 30]), condition_of([0.1, 0.2]), sample_index=torch.tensor([0, 1])
    )
    assert not mixed.requires_grad and mixed.dtype == x.dtype


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (2, 4, 3, 5, 6)])
def test_the_head_is_the_identity_at_first_and_a_residual_by_hand_later(shape) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    head = SpatialHead(4, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(head(x), x)
    assert torch.equal(head.inner.weight, SpatialHead(4, seed=7).inner.weight)
    assert not torch.equal(head.inner.weight, SpatialHead(4, seed=8).inner.weight)
    with torch.no_grad():
        for k, value in enumerate(head.parameters()):
            value += 0.2 * torch.randn(value.shape, generator=torch.Generator().manual_seed(k))
    found = head(x)
    frames = x[:, :, None] if x.ndim == 4 else x
    seen = found[:, :, None] if x.ndim == 4 else found
    for f in range(frames.shape[2]):
        inner = torch.einsum("oc,bchw->bohw", head.inner.weight[..., 0, 0], frames[:, :, f])
        groups = (inner + head.inner.bias[:, None, None]).reshape(2, 8, -1)
        spread = (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
        normed = ((groups - groups.mean(2, keepdim=True)) / spread).reshape(inner.shape)
        normed = normed * head.norm.weight[:, None, None] + head.norm.bias[:, None, None]
        out = torch.einsum("co,bohw->bchw", head.out.weight[..., 0, 0], normed * normed.sigmoid())
        expected = frames[:, :, f] + out + head.out.bias[:, None, None]
        torch.testing.assert_close(seen[:, :, f], expected, rtol=0, atol=1e-4)


def test_the_student_passes_the_head_and_the_target_its_average() -> None:
    heads, batch = HeadPair(SpatialHead(2, seed=0)), batch_of()
    method, roles = Mcm(TABLE, 37, ema_decay=0.9, heads=heads), roles_of(ema=AVERAGE_STD)
    terms = LossTerms(37, "l2")
    plain = dataclasses.replace(method, heads=None)
    (first,), (bare,) = (m.losses(roles, terms, batch, 0) for m in (method, plain))
    assert torch.equal(first.value, bare.value), "the head begins as the identity"
    first.value.backward()
    assert heads.head.out.weight.grad.any() and roles.module.std.grad is not None
    with torch.no_grad():
        heads.head.out.bias += 2.0
    (moved,) = method.losses(roles, terms, batch, 0)
    error = plain.predict(roles, batch).state.detach() + 2.0 - plain.target(roles, batch)
    assert float(moved.value.detach()) == pytest.approx(float(error.square().mean()), rel=1e-5)
    heads.update()
    assert torch.allclose(heads.average["out.bias"], torch.full((2,), 2.0 * (1 - DECAY)))
    (later,) = method.losses(roles, terms, batch, 0)
    error = error - 2.0 * (1 - DECAY)
    assert float(later.value.detach()) == pytest.approx(float(error.square().mean()), rel=1e-5)


def test_the_head_is_trained_with_the_student_and_kept_with_it() -> None:
    method = Mcm(TABLE, 37, heads=HeadPair(SpatialHead(2, seed=0)))
    (learner,) = method.learners(roles_of())
    assert learner.name == STUDENT and "std" in learner.parameters
    names = {f"spatial_head.{name}" for name, _ in method.heads.head.named_parameters()}
    assert learner.parameters.keys() == names | {"std"} and learner.buffers.keys() == names
    assert all(not value.requires_grad for value in learner.buffers.values())
    assert learner.after_update == [method.heads.update]
    (alone,) = dataclasses.replace(method, heads=None).learners(roles_of())
    assert alone.parameters.keys() == {"std"}


class Paths:
    """What `from_settings` asks of teacher paths."""

    start_id = 37
    manifest = type("Manifest", (), {"latent_shape": (2, 3, 3)})


def test_settings() -> None:
    config = DistillConfig(method="mcm", bank="b", std={"target_weights": "average", "target_decay": 0.8})
    method = Mcm.from_settings(config, paths=Paths(), table=TABLE)
    assert method.own_share == 0.5 and method.ema_decay == 0.8 and method.heads is not None
    assert method.states == "data" and method.predicts_x0 and method.timestep_scaling == 4
    assert Lcm.timestep_scaling == 10 and Lcm(TABLE, 37).own_share == 0
    config = DistillConfig(method="mcm", bank="b", mcm={"own": 0, "spatial_head": False})
    method = Mcm.from_settings(config, paths=Paths(), table=TABLE)
    assert method.own_share == 0 and method.heads is None and method.ema_decay is None
    with pytest.raises(ValueError, match="mcm has one target level"):
        DistillConfig(method="mcm", bank="b", student={"s_embedding": True})


def test_x0_is_what_own_states_are_made_of() -> None:
    """Level by level, one item: alpha_i x0 + sigma_i eps with eps recovered from a second level."""
    x, cond, at = draw(0)[None], condition_of([0.4]), torch.tensor([20])
    a, b = (renoised(1.0, (i,)).mix(x, at, cond, sample_index=torch.tensor([0]))[0] for i in (10, 30))
    (alpha, sigma), (to_alpha, to_sigma) = scales(time_of(10)), scales(time_of(30))
    x0 = (to_sigma * a - sigma * b).double() / (to_sigma * alpha - sigma * to_alpha)
    here = TABLE[20]
    output = noise_in(x.double(), time_of(20), mean=0.4, std=STD)
    expected = to_x0_eps(output, x.double(), alpha=here.alpha, sigma=here.sigma, kind="epsilon").x0
    torch.testing.assert_close(x0, expected, rtol=0, atol=1e-5)
