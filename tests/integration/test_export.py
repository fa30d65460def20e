"""`stdcli export`: plain diffusers makes of the exported files what `stylize` makes of the student.

The pipelines are loaded by diffusers alone, and get the timesteps, the picture and a generator as their users
give them; float32, so differences are rounding only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline, TCDScheduler
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from stdcli.cli.main import main
from stdcli.config.schema import StylizeConfig
from stdcli.diffusion.colors import color_statistics, match_colors
from stdcli.diffusion.noise import noise_seed
from stdcli.distill.student import save_student
from stdcli.inference.image_to_image import ImageToImage
from stdcli.inference.settings import resolve_sampling
from stdcli.models.load import load_model
from stdcli.models.locate import EMBEDDED_FOLDER
from stdcli.models.spec import ModelSpec
from stdcli.models.start import measure
from tests.tiny_models import save_tiny_sd15, save_tiny_sdxl
from tests.tiny_students import recipe_of, student_of, train

LORA = "pytorch_lora_weights.safetensors"
SLOW = pytest.mark.slow
SIZE = (64, 96)  # H, W: not square, so that a swap shows
SEED = 5
PROMPT = "an oil painting"
PIPES = {"sd15": StableDiffusionImg2ImgPipeline, "sdxl": StableDiffusionXLImg2ImgPipeline}
SMALL = {
    "sd15": {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 1),
    },
}


@dataclass(frozen=True)
class Case:
    """A model, a run with a student of it, and what `stylize` makes of both: [1, 3, H, W] in 0..1."""

    family: str
    model: Path
    run: Path
    picture: torch.Tensor


def pixels_of(seed: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """A smooth random picture [1, 3, H, W] in [-1, 1]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


@torch.no_grad()
def stylized(model: str, student: str | None, style: torch.Tensor | None = None, **options) -> torch.Tensor:
    """What `stylize` computes, before it is rounded to bytes."""
    bundle = load_model(ModelSpec(model, device="cpu", dtype="float32", student=student, **options))
    settings = resolve_sampling(StylizeConfig(), bundle.network.recipe, bundle.network.schedule)
    styles = [] if style is None else [to_image(style)]
    prompt = PROMPT if style is None else None
    condition, _ = bundle.condition(prompt=prompt, styles=styles, size_px=SIZE)
    statistics = None
    if style is not None:
        transform = settings.recipe.start.transform
        statistics = measure(bundle.codec, style, transform, device=bundle.network.device)
    made = ImageToImage(bundle, settings, condition, None, statistics, SEED)(pixels_of(0))
    return (made / 2 + 0.5).clamp(0, 1)


def to_image(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(((pixels[0] / 2 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy())


@torch.no_grad()
def plain(pipe, timesteps: list[int]) -> torch.Tensor:
    """A plain pipeline's picture of the same latents and the same noise."""
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    latents = pipe.vae.encode(pixels_of(0)).latent_dist.mode() * pipe.vae.config.scaling_factor
    generator = torch.Generator().manual_seed(noise_seed(SEED, 0))
    common = {"image": latents, "timesteps": timesteps, "strength": 1.0, "generator": generator}
    size = {"original_size": SIZE, "target_size": SIZE} if hasattr(pipe, "text_encoder_2") else {}
    return pipe(prompt=PROMPT, guidance_scale=1.0, output_type="pt", **common, **size).images


def assert_same(mine: torch.Tensor, other: torch.Tensor) -> None:
    assert mine.shape == other.shape == (1, 3, *SIZE)
    assert mine.std() > 0.01, "a flat picture would compare equal to anything"
    assert (mine - other).abs().max() < 1e-3


def make_run(folder: Path, model: Path, **options: object) -> Path:
    """A run's folder with a student, and what run.json says of the bank."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"learned": {"fingerprint": "f" * 64, "shards": "5" * 64}}))
    student = train(student_of(model, **options))
    recipe = recipe_of(model).model_copy(update={"timesteps": (599, 459, 299, 159)})
    save_student(folder / "student", student, recipe=recipe, dtype=torch.float32)
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> Callable[[str], Case]:
    """A case of a family, made once; alpha is not the rank."""
    return cache(lambda family: make_case(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="module", params=[pytest.param("sd15", marks=SLOW), "sdxl"])
def case(request, cases) -> Case:
    """One of each family."""
    return cases(request.param)


@pytest.fixture(scope="module")
def sdxl(cases) -> Case:
    """For what does not depend on the family."""
    return cases("sdxl")


def make_case(family: str, root: Path) -> Case:
    """A case in a folder."""
    make = {"sd15": save_tiny_sd15, "sdxl": save_tiny_sdxl}[family]
    model = make(root / "model", **SMALL[family])
    run = make_run(root / "run", model, rank=3, alpha=2.0)
    return Case(family, model, run, stylized(str(model), str(run)))


def export(*args: object, code: int = 0) -> None:
    assert main(["export", *map(str, args)]) == code


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_plain_diffusers_makes_the_same_picture_with_the_lora(case, tmp_path, format) -> None:
    out = tmp_path / ("lora" if format == "diffusers" else "lora.safetensors")
    export(case.run, "--format", format, "-o", out)
    pipe = PIPES[case.family].from_pretrained(case.model)
    if format == "kohya":
        pipe.load_lora_weights(str(tmp_path), weight_name=out.name)
    else:
        pipe.load_lora_weights(str(out))
    layers = [m for m in pipe.unet.modules() if hasattr(m, "lora_A")]
    assert len(layers) == len(load_file(case.run / "student" / LORA)) / 2
    assert {m.scaling[name] for m in layers for name in m.scaling} == {2 / 3}
    assert_same(case.picture, plain(pipe, [599, 459, 299, 159]))
    assert (case.picture - stylized(str(case.model), None)).abs().max() > 0.02, "no student, no difference"


def test_plain_diffusers_makes_the_same_picture_with_the_merged_model(case, tmp_path) -> None:
    export(case.run, "--format", "merged", "-o", tmp_path / "m")
    pipe = PIPES[case.family].from_pretrained(tmp_path / "m")
    assert_same(case.picture, plain(pipe, [599, 459, 299, 159]))
    again = stylized(str(tmp_path / "m"), None)
    assert_same(case.picture, again)
    export(case.run, "--format", "merged", "-o", tmp_path / "m.safetensors")
    pipe = PIPES[case.family].from_single_file(tmp_path / "m.safetensors", config=str(case.model))
    assert_same(case.picture, plain(pipe, [599, 459, 299, 159]))
    assert_same(case.picture, stylized(str(tmp_path / "m.safetensors"), None, base=str(case.model)))


@pytest.fixture(scope="module")
def embedded() -> tuple[torch.Tensor, torch.Tensor]:
    """A style picture, and the photo in it by the embedded model's own student."""
    style = pixels_of(7, (80, 64))
    return style, stylized("embedded", "embedded", style)


@pytest.mark.parametrize(
    "format", ["diffusers", pytest.param("kohya", marks=SLOW), pytest.param("merged", marks=SLOW)]
)
def test_the_embedded_student_in_plain_diffusers(embedded, tmp_path, format) -> None:
    style, picture = embedded
    out = tmp_path / {"kohya": "e.safetensors"}.get(format, "e")
    export("embedded", "--format", format, "-o", out)
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        out if format == "merged" else EMBEDDED_FOLDER, dtype=torch.float32
    )
    if format != "merged":
        pipe.load_lora_weights(
            str(tmp_path if format == "kohya" else out),
            weight_name="e.safetensors" if format == "kohya" else LORA,
        )
    pipe.load_ip_adapter(
        str(out if format == "merged" else EMBEDDED_FOLDER),
        subfolder="ip_adapter",
        weight_name="ip_adapter.safetensors",
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    recipe = json.loads((EMBEDDED_FOLDER / "student" / "recipe.json").read_text())
    pooled, _ = pipe.encode_image(to_image(style), "cpu", 1)
    tokens = torch.zeros(1, 1, pipe.unet.config.cross_attention_dim)
    photo = pixels_of(0) / 2 + 0.5
    assert recipe["start"]["transform"] == "colours"
    matched = match_colors(photo, color_statistics(style / 2 + 0.5), content=None)
    with torch.no_grad():
        made = pipe(
            image=matched,
            timesteps=recipe["timesteps"],
            strength=1.0,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(noise_seed(SEED, 0)),
            prompt_embeds=tokens,
            pooled_prompt_embeds=pooled,
            ip_adapter_image=to_image(style),
            original_size=(256, 256),
            target_size=(256, 256),
            output_type="pt",
        ).images
    assert_same(picture, made)


def test_kohya_to_diffusers_to_kohya_gives_the_same_bytes(sdxl, tmp_path) -> None:
    first, second = tmp_path / "1" / "a.safetensors", tmp_path / "2" / "a.safetensors"
    first.parent.mkdir()
    second.parent.mkdir()
    export(sdxl.run / "student", "--format", "kohya", "-o", first)
    export(first, "-o", tmp_path / "d")
    export(tmp_path / "d", "--format", "kohya", "-o", second)
    assert first.read_bytes() == second.read_bytes()
    stored, mine = load_file(sdxl.run / "student" / LORA), load_file(tmp_path / "d" / LORA)
    assert stored.keys() == mine.keys()
    assert all(torch.equal(value, mine[key]) for key, value in stored.items())
    alphas = {key: value for key, value in load_file(first).items() if key.endswith(".alpha")}
    assert len(alphas) == len(stored) / 2 and {value.item() for value in alphas.values()} == {2.0}


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_metadata(sdxl, tmp_path) -> None:
    export(sdxl.run, "-o", tmp_path / "d")
    export(sdxl.run, "--format", "kohya", "-o", tmp_path / "k.safetensors")
    ours, kohya = metadata_of(tmp_path / "d" / LORA), metadata_of(tmp_path / "k.safetensors")
    trained = recipe_of(sdxl.model).trained
    both = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.timestep_range": "0,599",
        "std.strength": "0.6",
        "std.steps": "4",
        "std.timesteps": "599,459,299,159",
        "std.guidance": "1",
        "std.cfg_mode": "fused",
        "std.teacher_sha256": trained.base_sha256["unet"],
        "std.bank_sha256": "5" * 64,
    }
    assert both.items() <= ours.items() and both.items() <= kohya.items()
    assert "timesteps=[599, 459, 299, 159], strength=1.0, guidance_scale=1" in ours["modelspec.usage_hint"]
    peft = json.loads(ours["lora_adapter_metadata"])
    assert (peft["unet.r"], peft["unet.lora_alpha"]) == (3, 2)
    needed = {"ss_v2", "ss_base_model_version", "ss_network_args"}
    assert needed <= kohya.keys() and not any(key.startswith("ss_") for key in ours)
    assert (kohya["ss_network_module"], kohya["ss_network_dim"], kohya["ss_network_alpha"]) == (
        "networks.lora",
        "3",
        "2",
    )
    assert json.loads(kohya["ss_network_args"]) == {"conv_dim": "3", "conv_alpha": "2"}
    assert "lora_adapter_metadata" not in kohya
    data = (tmp_path / "k.safetensors").read_bytes()
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert kohya["modelspec.hash_sha256"] == f"0x{digest}"
    texts = [json.dumps(ours), json.dumps(kohya), (tmp_path / "d" / "recipe.json").read_text()]
    assert not any(str(sdxl.model.parent) in text for text in texts), "no path of this machine"


def test_a_loose_file_brings_its_recipe(sdxl, tmp_path) -> None:
    export(sdxl.run, "--format", "kohya", "-o", tmp_path / "k.safetensors")
    bundle = load_model(ModelSpec(str(sdxl.model), device="cpu", student=str(tmp_path / "k.safetensors")))
    assert bundle.network.recipe.timesteps == (599, 459, 299, 159)
    assert bundle.network.recipe.trained.base == sdxl.model.name
    (tmp_path / "recipe.json").write_text('{"steps": 2}')
    bundle = load_model(ModelSpec(str(sdxl.model), device="cpu", student=str(tmp_path / "k.safetensors")))
    assert bundle.network.recipe.steps == 4, "a recipe that happens to lie beside is another's"
