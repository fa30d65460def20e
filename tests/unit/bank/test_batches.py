"""Batches for training: the right states with all that belongs to them, the same from any step on."""

from __future__ import annotations

import threading
from contextlib import closing
from itertools import islice

import pytest
import torch

from stdcli.bank.batches import iter_batches
from stdcli.bank.order import PairOrder
from stdcli.bank.reader import Bank
from tests.tiny_banks import MANIFEST, make_paths, write_tiny_bank

IDS = torch.tensor(MANIFEST.level_ids)


def one_below(pairs):
    """The pair's own level and the stored one just below, whatever is drawn."""
    rows = torch.stack([(IDS == id_).nonzero()[0, 0] for id_ in pairs.level_ids])
    return {"here": pairs.level_ids, "below": IDS[rows + 1]}


@pytest.fixture
def bank(tmp_path):
    write_tiny_bank(tmp_path / "bank")
    return Bank(tmp_path / "bank")


def batches(bank, count, **options):
    order = PairOrder(len(bank), bank.level_ids[:-1], seed=5)
    with closing(iter_batches(bank, order, one_below, batch_size=4, **options)) as found:
        return list(islice(found, count))


def test_every_item_is_of_its_own_path_and_level(bank):
    paths = make_paths(MANIFEST, range(MANIFEST.num_paths))
    seen = set()
    for batch in batches(bank, 21):
        for k, (path, id_) in enumerate(zip(batch.pairs.paths, batch.pairs.level_ids, strict=True)):
            row = int((IDS == id_).nonzero())
            assert torch.equal(batch.states["here"][k], paths.states[path, row])
            assert torch.equal(batch.states["below"][k], paths.states[path, row + 1])
            assert batch.level_ids["below"][k] == IDS[row + 1]
            assert batch.sample_ids[k] == paths.sample_id[path]
            assert batch.noise_seeds[k] == paths.noise_seed[path]
            assert torch.equal(batch.x0[k], paths.x0[path]) and batch.guidance[k] == paths.guidance[path]
            own = paths.conditions[path]
            assert torch.equal(batch.conditions["cond.time_ids"][k], own["cond.time_ids"])
            assert torch.equal(batch.conditions["cond.style"][k], own["cond.style"].half())
            seen.add((int(path), int(id_)))
    assert len(seen) == len(bank) * (len(IDS) - 1)


def test_a_later_start_and_two_ranks_give_the_same_batches(bank):
    whole, later = batches(bank, 6), batches(bank, 3, first_step=3)
    for one, other in zip(whole[3:], later, strict=True):
        assert torch.equal(one.states["below"], other.states["below"])
        assert torch.equal(one.level_ids["below"], other.level_ids["below"])
    ranks = [batches(bank, 3, rank=rank, num_ranks=2) for rank in (0, 1)]
    for step in range(3):
        together = torch.cat([ranks[rank][step].states["here"] for rank in (0, 1)])
        assert torch.equal(
            together, torch.cat([whole[2 * step].states["here"], whole[2 * step + 1].states["here"]])
        )


def test_faults_reach_the_caller_and_the_thread_ends(bank):
    order = PairOrder(len(bank), [5], seed=0)
    lowest = {"below": torch.tensor([6, 6])}
    with closing(iter_batches(bank, order, lambda _: lowest, batch_size=2)) as found, pytest.raises(KeyError):
        next(found)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
