"""Which (path, level) pairs of an offline bank a training run sees, and in what order.

It knows neither files nor latents nor networks: a path is a number, a level is its id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stdcli.runtime.seeding import fold

NUM_DRAWS = 2
"""Uniform numbers that belong to each position of the order."""


@dataclass(frozen=True, slots=True)
class PathLevelBatch:
    """Pairs to train on.

    Attributes:
        paths: int64 [B], in 0..num_paths-1.
        level_ids: int64 [B], each one of the order's `level_ids`.
        draws: float64 [B, 2], uniform in [0, 1), for whatever else is left to chance (the target level s).
        sample_index: int64 [B], places in the endless order, from which further randomness can be folded.
    """

    paths: Tensor
    level_ids: Tensor
    draws: Tensor
    sample_index: Tensor


@dataclass(frozen=True)
class PairOrder:
    """One endless order of all pairs, the same for any number of ranks and any batch size.

    Epoch e is a random permutation of all num_paths x len(level_ids) pairs, from (seed, e) alone; epochs
    follow one another without a gap. There is no state but the step: to resume is to ask for it again.

    Memory: two epochs' permutations at most, 4 bytes a pair each (8 from 2^31 pairs on): 100,000 paths of 38
    levels take 15 MB an epoch, 30 MB in all. A batch costs O(batch) unless it is the first of its epoch.
    Threads may share an order: at worst each makes the same permutation.

    Attributes:
        num_paths: paths of the bank, >= 1.
        level_ids: levels to train at, different and >= 0.
        seed: base seed.

    Raises:
        ValueError: no path, no level, a negative level or one that comes twice.
    """

    num_paths: int
    level_ids: tuple[int, ...]
    seed: int
    _epochs: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "level_ids", tuple(self.level_ids))
        if self.num_paths < 1:
            raise ValueError(f"an order needs at least one path, not {self.num_paths}")
        if not self.level_ids:
            raise ValueError("an order needs at least one level")
        if min(self.level_ids) < 0 or len(set(self.level_ids)) < len(self.level_ids):
            raise ValueError(f"levels must be different and not negative: {self.level_ids}")

    @property
    def pairs_per_epoch(self) -> int:
        """How many pairs there are."""
        return self.num_paths * len(self.level_ids)

    def batch(self, step: int, *, batch_size: int, rank: int = 0, num_ranks: int = 1) -> PathLevelBatch:
        """The pairs of one rank at one step.

        Item i lies at position step x num_ranks x batch_size + rank x batch_size + i of the order. At the end
        of an epoch a batch runs on into the next; nothing is dropped or repeated.

        Args:
            step: >= 0.
            batch_size: B >= 1, of each rank.
            rank: in 0..num_ranks-1.
            num_ranks: >= 1.

        Raises:
            ValueError: an argument is out of range.
        """
        if step < 0:
            raise ValueError(f"steps count from 0, and {step} is none")
        if batch_size < 1:
            raise ValueError(f"a batch holds at least one pair, not {batch_size}")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} is not in 0..{num_ranks - 1}")
        first = (step * num_ranks + rank) * batch_size
        pairs = torch.cat(list(self._pairs(first, first + batch_size))).to(torch.int64)
        num_levels = len(self.level_ids)
        draws = [draws_at(self.seed, position) for position in range(first, first + batch_size)]
        return PathLevelBatch(
            paths=pairs // num_levels,
            level_ids=torch.tensor(self.level_ids, dtype=torch.int64)[pairs % num_levels],
            draws=torch.stack(draws),
            sample_index=torch.arange(first, first + batch_size),
        )

    def _pairs(self, first: int, end: int) -> Iterator[Tensor]:
        """Pair numbers at the positions first..end-1, epoch by epoch."""
        while first < end:
            epoch, offset = divmod(first, self.pairs_per_epoch)
            part = self._permutation(epoch)[offset : offset + end - first]
            yield part
            first += len(part)

    def _permutation(self, epoch: int) -> Tensor:
        """Pair numbers of an epoch, kept together with those of the epoch before."""
        kept = self._epochs.get(epoch)
        if kept is not None:
            return kept
        for old in [old for old in list(self._epochs) if old != epoch - 1]:
            self._epochs.pop(old, None)
        dtype = torch.int32 if self.pairs_per_epoch < 2**31 else torch.int64
        made = torch.randperm(self.pairs_per_epoch, generator=fold(self.seed, "order", epoch), dtype=dtype)
        self._epochs[epoch] = made
        return made


def draws_at(seed: int, position: int) -> Tensor:
    """The uniform numbers of one position of an order, float64 [2]."""
    return torch.rand(NUM_DRAWS, generator=fold(seed, "draws", position), dtype=torch.float64)
