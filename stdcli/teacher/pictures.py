"""Pictures in memory, at several sizes, split into training and held-out by file name.

Crops come straight from the stored sizes, so that reading costs no resampling while training. It knows
nothing of styles or noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stdcli.data.split import is_held_out
from stdcli.errors import MediaError
from stdcli.media.heif import HEIF_SUFFIXES
from stdcli.media.image import read_image
from stdcli.media.sources import IMAGE_SUFFIXES
from stdcli.reporter import Progress

SHORT_SIDES_PX = (192, 256, 352)
MAX_ASPECT = 3  # longer pictures are cropped, so that one panorama does not fill the memory


@dataclass(frozen=True)
class PictureSet:
    """Pictures at each of `SHORT_SIDES_PX`.

    Attributes:
        names: file names, in the order of their paths.
        sizes: per picture, one uint8 tensor [3, H, W] per short side.
        skipped: (file name, reason) of what could not be read.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[torch.Tensor, ...], ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def square(self, index: int, *, size_idx: int) -> torch.Tensor:
        """The middle of a picture, as large as its short side: float32 [3, S, S] in [0, 1]."""
        picture = self.sizes[index][size_idx]
        side = SHORT_SIDES_PX[size_idx]
        top, left = (picture.shape[1] - side) // 2, (picture.shape[2] - side) // 2
        return picture[:, top : top + side, left : left + side].float() / 255

    def crop(self, index: int, *, size_idx: int, crop_px: int, generator: torch.Generator) -> torch.Tensor:
        """A random crop, mirrored half of the time.

        Args:
            index: picture.
            size_idx: which of `SHORT_SIDES_PX`.
            crop_px: side of the square, at most the short side.
            generator: source of randomness.

        Returns:
            float32 [3, crop_px, crop_px] in [0, 1].
        """
        picture = self.sizes[index][size_idx]
        top, left, flip = torch.rand(3, generator=generator).tolist()
        y = int(top * (picture.shape[1] - crop_px + 1))
        x = int(left * (picture.shape[2] - crop_px + 1))
        crop = picture[:, y : y + crop_px, x : x + crop_px].float() / 255
        return crop.flip(-1) if flip < 0.5 else crop


def list_pictures(folder: Path) -> list[Path]:
    """Picture files under a folder, recursively, in the order of their paths.

    Raises:
        MediaError: no picture in it.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | HEIF_SUFFIXES)
    if not files:
        expected = ", ".join(sorted(IMAGE_SUFFIXES))
        raise MediaError("no picture in this folder", where=str(folder), expected=expected)
    return files


def load_pictures(files: Iterable[Path], *, held_out: bool, progress: Progress | None = None) -> PictureSet:
    """Read one side of the split into memory.

    Args:
        files: picture files.
        held_out: True for the tenth that training never sees, False for the rest.
        progress: counts the files of this side.

    Returns:
        The readable pictures; unreadable ones are listed in `skipped`.
    """
    names, sizes, skipped = [], [], []
    for path in files:
        if is_held_out(path.name) != held_out:
            continue
        if progress is not None:
            progress.advance()
        try:
            rgb = read_image(path).rgb
        except MediaError as error:
            skipped.append((path.name, error.what))
            continue
        names.append(path.name)
        sizes.append(tuple(_resized(rgb, side) for side in SHORT_SIDES_PX))
    return PictureSet(tuple(names), tuple(sizes), tuple(skipped))


def _resized(rgb: np.ndarray, side_px: int) -> torch.Tensor:
    height, width = rgb.shape[:2]
    scale = side_px / min(height, width)
    size = (max(side_px, round(width * scale)), max(side_px, round(height * scale)))
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.LANCZOS))
    return torch.from_numpy(small[: MAX_ASPECT * side_px, : MAX_ASPECT * side_px].copy()).permute(2, 0, 1)
