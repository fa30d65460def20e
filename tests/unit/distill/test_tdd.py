"""Where target-driven jumps end: plans by diffusers' own timesteps, ends off the table by counting."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from diffusers import TCDScheduler

from stdcli.config.distill import DistillConfig
from stdcli.diffusion.levels import LevelError, level_table
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.methods.tdd import Tdd
from tests.tiny_methods import SD, START, STD, mean_of, moved, noise_in, path_of, roles_of
from tests.unit.distill.test_std import batch_of

TABLE = level_table(SD, 50)
FLOW = NoiseSchedule.flow(3.0)
COUNTS = (4, 5, 6, 7, 8)
MANY = 40_000


def method(table=TABLE, start_id: int = START, *, seed: int = 0, **section) -> Tdd:
    config = DistillConfig(method="tdd", bank="b", step_counts=COUNTS, seed=seed, tdd=section)
    return Tdd.from_settings(config, paths=SimpleNamespace(start_id=start_id), table=table)


def grid_of_diffusers() -> list[int]:
    """Times that 4 to 8 steps at strength 0.75 visit by TCDScheduler, without the start, with time 0."""
    times = {0}
    for steps in COUNTS:
        scheduler = TCDScheduler(1000, 0.00085, 0.012, "scaled_linear", original_inference_steps=50)
        scheduler.set_timesteps(steps, strength=0.75)
        times |= set(scheduler.timesteps.tolist())
    return sorted(times - {739}, reverse=True)


def test_ends_are_near_the_levels_that_diffusers_visits() -> None:
    choices, grid = method().target_sampler.free, grid_of_diffusers()
    assert len(grid) > 15 and sorted(choices) == list(range(1, 38))
    for j, ends in choices.items():
        highest = max(t for t in grid if t <= TABLE[j - 1].t)
        expected = [t for t in grid if highest - 260 <= t <= highest]
        assert [TABLE[s].t for s in ends] == expected


def test_ends_by_hand() -> None:
    """The plans of 2 and 4 steps from 37: levels 19; 28, 19, 10; and 0."""
    config = DistillConfig(method="tdd", bank="b", step_counts=[2, 4], steps=4, tdd={"reach": 0.2})
    choices = Tdd.from_settings(config, paths=SimpleNamespace(start_id=37), table=TABLE).target_sampler.free
    assert choices[37] == choices[29] == (28, 19)  # t 559; 200 below is 359, and 19 lies at 379
    assert choices[28] == choices[20] == (19, 10)  # 379; 179, and 10 lies at 199
    assert choices[19] == choices[11] == (10, 0)  # 199; 0
    assert choices[10] == choices[1] == (0,)


def test_without_reach_it_is_the_nearest_level_of_a_plan() -> None:
    assert all(len(ends) == 1 for ends in method(reach=0.0).target_sampler.free.values())


def test_a_number_of_steps_without_a_plan_is_refused() -> None:
    with pytest.raises(LevelError):
        method(start_id=6)


def many(s: int = 28):
    """A batch of many items of one j and s; nothing but its numbers is read here."""
    batch = batch_of((0,), (37,), (s,))
    ids = torch.full((MANY,), s)
    return dataclasses.replace(batch, sample_index=torch.arange(MANY), level_ids=ids + 9, target_ids=ids)


def test_strayed_ends_are_uniform_below_their_level() -> None:
    """t = floor((1 - 0.3 U) 559): 559 alone where U = 0, else 392 .. 558, a row each 1/167.7 of the draws."""
    t = method().strayed(SD, many()).to_level.t
    assert t.dtype == torch.int64 and t.min() >= 391 and t.max() <= 559
    counts = torch.bincount(t, minlength=560)[392:559].double()
    expected = MANY / (0.3 * 559)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert 110 < chi2 < 235, "166 degrees of freedom: 166 +- 18"


def test_levels_off_the_table_are_those_of_their_rows() -> None:
    level = method().strayed(SD, many()).to_level
    torch.testing.assert_close(level.alpha, SD.alphas[level.t], rtol=0, atol=0)
    torch.testing.assert_close(level.sigma, SD.sigmas[level.t], rtol=0, atol=0)
    assert (method().strayed(SD, many(0)).to_level.t == 0).all(), "level 0 stays"


def test_flow_schedules_have_no_rows() -> None:
    table = level_table(FLOW, 50)
    tdd, batch = method(table), many()
    level, top = tdd.strayed(FLOW, batch).to_level, table[28].t
    share = 1 - level.t / top
    assert 0 <= share.min() < 1e-3 and 0.299 < share.max() < 0.3
    assert float(share.mean()) == pytest.approx(0.15, abs=0.002)
    torch.testing.assert_close(level.sigma, level.t / 1000)
    assert (level.t != level.t.floor()).double().mean() > 0.99


def test_draws_are_those_of_the_item_and_the_seed() -> None:
    whole = method().strayed(SD, many()).to_level.t
    batch = many()
    part = dataclasses.replace(
        batch,
        sample_index=batch.sample_index[7:9],
        level_ids=batch.level_ids[7:9],
        target_ids=batch.target_ids[7:9],
    )
    assert torch.equal(method().strayed(SD, part).to_level.t, whole[7:9])
    assert not torch.equal(method(seed=1).strayed(SD, many()).to_level.t, whole)
    assert (method(stray=0.0).strayed(SD, many()).to_level.t == 559).all()


def test_the_loss_is_taken_where_the_jumps_end() -> None:
    """Both jumps by plain numbers, to the strayed times."""
    paths, j, s = (0, 3, 1), (37, 20, 12), (28, 10, 5)
    batch, tdd = batch_of(paths, j, s), method()
    times = tdd.strayed(SD, batch).to_level.t.tolist()
    assert all(end < TABLE[k].t for end, k in zip(times, s, strict=True))

    def end(path: int, level: int, to: int) -> torch.Tensor:
        x, t = path_of(path)[level], 20 * level - 1
        return moved(x, noise_in(x, t, mean=mean_of(path), std=STD), t, to)

    expected = [
        float((end(p, a, to) - end(p, a - 1, to)).square().mean())
        for p, a, to in zip(paths, j, times, strict=True)
    ]
    roles = roles_of()
    (loss,) = tdd.losses(roles, LossTerms(START, kind="l2"), batch, 0)
    assert loss.metrics["loss/distance"].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert [asked[1] for asked in roles.module.asked] == [times, times], "networks are told where"


def test_its_sampler_is_tcds_with_a_smaller_gamma() -> None:
    assert dict(Tdd.sampling) == {"sampler": "jump", "final": "level0", "gamma": 0.2}
