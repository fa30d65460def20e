"""Recipe: how a model wants to be sampled. A model carries it as `recipe.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from stdcli.config.schema import (
    Final,
    Gamma,
    Guidance,
    Sampler,
    Section,
    Steps,
    Strength,
    Text,
    Timesteps,
    sampling_conflicts,
    split_numbers,
)

NETWORKS = ("unet", "transformer")
"""What diffusers' pipelines call the network that denoises."""


class Start(Section):
    """What happens to a picture before noise is added, so that the path begins near the style."""

    transform: Literal["none", "adain", "colours"] = "none"
    """`adain` gives its latent the style's mean and deviation per channel, `colours` its pixels the style's
    mean and covariance of RGB."""


class Trained(Section):
    """What a student was trained on and for; away from it, results are not what its training promises."""

    method: Text
    """Distillation method, such as `std`."""
    strength: Strength
    """Noise fraction at the start of its paths."""
    start_t: Annotated[float, Field(gt=0)]
    """Model time at the start of its paths: the first timestep."""
    supported_steps: Annotated[tuple[Steps, ...], Field(min_length=1), BeforeValidator(split_numbers)]
    """Numbers of evaluations it was trained for."""
    base: Text
    """The model it changes, as it was named."""
    base_sha256: dict[str, str]
    """Component of that model -> hash of its weights, as in `Network.identity`."""
    s_embedding: bool = False
    """Whether its network is told where each step aims."""

    def conflicts(self) -> Iterator[tuple[str, str]]:
        if not any(part in self.base_sha256 for part in NETWORKS):
            yield "base_sha256", f"names no {' or '.join(NETWORKS)}"


class Recipe(Section):
    """Sampling values of one model.

    Explicit `timesteps` win over `steps` and `strength`, and set `steps` to their number.
    """

    steps: Steps = 4
    timesteps: Timesteps | None = None
    strength: Strength = 0.75
    guidance: Guidance = 1.0
    gamma: Gamma = 0.0
    sampler: Sampler = "jump"
    final: Final = "level0"
    start: Start = Start()
    num_solver_steps: Steps | None = None
    guidance_fused: bool = False
    trained: Trained | None = None

    @model_validator(mode="before")
    @classmethod
    def _count_timesteps(cls, data: Any) -> Any:
        if isinstance(data, dict) and "steps" not in data and isinstance(data.get("timesteps"), list | tuple):
            return {**data, "steps": len(data["timesteps"])}
        return data

    def conflicts(self) -> Iterator[tuple[str, str]]:
        yield from sampling_conflicts(
            steps=self.steps, timesteps=self.timesteps, gamma=self.gamma, sampler=self.sampler
        )

    def path(self) -> dict[str, Any]:
        """What decides the levels, as `diffusion.levels.make_plan` names it."""
        names = ("steps", "strength", "num_solver_steps", "timesteps", "final")
        return {name: getattr(self, name) for name in names}

    def override(self, **given: Any) -> Recipe:
        """This recipe with the values the user gave; None means "not given".

        Asking for another number of steps, strength or table drops the stored timesteps: they belong to the
        stored path, and a user who asks for N steps must get N.

        Args:
            given: fields of `Recipe`; `match_style_statistics` (bool) stands for `start.transform`,
                `adain` or `none`.

        Raises:
            pydantic.ValidationError: a value is out of range or contradicts another.
        """
        given = {key: value for key, value in given.items() if value is not None}
        match = given.pop("match_style_statistics", None)
        if match is not None:
            given["start"] = {"transform": "adain" if match else "none"}
        data = self.model_dump()
        if "timesteps" in given:
            del data["steps"]
        elif given.keys() & {"steps", "strength", "num_solver_steps"}:
            data["timesteps"] = None
        return Recipe.model_validate(data | given)

    def as_json(self, *, indent: int | None = None) -> str:
        """JSON on one line, or indented; names that are not UTF-8 are in it as escapes."""
        data = self.model_dump(mode="json")
        text = json.dumps(data, indent=indent, separators=None if indent else (",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
