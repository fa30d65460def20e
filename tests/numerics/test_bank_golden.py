"""Stored paths, level by level, against diffusers: its scheduler, its UNet, called by hand."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import stdcli
from stdcli.cli.main import main
from tests.tiny_models import save_tiny_sdxl

ASSET = Path(stdcli.__file__).parent / "assets/embedded"


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(4)
    for name in "abc":
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((96, 72), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


def build(out: Path, photos: Path, *options: str) -> dict[str, torch.Tensor]:
    """A float32 bank of one shard, its conditions beside its columns, one row per path."""
    command = [
        "bank",
        "build",
        "--data",
        str(photos),
        "-o",
        str(out),
        "--dtype",
        "float32",
        "--batch-size",
        "2",
    ]
    assert main([*command, "--set", "store_dtype=float32", *options, "--quiet"]) == 0
    shard = load_file(out / "shards/shard-00000.safetensors")
    rows = load_file(out / "conditions/cond-00000.safetensors")
    return shard | {name: values[shard[name]] for name, values in rows.items()}


def scheduler_of(model: Path) -> diffusers.DDIMScheduler:
    options = {"timestep_spacing": "trailing", "set_alpha_to_one": False, "clip_sample": False}
    scheduler = diffusers.DDIMScheduler.from_pretrained(model / "scheduler", **options)
    scheduler.set_timesteps(50)
    return scheduler


@torch.no_grad()
def expected_path(model: Path, unet, bank: dict[str, torch.Tensor], path: int, start_t: int) -> torch.Tensor:
    """States from the stored start on, by diffusers alone."""
    scheduler, guidance = scheduler_of(model), float(bank["guidance"][path])
    row = {name: values[path : path + 1] for name, values in bank.items() if "cond." in name}
    x = bank["states"][path : path + 1, 0]
    states = [x[0]]
    for t in scheduler.timesteps[scheduler.timesteps <= start_t]:
        outputs = []
        for side in ("cond", "uncond"):
            added = {n.removeprefix(f"{side}."): v for n, v in row.items() if n.startswith(f"{side}.")}
            tokens = added.pop("encoder_hidden_states")
            if "image_embeds" in added:
                added["image_embeds"] = [added["image_embeds"]]
            outputs.append(unet(x, t, tokens, added_cond_kwargs=added).sample)
        output = outputs[1] + guidance * (outputs[0] - outputs[1])
        x = scheduler.step(output, t, x).prev_sample
        states.append(x[0])
    return torch.stack(states)


def start_of(model: Path, bank: dict[str, torch.Tensor], path: int, start_t: int) -> torch.Tensor:
    """alpha x0 + sigma noise, from the stored seed."""
    generator = torch.Generator().manual_seed(int(bank["noise_seed"][path]))
    noise = torch.randn(bank["x0"].shape[1:], generator=generator)
    return scheduler_of(model).add_noise(bank["x0"][path], noise, torch.tensor(start_t))


def check(model: Path, unet, bank: dict[str, torch.Tensor], *, start_t: int, num_levels: int) -> None:
    assert bank["states"].shape[1] == num_levels
    for path in (0, len(bank["states"]) - 1):  # of a whole batch and of one that is not full
        stored, start = bank["states"][path], start_of(model, bank, path, start_t)
        expected = expected_path(model, unet, bank, path, start_t)
        assert expected.shape == stored.shape
        assert (stored[0] - start).abs().max() < 1e-5 * start.abs().max()
        worst = (stored - expected).abs().flatten(1).max(1).values
        assert worst.max() < 1e-4, worst
        assert (stored[1:] - stored[:-1]).flatten(1).norm(dim=1).min() > 0.1, "the path stands still"


def test_embedded_paths_are_those_of_diffusers(tmp_path, photos):
    options = ["--style-data", str(photos), "--resolution", "64", "--set", "start=none"]
    bank = build(tmp_path / "bank", photos, *options)
    unet = diffusers.StableDiffusionXLImg2ImgPipeline.from_pretrained(ASSET)
    unet.load_ip_adapter(
        str(ASSET), subfolder="ip_adapter", weight_name="ip_adapter.safetensors", image_encoder_folder=None
    )
    check(ASSET, unet.unet, bank, start_t=399, num_levels=21)


def test_guided_sdxl_paths_are_those_of_diffusers(tmp_path, photos):
    model = save_tiny_sdxl(tmp_path / "sdxl")
    (tmp_path / "prompts.txt").write_text("an oil painting\na pencil drawing\n")
    options = ["--model", str(model), "--strength", "0.75", "--guidance-range", "6", "--resolution", "64"]
    bank = build(tmp_path / "bank", photos, *options, "--prompts", str(tmp_path / "prompts.txt"))
    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet")
    assert (bank["guidance"] == 6).all()
    assert bank["uncond.encoder_hidden_states"].abs().max() == bank["uncond.text_embeds"].abs().max() == 0
    assert len(bank["cond.encoder_hidden_states"].unique(dim=0)) == 2
    check(model, unet, bank, start_t=739, num_levels=38)
