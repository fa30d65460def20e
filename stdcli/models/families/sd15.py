"""Stable Diffusion 1.x: one CLIP text encoder, 4 latent channels, epsilon or v."""

from __future__ import annotations

from typing import Any, Literal

from stdcli.config.recipe import Recipe
from stdcli.models.condition import Condition
from stdcli.models.diffusers_api import StableDiffusionImg2ImgPipeline
from stdcli.models.families.family import Family, Names
from stdcli.models.prompt_notes import prompt_notes
from stdcli.models.style import HUB, AdapterFiles, StyleEmbeds
from stdcli.models.unet_denoiser import UNET_CLASSES, UNetDenoiser, check_unet


class SD15Text:
    """Prompts to conditions; the unconditional branch is the encoded negative prompt, "" if there is none.

    Args:
        pipe: StableDiffusionImg2ImgPipeline.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

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
        """See `TextConditioner.encode`; size and style leave the tokens as they are."""
        cond, uncond = self._pipe.encode_prompt(
            prompt or "", self._pipe.unet.device, 1, guided, negative_prompt=negative_prompt
        )
        notes = prompt_notes([self._pipe.tokenizer], prompt, negative_prompt, guided=guided)
        return Condition(cond, notes=notes), Condition(uncond) if guided else None


FAMILY = Family(
    name="sd15",
    pipeline=StableDiffusionImg2ImgPipeline,
    class_names=frozenset(
        {"StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"}
    ),
    network_classes=UNET_CLASSES,
    make_denoiser=UNetDenoiser,
    check_network=check_unet,
    make_text=SD15Text,
    size_px=512,
    adapter=AdapterFiles("models/ip-adapter_sd15.safetensors", "models/image_encoder", repo=HUB),
    recipe=Recipe(steps=30, guidance=7.5),
    float16_ok=True,
    components=("unet", "vae", "scheduler", "text_encoder", "tokenizer"),
    left_out={"feature_extractor": None, "safety_checker": None, "requires_safety_checker": False},
    names=Names(
        modelspec="stable-diffusion-v1",
        kohya="sd_v1",
        repo="stable-diffusion-v1-5/stable-diffusion-v1-5",
        clip="cond_stage_model.transformer.",
    ),
)
