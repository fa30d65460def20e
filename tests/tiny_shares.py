"""Folders that can be shared, small and made without any model: a student, its run, a model, a bank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin
from safetensors.numpy import save

RECIPE: dict[str, Any] = {
    "steps": 4,
    "timesteps": [739, 559, 379, 199],
    "strength": 0.75,
    "guidance_fused": True,
    "trained": {
        "method": "std",
        "strength": 0.75,
        "start_t": 739.0,
        "supported_steps": [2, 4, 8],
        "base": "o/base",
        "base_sha256": {"unet": "ab" * 32},
    },
}
LORA = "pytorch_lora_weights.safetensors"


def weights(*, seed: int = 0, num_bytes: int = 4000, metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file of random values."""
    values = np.random.default_rng(seed).integers(0, 256, num_bytes, dtype=np.uint8)
    return save({"unet.x.lora_A.weight": values}, metadata={"format": "pt"} | (metadata or {}))


def write(folder: Path, files: dict[str, bytes | str | dict[str, Any]]) -> Path:
    """Write some files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(content, indent=2) + "\n" if isinstance(content, dict) else content
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def write_student(folder: Path, *, base: str = "o/base", seed: int = 0) -> Path:
    """A LoRA student's folder."""
    recipe = RECIPE | {"trained": RECIPE["trained"] | {"base": base}}
    return write(folder, {LORA: weights(seed=seed), "recipe.json": recipe})


def write_run(folder: Path, *, base: str = "o/base") -> Path:
    """A finished run of `distill`, with all that never leaves the machine."""
    write_student(folder / "student", base=base)
    train = {"steps": 800, "batch_size": 8, "learning_rate": 1e-4, "loss": "huber"}
    config = {"bank": str(folder / "bank"), "train": train, "student": {"kind": "lora", "rank": 32}}
    run = {"task": "distill", "state": "complete", "config": config, "versions": {"torch": "2.13.0"}}
    write(
        folder,
        {
            "run.json": run | {"learned": {"fingerprint": "cd" * 32}},
            "metrics.jsonl": "{}\n",
            "checkpoints/step-000800.safetensors": weights(seed=9),
            "student/optimizer.pt": b"state",
            "student/notes.txt": "mine",
            "student/.cache/x.safetensors": weights(),
        },
    )
    for step, level in ((400, 60), (800, 200)):
        write_picture(folder / f"samples/step-{step:06d}.png", level=level)
    return folder


def write_picture(path: Path, *, level: int = 120) -> Path:
    """A picture in one grey, in which a program noted where it lay."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("stdcli", json.dumps({"input": str(path.absolute())}))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (level, level, level)).save(path, pnginfo=notes)
    return path


def write_model(folder: Path) -> Path:
    """A diffusers folder by its names; what was never part of one lies beside."""
    config = {"_class_name": "UNet2DConditionModel", "_name_or_path": str(folder), "in_channels": 4}
    return write(
        folder,
        {
            "model_index.json": {"_class_name": "StableDiffusionXLImg2ImgPipeline", "_name_or_path": "../x"},
            "recipe.json": {"steps": 4, "strength": 0.4},
            "unet/config.json": config,
            "unet/diffusion_pytorch_model.safetensors": weights(seed=1),
            "unet/diffusion_pytorch_model.fp16.safetensors": weights(seed=2),
            "unet/diffusion_pytorch_model.bin": b"pickle",
            "vae/config.json": {"_class_name": "AutoencoderKL"},
            "vae/diffusion_pytorch_model.safetensors": weights(seed=3),
            "checkpoints/step-000100.safetensors": weights(seed=4),
        },
    )
