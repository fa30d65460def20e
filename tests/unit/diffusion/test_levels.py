"""Levels, starts, selections and plans against values worked out by hand."""

import math

import pytest
import torch

from stdcli.diffusion.levels import (
    CLEAN,
    SOLVER_STEPS,
    Level,
    LevelError,
    SamplingPath,
    level_below,
    level_table,
    levels_at,
    make_sampling_path,
    make_teacher_path,
    nearest_level,
    pick_levels,
    select_levels,
    start_level,
)
from stdcli.diffusion.schedule import NoiseSchedule

SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
FLOW = NoiseSchedule.flow(3.0)


def test_vp_table_of_50_is_0_19_39_to_999():
    table = level_table(SD, 50)
    assert [level.t for level in table] == [0, *range(19, 1000, 20)]
    assert [level.id for level in table] == list(range(51))
    assert table[0].sigma == pytest.approx(0.02916, abs=1e-5)
    for level in table:
        assert level.alpha == SD.alphas[level.t].item() and level.sigma == SD.sigmas[level.t].item()


@pytest.mark.parametrize(
    ("size", "times"), [(4, [0, 249, 499, 749, 999]), (3, [0, 332, 665, 998]), (1, [0, 999])]
)
def test_small_vp_tables(size, times):
    assert [level.t for level in level_table(SD, size)] == times


def test_flow_table_uses_shifted_sigmas_and_exact_times():
    table = level_table(FLOW, 4)
    sigmas = [3 * u / (1 + 2 * u) for u in (0, 0.25, 0.5, 0.75, 1)]
    assert [level.sigma for level in table] == pytest.approx(sigmas, abs=1e-15)
    assert [level.t for level in table] == pytest.approx([1000 * sigma for sigma in sigmas], abs=1e-12)
    assert table[0] == Level(0, 0.0, 1.0, 0.0) and table[-1].alpha == 0
    assert [level.sigma for level in level_table(NoiseSchedule.flow(), 3)] == [0, 0.333, 0.666, 1]


@pytest.mark.parametrize(("size", "nearest"), [(0, 1), (-5, 1), (1001, 1000)])
def test_table_size_out_of_range(size, nearest):
    with pytest.raises(LevelError, match=f"not in 1..1000; the nearest is {nearest}"):
        level_table(SD, size)


@pytest.mark.parametrize(
    ("strength", "level"),
    [
        (0.35, 17),
        (0.5, 25),
        (0.58, 29),
        (0.65, 32),
        (0.7, 35),
        (0.75, 37),
        (0.85, 42),
        (0.95, 47),
        (1.0, 50),
        (0.019, 0),
    ],
)
def test_start_level(strength, level):
    assert start_level(50, strength) == level


@pytest.mark.parametrize("strength", [0, -0.1, 1.0001, float("nan")])
def test_strength_out_of_range(strength):
    with pytest.raises(LevelError, match=r"not in \(0, 1\]"):
        start_level(50, strength)
    with pytest.raises(LevelError, match=r"not in \(0, 1\]"):
        make_sampling_path(FLOW, steps=4, strength=strength)


@pytest.mark.parametrize(
    ("steps", "ids"),
    [
        (1, (37,)),
        (2, (37, 19)),
        (4, (37, 28, 19, 10)),
        (6, (37, 31, 25, 19, 13, 7)),
        (8, (37, 33, 28, 24, 19, 14, 10, 5)),
        (37, tuple(range(37, 0, -1))),
    ],
)
def test_select_levels_from_37(steps, ids):
    assert select_levels(37, steps) == ids


@pytest.mark.parametrize("steps", [0, -1, 38])
def test_select_levels_out_of_range(steps):
    with pytest.raises(LevelError, match=r"not in 1\.\.37"):
        select_levels(37, steps)


@pytest.mark.parametrize(
    ("steps", "timesteps"),
    [
        (1, (739,)),
        (2, (739, 379)),
        (4, (739, 559, 379, 199)),
        (8, (739, 659, 559, 479, 379, 279, 199, 99)),
    ],
)
def test_published_schedules_at_strength_three_quarters(steps, timesteps):
    plan = make_sampling_path(SD, steps=steps, strength=0.75)
    assert plan.timesteps == timesteps
    assert plan.levels[-1] == level_table(SD, 50)[0]


@pytest.mark.parametrize("strength", [0.35, 0.5, 0.65, 0.75, 0.85, 0.95])
def test_every_plan_has_exactly_k_different_evaluations(strength):
    plans = [make_sampling_path(SD, steps=steps, strength=strength) for steps in (1, 2, 4, 6, 8)]
    for plan, steps in zip(plans, (1, 2, 4, 6, 8), strict=True):
        assert plan.evaluations == len(plan.timesteps) == len(set(plan.timesteps)) == steps
        assert plan.timesteps[0] == 20 * start_level(50, strength) - 1
    assert len({plan.timesteps for plan in plans}) == 5


@pytest.mark.parametrize(
    ("steps", "strength", "size"),
    [(37, 0.75, 50), (38, 0.75, 100), (75, 0.75, 100), (76, 0.75, 200), (151, 0.75, 250), (188, 0.75, 500),
     (376, 0.75, 1000), (1, 0.01, 100), (1, 0.001, 1000), (1000, 1.0, 1000)],
)  # fmt: skip
def test_the_smallest_table_that_fits_is_chosen(steps, strength, size):
    plan = make_sampling_path(SD, steps=steps, strength=strength)
    assert plan.evaluations == steps
    assert plan.levels[0].id == math.floor(size * strength + 1e-9)
    assert plan.timesteps[0] == plan.levels[0].id * (1000 // size) - 1


def test_table_sizes_follow_the_training_table():
    schedule = NoiseSchedule.linear(1e-4, 0.02, 120)
    assert make_sampling_path(schedule, steps=40, strength=0.5).levels[0].id == 50
    assert make_sampling_path(NoiseSchedule.linear(1e-4, 0.02, 20), steps=10, strength=1.0).levels[0].t == 19
    assert SOLVER_STEPS == (50, 100, 200, 250, 500, 1000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"steps": 38, "strength": 0.75, "num_solver_steps": 50},
            "at most 37 steps or a strength of at least 0.76",
        ),
        ({"steps": 60, "strength": 0.75, "num_solver_steps": 50}, "at most 37 steps$"),
        ({"steps": 1, "strength": 0.01, "num_solver_steps": 50}, "fits: a strength of at least 0.02"),
        ({"steps": 60, "strength": 0.01, "num_solver_steps": 50}, "fits: 50 steps at strength 1"),
        ({"steps": 751, "strength": 0.75}, "at most 750 steps or a strength of at least 0.751"),
        ({"steps": 0, "strength": 0.75}, "0 steps are too few; the nearest is 1"),
        ({"steps": 4, "strength": 0.75, "num_solver_steps": 2000}, "the nearest is 1000"),
        ({"steps": 4}, "needs steps and strength, or explicit timesteps"),
        ({"steps": 4, "strength": 0.75, "final": "clean"}, "neither 'level0' nor 'x0'"),
    ],
)
def test_impossible_plans_name_the_nearest(arguments, message):
    with pytest.raises(LevelError, match=message):
        make_sampling_path(SD, **arguments)


def test_the_strength_that_is_advised_works():
    with pytest.raises(LevelError, match=r"at most 5 steps or a strength of at least 0\.563"):
        make_sampling_path(FLOW, steps=15, strength=0.25, num_solver_steps=50)
    assert make_sampling_path(FLOW, steps=15, strength=0.563, num_solver_steps=50).evaluations == 15


def test_flow_paths_start_at_the_nearest_sigma():
    table = level_table(NoiseSchedule.flow(), 10)
    assert [nearest_level(table, sigma) for sigma in (0.74, 0.76, 0.04, 1.0)] == [7, 8, 0, 10]
    assert nearest_level(level_table(NoiseSchedule.flow(), 4), 0.375) == 1
    plan = make_sampling_path(FLOW, steps=5, strength=0.75)
    assert plan.levels[0].id == 25 and plan.levels[0].sigma == pytest.approx(0.75, abs=1e-12)
    assert plan.timesteps == pytest.approx([1000 * 3 * j / (50 + 2 * j) for j in (25, 20, 15, 10, 5)])
    assert plan.levels[-1].sigma == 0


def test_final_x0_ends_in_clean_data():
    plan = make_sampling_path(SD, steps=4, strength=0.75, final="x0")
    assert plan.levels[-1] is CLEAN and plan.evaluations == 4
    assert (CLEAN.alpha, CLEAN.sigma) == (1.0, 0.0)


def test_explicit_timesteps_win_and_need_no_grid():
    plan = make_sampling_path(SD, steps=2, strength=0.3, timesteps=(749, 500, 3))
    assert plan.timesteps == (749, 500, 3)
    assert [level.id for level in plan.levels] == [3, 2, 1, 0]
    assert [level.sigma for level in plan.levels[:-1]] == SD.sigmas[[749, 500, 3]].tolist()
    assert plan.levels[-1].t == 0 and plan.levels[-1].sigma == SD.sigmas[0].item()
    assert make_sampling_path(SD, timesteps=[999, 0], final="x0").levels[-1] is CLEAN


def test_explicit_flow_times_are_sigmas():
    plan = make_sampling_path(FLOW, timesteps=(1000, 857.5, 250))
    assert [(level.t, level.sigma, level.alpha) for level in plan.levels] == [
        (1000.0, 1.0, 0.0), (857.5, 0.8575, 1 - 0.8575), (250.0, 0.25, 0.75), (0.0, 0.0, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "timesteps", "message"),
    [
        (SD, (), "at least one"),
        (SD, (1000, 500), r"1000 is not in 0\.\.999; the nearest is 999"),
        (SD, (500, -1), r"-1 is not in 0\.\.999; the nearest is 0"),
        (SD, (500, 499.6), "499.6 is not a whole number; the nearest is 500"),
        (SD, (500, 500), "500 follows 500; in order they are 500"),
        (SD, (379, 739, 559), "739 follows 379; in order they are 739,559,379"),
        (FLOW, (1001, 2), r"not in 0\.\.1000; the nearest is 1000"),
        (FLOW, (500, 0), "leave it out"),
    ],
)
def test_wrong_timesteps(schedule, timesteps, message):
    with pytest.raises(LevelError, match=message):
        make_sampling_path(schedule, timesteps=timesteps)


def test_teacher_path_visits_every_level():
    assert [level.id for level in make_teacher_path(SD, num_solver_steps=50, strength=0.75).levels] == list(
        range(37, -1, -1)
    )
    assert [level.id for level in make_teacher_path(FLOW, num_solver_steps=50, strength=0.75).levels] == list(
        range(25, -1, -1)
    )
    assert make_teacher_path(SD, num_solver_steps=30, strength=1.0).timesteps[:2] == (989, 956)
    with pytest.raises(LevelError, match=r"at least 0\.02"):
        make_teacher_path(SD, num_solver_steps=50, strength=0.01)


def test_plans_refuse_rising_noise():
    low, high = level_table(SD, 50)[10], level_table(SD, 50)[20]
    assert SamplingPath((high, low)).evaluations == 1
    with pytest.raises(LevelError, match=r"level 20 \(t 399\) lies above level 10 \(t 199\)"):
        SamplingPath((low, high))
    with pytest.raises(LevelError, match="at least one level"):
        SamplingPath((high,))


def test_level_below_uses_the_training_table():
    level = level_table(SD, 50)[28]
    below = level_below(SD, level, 0.3)
    assert (level.t, below.t) == (559, 391)
    assert below.sigma == SD.sigmas[391].item() and below.alpha == SD.alphas[391].item()
    assert level_below(SD, level, 0.0) == level
    assert level_below(SD, level, 1.0).t == 0
    assert level_below(SD, Level(1, 90, 0.0, 1.0), 0.3).t == 63, "0.7 x 90 is 62.99999999999999 in binary"


def test_level_below_of_a_flow_scales_sigma():
    below = level_below(FLOW, Level(5, 800.0, 0.2, 0.8), 0.25)
    assert (below.t, below.sigma, below.alpha) == pytest.approx((600.0, 0.6, 0.4))


def test_pick_levels_keeps_fractions_beside_whole_times():
    """As a table may be read from JSON, where 0.0 and 0 are one."""
    table = (Level(0, 0, 1.0, 0.0), Level(1, 857.5, 0.1425, 0.8575), Level(2, 1000, 0.0, 1.0))
    assert pick_levels(table, torch.tensor([1, 0, 2])).t.tolist() == [857.5, 0, 1000]


def test_pick_levels_gathers_one_per_sample():
    table = level_table(SD, 50)
    picked = pick_levels(table, torch.tensor([37, 0, 37, 5]))
    assert picked.id.tolist() == [37, 0, 37, 5]
    assert picked.t.tolist() == [739, 0, 739, 99] and picked.t.dtype == torch.int64
    assert picked.alpha.tolist() == SD.alphas[[739, 0, 739, 99]].tolist()
    assert picked.sigma.tolist() == SD.sigmas[[739, 0, 739, 99]].tolist()
    assert picked.sigma.dtype == torch.float64
    flow = pick_levels(level_table(FLOW, 4), torch.tensor([0, 2]))
    assert flow.t.dtype == torch.float64 and flow.t.tolist() == pytest.approx([0, 750])


@pytest.mark.parametrize("ids", [[0, -1], [51]])
def test_pick_levels_refuses_ids_outside_the_table(ids):
    with pytest.raises(LevelError, match=r"not all in 0\.\.50"):
        pick_levels(level_table(SD, 50), torch.tensor(ids))


def test_levels_at_any_times():
    level = levels_at(SD, torch.tensor([0, 559, 560, 999]))
    assert level.t.tolist() == level.id.tolist() == [0, 559, 560, 999] and level.t.dtype == torch.int64
    assert level.alpha.tolist() == SD.alphas[[0, 559, 560, 999]].tolist()
    assert level.sigma.tolist() == SD.sigmas[[0, 559, 560, 999]].tolist()
    assert levels_at(SD, torch.tensor([3.0])).t.dtype == torch.int64
    flow = levels_at(FLOW, torch.tensor([0.0, 857.5, 1000.0]))
    assert flow.sigma.tolist() == [0, 0.8575, 1] and flow.alpha.tolist() == [1, 1 - 0.8575, 0]
    assert flow.t.tolist() == [0, 857.5, 1000] and flow.sigma.dtype == torch.float64


@pytest.mark.parametrize(
    ("schedule", "t", "message"),
    [
        (SD, [5, 1000], r"not all whole numbers in 0\.\.999"),
        (SD, [-1], r"not all whole numbers in 0\.\.999"),
        (SD, [2.5], "not all whole numbers"),
        (FLOW, [1000.5], r"not all in 0\.\.1000"),
    ],
)
def test_levels_at_refuses_times_out_of_range(schedule, t, message):
    with pytest.raises(LevelError, match=message):
        levels_at(schedule, torch.tensor(t))
