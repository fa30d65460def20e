"""LoRAs that others published as few-step students: their keys and shapes, and the presets that sample them.

None of the files can be had here; each is made with the keys that its authors' code writes. At full size the
tensors are holes in a sparse file, of which only names and shapes are read.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from stdcli.config.load import resolve
from stdcli.config.recipe import Recipe
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import ModelError
from stdcli.inference.settings import resolve_sampling
from stdcli.models.load import load_model
from stdcli.models.lora.fusing import _targets, _unmatched
from stdcli.models.lora.reading import read_lora
from stdcli.models.spec import ModelSpec
from stdcli.models.unet_denoiser import lora_targets
from tests.real_configs import SDXL
from tests.tiny_models import RESNET, _original_name, _unet_names, save_tiny_sdxl

SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def pair(weight: torch.Tensor, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of down and up of a layer, as peft makes them."""
    ones = (1, 1) if weight.ndim == 4 else ()
    return (rank, *weight.shape[1:]), (weight.shape[0], rank, *ones)


def save_holes(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of float16 zeros that takes no disk."""
    header, end = {}, 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """SDXL's own, without weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL)


@pytest.mark.parametrize("prefix", ["unet.base_model.model.", pytest.param("unet.", marks=pytest.mark.slow)])
def test_the_authors_student_fits_sdxl_at_full_size(unet, tmp_path, prefix) -> None:
    """Rank 64 on the modules of their training script: 394 MB in half precision, as LCM-LoRA's file has."""
    shapes = {}
    for name in lora_targets(unet):
        down, up = pair(unet.get_submodule(name).weight, 64)
        shapes |= {f"{prefix}{name}.lora_A.weight": down, f"{prefix}{name}.lora_B.weight": up}
    assert (len(shapes), 2 * sum(map(math.prod, shapes.values()))) == (1576, 393_502_720)
    path = tmp_path / "std_sdxl_i2i_eta0.75.safetensors"
    save_holes(path, shapes)
    lora = read_lora(path)
    assert len(lora.layers) == len(shapes) // 2 and not lora.unplaced
    assert not list(_unmatched(lora, _targets(SimpleNamespace(unet=unet))))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny_sdxl(tmp_path_factory.mktemp("sdxl"), layers_per_block=1, transformer_layers_per_block=1)


def layers_of(model: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Down and up of every layer of the list, random."""
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    draw = torch.Generator().manual_seed(0)
    found = {}
    for name in lora_targets(unet):
        down, up = pair(unet.get_submodule(name).weight, 2)
        found[name] = tuple(0.1 * torch.randn(shape, generator=draw) for shape in (down, up))
    return found


def sgm_name(name: str, model: Path) -> str:
    """Name by the original code's blocks, as kohya's trainer flattens it."""
    original = _original_name(f"{name}.", _unet_names(model))
    if ".resnets." in name:
        original = _original_name(original, RESNET)
    return "lora_unet_" + original.rstrip(".").replace(".", "_")


def write(path: Path, model: Path, kind: str, *, alpha: float = 2.0) -> Path:
    """The student in the keys of one of its publishers."""
    tensors = {}
    for name, (down, up) in layers_of(model).items():
        if kind == "std":
            stem = f"unet.base_model.model.{name}"
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
            continue
        stem = sgm_name(name, model) if kind == "sgm" else f"lora_unet_{name.replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(("kind", "alpha"), [("std", 2.0), ("lcm", 1.0), ("sgm", 1.0)])
def test_a_published_student_loads_to_the_last_layer(model, tmp_path, kind, alpha) -> None:
    """Every weight is base + alpha / rank up down, worked out by hand."""
    path = write(tmp_path / "s.safetensors", model, kind, alpha=alpha)
    before = load_file(next((model / "unet").glob("*.safetensors")))
    bundle = load_model(ModelSpec(str(model), device="cpu", dtype="float32", student=str(path)))
    after = bundle.network.denoiser.network.state_dict()
    assert "brings no recipe" in bundle.network.notes[0]
    layers = layers_of(model)
    changed = {name.removesuffix(".weight") for name in before if not torch.equal(before[name], after[name])}
    assert changed == layers.keys()
    for name, (down, up) in layers.items():
        product = torch.einsum("or,r...->o...", up.flatten(1), down)
        expected = before[f"{name}.weight"] + alpha / 2 * product
        assert torch.allclose(after[f"{name}.weight"], expected, atol=1e-5), name


def test_a_wrapped_layer_without_a_place_is_an_error(model, tmp_path) -> None:
    path = write(tmp_path / "s.safetensors", model, "std")
    extra = {"unet.base_model.model.motion.0.to_q.lora_A.weight": torch.ones(2, 8)}
    extra["unet.base_model.model.motion.0.to_q.lora_B.weight"] = torch.ones(8, 2)
    save_file(load_file(path) | extra, path)
    with pytest.raises(ModelError, match="does not fit") as caught:
        load_model(ModelSpec(str(model), device="cpu", student=str(path)))
    assert caught.value.got.endswith("first that do not: unet.base_model.model.motion.0.to_q")


def settings_of(preset: str):
    config = resolve("stylize", preset=preset, config_file=None, sets=(), flags={}).config
    schedule = NoiseSchedule.from_config({**SCHEDULER, "num_train_timesteps": 1000})
    return config, resolve_sampling(config, Recipe(steps=30, guidance=5.0), schedule)


def test_the_preset_of_the_authors_student() -> None:
    """8 steps of their 11 at strength 0.75, by the scheduler of their example."""
    config, settings = settings_of("stylize/sdxl-std-upstream")
    assert config.student == "SecondComming/Single-Trajectory-Distillation/std_sdxl_i2i_eta0.75.safetensors"
    recipe = settings.recipe
    assert (settings.evaluations, recipe.guidance) == (8, 6.0)
    assert (recipe.sampler, recipe.final, recipe.gamma) == ("jump", "level0", 0.0)
    scheduler = TCDScheduler(**SCHEDULER)
    scheduler.set_timesteps(11)
    theirs = scheduler.timesteps[-int(11 * 0.75) :].tolist()
    rows = [20 * (50 - 50 * k // 11) - 1 for k in range(11)]
    assert list(settings.plan.timesteps) == theirs == rows[-8:] == [739, 639, 559, 459, 379, 279, 199, 99]


def test_the_preset_of_lcm() -> None:
    config, settings = settings_of("stylize/sdxl-lcm")
    assert config.student == "latent-consistency/lcm-lora-sdxl"
    recipe = settings.recipe
    assert (recipe.sampler, recipe.final, recipe.guidance) == ("renoise", "x0", 1.0)
    assert settings.plan.timesteps == (739, 559, 379, 199)


@pytest.mark.parametrize("name", ["sd15-lcm", "sdxl-lcm"])
def test_the_presets_of_lcm_walk_the_timesteps_of_their_scheduler(name) -> None:
    _, settings = settings_of(f"stylize/{name}")
    scheduler = LCMScheduler(**SCHEDULER)
    scheduler.set_timesteps(settings.evaluations, strength=settings.recipe.strength)
    assert list(settings.plan.timesteps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("name", ["hyper-sd", "lightning"])
def test_the_presets_of_the_8_step_loras_keep_their_timesteps(name) -> None:
    config, settings = settings_of(f"stylize/sdxl-{name}")
    assert "8step" in config.student and config.student.endswith("lora.safetensors")
    scheduler = DDIMScheduler(**SCHEDULER, timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    assert list(settings.plan.timesteps) == scheduler.timesteps.tolist()[2:]
    recipe = settings.recipe
    assert (recipe.sampler, recipe.final, recipe.guidance) == ("jump", "x0", 1.0)
    assert settings.plan.levels[-1].sigma == 0


def test_the_list_of_modules_is_that_of_their_script(unet) -> None:
    """Every linear layer and convolution but the few outside blocks."""
    all_layers = {n for n, m in unet.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    outside = {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}
    outside |= {"add_embedding.linear_1", "add_embedding.linear_2"}
    assert all_layers - set(lora_targets(unet)) == outside
