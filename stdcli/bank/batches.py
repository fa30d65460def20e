"""Batches of a bank for training, read by another thread while the student learns.

Legend: B items, C latent channels, h w latent cells.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from stdcli.bank.order import PairBatch, PairOrder
from stdcli.bank.reader import Bank
from stdcli.runtime.pipeline import read_ahead


@dataclass(frozen=True)
class BankBatch:
    """B states of a bank with all that belongs to them.

    Attributes:
        pairs: which path and level each is, and the numbers drawn for it.
        states: [B, C, h, w] at `pairs.level_ids`, dtype as stored.
        target_ids: int64 [B], levels below.
        targets: [B, C, h, w], the same paths there.
        x0: [B, C, h, w], clean latents.
        guidance: float32 [B].
        conditions: name -> [B, ...].
    """

    pairs: PairBatch
    states: Tensor
    target_ids: Tensor
    targets: Tensor
    x0: Tensor
    guidance: Tensor
    conditions: dict[str, Tensor]


def iter_batches(
    bank: Bank,
    order: PairOrder,
    choose: Callable[[PairBatch], Tensor],
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
        choose: pairs -> int64 [B], stored levels to aim at; from `pairs.draws`, so that a batch depends on
            its step alone. Runs in the thread.
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
        target_ids = choose(pairs)
        return BankBatch(
            pairs=pairs,
            states=bank.states(pairs.paths, pairs.level_ids),
            target_ids=target_ids,
            targets=bank.states(pairs.paths, target_ids),
            x0=bank.x0(pairs.paths),
            guidance=bank.guidance(pairs.paths),
            conditions=bank.conditions(pairs.paths),
        )

    with closing(read_ahead(map(read, itertools.count(first_step)), ahead)) as batches:
        yield from batches
