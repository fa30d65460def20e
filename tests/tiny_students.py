"""Students of tiny models: conditions for their networks, and weights as training would have left them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from stdcli.config.recipe import Recipe, Trained
from stdcli.distill.student import Student, make_student
from stdcli.models.condition import Condition
from stdcli.models.denoiser import Denoiser
from stdcli.models.load import load_denoiser
from stdcli.models.spec import ModelSpec
from tests.copies import copy_of
from tests.tiny_models import CROSS, POOLED, STYLE

CHANNELS = {"embedded": 8, "sd15": 4, "sdxl": 4}


def condition_for(family: str, *, batch: int = 2, styled: bool = False, seed: int = 0) -> Condition:
    """A condition with random values, of the shapes that a tiny model of a family takes."""
    draw = torch.Generator().manual_seed(seed)
    added = {}
    if family != "sd15":
        pooled = STYLE if family == "embedded" else POOLED
        added["text_embeds"] = torch.randn(batch, pooled, generator=draw)
        added["time_ids"] = torch.tensor([[256.0, 256, 0, 0, 256, 256]]).expand(batch, -1)
    if styled or family == "embedded":
        added["image_embeds"] = torch.randn(batch, 1, STYLE, generator=draw)
    return Condition(torch.randn(batch, 5, CROSS, generator=draw), added)


def latents_for(family: str, *, batch: int = 2, seed: int = 1) -> torch.Tensor:
    """Random latents [B, C, 8, 8]."""
    return torch.randn(batch, CHANNELS[family], 8, 8, generator=torch.Generator().manual_seed(seed))


def student_of(model: Path, *, dtype: str = "float32", styles: bool = False, **options: object) -> Student:
    """A student of a tiny model, untrained: a copy of one that is made once."""
    made = _made(str(model), dtype, styles, **({"kind": "lora", "rank": 3, "seed": 5} | options))
    return copy_of(made, made)


@cache
def _made(model: str, dtype: str, styles: bool, **options: object) -> Student:
    denoiser = _denoiser(model, dtype, styles)
    return make_student(copy_of(denoiser, denoiser.network), **options)


@cache
def _denoiser(model: str, dtype: str, styles: bool) -> Denoiser:
    return load_denoiser(ModelSpec(model, device="cpu", dtype=dtype), styles=styles).denoiser


@torch.no_grad()
def train(student: Student, *, scale: float = 0.1, seed: int = 3) -> Student:
    """Move every trained value, each by its own random amount."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in student.trainable().values():
        parameter += scale * torch.randn(parameter.shape, generator=draw)
    return student


def recipe_of(model: Path | None = None, **trained: object) -> Recipe:
    """A student's recipe; with a model, naming the model's hashes."""
    network = None if model is None else load_denoiser(ModelSpec(str(model), device="cpu"))
    facts = {
        "method": "std",
        "strength": 0.6,
        "start_t": 599,
        "supported_steps": (2, 4),
        "base": "base" if model is None else str(model),
        "base_sha256": {"unet": "0" * 64 if network is None else network.hash_of("unet")},
    }
    return Recipe(steps=4, strength=0.6, guidance_fused=True, trained=Trained(**(facts | trained)))
