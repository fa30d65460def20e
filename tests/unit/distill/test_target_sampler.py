"""Which s may follow j: tables worked out by hand, and draws that fall on them equally often."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stdcli.diffusion.levels import LevelError, level_table
from stdcli.distill.methods.std import StdSection, make_target_sampler
from stdcli.distill.target_sampler import (
    TargetSampler,
    proportional_choices,
    scheduled_choices,
    window_choices,
)
from tests.tiny_methods import SD

TABLE = level_table(SD, 50)
IDS = range(37, -1, -1)  # strength 0.75: t 739, 719, ..., 19, 0
LEVELS = [TABLE[id_] for id_ in IDS]
KEPT = (7, 5, 2, 0)


def grid(n: int) -> torch.Tensor:
    """All pairs of n equally spaced draws."""
    points = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    return torch.cartesian_prod(points, points)


def counts(target_sampler: TargetSampler, j: int, n: int) -> dict[int, int]:
    drawn = target_sampler.select(torch.full((n * n,), j), grid(n)).tolist()
    return {s: drawn.count(s) for s in sorted(set(drawn), reverse=True)}


@pytest.mark.parametrize(
    ("j", "anchor", "expected"),
    [
        (37, True, range(36, 24, -1)),
        (37, False, range(35, 24, -1)),
        (13, True, range(12, 0, -1)),
        (12, True, range(11, -1, -1)),
        (3, True, (2, 1, 0)),
        (3, False, (1, 0)),
        (2, False, (0,)),
        (1, True, (0,)),
        (1, False, (0,)),  # nothing else is there
    ],
)
def test_windows_by_hand(j, anchor, expected) -> None:
    assert window_choices(IDS, window=12, anchor=anchor)[j] == tuple(expected)


@pytest.mark.parametrize(
    ("gamma", "j", "anchor", "expected"),
    [
        (0.7, 37, True, range(36, 25, -1)),  # 0.7 x 739 = 517.3: t 519 is level 26
        (0.7, 37, False, range(35, 25, -1)),
        (0.7, 10, True, (9, 8)),  # 139.3: t 159 is level 8, t 139 is below
        (0.7, 2, True, (1,)),  # 27.3: nothing, so j - 1
        (0.7, 1, True, (0,)),
        (1.0, 37, True, (36,)),
        (1.0, 37, False, (36,)),
        (0.0, 5, True, (4, 3, 2, 1, 0)),
        (0.0, 5, False, (3, 2, 1, 0)),
    ],
)
def test_proportional_choices_by_hand(gamma, j, anchor, expected) -> None:
    assert proportional_choices(LEVELS, gamma=gamma, anchor=anchor)[j] == tuple(expected)


def test_the_schedule_of_four_steps() -> None:
    choices = scheduled_choices(IDS, [4])
    assert choices == {37: (28,), 28: (19,), 19: (10,), 10: (0,)}
    assert [TABLE[j].t for j in choices] == [739, 559, 379, 199]


def test_a_level_of_several_schedules_has_all_their_next_levels() -> None:
    choices = scheduled_choices(IDS, (2, 4, 6, 8))
    assert choices[37] == (33, 31, 28, 19)
    assert choices[19] == (14, 13, 10, 0)  # 8, 6, 4 and 2 steps
    assert 36 not in choices and 0 not in choices


@pytest.mark.parametrize(
    ("steps", "window", "proportional"), [(8, 8, 6), (6, 6, 3), (4, 4, 1)]
)  # counted by hand
def test_which_jumps_of_a_job_are_among_the_free_choices(steps, window, proportional) -> None:
    visited = [739 - 20 * ((k * 37) // steps) for k in range(steps)]
    ids = [*((t + 1) // 20 for t in visited), 0]
    found = []
    for free in (
        window_choices(IDS, window=12, anchor=True),
        proportional_choices(LEVELS, gamma=0.7, anchor=True),
    ):
        found.append(sum(s in free[j] for j, s in pairwise(ids)))
    assert found == [window, proportional]


def test_banks_of_kept_levels_have_only_those() -> None:
    assert window_choices(KEPT, window=12, anchor=True) == {7: (5, 2, 0), 5: (2, 0), 2: (0,)}
    assert window_choices(KEPT, window=5, anchor=False) == {7: (2,), 5: (0,), 2: (0,)}
    assert window_choices(KEPT, window=1, anchor=True) == {7: (5,), 5: (2,), 2: (0,)}
    kept = [TABLE[id_] for id_ in KEPT]  # t 139, 99, 39, 0
    assert proportional_choices(kept, gamma=0.7, anchor=True) == {7: (5,), 5: (2,), 2: (0,)}


def test_schedules_of_kept_levels() -> None:
    assert scheduled_choices(KEPT, [3]) == {7: (5,)}  # 7, 5, 3, 0: level 3 is not stored
    assert scheduled_choices(KEPT, [1]) == {7: (0,)}
    assert scheduled_choices((6, 3, 0), [2]) == {6: (3,), 3: (0,)}


def test_consistency_models_aim_at_level_0() -> None:
    assert TargetSampler.lowest(3).free == {1: (0,), 2: (0,), 3: (0,)}


def test_too_many_steps_for_the_levels() -> None:
    with pytest.raises(LevelError, match=r"8 steps are not in 1\.\.7"):
        scheduled_choices(KEPT, [8])


@pytest.mark.parametrize("p_sched", [0.0, 0.25, 0.5, 1.0])
def test_schedules_are_taken_as_often_as_asked(p_sched) -> None:
    target_sampler = TargetSampler({37: (36, 35)}, {37: (33, 31, 28, 19)}, p_sched)
    found = counts(target_sampler, 37, 40)
    scheduled = {s: round(1600 * p_sched / 4) for s in (33, 31, 28, 19)}
    free = {s: round(1600 * (1 - p_sched) / 2) for s in (36, 35)}
    assert found == {s: n for s, n in (free | scheduled).items() if n}


def test_levels_off_every_schedule_take_the_free_choices() -> None:
    assert counts(TargetSampler({36: (35, 34)}, {37: (33,)}, 1.0), 36, 10) == {35: 50, 34: 50}


def test_each_item_has_its_own_level_and_draws() -> None:
    target_sampler = TargetSampler({3: (2, 1, 0), 2: (1, 0)}, {3: (0,)}, 0.5)
    draws = torch.tensor([[0.4, 0.9], [0.6, 0.9], [0.6, 0.0], [0.1, 0.6]], dtype=torch.float64)
    picked = target_sampler.select(torch.tensor([3, 3, 3, 2]), draws)
    assert picked.tolist() == [0, 0, 2, 0] and picked.dtype == torch.int64


def test_a_level_without_choices_is_an_error() -> None:
    with pytest.raises(KeyError):
        TargetSampler({3: (2,)}, {}).select(torch.tensor([0]), torch.zeros(1, 2, dtype=torch.float64))


kept_levels = st.lists(st.integers(1, 37), min_size=1, max_size=12, unique=True).map(
    lambda ids: (*sorted(ids, reverse=True), 0)
)
sections = st.builds(
    StdSection,
    policy=st.sampled_from(["window", "proportional"]),
    window=st.integers(1, 40),
    gamma=st.floats(0, 1),
    anchor=st.booleans(),
    p_sched=st.floats(0, 1),
)


@given(kept_levels, sections, st.sets(st.integers(1, 8), min_size=1))
def test_s_is_stored_and_below_j_and_all_choices_are_equally_likely(ids, section, step_counts) -> None:
    fitting = [k for k in step_counts if k <= ids[0]] or [1]
    target_sampler = make_target_sampler(section, [TABLE[id_] for id_ in ids], fitting)
    assert set(target_sampler.free) == set(ids) - {0}
    for j, choices in [*target_sampler.free.items(), *target_sampler.scheduled.items()]:
        assert choices and all(s < j and s in ids for s in choices)
        assert list(choices) == sorted(set(choices), reverse=True)
    for j, choices in target_sampler.free.items():
        if section.policy == "window" and len(choices) > 1:
            assert j - choices[-1] <= section.window
        places = (torch.arange(3 * len(choices), dtype=torch.float64) + 0.5) / (3 * len(choices))
        draws = torch.stack([torch.full_like(places, 0.5), places], 1)
        drawn = TargetSampler(target_sampler.free, {}).select(torch.full((len(draws),), j), draws).tolist()
        assert drawn == [s for s in choices for _ in range(3)]
    extremes = torch.tensor([[0.0, 0.0], [1 - 2**-53, 1 - 2**-53]], dtype=torch.float64)
    for j in target_sampler.free:
        assert all(s < j for s in target_sampler.select(torch.tensor([j, j]), extremes).tolist())


@pytest.mark.parametrize(("policy", "expected"), [("window", (5, 4, 3)), ("proportional", (5,))])
def test_settings_reach_the_selector(policy, expected) -> None:
    section = StdSection(policy=policy, window=3, gamma=0.8, p_sched=0.3)
    target_sampler = make_target_sampler(section, [TABLE[id_] for id_ in range(6, -1, -1)], [2, 3])
    assert target_sampler.free[6] == expected  # t 119: 0.8 x 119 = 95.2, t 99 is level 5
    assert (
        target_sampler.scheduled == {6: (4, 3), 4: (2,), 3: (0,), 2: (0,)} and target_sampler.p_sched == 0.3
    )


@pytest.mark.parametrize(("start", "window"), [(37, 12), (20, 6), (1, 1)])
def test_the_window_follows_the_length_of_the_path(start, window) -> None:
    """ceil(0.3 x levels): what the released scripts give at strength 0.75 is 12."""
    target_sampler = make_target_sampler(StdSection(), [TABLE[id_] for id_ in range(start, -1, -1)], [1])
    assert target_sampler.free[start] == tuple(range(start - 1, start - 1 - window, -1))
