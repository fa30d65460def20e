"""What exported files say of themselves."""

from __future__ import annotations

import pytest

from stdcli.config.recipe import Recipe
from stdcli.export.metadata import merged_metadata, usage_hint


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "TCDScheduler; pipe(image=..., timesteps=[599, 299], strength=1.0, guidance_scale=1)"),
        (
            {"gamma": 0.3},
            "TCDScheduler; pipe(image=..., timesteps=[599, 299], strength=1.0, guidance_scale=1, eta=0.3)",
        ),
        (
            {"sampler": "renoise", "guidance": 1.5},
            "LCMScheduler; pipe(image=..., timesteps=[599, 299], strength=1.0, guidance_scale=1.5)",
        ),
    ],
)
def test_what_one_types_in_plain_diffusers(settings: dict, told: str) -> None:
    assert usage_hint(Recipe(steps=2, timesteps=(599, 299), **settings)) == told


@pytest.mark.parametrize(("ours", "theirs"), [("v_prediction", "v"), ("epsilon", "epsilon")])
def test_predictions_have_the_names_of_modelspec(ours: str, theirs: str) -> None:
    found = merged_metadata(None, title="a", family="sdxl", prediction=ours, hashes={"x": "1"})
    assert (found["modelspec.prediction_type"], found["std.x"]) == (theirs, "1")
