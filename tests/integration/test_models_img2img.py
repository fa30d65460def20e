"""Our loop over a `Bundle` gives what a plain diffusers img2img pipeline gives for the same timesteps.

The pipelines are loaded by diffusers alone and get prompts and pictures as their users give them; nothing of
ours takes part but the timesteps. float32, so differences are rounding only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline, TCDScheduler
from PIL import Image

from stdcli.diffusion.guidance import guide
from stdcli.diffusion.levels import Level, make_sampling_path
from stdcli.diffusion.predictions import Denoised, to_x0_eps
from stdcli.diffusion.sample import sample
from stdcli.diffusion.solvers import start_state
from stdcli.models.bundle import Bundle
from stdcli.models.condition import Condition
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec
from tests.tiny_models import add_style_adapter, save_tiny_embedded, save_tiny_sd15, save_tiny_sdxl

TIMESTEPS = [739, 559, 379, 199]
SIZE = (64, 96)  # H, W: not square, so that a swap shows
SEED = 5


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


@dataclass
class Case:
    folder: Path
    prompt: str | None = None
    negative_prompt: str | None = None
    style: Image.Image | None = None
    guidance: float = 1.0


@torch.no_grad()
def ours(case: Case) -> torch.Tensor:
    bundle = load_model(ModelSpec(str(case.folder), dtype="float32", device="cpu"))
    cond, uncond = bundle.condition(
        prompt=case.prompt,
        negative_prompt=case.negative_prompt,
        styles=[case.style] if case.style else [],
        size_px=SIZE,
        guidance=case.guidance,
    )
    plan = make_sampling_path(bundle.network.schedule, steps=4, strength=0.75, timesteps=TIMESTEPS)
    assert [int(t) for t in plan.timesteps] == TIMESTEPS
    generator = torch.Generator().manual_seed(SEED)
    z = bundle.codec.encode(to_tensor(picture(0)), generator=generator)
    noise = torch.randn(z.shape, generator=generator)
    x = start_state(z, noise, plan.levels[0])
    denoise = denoiser_of(bundle, cond, uncond, case.guidance)
    return bundle.codec.decode(sample(denoise, x, plan, schedule=bundle.network.schedule))


def denoiser_of(bundle: Bundle, cond: Condition, uncond: Condition | None, guidance: float):
    def denoise(x: torch.Tensor, level: Level) -> Denoised:
        if uncond is None:
            output = bundle.network.denoiser(x, level.t, cond)
        else:
            output = guide(*bundle.network.denoiser.pair(x, level.t, cond, uncond), guidance)
        return to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=bundle.network.prediction)

    return denoise


def theirs(pipe, **inputs: object) -> torch.Tensor:
    """A plain pipeline run; its pictures are in [0, 1] and clamped."""
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    generator = torch.Generator().manual_seed(SEED)
    common = {"image": picture(0), "timesteps": TIMESTEPS, "strength": 1.0, "generator": generator}
    return pipe(**common, **inputs, output_type="pt").images


def assert_same(mine: torch.Tensor, other: torch.Tensor) -> None:
    assert mine.shape == other.shape == (1, 3, *SIZE)
    mine = (mine / 2 + 0.5).clamp(0, 1)
    assert mine.std() > 0.01, "a flat picture would compare equal to anything"
    assert (mine - other).abs().max() < 1e-4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "sd15": add_style_adapter(save_tiny_sd15(root / "sd15")),
        "sdxl": add_style_adapter(save_tiny_sdxl(root / "sdxl")),
        "sd15-plus": add_style_adapter(save_tiny_sd15(root / "sd15-plus"), plus=True),
        "sdxl-v": save_tiny_sdxl(root / "sdxl-v", prediction_type="v_prediction"),
        "embedded": save_tiny_embedded(root / "embedded"),
    }


GUIDED = pytest.mark.parametrize(
    ("guidance", "negative_prompt"),
    [(1.0, None), (4.0, None), (4.0, "blurred")],
    ids=["off", "on", "negative"],
)


@GUIDED
def test_sd15_equals_plain_pipeline(
    folders: dict[str, Path], guidance: float, negative_prompt: str | None
) -> None:
    case = Case(folders["sd15"], "an oil painting", negative_prompt, guidance=guidance)
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(case.folder, safety_checker=None)
    expected = theirs(pipe, prompt=case.prompt, negative_prompt=negative_prompt, guidance_scale=guidance)
    assert_same(ours(case), expected)


@GUIDED
@pytest.mark.parametrize("name", ["sdxl", "sdxl-v"])
def test_sdxl_equals_plain_pipeline(
    folders: dict[str, Path], name: str, guidance: float, negative_prompt: str | None
) -> None:
    case = Case(folders[name], "an oil painting", negative_prompt, guidance=guidance)
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(case.folder)
    expected = theirs(pipe, prompt=case.prompt, negative_prompt=negative_prompt, guidance_scale=guidance)
    assert_same(ours(case), expected)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd15-plus"])
def test_style_picture_equals_plain_pipeline(folders: dict[str, Path], name: str) -> None:
    case = Case(folders[name], "", style=picture(7, (80, 64)), guidance=3.0)
    is_xl = name == "sdxl"
    pipe = (StableDiffusionXLImg2ImgPipeline if is_xl else StableDiffusionImg2ImgPipeline).from_pretrained(
        case.folder
    )
    pipe.load_ip_adapter(str(case.folder), subfolder="ip_adapter", weight_name="ip_adapter.safetensors")
    pipe.set_ip_adapter_scale({"up": {"block_0": [0.0, 1.0, 0.0]}} if is_xl else 1.0)
    expected = theirs(pipe, prompt="", ip_adapter_image=case.style, guidance_scale=3.0)
    assert_same(ours(case), expected)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_embedded_equals_plain_sdxl_pipeline(folders: dict[str, Path], guidance: float) -> None:
    case = Case(folders["embedded"], style=picture(7, (80, 64)), guidance=guidance)
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(case.folder)
    pipe.load_ip_adapter(str(case.folder), subfolder="ip_adapter", weight_name="ip_adapter.safetensors")
    pooled, _ = pipe.encode_image(case.style, "cpu", 1)
    tokens = torch.zeros(1, 1, pipe.unet.config.cross_attention_dim)
    expected = theirs(
        pipe,
        prompt_embeds=tokens,
        negative_prompt_embeds=tokens,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=torch.zeros_like(pooled),
        ip_adapter_image=case.style,
        original_size=(256, 256),
        target_size=(256, 256),
        guidance_scale=guidance,
    )
    assert_same(ours(case), expected)
