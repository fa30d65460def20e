"""Batches of (picture without strokes, picture with them, style): what a conditional painter learns from.

Two kinds are mixed. A *definite painting*: the recoloured photo, what it should become, the style. And an
*artwork that is its own pair*: the artwork with its strokes taken away, the artwork, another crop of it
as the style. From each drawn source `CROPS` places are cut, which share the style picture. Batch n depends on
the seed and n alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stdcli.config.teacher import CROPS_A_PAINTING as CROPS
from stdcli.runtime.seeding import fold
from stdcli.teacher.painting import flatten_detail
from stdcli.teacher.paintings import SIDE_PX, Paintings, blur
from stdcli.teacher.pictures import SHORT_SIDES_PX, PictureSet

SMOOTHED_SHARE, SMOOTHED_PX = 0.5, 1.5  # of photos, and by how much at most
STROKES_PX = (0.6, 3.0)  # blur that takes an artwork's strokes away
FLATTENED_SHARE = 0.5  # of artworks, whose strokes are flattened before they are blurred, by less
P_PLAIN, P_SOME = 0.1, 0.15  # no style at all; an amount between none and all


@dataclass(frozen=True)
class Lesson:
    """A batch.

    Attributes:
        shown: float32 [B, 3, P, P] in [0, 1], what is to be painted.
        targets: the same shape, painted as much as `amounts` says.
        styles: float32 [S, 3, Q, Q] in [0, 1].
        style_of: int64 [B], row of `styles`.
        amounts: float32 [B] in [0, 1]; 0 asks for nothing to be changed.
        sources: for each of `styles` its row among the artworks' statistics; -1 where it has none.
    """

    shown: torch.Tensor
    targets: torch.Tensor
    styles: torch.Tensor
    style_of: torch.Tensor
    amounts: torch.Tensor
    sources: torch.Tensor


@dataclass(frozen=True)
class Lessons:
    """Draws batches.

    Attributes:
        paintings: definite paintings.
        art: artworks.
        art_share: how much of a batch are artworks that are their own pairs.
        crop_px: side P, a multiple of 8.
        style_px: side Q, a multiple of 8, at most the smallest of `SHORT_SIDES_PX`.
        rows: artwork's file name to its row among the statistics that the style encoder should foretell.
        seed: base seed.
    """

    paintings: Paintings
    art: PictureSet
    art_share: float
    crop_px: int
    style_px: int
    rows: dict[str, int]
    seed: int

    repeats = False  # every batch is new

    def batch(self, step: int, batch_size: int) -> Lesson:
        """The batch of a step; `batch_size` is a multiple of `CROPS`."""
        generator = fold(self.seed, "lessons", step)
        sources = batch_size // CROPS
        artworks = int((torch.rand(sources, generator=generator) < self.art_share).sum())
        drawn = [self._painting(generator) for _ in range(sources - artworks)]
        drawn += [self._artwork(generator) for _ in range(artworks)]
        shown, targets, styles, rows = zip(*drawn, strict=True)
        split = (sources - artworks) * CROPS
        shown = torch.cat(shown)
        shown = torch.cat(
            [self._smoothed(shown[:split], generator), self._stripped(shown[split:], generator)]
        )
        amounts = _amounts(batch_size, generator)
        mixed = shown + amounts[:, None, None, None] * (torch.cat(targets) - shown)
        style_of = torch.arange(sources).repeat_interleave(CROPS)
        return Lesson(shown, mixed, torch.stack(styles), style_of, amounts, torch.tensor(rows))

    def _painting(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        index = _draw(len(self.paintings), generator)
        both = torch.stack([self.paintings.photos[index], self.paintings.targets[index]]).float() / 255
        crops = torch.stack([_cut(both, self.crop_px, generator) for _ in range(CROPS)])
        style = int(self.paintings.style_of[index])
        picture = _cut(self.paintings.styles[style].float() / 255, self.style_px, generator)
        row = self.rows.get(self.paintings.style_names[style], -1)
        return crops[:, 0], crops[:, 1], picture, row

    def _artwork(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        index = _draw(len(self.art), generator)
        size = _draw(len(SHORT_SIDES_PX), generator)
        picture = self.art.sizes[index][size].float() / 255
        crops = torch.stack([_cut(picture, self.crop_px, generator) for _ in range(CROPS)])
        style = _cut(picture, self.style_px, generator)
        row = self.rows.get(self.art.names[index], -1) if SHORT_SIDES_PX[size] == SIDE_PX else -1
        return crops, crops, style, row

    def _smoothed(self, photos: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Half of the photos a little smoother: so may a user show them."""
        out = []
        for photo in photos.split(CROPS):
            chance, much = torch.rand(2, generator=generator).tolist()
            out.append(blur(photo, SMOOTHED_PX * much) if chance < SMOOTHED_SHARE else photo)
        return torch.cat(out) if out else photos

    def _stripped(self, artworks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Artworks without their strokes, more or less of them."""
        if not len(artworks):
            return artworks
        low, high = STROKES_PX
        out = []
        for artwork in artworks.split(CROPS):
            chance, much, share = torch.rand(3, generator=generator).tolist()
            if chance < FLATTENED_SHARE:
                flat = artwork + (0.5 + share / 2) * (flatten_detail(artwork) - artwork)
                out.append(blur(flat, much * low))
            else:
                out.append(blur(artwork, low + much * (high - low)))
        return torch.cat(out)


def _amounts(count: int, generator: torch.Generator) -> torch.Tensor:
    chance, some = torch.rand(2, count, generator=generator)
    amounts = torch.where(chance < P_PLAIN + P_SOME, some, torch.ones(count))
    return torch.where(chance < P_PLAIN, torch.zeros(count), amounts)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def _cut(picture: torch.Tensor, side_px: int, generator: torch.Generator) -> torch.Tensor:
    """A random square of pictures [..., H, W], mirrored half of the time."""
    top, left, flip = torch.rand(3, generator=generator).tolist()
    y = int(top * (picture.shape[-2] - side_px + 1))
    x = int(left * (picture.shape[-1] - side_px + 1))
    crop = picture[..., y : y + side_px, x : x + side_px]
    return crop.flip(-1) if flip < 0.5 else crop
