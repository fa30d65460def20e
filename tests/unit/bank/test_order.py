"""The order of pairs against what an order is: every pair once an epoch, however it is cut into batches."""

from __future__ import annotations

import pytest
import torch

from stdcli.bank.order import PairOrder, PathLevelBatch

LEVELS = (37, 1, 12, 5)


def order(*, num_paths: int = 7, level_ids: tuple[int, ...] = LEVELS, seed: int = 3) -> PairOrder:
    return PairOrder(num_paths=num_paths, level_ids=level_ids, seed=seed)


def joined(batches: list[PathLevelBatch]) -> PathLevelBatch:
    fields = ("paths", "level_ids", "draws", "sample_index")
    return PathLevelBatch(
        **{field: torch.cat([getattr(batch, field) for batch in batches]) for field in fields}
    )


def head(count: int, **changes: object) -> PathLevelBatch:
    """The first `count` positions, each asked for alone."""
    made = order(**changes)
    return joined([made.batch(position, batch_size=1) for position in range(count)])


def pairs(batch: PathLevelBatch) -> list[tuple[int, int]]:
    return list(zip(batch.paths.tolist(), batch.level_ids.tolist(), strict=True))


def assert_same(first: PathLevelBatch, second: PathLevelBatch) -> None:
    assert torch.equal(first.paths, second.paths)
    assert torch.equal(first.level_ids, second.level_ids)
    assert torch.equal(first.draws, second.draws)


def test_every_pair_comes_once_an_epoch() -> None:
    every = sorted((path, level) for path in range(7) for level in LEVELS)
    seen = pairs(head(3 * 28))
    epochs = [seen[28 * epoch : 28 * (epoch + 1)] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [every] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0], "epochs have orders of their own"
    assert epochs[0] != every, "and none is the plain one"
    assert order().pairs_per_epoch == 28


@pytest.mark.parametrize(
    ("batch_size", "num_ranks"), [(1, 3), (5, 1), (5, 4), (28, 1), (9, 2), (61, 1), (30, 3)]
)
def test_ranks_and_batches_cut_one_order(batch_size: int, num_ranks: int) -> None:
    """Sizes that divide an epoch of 28, that do not, and that hold more than two epochs."""
    made = order()
    steps = -(-170 // (batch_size * num_ranks))
    cut = joined(
        [
            made.batch(step, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
            for step in range(steps)
            for rank in range(num_ranks)
        ]
    )
    assert len(cut.paths) >= 170
    assert_same(cut, head(len(cut.paths)))


def test_there_is_no_state_but_the_step() -> None:
    used, fresh = order(), order()
    wanted = [used.batch(step, batch_size=6) for step in range(20)]
    for step in (19, 3, 0, 11, 4, 12):
        assert_same(fresh.batch(step, batch_size=6), wanted[step])
        assert_same(order().batch(step, batch_size=6), wanted[step])


def test_the_seed_decides_pairs_and_draws() -> None:
    first, second = head(28), head(28, seed=4)
    assert pairs(first) != pairs(second)
    assert not (first.draws == second.draws).any()


def test_types_and_shapes() -> None:
    batch = order().batch(2, batch_size=6)
    assert batch.paths.dtype == batch.level_ids.dtype == torch.int64
    assert batch.draws.dtype == torch.float64
    assert (batch.paths.shape, batch.level_ids.shape, batch.draws.shape) == ((6,), (6,), (6, 2))


def test_draws_are_uniform_and_belong_to_their_position() -> None:
    count = 4000
    draws = head(count, num_paths=20).draws
    assert 0 <= draws.min() and draws.max() < 1
    assert len(set(draws.flatten().tolist())) == 2 * count, "later epochs draw anew"
    cells = (draws * 10).long()
    counts = torch.bincount(cells[:, 0] * 10 + cells[:, 1], minlength=100).double()
    assert ((counts - 40) ** 2 / 40).sum() < 148.3, "chi squared, 99 degrees, p = 0.001"
    neighbors = torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0], draws[:-1, 1]]))
    assert neighbors.fill_diagonal_(0).abs().max() < 4 / count**0.5


def test_every_order_of_a_small_bank_comes_up() -> None:
    """Permutations of 3 pairs, over 1,200 epochs: each of the 6 about 200 times."""
    seen = pairs(head(3600, num_paths=3, level_ids=(1,)))
    counts: dict[tuple, int] = {}
    for epoch in range(1200):
        key = tuple(seen[3 * epoch : 3 * epoch + 3])
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 20.5, "5 degrees, p = 0.001"


def test_at_most_two_epochs_are_kept() -> None:
    made = order(num_paths=50)
    seen = set()
    for step in range(100):
        made.batch(step, batch_size=23)
        seen |= set(made._epochs)
        assert len(made._epochs) <= 2
        assert all(kept.dtype == torch.int32 and len(kept) == 200 for kept in made._epochs.values())
    assert seen == set(range(12)), "2,300 positions of 200 pairs an epoch"


def test_an_epoch_is_permuted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that take turns over the end of an epoch do not throw each other's permutation away."""
    calls = []
    permute = torch.randperm
    monkeypatch.setattr(
        torch, "randperm", lambda *args, **kwargs: calls.append(0) or permute(*args, **kwargs)
    )
    made = order()
    for step in range(28):
        for rank in (1, 0, 3, 2):
            made.batch(step, batch_size=3, rank=rank, num_ranks=4)
    assert len(calls) == 12


def test_orders_compare_by_what_they_are_made_of() -> None:
    used = order()
    used.batch(0, batch_size=3)
    assert used == order() and hash(used) == hash(order())
    assert used != order(seed=4)
    assert PairOrder(2, [3, 1], 0).level_ids == (3, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_paths": 0}, "at least one path, not 0"),
        ({"level_ids": ()}, "at least one level"),
        ({"level_ids": (3, 1, 3)}, r"different and not negative: \(3, 1, 3\)"),
        ({"level_ids": (3, -1)}, r"different and not negative: \(3, -1\)"),
    ],
)
def test_bad_banks_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order(**changes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1, "batch_size": 2}, "-1 is none"),
        ({"step": 0, "batch_size": 0}, "at least one pair, not 0"),
        ({"step": 0, "batch_size": 2, "rank": 2, "num_ranks": 2}, r"rank 2 is not in 0\.\.1"),
        ({"step": 0, "batch_size": 2, "rank": -1}, r"rank -1 is not in 0\.\.0"),
        ({"step": 0, "batch_size": 2, "num_ranks": 0}, "rank 0 is not in"),
    ],
)
def test_bad_batches_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        order().batch(**arguments)
