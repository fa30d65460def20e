"""Stages inside a run: bounds by hand, settings that do not fit, and the order that goes with them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from stdcli.bank.order import PairOrder, PathLevelBatch, StagedOrder
from stdcli.config.distill import DistillConfig
from stdcli.config.schema import Section
from stdcli.config.stages import StageCounts, StagedSection
from stdcli.distill.stages import Stages
from stdcli.training.ema import Frozen

FIELDS = ("paths", "level_ids", "draws", "sample_index")
LEVELS = ((5, 3, 1), (4, 2), (5,))
FIRSTS = (0, 24, 48)  # positions: 12 steps of 4 items in stages of 6, 6, and the rest


@pytest.mark.parametrize(
    ("shares", "steps", "firsts"),
    [
        ((1.0,), 7, (0,)),
        ((0.25, 0.25, 0.25, 0.25), 400, (0, 100, 200, 300)),
        ((0.5, 0.3, 0.2), 10, (0, 5, 8)),
        ((1 / 3, 1 / 3, 1 / 3), 10, (0, 3, 7)),
        ((0.1,) * 10, 10, tuple(range(10))),
    ],
)
def test_stages_take_their_shares_of_the_steps(shares, steps, firsts) -> None:
    stages = Stages.split(shares, steps)
    assert stages.firsts == firsts and len(stages) == len(shares)
    bounds = [stages.bounds(k) for k in range(len(stages))]
    assert [step for first, end in bounds for step in range(first, end)] == list(range(steps))
    for k, (first, end) in enumerate(bounds):
        assert {stages.at(step) for step in range(first, end)} == {k}
        assert stages.progress(first) == 0 and stages.progress(end - 1) == (end - 1 - first) / (end - first)
    assert stages.at(steps + 5) == len(shares) - 1


@pytest.mark.parametrize(("shares", "steps", "number"), [((0.5, 0.5), 1, 2), ((0.9, 0.1), 4, 2)])
def test_a_stage_without_a_step_is_named(shares, steps, number) -> None:
    with pytest.raises(ValueError, match=rf"{steps} steps leave none for stage {number} of 2"):
        Stages.split(shares, steps)


class Parts(StagedSection):
    """For the test."""

    parts: StageCounts = (4, 2)

    def stage_counts(self):
        return "parts", self.parts


def test_shares_are_alike_unless_given() -> None:
    assert Parts().stage_shares() == (0.5, 0.5)
    assert Parts(shares="0.75, 0.25").stage_shares() == (0.75, 0.25)
    assert Parts(parts="3", shares=[1]).stage_shares() == (1,)
    assert Parts(parts="9,5,1", shares=[0.3333333, 0.3333333, 0.3333333]).stage_shares()[0] == 0.3333333


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"parts": [2, 4]}, r"parts: \[2, 4\] must fall"),
        ({"parts": [2, 2]}, r"parts: \[2, 2\] must fall"),
        ({"shares": [0.5, 0.4]}, r"shares: .* add up to 0.9, not to 1"),
        ({"shares": [0.5, 0.3, 0.2]}, r"shares: 3 of them for 2 stages \(parts\)"),
        ({"shares": [1.2, -0.2]}, "greater than 0"),
        ({"parts": []}, "at least 1"),
    ],
)
def test_stages_that_are_none_are_told(given, told) -> None:
    with pytest.raises(ValueError, match=told):
        Parts(**given)


def test_a_run_too_short_for_its_stages_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"train\.steps: 3 steps leave none for stage"):
        DistillConfig(method="hyper-sd", bank="b", train={"steps": 3})
    with pytest.raises(ValueError, match=r"hyper_sd\.segments: belongs to method hyper-sd"):
        DistillConfig(bank="b", hyper_sd={"segments": [2, 1]})
    assert issubclass(StagedSection, Section)


def staged(*, num_paths: int = 4, seed: int = 3) -> StagedOrder:
    return StagedOrder.of(num_paths, LEVELS, FIRSTS, seed)


def joined(batches: list[PathLevelBatch]) -> dict[str, torch.Tensor]:
    found = {field: torch.cat([getattr(batch, field) for batch in batches]) for field in FIELDS}
    found["stage"] = torch.cat([torch.full_like(batch.paths, batch.stage) for batch in batches])
    return found


def test_every_pair_of_a_stage_comes_once_an_epoch() -> None:
    order = staged()
    seen = joined([order.batch(position, batch_size=1) for position in range(60)])
    pairs = list(zip(seen["paths"].tolist(), seen["level_ids"].tolist(), strict=True))
    for k, (first, end) in enumerate(pairwise((*FIRSTS, 60))):
        every = sorted((path, level) for path in range(4) for level in LEVELS[k])
        epochs = [pairs[at : at + len(every)] for at in range(first, end, len(every))]
        assert [sorted(epoch) for epoch in epochs if len(epoch) == len(every)] == [every] * (
            (end - first) // len(every)
        )
        assert epochs[0] != epochs[1] and seen["stage"][first:end].tolist() == [k] * (end - first)
    assert seen["sample_index"].tolist() == list(range(60))
    assert len(set(seen["draws"].flatten().tolist())) == 120, "no two items of a run share draws"


@pytest.mark.parametrize(("batch_size", "num_ranks"), [(4, 1), (2, 2), (1, 4), (8, 3), (24, 1), (3, 1)])
def test_ranks_and_batches_cut_one_order(batch_size, num_ranks) -> None:
    one = joined([staged().batch(position, batch_size=1) for position in range(72)])
    order = staged()
    cut = joined(
        [
            order.batch(step, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
            for step in range(72 // (batch_size * num_ranks))
            for rank in range(num_ranks)
        ]
    )
    assert all(torch.equal(cut[name], one[name]) for name in one)


def test_a_single_stage_is_the_plain_order_and_later_ones_have_orders_of_their_own() -> None:
    plain, same = PairOrder(4, LEVELS[0], 3), StagedOrder.of(4, [LEVELS[0]] * 2, (0, 12), 3)
    first, second = (joined([same.batch(step, batch_size=12)]) for step in range(2))
    expected = joined([plain.batch(0, batch_size=12)])
    assert all(torch.equal(first[name], expected[name]) for name in FIELDS)
    assert first["paths"].tolist() != second["paths"].tolist()


def test_a_batch_in_two_stages_and_stages_that_do_not_follow_are_refused() -> None:
    with pytest.raises(ValueError, match="lies in stages 0 and 1"):
        staged().batch(1, batch_size=16)
    with pytest.raises(ValueError, match="rank 2 is not in"):
        staged().batch(1, batch_size=1, rank=2, num_ranks=2)
    for firsts in ((0, 24), (0, 24, 24), (1, 24, 48)):
        with pytest.raises(ValueError, match="cannot begin at"):
            StagedOrder.of(4, LEVELS, firsts, 3)


def test_frozen_weights_are_those_of_the_moment_they_were_taken() -> None:
    live = {"a": torch.tensor([1.0, 2.0]), "count": torch.tensor(3)}
    frozen = Frozen(live)
    live["a"] += 1
    frozen.update()
    assert frozen.average["a"].tolist() == [1, 2] and frozen.average.keys() == {"a"}
    frozen.take()
    live["a"] += 1
    assert frozen.average["a"].tolist() == [2, 3] and frozen.updates == 1
