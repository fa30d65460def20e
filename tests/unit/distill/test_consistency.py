"""What methods of the consistency family share, held against plain numbers; and where tcd's jumps end."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from stdcli.config.distill import DistillConfig
from stdcli.diffusion.levels import level_table, levels_at
from stdcli.distill.consistency import Consistency
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.methods.hyper_sd import HyperSd
from stdcli.distill.methods.pcm import Pcm
from stdcli.distill.methods.tcd import Tcd
from stdcli.distill.target_sampler import TargetSampler
from tests.tiny_methods import (
    AVERAGE_STD,
    SD,
    START,
    STD,
    mean_of,
    moved,
    noise_in,
    path_of,
    roles_of,
    scales,
)
from tests.unit.distill.test_std import PATHS, J, S, batch_of, close, jumped

TABLE = level_table(SD, 50)
TARGETS = TargetSampler({}, {})
SHARED = [Tcd, Pcm, HyperSd]  # all that is theirs is in `Consistency`, but for s


def tcd(**more) -> Tcd:
    config = DistillConfig(method="tcd", bank="b", **more)
    return Tcd.from_settings(config, paths=SimpleNamespace(start_id=START), table=TABLE)


@pytest.mark.parametrize("kind", SHARED)
def test_predictions_are_jumps_of_the_student(kind: type[Consistency]) -> None:
    roles = roles_of()
    prediction = kind(TABLE, TARGETS).predict(roles, batch_of())
    close(prediction.state, [jumped(p, j, s, std=STD) for p, j, s in zip(PATHS, J, S, strict=True)])
    assert roles.module.asked == [([739, 399, 39, 19], [559, 379, 0, 0], 4)], "times of both ends"
    for k, (path, j) in enumerate(zip(PATHS, J, strict=True)):
        alpha, sigma = scales(20 * j - 1)
        back = alpha * prediction.denoised.x0[k] + sigma * prediction.denoised.eps[k]
        torch.testing.assert_close(back.double(), path_of(path)[j], rtol=0, atol=2e-5)
    prediction.state.sum().backward()
    assert roles.module.std.grad is not None


@pytest.mark.parametrize("kind", SHARED)
def test_targets_are_the_students_own_jumps_from_the_next_state(kind: type[Consistency]) -> None:
    roles, batch = roles_of(), batch_of()
    target = kind(TABLE, TARGETS).target(roles, batch)
    close(target, [jumped(p, j - 1, s, std=STD) for p, j, s in zip(PATHS, J, S, strict=True)])
    assert roles.module.asked == [([719, 379, 19, 0], [559, 379, 0, 0], 4)]
    assert not target.requires_grad
    assert torch.equal(target[1], batch.next_states[1]) and torch.equal(target[3], batch.next_states[3])


@pytest.mark.parametrize("kind", SHARED)
def test_an_average_makes_the_target_and_nothing_else(kind: type[Consistency]) -> None:
    roles, batch = roles_of(ema=AVERAGE_STD), batch_of((0,), (37,), (28,))
    method = kind(TABLE, TARGETS, ema_decay=0.9)
    close(method.target(roles, batch), [jumped(0, 36, 28, std=AVERAGE_STD)])
    close(method.predict(roles, batch).state, [jumped(0, 37, 28, std=STD)])


def test_ends_between_levels_are_jumped_to_on_both_sides() -> None:
    batch, roles = batch_of((2,), (37,), (28,)), roles_of()
    batch = dataclasses.replace(batch, to_level=levels_at(SD, torch.tensor([431])))
    method = Tcd(TABLE, TARGETS)
    x = path_of(2)
    ends = [
        moved(x[j], noise_in(x[j], 20 * j - 1, mean=mean_of(2), std=STD), 20 * j - 1, 431) for j in (37, 36)
    ]
    close(method.predict(roles, batch).state, ends[:1])
    close(method.target(roles, batch), ends[1:])
    assert [asked[1] for asked in roles.module.asked] == [[431], [431]]


def test_the_loss_by_hand() -> None:
    batch = batch_of()
    (loss,) = Tcd(TABLE, TARGETS).losses(roles_of(), LossTerms(START, kind="l2"), batch, 0)
    errors = [
        float((jumped(p, j, s, std=STD) - jumped(p, j - 1, s, std=STD)).square().mean())
        for p, j, s in zip(PATHS, J, S, strict=True)
    ]
    assert loss.learner == "student"
    assert loss.metrics["loss/distance"].tolist() == pytest.approx(errors, rel=1e-3, abs=1e-7)
    assert float(loss.value.detach()) == pytest.approx(sum(errors) / 4, rel=1e-4)


def test_what_a_batch_must_have() -> None:
    for kind in SHARED:
        assert kind.needs == {"next", "teacher"} and kind.states == "data"
    assert tcd().ema_decay is None
    assert tcd(std={"target_weights": "average", "target_decay": 0.8}).ema_decay == 0.8


def test_ends_of_tcd_by_hand() -> None:
    choices = tcd().target_sampler.free
    assert sorted(choices) == list(range(1, 38))
    assert choices[1] == (0,) and choices[3] == (2, 1, 0)
    assert choices[37] == tuple(range(36, -1, -1))


def test_ends_of_tcd_are_uniform() -> None:
    """Chi-square of 37 ends, 36 degrees of freedom: 36 +- 8.5."""
    draws = torch.rand(37_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = tcd().target_sampler.select(torch.full((37_000,), 37), draws)
    counts = drawn.bincount(minlength=37).double()
    assert len(counts) == 37
    assert 12 < float(((counts - 1000) ** 2 / 1000).sum()) < 70
