"""What a model family is to the loader: a row of facts, and the class that turns prompts into conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stdcli.config.recipe import Recipe
from stdcli.models.bundle import TextConditioner
from stdcli.models.style import AdapterFiles


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        name: as in records and messages.
        pipeline: diffusers' img2img pipeline class.
        class_names: `_class_name` values of model_index.json that belong here.
        make_text: pipeline -> conditioner.
        style_scale: strength of the style adapter -> what diffusers' `set_ip_adapter_scale` takes.
        adapter: style adapter on the Hub; None where the model brings its own.
        recipe: used where a model has no recipe.json of its own.
        float16_ok: whether the family is known to work in float16.
        components: parts that must be there.
    """

    name: str
    pipeline: type
    class_names: frozenset[str]
    make_text: Callable[[Any], TextConditioner]
    style_scale: Callable[[float], float | dict]
    adapter: AdapterFiles | None
    recipe: Recipe
    float16_ok: bool
    components: tuple[str, ...]
