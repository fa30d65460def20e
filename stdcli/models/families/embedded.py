"""Small stylizers in SDXL layout without text: the embedded model and what `stdcli teacher train` makes.

The style vector is the pooled embedding, and feeds the style tokens too; text tokens are zeros.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from stdcli.config.recipe import Recipe
from stdcli.errors import ModelError
from stdcli.models.condition import Condition
from stdcli.models.diffusers_api import StableDiffusionXLImg2ImgPipeline
from stdcli.models.families.family import Family, Names
from stdcli.models.families.sdxl import time_ids
from stdcli.models.style import StyleEmbeds
from stdcli.models.unet_denoiser import UNET_CLASSES, UNetDenoiser, check_unet

TRAINED_SIZE_PX = (256, 256)  # the time ids never vary: the network is meant for any size
NO_TEXT = "this model has no text encoder: prompts mean nothing to it, only the style picture does"


class EmbeddedText:
    """Style to conditions; prompts are noted and ignored.

    Args:
        pipe: StableDiffusionXLImg2ImgPipeline with null text encoders.
    """

    def __init__(self, pipe: Any) -> None:
        self._unet = pipe.unet

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
        """See `TextConditioner.encode`.

        Raises:
            ModelError: no style.
        """
        if style is None:
            raise ModelError(
                "this model needs a style picture", hint="--style PICTURE; of a bank, --style-data"
            )
        device = self._unet.device
        tokens = torch.zeros(1, 1, self._unet.config.cross_attention_dim, device=device)
        ids = time_ids(TRAINED_SIZE_PX, device=device)
        notes = (NO_TEXT,) if prompt or negative_prompt else ()
        cond = Condition(tokens, {"text_embeds": style.cond[:, 0], "time_ids": ids}, notes)
        return cond, Condition(
            tokens, {"text_embeds": style.uncond[:, 0], "time_ids": ids}
        ) if guided else None


FAMILY = Family(
    name="embedded",
    pipeline=StableDiffusionXLImg2ImgPipeline,
    class_names=frozenset({"StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"}),
    network_classes=UNET_CLASSES,
    make_denoiser=UNetDenoiser,
    check_network=check_unet,
    make_text=EmbeddedText,
    recipe=Recipe(),
    size_px=256,
    needs_style=True,
    components=("unet", "vae", "scheduler", "image_encoder", "feature_extractor"),
    names=Names(modelspec="stdcli-embedded"),
)
