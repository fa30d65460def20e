"""Definite paintings: what a network that sees a photo should make of it in a style, place by place.

A folder of paintings holds pictures and `index.csv` with a row for each: `file`, `photo`, the square of the
photo that was painted (`x`, `y`, `side`, in its pixels) and `style`, whose middle square was used. Paths are
relative to the folder or to the one that it is in.

Everything is brought to `SIDE_PX`. The painting is given the style's colours as the photo is, then the low
frequencies of the photo in those colours: palette and layout are the start's already, what is left to learn
are contours and strokes.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from stdcli.data.split import is_held_out
from stdcli.diffusion.colors import match_colors
from stdcli.errors import MediaError
from stdcli.media.image import read_image
from stdcli.reporter import Progress

INDEX, COLUMNS = "index.csv", ("file", "photo", "x", "y", "side", "style")
SIDE_PX = 256
LAYOUT_PX = 8.0  # standard deviation of the blur that tells layout from strokes


@dataclass(frozen=True)
class Paintings:
    """Triples, all square and of one size.

    Attributes:
        photos: uint8 [N, 3, SIDE_PX, SIDE_PX], in the colours of their styles.
        targets: the same shape, what they should become.
        style_of: int64 [N], row of `styles`.
        styles: uint8 [S, 3, SIDE_PX, SIDE_PX].
        style_names: file names of the styles.
    """

    photos: torch.Tensor
    targets: torch.Tensor
    style_of: torch.Tensor
    styles: torch.Tensor
    style_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.photos)


def load_paintings(folder: Path, *, held_out: bool, progress: Progress | None = None) -> Paintings:
    """Read one side of the split.

    Args:
        folder: pictures and `index.csv`.
        held_out: True for rows whose photo and style are both held out by name; False for rows of which
            neither is. Others belong to no side.
        progress: counts the rows.

    Raises:
        MediaError: no index, a row that is incomplete or names what cannot be read, or no row of this side.
    """
    rows = [row for row in read_index(folder) if _side(row) == held_out]
    if not rows:
        raise MediaError("no paintings of this side of the split", where=folder / INDEX)
    pictures = _Reader(folder)
    names = sorted({row["style"] for row in rows})
    styles = torch.stack([pictures.square(name) for name in names])
    photos, targets = [], []
    for row in rows:
        style = styles[names.index(row["style"])][None].float() / 255
        photo = pictures.crop(row)[None].float() / 255
        painting = pictures.square(row["file"])[None].float() / 255
        recolored = match_colors(photo, style)
        photos.append(to_bytes(recolored))
        targets.append(to_bytes(with_layout(match_colors(painting, style), recolored)))
        if progress is not None:
            progress.advance()
    style_of = torch.tensor([names.index(row["style"]) for row in rows])
    return Paintings(
        torch.cat(photos), torch.cat(targets), style_of, styles, tuple(Path(name).name for name in names)
    )


def read_index(folder: Path) -> list[dict[str, str]]:
    """Rows of a folder's index.

    Raises:
        MediaError: there is none, or it lacks a column.
    """
    path = folder / INDEX
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MediaError("paintings need an index", where=path, got=str(error)) from error
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        raise MediaError(
            "the index of paintings lacks columns",
            where=path,
            got=", ".join(columns),
            expected=", ".join(COLUMNS),
        )
    return rows


def with_layout(pictures: torch.Tensor, layouts: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, H, W] in [0, 1] with the low frequencies of others."""
    return (pictures + blur(layouts - pictures, LAYOUT_PX)).clamp(0, 1)


def blur(pictures: torch.Tensor, deviation_px: float) -> torch.Tensor:
    """Gaussian blur of pictures [B, C, H, W] of any values; beyond the border they are mirrored."""
    if deviation_px <= 0:
        return pictures
    reach = min(int(3 * deviation_px + 0.5), min(pictures.shape[-2:]) - 1)
    at = torch.arange(-reach, reach + 1.0)
    weights = torch.exp(-(at**2) / (2 * deviation_px**2)).to(pictures)
    weights = (weights / weights.sum()).expand(pictures.shape[1], 1, 1, -1)
    padded = F.pad(pictures, (reach,) * 4, mode="reflect")
    across = F.conv2d(padded, weights, groups=pictures.shape[1])
    return F.conv2d(across, weights.transpose(2, 3), groups=pictures.shape[1])


def to_bytes(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 of pictures in [0, 1]."""
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)


def _side(row: Mapping[str, str]) -> bool | None:
    held = {is_held_out(Path(row[column]).name) for column in ("photo", "style")}
    return held.pop() if len(held) == 1 else None


class _Reader:
    """Pictures that an index names, each file read once in a row."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, np.ndarray] = {}

    def square(self, name: str) -> torch.Tensor:
        """The middle of a picture: uint8 [3, SIDE_PX, SIDE_PX]."""
        rgb = self._open(name)
        side = min(rgb.shape[:2])
        top, left = (rgb.shape[0] - side) // 2, (rgb.shape[1] - side) // 2
        return _shrink(rgb[top : top + side, left : left + side])

    def crop(self, row: Mapping[str, str]) -> torch.Tensor:
        """The square of the photo that a row speaks of."""
        rgb = self._open(row["photo"])
        try:
            x, y, side = (int(row[column]) for column in ("x", "y", "side"))
        except (TypeError, ValueError) as error:
            raise MediaError("a row of the index has no square", where=row["file"], got=str(error)) from error
        if min(x, y) < 0 or side < 1 or y + side > rgb.shape[0] or x + side > rgb.shape[1]:
            raise MediaError(
                "a square of the index is not in its photo",
                where=row["file"],
                got=f"{side} px at {x}, {y}",
                expected=f"within {rgb.shape[1]} x {rgb.shape[0]} px",
            )
        return _shrink(rgb[y : y + side, x : x + side])

    def _open(self, name: str) -> np.ndarray:
        if name not in self._read:
            self._read[name] = self._find(name)
            if len(self._read) > 400:
                self._read.pop(next(iter(self._read)))
        return self._read[name]

    def _find(self, name: str) -> np.ndarray:
        inside, beside = self._folder / name, self._folder.parent / name
        return read_image(inside if inside.exists() else beside).rgb


def _shrink(rgb: np.ndarray) -> torch.Tensor:
    small = Image.fromarray(rgb).resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)
