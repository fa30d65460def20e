"""Recipes: defaults, stored timesteps, and what a user's flags make of them."""

import pytest
from pydantic import ValidationError

from stdcli.config.check import check
from stdcli.config.recipe import Recipe
from stdcli.errors import ConfigError

STORED = Recipe(timesteps=[739, 559, 379, 199], guidance=1.0, start={"transform": "adain"})


def test_defaults() -> None:
    assert Recipe().model_dump() == {
        "steps": 4,
        "timesteps": None,
        "strength": 0.75,
        "guidance": 1.0,
        "gamma": 0.0,
        "sampler": "jump",
        "final": "level0",
        "start": {"transform": "none"},
        "num_solver_steps": None,
        "guidance_fused": False,
        "trained": None,
    }


def test_stored_timesteps_set_the_number_of_steps() -> None:
    assert Recipe(timesteps=[9, 5]).steps == 2


def test_stored_timesteps_may_not_contradict_steps() -> None:
    with pytest.raises(ConfigError, match="2 timesteps cannot be 4 steps"):
        check(Recipe, {"timesteps": [9, 5], "steps": 4})


def test_a_recipe_survives_json() -> None:
    for indent in (None, 2):
        assert STORED.as_json(indent=indent) == STORED.model_dump_json(indent=indent)
        assert Recipe.model_validate_json(STORED.as_json(indent=indent)) == STORED


def test_times_of_flow_models_are_any_numbers_and_whole_ones_stay_whole() -> None:
    recipe = check(Recipe, {"timesteps": [1000.0, 857.1428571428571, "333.5", "2"]})
    assert recipe.timesteps == (1000, 857.1428571428571, 333.5, 2)
    assert '"timesteps":[1000,857.1428571428571,333.5,2],' in recipe.as_json()
    assert Recipe.model_validate_json(recipe.as_json()) == recipe


@pytest.mark.parametrize("times", [[9, 5.5, 5.5], [0.5], [float("inf")], [9, "x"], [True]])
def test_what_is_no_list_of_times(times: list) -> None:
    with pytest.raises(ConfigError, match="timesteps"):
        check(Recipe, {"timesteps": times})


def test_nothing_given_changes_nothing() -> None:
    assert STORED.override(steps=None, strength=None, match_style_statistics=None) == STORED


@pytest.mark.parametrize("given", [{"steps": 2}, {"strength": 0.5}, {"num_solver_steps": 100}])
def test_another_path_drops_the_stored_timesteps(given: dict) -> None:
    recipe = STORED.override(**given)
    assert recipe.timesteps is None
    assert {key: getattr(recipe, key) for key in given} == given
    assert recipe.start.transform == "adain"


def test_values_that_do_not_move_the_path_keep_the_stored_timesteps() -> None:
    recipe = STORED.override(guidance=2.0, gamma=0.2)
    assert (recipe.timesteps, recipe.guidance, recipe.gamma) == (STORED.timesteps, 2.0, 0.2)


def test_given_timesteps_replace_the_stored_ones_and_count() -> None:
    recipe = STORED.override(timesteps=(500, 100), strength=0.9)
    assert (recipe.timesteps, recipe.steps) == ((500, 100), 2)


@pytest.mark.parametrize(("given", "transform"), [(True, "adain"), (False, "none")])
def test_matching_style_statistics_is_the_start_transform(given: bool, transform: str) -> None:
    assert STORED.override(match_style_statistics=given).start.transform == transform


def test_a_flag_that_contradicts_the_recipe_is_refused() -> None:
    with pytest.raises(ValidationError, match="belongs to the sampler 'jump'"):
        Recipe(sampler="renoise").override(gamma=0.5)


def test_override_knows_no_other_keys() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        STORED.override(strenght=0.5)
