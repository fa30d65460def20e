"""Inpainting gives what plain diffusers' inpainting pipelines give for the same timesteps and noise.

The pipelines are loaded by diffusers alone. Latent posteriors are made narrow, since they draw from them
where we take the mode; the noise that they draw next is handed to our loop.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    TCDScheduler,
)
from PIL import Image
from torch import Tensor

from stdcli.diffusion.levels import make_sampling_path
from stdcli.errors import ModelError
from stdcli.inference.image_to_image import ImageToImage
from stdcli.inference.settings import SamplingSettings
from stdcli.models.load import load_denoiser, load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import save_tiny_sd15, save_tiny_sdxl

TIMESTEPS = (739, 559, 379, 199)
SIZE = (64, 96)
SEED = 5
PIPELINES = {"sd15": StableDiffusionInpaintPipeline, "sdxl": StableDiffusionXLInpaintPipeline}
SAVE = {"sd15": save_tiny_sd15, "sdxl": save_tiny_sdxl}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    root = tmp_path_factory.mktemp("models")
    made = {}
    for family in PIPELINES:
        for channels in (4, 9):
            folder = SAVE[family](root / f"{family}-{channels}", in_channels=channels)
            vae = AutoencoderKL.from_pretrained(folder / "vae")
            kept = vae.config.latent_channels
            vae.quant_conv.weight.data[kept:] = 0
            vae.quant_conv.bias.data[kept:] = -60
            vae.save_pretrained(folder / "vae")
            index = json.loads((folder / "model_index.json").read_text())
            name = PIPELINES[family].__name__ if channels == 9 else index["_class_name"]
            index |= {"_class_name": name, "_diffusers_version": "0.30.0"}
            (folder / "model_index.json").write_text(json.dumps(index))
            made[family, channels] = folder
    return made


def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)


def cells(factor: int) -> Tensor:
    """[1, 1, H, W], of whole latent cells."""
    coarse = torch.zeros(1, 1, SIZE[0] // factor, SIZE[1] // factor)
    coarse[..., 2:, 3:9] = 1
    return coarse.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


class WithNoise(ImageToImage):
    """Starts from the noise that diffusers' pipeline draws."""

    def _noise(self, latents: Tensor, *, step: int | None = None) -> Tensor:
        generator = torch.Generator().manual_seed(SEED + (step or 0))
        torch.randn(latents.shape, generator=generator)  # its posterior takes these
        return torch.randn(latents.shape, generator=generator)


@pytest.mark.parametrize(
    ("family", "channels", "guidance"),
    [("sd15", 4, 4.0), ("sd15", 9, 4.0), ("sd15", 9, 1.0), ("sdxl", 4, 4.0), ("sdxl", 9, 4.0)],
)
@torch.no_grad()
def test_inpainting_equals_plain_pipeline(folders, family: str, channels: int, guidance: float) -> None:
    folder = folders[family, channels]
    options = {"safety_checker": None} if family == "sd15" else {}
    pipe = PIPELINES[family].from_pretrained(folder, **options)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    mask = cells(pipe.vae_scale_factor)
    expected = pipe(
        prompt="an oil painting",
        image=picture(),
        mask_image=mask,
        height=SIZE[0],
        width=SIZE[1],
        timesteps=[939, *TIMESTEPS],
        strength=0.8,  # leaves the first timestep out
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(SEED),
        output_type="pt",
    ).images
    bundle = load_model(ModelSpec(str(folder), dtype="float32", device="cpu"), masked=True)
    assert bundle.network.denoiser.sees_mask == (channels == 9)
    recipe = bundle.network.recipe.override(timesteps=TIMESTEPS, guidance=guidance)
    settings = SamplingSettings(recipe, make_sampling_path(bundle.network.schedule, **recipe.path()))
    conditions = bundle.condition(prompt="an oil painting", size_px=SIZE, guidance=guidance)
    pixels = torch.from_numpy(np.asarray(picture(), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    mine = WithNoise(bundle, settings, *conditions, None, SEED)(pixels, mask) / 2 + 0.5
    assert expected.std() > 0.01
    assert (mine.clamp(0, 1) - expected).abs().max() < 1e-4
    plain = None if channels == 9 else WithNoise(bundle, settings, *conditions, None, SEED)(pixels) / 2 + 0.5
    assert plain is None or (plain.clamp(0, 1) - expected).abs().max() > 1e-2, "the mask does something"


@pytest.mark.parametrize("load", [load_model, load_denoiser])
def test_a_network_that_needs_masks_is_used_for_nothing_else(folders, load) -> None:
    with pytest.raises(ModelError, match="needs a mask") as caught:
        load(ModelSpec(str(folders["sd15", 9]), device="cpu"))
    assert caught.value.hint == "stdcli inpaint IN --mask MASK"
