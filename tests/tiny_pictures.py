"""Small folders of generated pictures, and picture sets without files, for the tests of teacher training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stdcli.teacher.pictures import SHORT_SIDES_PX, PictureSet

HELD_OUT = ("p02.png", "p14.png")  # of p00.png to p19.png, by SHA-256 of the name


def flat_set(colors: torch.Tensor) -> PictureSet:
    """One picture per colour [N, 3] uint8, of that colour all over."""
    sizes = tuple(
        tuple(color.view(3, 1, 1).expand(3, side, side).contiguous() for side in SHORT_SIDES_PX)
        for color in colors
    )
    return PictureSet(tuple(f"flat-{i}.png" for i in range(len(colors))), sizes)


def noise_set(count: int, *, seed: int) -> PictureSet:
    """Pictures of independent pixels."""
    rng = torch.Generator().manual_seed(seed)
    sizes = tuple(
        tuple(
            torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=rng)
            for side in SHORT_SIDES_PX
        )
        for _ in range(count)
    )
    return PictureSet(tuple(f"noise-{i}.png" for i in range(count)), sizes)


def write_flat(folder: Path, *, train: tuple[int, int, int], held_out: tuple[int, int, int]) -> None:
    """Twenty pictures p00.png to p19.png: one colour for those trained on, another for the held-out ones."""
    folder.mkdir(parents=True)
    for i in range(20):
        name = f"p{i:02d}.png"
        color = held_out if name in HELD_OUT else train
        Image.new("RGB", (40, 32), color).save(folder / name)


def write_ramps(folder: Path, *, seed: int, count: int = 20) -> None:
    """Pictures whose colours rise linearly along x and y: a patch of one has three numbers per channel."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:1:48j, 0:1:64j][..., None]
    for i in range(count):
        base, along_x, along_y = rng.uniform(60, 190, 3), rng.uniform(-50, 50, 3), rng.uniform(-50, 50, 3)
        rgb = base + along_x * (x - 0.5) + along_y * (y - 0.5)
        Image.fromarray(rgb.round().clip(0, 255).astype(np.uint8)).save(folder / f"p{i:02d}.png")
