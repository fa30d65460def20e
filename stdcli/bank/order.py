"""Which (path, level) pairs of an offline bank a training run sees, and in what order.

It knows neither files nor latents nor networks: a path is a number, a level is its id.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

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
        stage: of the run, from 0; see `StagedOrder`.
    """

    paths: Tensor
    level_ids: Tensor
    draws: Tensor
    sample_index: Tensor
    stage: int = 0


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
        name: of the order among those of a seed; decides the permutations, not the draws.

    Raises:
        ValueError: no path, no level, a negative level or one that comes twice.
    """

    num_paths: int
    level_ids: tuple[int, ...]
    seed: int
    name: str = "order"
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
        check_batch(step, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
        return self.batch_at((step * num_ranks + rank) * batch_size, batch_size=batch_size)

    def batch_at(self, first: int, *, batch_size: int, shift: int = 0) -> PathLevelBatch:
        """The pairs at positions `first` and following.

        Args:
            first: >= 0, a position of this order.
            batch_size: B >= 1.
            shift: added to positions where draws and `sample_index` are made of them.
        """
        pairs = torch.cat(list(self._pairs(first, first + batch_size))).to(torch.int64)
        num_levels = len(self.level_ids)
        first += shift
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
        made = torch.randperm(self.pairs_per_epoch, generator=fold(self.seed, self.name, epoch), dtype=dtype)
        self._epochs[epoch] = made
        return made


@dataclass(frozen=True)
class StagedOrder:
    """One order after another: a stage of a run sees every pair of its own once an epoch.

    Positions count through all stages, so that no two items of a run share draws.

    Attributes:
        orders: one per stage, of one seed; stages later than the first have names of their own.
        firsts: positions at which they begin, rising from 0; the last one has no end.

    Raises:
        ValueError: not as many positions as orders, or they do not rise from 0.
    """

    orders: tuple[PairOrder, ...]
    firsts: tuple[int, ...]

    @classmethod
    def of(
        cls, num_paths: int, levels: Sequence[tuple[int, ...]], firsts: Sequence[int], seed: int
    ) -> StagedOrder:
        """The order of a run.

        Args:
            num_paths: of the bank.
            levels: those of each stage.
            firsts: position at which each begins: items of all ranks and micro-batches before it.
            seed: base seed.
        """
        named = ((ids, f"order of stage {k}" if k else "order") for k, ids in enumerate(levels))
        return cls(tuple(PairOrder(num_paths, ids, seed, name) for ids, name in named), tuple(firsts))

    def __post_init__(self) -> None:
        rises = all(one < two for one, two in pairwise(self.firsts))
        if len(self.orders) != len(self.firsts) or self.firsts[:1] != (0,) or not rises:
            raise ValueError(f"{len(self.orders)} stages cannot begin at the positions {list(self.firsts)}")

    @property
    def seed(self) -> int:
        """Base seed."""
        return self.orders[0].seed

    def batch(self, step: int, *, batch_size: int, rank: int = 0, num_ranks: int = 1) -> PathLevelBatch:
        """As `PairOrder.batch`.

        Raises:
            ValueError: an argument is out of range, or the batch lies in two stages.
        """
        check_batch(step, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
        first = (step * num_ranks + rank) * batch_size
        stage, last = (bisect_right(self.firsts, at) - 1 for at in (first, first + batch_size - 1))
        if stage != last:
            raise ValueError(f"batch {step} of {batch_size} lies in stages {stage} and {last}")
        begun = self.firsts[stage]
        batch = self.orders[stage].batch_at(first - begun, batch_size=batch_size, shift=begun)
        return replace(batch, stage=stage)


def check_batch(step: int, *, batch_size: int, rank: int, num_ranks: int) -> None:
    """Refuse what is no batch of an order. Raises ValueError."""
    if step < 0:
        raise ValueError(f"steps count from 0, and {step} is none")
    if batch_size < 1:
        raise ValueError(f"a batch holds at least one pair, not {batch_size}")
    if not 0 <= rank < num_ranks:
        raise ValueError(f"rank {rank} is not in 0..{num_ranks - 1}")


def draws_at(seed: int, position: int) -> Tensor:
    """The uniform numbers of one position of an order, float64 [2]."""
    return torch.rand(NUM_DRAWS, generator=fold(seed, "draws", position), dtype=torch.float64)
