"""Batches of (photo, style): what a stylizing job is given, and all that training sees.

It knows nothing of noise, latents or networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from stdcli.runtime.seeding import fold
from stdcli.teacher.pictures import SHORT_SIDES_PX, PictureSet


@dataclass(frozen=True)
class StylePairBatch:
    """Pictures to restyle and the styles to do it in.

    Attributes:
        photos: float32 [B, 3, P, P] in [0, 1].
        styles: float32 [B, 3, Q, Q] in [0, 1].
        number: which batch this is; equal numbers mean equal pictures.
    """

    photos: torch.Tensor
    styles: torch.Tensor
    number: int


@dataclass(frozen=True)
class PairSampler:
    """Draws batches; batch n depends on the seed and n alone, so a resumed run sees what it would have seen.

    Attributes:
        content: photos.
        art: artworks.
        photo_px: side P of the photos' crops, a multiple of 8.
        style_px: side Q of the styles' crops, a multiple of 8.
        art_share: how often an artwork takes the photo's place.
        repeat_after: batches after which the first one comes again; 0 for never.
        seed: base seed.
    """

    content: PictureSet
    art: PictureSet
    photo_px: int
    style_px: int
    art_share: float
    repeat_after: int
    seed: int

    @property
    def repeats(self) -> bool:
        return self.repeat_after > 0

    def batch(self, step: int, batch_size: int) -> StylePairBatch:
        """The batch of a step, of `batch_size` pairs."""
        number = step % self.repeat_after if self.repeats else step
        generator = fold(self.seed, "pairs", number)
        photos, styles = [], []
        for _ in range(batch_size):
            is_art = torch.rand(1, generator=generator).item() < self.art_share
            photos.append(_crop(self.art if is_art else self.content, self.photo_px, generator))
            styles.append(_crop(self.art, self.style_px, generator))
        return StylePairBatch(torch.stack(photos), torch.stack(styles), number)


def _crop(pictures: PictureSet, crop_px: int, generator: torch.Generator) -> torch.Tensor:
    index = int(torch.randint(len(pictures), (1,), generator=generator))
    size_idx = int(torch.randint(len(SHORT_SIDES_PX), (1,), generator=generator))
    return pictures.crop(index, size_idx=size_idx, crop_px=crop_px, generator=generator)


class PrefetchedPairs:
    """The same batches as a sampler's, drawn ahead by threads while the networks compute.

    Args:
        sampler: source of batches: of pairs, or of what has `repeats` and `batch` too.
        pool: threads to draw in.
        ahead: how many batches to draw ahead.
    """

    def __init__(self, sampler: PairSampler, *, pool: ThreadPoolExecutor, ahead: int):
        self.repeats = sampler.repeats
        self._sampler = sampler
        self._pool = pool
        self._ahead = ahead
        self._drawn: dict[int, Future[StylePairBatch]] = {}

    def batch(self, step: int, batch_size: int) -> StylePairBatch:
        """The batch of a step, of `batch_size` pairs; the next ones are drawn meanwhile."""
        for n in range(step, step + self._ahead + 1):
            if n not in self._drawn:
                self._drawn[n] = self._pool.submit(self._sampler.batch, n, batch_size)
        return self._drawn.pop(step).result()


@contextmanager
def prefetched(sampler: PairSampler, *, threads: int) -> Iterator[PairSampler | PrefetchedPairs]:
    """A sampler's batches, drawn ahead by `threads` threads until the block ends; 0 draws them when asked."""
    if threads == 0:
        yield sampler
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pairs")
    try:
        yield PrefetchedPairs(sampler, pool=pool, ahead=threads)
    finally:
        pool.shutdown(cancel_futures=True)
