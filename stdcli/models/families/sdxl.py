"""Stable Diffusion XL: two text encoders, a pooled embedding, time ids; epsilon or v."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from stdcli.config.recipe import Recipe
from stdcli.models.condition import Condition
from stdcli.models.diffusers_api import StableDiffusionXLImg2ImgPipeline
from stdcli.models.families.family import Family, Names
from stdcli.models.prompt_notes import prompt_notes
from stdcli.models.style import HUB, AdapterFiles, StyleEmbeds
from stdcli.models.unet_denoiser import UNET_CLASSES, UNetDenoiser, check_unet


def time_ids(size_px: tuple[int, int], *, device: torch.device) -> Tensor:
    """SDXL's size conditioning for an uncropped picture: original size, crop corner, target size.

    Args:
        size_px: (H, W) in pixels.
        device: of the result.

    Returns:
        [1, 6] float32: H, W, top 0, left 0, H, W.

    Source: Podell 2023 (SDXL), section 2.2; the order is diffusers'.
    """
    height, width = size_px
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=device)


class SDXLText:
    """Prompts to conditions; the unconditional branch is zeros unless a negative prompt is given.

    A positive "" is encoded, not zeroed.

    Args:
        pipe: StableDiffusionXLImg2ImgPipeline with both text encoders.
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
        """See `TextConditioner.encode`; style leaves tokens and pooled embedding as they are."""
        pipe = self._pipe
        tokens, un_tokens, vector, un_vector = pipe.encode_prompt(
            prompt or "",
            device=pipe.unet.device,
            do_classifier_free_guidance=guided,
            negative_prompt=negative_prompt,
        )
        ids = time_ids(size_px, device=tokens.device)
        tokenizers = [pipe.tokenizer, pipe.tokenizer_2]
        notes = prompt_notes(tokenizers, prompt, negative_prompt, guided=guided)
        cond = Condition(tokens, {"text_embeds": vector, "time_ids": ids}, notes)
        if not guided:
            return cond, None
        if negative_prompt is None:  # whatever the folder's force_zeros_for_empty_prompt says
            un_tokens, un_vector = torch.zeros_like(tokens), torch.zeros_like(vector)
        if pooled == "keep":
            un_vector = vector
        return cond, Condition(un_tokens, {"text_embeds": un_vector, "time_ids": ids})


def style_block_only(scale: float) -> dict:
    """Feed the style only to the block that carries style, so that the reference's content stays out.

    Source: Wang 2024 (InstantStyle), section 3.2: up block 0, second transformer.
    """
    return {"up": {"block_0": [0.0, scale, 0.0]}}


FAMILY = Family(
    name="sdxl",
    pipeline=StableDiffusionXLImg2ImgPipeline,
    class_names=frozenset(
        {"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"}
    ),
    network_classes=UNET_CLASSES,
    make_denoiser=UNetDenoiser,
    check_network=check_unet,
    make_text=SDXLText,
    size_px=1024,
    style_scale=style_block_only,
    adapter=AdapterFiles("sdxl_models/ip-adapter_sdxl.safetensors", "sdxl_models/image_encoder", repo=HUB),
    recipe=Recipe(steps=30, guidance=5.0),
    float16_ok=True,
    components=("unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
    names=Names(
        modelspec="stable-diffusion-xl-v1-base",
        kohya="sdxl_base_v1-0",
        repo="stabilityai/stable-diffusion-xl-base-1.0",
        clip="conditioner.embedders.0.transformer.",
    ),
)
