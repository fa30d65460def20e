"""A picture of a bank: some paths decoded, levels from left to right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stdcli.bank.reader import Bank
from stdcli.errors import ModelError
from stdcli.media.image import Picture, write_image
from stdcli.media.tensors import to_uint8
from stdcli.models.load import load_model
from stdcli.models.spec import ModelSpec

COLUMNS = 7
_GAP_PX = 4


def write_grid(root: Path, out: Path, *, num_paths: int, device: str = "auto") -> None:
    """Decode paths from all over a bank: the clean sample, then states from the start level down.

    Args:
        root: the bank.
        out: picture to write.
        num_paths: rows.
        device: of the codec.

    Raises:
        BankError: the bank is unfinished or damaged.
        ModelError: the teacher is gone, or has another codec now.
        MediaError: the picture cannot be written.
    """
    bank = Bank(root)
    bundle = load_model(ModelSpec(bank.manifest.model["name"], device=device, dtype="float32"))
    stored, current = bank.manifest.model.get("vae_sha256"), bundle.network.identity.get("vae_sha256")
    if stored != current:
        raise ModelError("the bank was built with another codec", where=root, got=current, expected=stored)
    rows = np.linspace(0, len(bank) - 1, min(num_paths, len(bank))).round().astype(int)
    columns = np.linspace(0, len(bank.level_ids) - 1, min(COLUMNS, len(bank.level_ids))).round().astype(int)
    lines = []
    for path in rows:
        latents = torch.cat([bank.x0([path]), bank.path(path)[torch.from_numpy(columns)]]).float()
        with torch.inference_mode():
            pictures = [bundle.codec.decode(z[None].to(bundle.network.device)).cpu() for z in latents]
        lines.append(_beside([to_uint8(picture)[0] for picture in pictures], axis=1))
    sheet = _beside(lines, axis=0)
    write_image(out, Picture(sheet), overwrite=True)


def _beside(pictures: list[np.ndarray], *, axis: int) -> np.ndarray:
    shape = list(pictures[0].shape)
    shape[axis] = _GAP_PX
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(parts[:-1], axis)
