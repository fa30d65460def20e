"""Batches of (picture to learn, picture of its style): what teaches the denoiser to look at the style.

Three sources, mixed by probability:
- native: two crops of one artwork;
- procedural: crops of two different pictures under one random procedural style;
- transfer: a photo repainted with the patches of an artwork, and a crop of that artwork.

It knows nothing of noise, latents or networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from stdcli.console import Progress
from stdcli.runtime.seeding import fold
from stdcli.teacher.patch_transfer import repaint
from stdcli.teacher.pictures import SHORT_SIDES_PX, PictureSet
from stdcli.teacher.procedural import random_style

Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # picture, style, picture before styling
SOURCES = ("native", "procedural", "transfer")


@dataclass(frozen=True)
class Repaints:
    """Photos repainted with artworks' patches, made once because each takes longer than a training step may.

    Attributes:
        pictures: uint8 [N, 3, S, S].
        photos: uint8 [N, 3, S, S], what was repainted.
        art_index: int64 [N], the artwork in the set of artworks.
        size_idx: int64 [N], at which of `SHORT_SIDES_PX` the artwork was used.
    """

    pictures: torch.Tensor
    photos: torch.Tensor
    art_index: torch.Tensor
    size_idx: torch.Tensor

    def __len__(self) -> int:
        return len(self.pictures)


def build_repaints(
    content: PictureSet,
    art: PictureSet,
    *,
    count: int,
    side_px: int,
    seed: int,
    progress: Progress | None = None,
) -> Repaints:
    """Repaint random crops of photos with random artworks.

    Args:
        content: photos.
        art: artworks.
        count: how many, N.
        side_px: side S of the crops, at most the smallest of `SHORT_SIDES_PX`.
        seed: item i depends on the seed and i alone.
        progress: counts repaints.

    Returns:
        N repainted crops.
    """
    pictures, photos = torch.empty(2, count, 3, side_px, side_px, dtype=torch.uint8)
    art_index, size_idx = torch.empty(2, count, dtype=torch.int64)
    for i in range(count):
        generator = fold(seed, "repaint", i)
        index, size = _draw(content, generator)
        photo = content.crop(index, size_idx=size, crop_px=side_px, generator=generator)
        art_index[i], size_idx[i] = _draw(art, generator)
        region_px = min(SHORT_SIDES_PX[size_idx[i]], 256)
        source = art.crop(
            int(art_index[i]), size_idx=int(size_idx[i]), crop_px=region_px, generator=generator
        )
        both = torch.stack([repaint(photo[None], source[None])[0], photo])
        pictures[i], photos[i] = (both * 255).round().to(torch.uint8)
        if progress is not None:
            progress.advance()
    return Repaints(pictures, photos, art_index, size_idx)


@dataclass(frozen=True)
class PairBatch:
    """Pictures and the style each is in.

    Attributes:
        pictures: float32 [B, 3, P, P] in [-1, 1].
        styles: float32 [B, 3, Q, Q] in [-1, 1].
        sources: float32 [B, 3, P, P] in [-1, 1], the pictures before styling; native ones as they are.
        is_native: bool [B], True where `pictures` is a crop of a real artwork.
    """

    pictures: torch.Tensor
    styles: torch.Tensor
    sources: torch.Tensor
    is_native: torch.Tensor


@dataclass(frozen=True)
class PairSampler:
    """Draws batches; batch n depends on the seed and n alone, so a resumed run sees what it would have seen.

    Attributes:
        content: photos.
        art: artworks.
        repaints: photos repainted with artworks of `art`.
        crop_px: side P of the crops, a multiple of 8.
        weights: relative frequency of each of `SOURCES`.
        seed: base seed.
        style_crop_px: side Q of the styles, at most P; None is P.
    """

    content: PictureSet
    art: PictureSet
    repaints: Repaints
    crop_px: int
    weights: tuple[float, float, float]
    seed: int
    style_crop_px: int | None = None

    def batch(self, step: int, batch_size: int) -> PairBatch:
        """Batch number `step`, of `batch_size` pairs."""
        generator = fold(self.seed, "pairs", step)
        weights = torch.tensor(self.weights)
        which = torch.multinomial(weights, batch_size, replacement=True, generator=generator).tolist()
        pairs = [getattr(self, f"_{SOURCES[i]}")(generator) for i in which]
        pictures, styles, sources = (torch.stack(column) * 2 - 1 for column in zip(*pairs, strict=True))
        side = self.style_crop_px or self.crop_px
        return PairBatch(pictures, styles[..., :side, :side], sources, torch.tensor([i == 0 for i in which]))

    def _crop(
        self, pictures: PictureSet, index: int, size_idx: int, generator: torch.Generator
    ) -> torch.Tensor:
        return pictures.crop(index, size_idx=size_idx, crop_px=self.crop_px, generator=generator)

    def _native(self, generator: torch.Generator) -> Triple:
        index, size_idx = _draw(self.art, generator)
        picture, style = (self._crop(self.art, index, size_idx, generator) for _ in range(2))
        return picture, style, picture

    def _procedural(self, generator: torch.Generator) -> Triple:
        crops = []
        for _ in range(2):
            photo = torch.rand(1, generator=generator).item() < 0.75
            pictures = self.content if photo else self.art
            crops.append(self._crop(pictures, *_draw(pictures, generator), generator))
        styled = random_style(generator)(torch.stack(crops))
        return styled[0], styled[1], crops[0]

    def _transfer(self, generator: torch.Generator) -> Triple:
        item = int(torch.randint(len(self.repaints), (1,), generator=generator))
        both = torch.stack([self.repaints.pictures[item], self.repaints.photos[item]])
        room = both.shape[-1] - self.crop_px
        top, left = torch.randint(room + 1, (2,), generator=generator).tolist()
        both = both[..., top : top + self.crop_px, left : left + self.crop_px].float() / 255
        if torch.rand(1, generator=generator).item() < 0.5:
            both = both.flip(-1)
        index, size_idx = int(self.repaints.art_index[item]), int(self.repaints.size_idx[item])
        style = self._crop(self.art, index, size_idx, generator)
        return both[0], style, both[1]


class PrefetchedPairs:
    """The same batches as a sampler's, drawn ahead by threads while the networks compute.

    Args:
        sampler: source of batches.
        pool: threads to draw in.
        ahead: how many batches to draw ahead.
    """

    def __init__(self, sampler: PairSampler, *, pool: ThreadPoolExecutor, ahead: int):
        self._sampler = sampler
        self._pool = pool
        self._ahead = ahead
        self._drawn: dict[int, Future[PairBatch]] = {}

    def batch(self, step: int, batch_size: int) -> PairBatch:
        """Batch number `step`, of `batch_size` pairs; the next ones are drawn meanwhile."""
        for n in range(step, step + self._ahead + 1):
            if n not in self._drawn:
                self._drawn[n] = self._pool.submit(self._sampler.batch, n, batch_size)
        return self._drawn.pop(step).result()


@contextmanager
def prefetched(sampler: PairSampler, *, threads: int) -> Iterator[PrefetchedPairs]:
    """A sampler's batches, drawn ahead by `threads` threads until the block ends."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pairs")
    try:
        yield PrefetchedPairs(sampler, pool=pool, ahead=threads)
    finally:
        pool.shutdown(cancel_futures=True)


def _draw(pictures: PictureSet, generator: torch.Generator) -> tuple[int, int]:
    index = int(torch.randint(len(pictures), (1,), generator=generator))
    return index, int(torch.randint(len(SHORT_SIDES_PX), (1,), generator=generator))
