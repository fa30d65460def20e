"""What a model family is to everybody else: one row, with the classes that make its network understood.

A family is one file with a `Family`, registered in `registry.py`; nothing else asks which family a model has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from stdcli.config.recipe import Recipe
from stdcli.diffusion.predictions import PredictionType, prediction_of
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.models.codec import Codec
from stdcli.models.condition import Condition
from stdcli.models.denoiser import Denoiser
from stdcli.models.folder import ModelFolder
from stdcli.models.style import AdapterFiles, StyleEmbeds


class TextConditioner(Protocol):
    """A family's way from prompts (and, where pooled, style) to conditions."""

    def encode(
        self,
        *,
        prompt: str | None,
        negative_prompt: str | None,
        size_px: tuple[int, int],
        guided: bool,
        style: StyleEmbeds | None,
        pooled: Literal["zero", "keep"] = "zero",
    ) -> tuple[Condition, Condition | None]:
        """Conditions without `image_embeds`, of one row each; the second is None unless `guided`."""


def schedule_of(config: Mapping[str, Any]) -> tuple[NoiseSchedule, PredictionType]:
    """Noise schedule and prediction that a scheduler's config, `_class_name` in it, tells of a model.

    Raises:
        ValueError: a class, table or prediction that is not known.
    """
    return NoiseSchedule.from_config(config), prediction_of(config)


@dataclass(frozen=True)
class Names:
    """What others call a family.

    Attributes:
        modelspec: `modelspec.architecture` of its files.
        kohya: `ss_base_model_version` of its LoRAs.
        repo: Hub id of the base that has configs for single-file checkpoints; None where there are none.
        clip: what single-file checkpoints put before the names of its first text encoder.
    """

    modelspec: str = "unknown"
    kohya: str = "unknown"
    repo: str | None = None
    clip: str | None = None


@dataclass(frozen=True)
class Family:
    """One model family.

    Attributes:
        name: as in records and messages.
        pipeline: diffusers' img2img pipeline class.
        class_names: `_class_name` values of model_index.json that belong here.
        components: parts that must be there.
        network_classes: classes of the network that are known.
        make_denoiser: kind of denoiser; its `part` is the network's name among the components.
        make_text: pipeline -> conditioner.
        recipe: used where a model has no recipe.json of its own.
        size_px: side of the pictures that it was made for.
        style_scale: strength of the style adapter -> what diffusers' `set_ip_adapter_scale` takes.
        adapter: style adapter on the Hub; None where the model brings its own, or takes none.
        needs_style: whether the network knows style pictures alone, and no prompts.
        float16_ok: whether the family is known to work in float16.
        check_network: refuses networks of the right class that are not understood.
        make_codec: autoencoder, factor and notes -> codec.
        schedule_of: config of the scheduler -> schedule and prediction.
        left_out: arguments that keep diffusers from looking for parts that are not used.
        names: what others call it.
    """

    name: str
    pipeline: type
    class_names: frozenset[str]
    components: tuple[str, ...]
    network_classes: tuple[str, ...]
    make_denoiser: type[Denoiser]
    make_text: Callable[[Any], TextConditioner]
    recipe: Recipe
    size_px: int
    style_scale: Callable[[float], float | dict] = float
    adapter: AdapterFiles | None = None
    needs_style: bool = False
    float16_ok: bool = False
    check_network: Callable[[ModelFolder], None] = lambda folder: None
    make_codec: Callable[..., Codec] = Codec
    schedule_of: Callable[[Mapping[str, Any]], tuple[NoiseSchedule, PredictionType]] = schedule_of
    left_out: Mapping[str, Any] = field(default_factory=lambda: {"feature_extractor": None})
    names: Names = Names()

    @property
    def part(self) -> str:
        """Name of the network among the components."""
        return self.make_denoiser.part

    def holds(self, folder: ModelFolder) -> bool:
        """Whether a folder is of this family: by its pipeline's class, and by whether it reads text."""
        texts = {"text_encoder", "text_encoder_2"}
        return folder.class_name in self.class_names and (
            texts.isdisjoint(folder.components) == texts.isdisjoint(self.components)
        )
