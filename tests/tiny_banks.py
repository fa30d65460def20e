"""Small banks of random states, without any model, and small folders of pictures to build banks from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stdcli.bank.bank_files import BankFiles
from stdcli.bank.format import SAMPLES, ClipExtent, Manifest, finished, write_manifest
from stdcli.bank.shard import StoredPaths, write_shard

MANIFEST = Manifest(
    model={"family": "tiny", "name": "models/tiny", "revision": None, "unet_sha256": "ab" * 32, "loras": []},
    schedule="cd" * 32,
    prediction="epsilon",
    levels=tuple({"id": k, "t": 20 * k, "alpha": 1 - k / 10, "sigma": k / 10} for k in (7, 5, 2, 0)),
    strength=0.7,
    num_solver_steps=10,
    solver="ddim",
    guidance={"min": 2.0, "max": 4.0, "form": "imagen"},
    latent_shape=(2, 3, 5),
    resolution_px=40,
    compute_dtype="float32",
    store_dtype="float16",
    start={"transform": "none"},
    seed=4,
    num_paths=7,
    shard_size=3,
)

CLIPS = replace(
    MANIFEST,
    prediction="flow",
    levels=tuple(
        {"id": k, "t": 1000 * sigma, "alpha": 1 - sigma, "sigma": sigma}
        for k, sigma in ((7, 0.875), (5, 0.7142857142857143), (2, 0.3333333333333333), (0, 0.0))
    ),
    latent_shape=(2, 3, 2, 4),
    resolution_px=None,
    clip=ClipExtent(height=16, width=32, frames=9, frame_stride=2),
)


def make_paths(
    manifest: Manifest, numbers: Sequence[int], *, dtype: torch.dtype = torch.float16
) -> StoredPaths:
    """Paths whose every value follows from their number; neighbours share a style, all the unconditional."""

    def draw(name: str, number: int, *shape: int) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(f"{name} {number}".encode()).digest()[:7], "big")
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    levels = len(manifest.levels)
    return StoredPaths(
        states=torch.stack([draw("states", k, levels, *manifest.latent_shape) for k in numbers]).to(dtype),
        x0=torch.stack([draw("x0", k, *manifest.latent_shape) for k in numbers]).to(dtype),
        guidance=torch.tensor([2 + k / 4 for k in numbers], dtype=torch.float32),
        noise_seed=torch.tensor([2**62 + k for k in numbers]),
        sample_id=torch.tensor([10**18 + 31 * k for k in numbers]),
        conditions=[
            {
                "cond.style": draw("style", k // 2, 4, 6),
                "cond.time_ids": torch.tensor([1023.0, 2049.0, k]),
                "uncond.style": torch.zeros(4, 6),
            }
            for k in numbers
        ],
        sources=[{"sample_id": 10**18 + 31 * k, "source": f"{k}.png"} for k in numbers],
    )


def write_tiny_bank(
    root: Path, manifest: Manifest = MANIFEST, *, first: int = 0, shards: Sequence[int] | None = None
) -> BankFiles:
    """A bank as a builder leaves it.

    Args:
        root: its folder.
        manifest: of the bank.
        first: number of its first path.
        shards: those that are there, the others being still to build; None for all.
    """
    files = BankFiles(root)
    numbers = range(first, first + manifest.num_paths)
    dtype = getattr(torch, manifest.store_dtype)
    files.write_lines(SAMPLES, [dict(row) for row in make_paths(manifest, numbers).sources])
    write_manifest(files, manifest)
    every = range(manifest.num_shards)
    for index in every if shards is None else shards:
        write_shard(
            files,
            manifest,
            index,
            make_paths(manifest, [numbers[k] for k in manifest.paths_of(index)], dtype=dtype),
        )
    if shards is None:
        write_manifest(files, finished(manifest))
    return files


def changed(**changes: object) -> Manifest:
    """`MANIFEST` with other values."""
    return replace(MANIFEST, **changes)


def contents(root: Path) -> dict[str, bytes]:
    """Every file of a bank but locks and settings, by its name."""
    return {
        name: path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not (name := path.relative_to(root).as_posix()).startswith(("locks/", "run.json"))
    }


def write_pictures(folder: Path, names: Sequence[str], *, seed: int = 0) -> Path:
    """Smooth pictures, each named one of its own; the same name and seed give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        rng = np.random.default_rng([seed, *name.encode()])
        coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((84, 70), Image.Resampling.BICUBIC).save(folder / name)
    return folder
