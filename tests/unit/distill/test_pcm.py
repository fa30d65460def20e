"""Phases of the path by hand, jumps that never leave them, and what a student of so many phases is for."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from diffusers import TCDScheduler

from stdcli.config.distill import DistillConfig
from stdcli.config.presets import list_presets, read_task_file
from stdcli.diffusion.levels import LevelError, level_table, make_sampling_path
from stdcli.diffusion.predictions import PredictionType, to_x0_eps
from stdcli.diffusion.sample import sample
from stdcli.distill.methods.pcm import Pcm
from stdcli.distill.target_sampler import phase_choices
from tests.tiny_methods import SD, START

TABLE = level_table(SD, 50)
EDGES = {4: (37, 28, 19, 10, 0), 2: (37, 19, 0), 1: (37, 0), 8: (37, 33, 28, 24, 19, 14, 10, 5, 0)}
"""37 - floor(37 i / M), worked out by hand."""


def method(phases: int, **more) -> Pcm:
    given = {"steps": phases, "step_counts": [phases], "pcm": {"phases": phases}} | more
    config = DistillConfig(method="pcm", bank="b", **given)
    return Pcm.from_settings(config, paths=SimpleNamespace(start_id=START), table=TABLE)


@pytest.mark.parametrize("phases", EDGES)
def test_phases_by_hand(phases) -> None:
    choices = method(phases).target_sampler.free
    assert sorted(choices) == list(range(1, 38)), "every level trains"
    for high, low in pairwise(EDGES[phases]):
        for j in range(low + 1, high + 1):
            assert choices[j] == (low,)


@pytest.mark.parametrize("phases", EDGES)
def test_no_jump_leaves_its_phase_whatever_is_drawn(phases) -> None:
    """Neither the student's from j nor the target's from j - 1: no edge lies inside either."""
    ids = torch.arange(1, 38).repeat(8)
    draws = torch.rand(len(ids), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ends = method(phases).target_sampler.select(ids, draws)
    for j, s in zip(ids.tolist(), ends.tolist(), strict=True):
        assert s <= j - 1 and not [edge for edge in EDGES[phases] if s < edge < j]


@pytest.mark.parametrize("phases", EDGES)
def test_sampled_in_as_many_steps_every_jump_is_one_that_was_learned(phases) -> None:
    path = make_sampling_path(SD, steps=phases, strength=0.75, num_solver_steps=50)
    choices = method(phases).target_sampler.free
    ids = [level.id for level in path.levels]
    assert all(choices[j] == (s,) for j, s in pairwise(ids))


def network(x: torch.Tensor, t: int) -> torch.Tensor:
    """Any noise that depends on both."""
    return (0.3 + t / 2000) * x


def test_its_sampler_walks_as_diffusers_does_without_noise() -> None:
    """`TCDScheduler` with eta 0, which is DDIM on times of one's own, down to the cleanest row."""
    assert dict(Pcm.sampling) == {"sampler": "jump", "final": "level0"}
    path = make_sampling_path(SD, steps=4, strength=0.75, num_solver_steps=50)
    scheduler = TCDScheduler(1000, 0.00085, 0.012, "scaled_linear")
    scheduler.set_timesteps(timesteps=[int(t) for t in path.timesteps])
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    theirs = x
    for t in scheduler.timesteps:
        theirs = scheduler.step(network(theirs, int(t)), t, theirs, eta=0.0).prev_sample

    def denoise(x, level):
        epsilon = PredictionType.EPSILON
        return to_x0_eps(network(x, level.t), x, alpha=level.alpha, sigma=level.sigma, kind=epsilon)

    torch.testing.assert_close(sample(denoise, x, path, schedule=SD), theirs, rtol=0, atol=1e-5)


def test_a_student_of_so_many_phases_is_for_so_many_steps() -> None:
    with pytest.raises(ValueError, match=r"pcm\.phases: 4 phases are for 4 steps, and steps is 2; --set pcm"):
        DistillConfig(method="pcm", bank="b", steps=2)
    config = DistillConfig(method="pcm", bank="b", step_counts=[2, 4, 8])
    assert Pcm.supported_steps(config) == (4,)


def test_more_phases_than_levels_are_refused() -> None:
    with pytest.raises(LevelError):
        phase_choices(3, 4)


def test_the_preset_judges_the_target_at_one_level() -> None:
    (preset,) = [preset for preset in list_presets() if preset.name == "distill/pcm"]
    given = {key: value for key, value in read_task_file(preset.path)[1].items() if key != "task"}
    adversary = DistillConfig(**given, bank="b").adversary
    assert (adversary.levels, adversary.real, adversary.loss) == ("xq-xq", "target", "hinge")
    assert adversary.weight > 0
