"""The recipe under the user's values."""

from __future__ import annotations

import pytest

from stdcli.config.recipe import Recipe
from stdcli.config.schema import StylizeConfig
from stdcli.diffusion.predictions import PredictionType
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import ConfigError
from stdcli.inference.settings import resolve_sampling

SCHEDULE = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)


def settled(recipe: Recipe | None = None, **values):
    return resolve_sampling(StylizeConfig(**values), recipe or Recipe(), SCHEDULE)


def test_the_recipe_decides_where_the_user_does_not():
    recipe = Recipe(steps=2, strength=0.5, guidance=3.0, start={"transform": "adain"})
    settings = settled(recipe)
    assert settings.metadata()["timesteps"] == [499, 259]
    assert (settings.evaluations, settings.forwards) == (2, 4)
    assert settled(recipe, match_style_statistics=False).recipe.start.transform == "none"
    assert settled(recipe, steps=5).metadata()["timesteps"][0] == 499


def test_a_start_in_pure_noise_is_refused_for_networks_that_see_nothing_there():
    schedule = SCHEDULE.rescale_zero_terminal_snr()
    config = StylizeConfig(strength=1.0, steps=2)
    with pytest.raises(ConfigError, match=r"level 50 \(t 999\): a network that predicts epsilon"):
        resolve_sampling(config, Recipe(), schedule, prediction=PredictionType.EPSILON)
    settings = resolve_sampling(config, Recipe(), schedule, prediction=PredictionType.V)
    assert settings.plan.levels[0].alpha == 0


@pytest.mark.parametrize(("guidance", "factor"), [(1.0, 1), (0.0, 2), (0.5, 2), (4.0, 2)])
def test_every_guidance_but_one_doubles_the_forwards(guidance, factor):
    settings = settled(guidance=guidance, steps=4)
    assert settings.forwards == 4 * factor


@pytest.mark.parametrize("strength", [0.35, 0.5, 0.65, 0.75, 0.85, 0.95])
@pytest.mark.parametrize("steps", [1, 2, 4, 6, 8])
def test_as_many_levels_as_steps_starting_at_the_strength(steps, strength):
    timesteps = settled(steps=steps, strength=strength).metadata()["timesteps"]
    assert len(set(timesteps)) == steps
    assert timesteps[0] == int(50 * strength + 1e-9) * 20 - 1


def test_explicit_timesteps_win_and_are_counted():
    settings = settled(Recipe(steps=8, strength=0.9), timesteps=(700, 350, 20))
    assert settings.metadata()["timesteps"] == [700, 350, 20]
    assert settings.metadata()["steps"] == 3


def test_line_says_what_runs():
    line = settled(steps=4, strength=0.75, guidance=2.0).line()
    assert line == (
        "steps 4 · strength 0.75 · timesteps 739,559,379,199 · guidance 2"
        " · 4 evaluations, 8 forwards per frame"
    )


def test_impossible_plans_are_refused_with_a_way_out():
    with pytest.raises(ConfigError, match="nearest"):
        settled(steps=900, strength=0.1)
    with pytest.raises(ConfigError, match="contradict"):
        settled(Recipe(sampler="renoise"), gamma=0.3)
