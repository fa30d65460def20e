"""What a stylizing run will do, decided before any work: the model's recipe under the user's values.

The same object is printed, written to JSON and obeyed, so what is announced is what runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from stdcli.config.check import problems_of
from stdcli.config.recipe import Recipe
from stdcli.config.schema import StylizeConfig
from stdcli.diffusion.levels import LevelError, SamplingPath, make_sampling_path
from stdcli.diffusion.predictions import PredictionType, check_path
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import ConfigError

STARTS = {"none": "", "adain": "style statistics matched", "colours": "style colours matched"}


@dataclass(frozen=True)
class SamplingSettings:
    """A resolved stylizing recipe.

    Attributes:
        recipe: values in force.
        plan: noise levels to visit.
    """

    recipe: Recipe
    plan: SamplingPath

    @property
    def evaluations(self) -> int:
        """Denoising steps per picture."""
        return self.plan.evaluations

    @property
    def forwards(self) -> int:
        """Network passes per picture: guidance other than 1 doubles them."""
        return self.evaluations * (2 if self.is_guided else 1)

    @property
    def is_guided(self) -> bool:
        """Whether the unconditional branch is computed."""
        return self.recipe.guidance != 1.0

    def line(self) -> str:
        """One line for the user."""
        recipe = self.recipe
        guidance = f"guidance {recipe.guidance:g}" if self.is_guided else "guidance off"
        timesteps = ",".join(f"{t:g}" for t in self.plan.timesteps)
        extras = [
            f"gamma {recipe.gamma:g}" if recipe.gamma else "",
            STARTS[recipe.start.transform],
        ]
        parts = [
            f"steps {self.evaluations}",
            "" if recipe.timesteps else f"strength {recipe.strength:g}",
            f"timesteps {timesteps}",
            guidance,
            *extras,
            f"{_count(self.evaluations, 'evaluation')}, {_count(self.forwards, 'forward')} per frame",
        ]
        return " · ".join(filter(None, parts))

    def metadata(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "evaluations": self.evaluations,
            "forwards": self.forwards,
            "timesteps": list(self.plan.timesteps),
            **self.recipe.model_dump(mode="json", exclude={"timesteps", "steps", "trained"}),
            "steps": self.evaluations,
            "strength": None if self.recipe.timesteps else self.recipe.strength,
        }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def resolve_sampling(
    config: StylizeConfig,
    recipe: Recipe,
    schedule: NoiseSchedule,
    *,
    prediction: PredictionType | None = None,
) -> SamplingSettings:
    """Put the user's values over the model's recipe and plan the levels.

    Args:
        config: what the user asked for; None means "as the model likes".
        recipe: the model's own.
        schedule: the model's noise schedule.
        prediction: what the model predicts, to see that it says something at every level; None to leave it.

    Raises:
        ConfigError: values that contradict each other or leave no distinct levels.
    """
    names = ("steps", "timesteps", "strength", "guidance", "gamma", "sampler", "final", "num_solver_steps")
    given = {name: getattr(config, name) for name in names}
    try:
        merged = recipe.override(**given, match_style_statistics=config.match_style_statistics)
    except ValidationError as error:
        raise ConfigError("the settings contradict each other", problems_of(Recipe, error)) from error
    try:
        plan = make_sampling_path(schedule, **merged.path())
        if prediction is not None:
            check_path(plan, prediction)
    except LevelError as error:
        raise ConfigError(str(error), hint="stdcli stylize --help") from error
    return SamplingSettings(merged, plan)
