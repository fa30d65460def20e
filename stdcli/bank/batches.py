"""Batches of a bank for training, read by another thread while the student learns.

Legend: B items, C latent channels, space: cells, h w of pictures and F h w of clips.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from stdcli.bank.order import PairOrder, PathLevelBatch, StagedOrder
from stdcli.bank.reader import Bank
from stdcli.runtime.read_ahead import read_ahead

Choose = Callable[[PathLevelBatch], Mapping[str, Tensor]]
"""Pairs -> what to read of their paths: name -> int64 [B], stored levels."""


@dataclass(frozen=True)
class BankBatch:
    """States of B paths of a bank, with all that belongs to them.

    Attributes:
        pairs: which path and level each item is, and the numbers drawn for it.
        level_ids: name -> int64 [B], the levels chosen.
        states: name -> [B, C, *space], the paths' states there, dtype as stored.
        x0: [B, C, *space], clean latents.
        guidance: float32 [B].
        noise_seeds: int64 [B].
        sample_ids: int64 [B].
        conditions: name -> [B, ...].
    """

    pairs: PathLevelBatch
    level_ids: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    x0: Tensor
    guidance: Tensor
    noise_seeds: Tensor
    sample_ids: Tensor
    conditions: dict[str, Tensor]


def iter_batches(
    bank: Bank,
    order: PairOrder | StagedOrder,
    choose: Choose,
    *,
    first_step: int = 0,
    batch_size: int,
    rank: int = 0,
    num_ranks: int = 1,
    ahead: int = 2,
) -> Generator[BankBatch, None, None]:
    """Batch after batch without end, from any step on; closing it ends the thread.

    Args:
        bank: used by the thread alone until the generator is closed.
        order: which pairs come when.
        choose: levels to read; from `pairs` alone, so that a batch depends on its step alone. Runs in the
            thread.
        first_step: where to begin; a resumed run gives its own.
        batch_size: B.
        rank, num_ranks: of this process.
        ahead: batches read before they are asked for.

    Raises:
        BankCorruptError: a file has gone or changed.
        KeyError: a level that is not stored.
    """

    def read(step: int) -> BankBatch:
        pairs = order.batch(step, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
        level_ids = choose(pairs)
        return BankBatch(
            pairs=pairs,
            level_ids=level_ids,
            states={name: bank.states(pairs.paths, ids) for name, ids in level_ids.items()},
            x0=bank.x0(pairs.paths),
            guidance=bank.guidance(pairs.paths),
            noise_seeds=bank.noise_seeds(pairs.paths),
            sample_ids=bank.sample_ids(pairs.paths),
            conditions=bank.conditions(pairs.paths),
        )

    with closing(read_ahead(map(read, itertools.count(first_step)), ahead)) as batches:
        yield from batches
