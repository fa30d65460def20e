"""The online bank against a teacher whose paths are known in closed form.

The teacher's noise e = u + w (c - u) is fixed by the sample's own conditions and guidance, so the state of a
sample at any level is alpha (x_J - sigma_J e) / alpha_J + sigma e, in one go from its start. A state that was
moved once with another slot's condition, another guidance or at a wrong level never fits again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from stdcli.bank.online_bank import OnlineBank, PathStart, TrajectoryBatch
from stdcli.diffusion.levels import CLEAN, Level, SamplingPath, make_sampling_path, make_teacher_path
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import NumericsError

SD = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
SHAPE = (2, 3, 4)


def path(start: int) -> SamplingPath:
    """The path of an N-step solver with N = 10, from level `start` down."""
    return make_teacher_path(SD, num_solver_steps=10, strength=start / 10)


@cache
def draw_at(plan: SamplingPath) -> Callable[[int], PathStart]:
    """The draw of a path: everything random follows from the number, and the time_id is the number itself."""

    @cache
    def draw(number: int) -> PathStart:
        generator = torch.Generator().manual_seed(1000 + number)
        x0, noise, with_, without = torch.randn((4, *SHAPE), generator=generator, dtype=torch.float64)
        top = plan.levels[0]
        return PathStart(
            x0=x0,
            state=top.alpha * x0 + top.sigma * noise,
            conditions={"with": with_, "without": without, "time_id": torch.tensor([number, 7])},
            guidance=1 + 0.3 * (number % 11),
        )

    return draw


class Teacher:
    """Jumps with the sample's own constant noise, and counts how often it is asked."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(
        self, states: Tensor, level: Level, next_level: Level, conditions: dict, guidance: Tensor
    ) -> Tensor:
        assert torch.equal(next_level.id, level.id - 1)
        self.sizes.append(len(states))

        def wide(row: Tensor) -> Tensor:
            return row.to(states.dtype).reshape(-1, 1, 1, 1)

        noise = conditions["without"] + wide(guidance) * (conditions["with"] - conditions["without"])
        clean = (states - wide(level.sigma) * noise) / wide(level.alpha)
        return wide(next_level.alpha) * clean + wide(next_level.sigma) * noise


@cache
def closed(plan: SamplingPath, number: int, level_id: int) -> Tensor:
    """The state of a sample at a level, in one jump from its start."""
    start = draw_at(plan)(number)
    noise = start.conditions["without"] + start.guidance * (
        start.conditions["with"] - start.conditions["without"]
    )
    top, level = plan.levels[0], next(level for level in plan.levels if level.id == level_id)
    return level.alpha / top.alpha * (start.state - top.sigma * noise) + level.sigma * noise


def make_bank(*, start: int = 5, **changes: object) -> OnlineBank:
    plan = path(start)
    options = {"draw": draw_at(plan), "step": Teacher(), "path": plan, "num_slots": 12, "seed": 0}
    options |= {"dtype": torch.float64, **changes}
    return OnlineBank(options.pop("draw"), options.pop("step"), **options)


def run(bank: OnlineBank, steps: int, batch_size: int) -> list[TrajectoryBatch]:
    return [bank.batch(bank.next_step, batch_size) for _ in range(steps)]


def run_one_by_one(bank: OnlineBank, steps: int, batch_size: int) -> Iterator[TrajectoryBatch]:
    """As `run`, for looking at the bank between two batches."""
    for _ in range(steps):
        yield bank.batch(bank.next_step, batch_size)


def tensors(batch: TrajectoryBatch) -> dict[str, Tensor]:
    plain = {name: getattr(batch, name) for name in TrajectoryBatch.__slots__ if name != "conditions"}
    return plain | {f"condition {name}": row for name, row in batch.conditions.items()}


def assert_same(first: TrajectoryBatch, second: TrajectoryBatch) -> None:
    ours, theirs = tensors(first), tensors(second)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]), name


def assert_true(batch: TrajectoryBatch, plan: SamplingPath) -> None:
    """Each item is what its own sample's path says."""
    assert torch.equal(batch.next_level_ids, batch.level_ids - 1)
    for item, number in enumerate(batch.sample_numbers.tolist()):
        start, level_id = draw_at(plan)(number), int(batch.level_ids[item])
        torch.testing.assert_close(batch.states[item], closed(plan, number, level_id), rtol=0, atol=1e-11)
        torch.testing.assert_close(
            batch.next_states[item], closed(plan, number, level_id - 1), rtol=0, atol=1e-11
        )
        assert torch.equal(batch.x0[item], start.x0)
        assert batch.guidance[item] == start.guidance
        assert batch.conditions.keys() == start.conditions.keys()
        for name, row in start.conditions.items():
            assert torch.equal(batch.conditions[name][item], row), name


@pytest.mark.parametrize("rate", [1.0, 0.6, 0.0])
@pytest.mark.parametrize(("num_slots", "batch_size"), [(12, 5), (12, 12), (3, 2), (1, 1)])
def test_a_path_keeps_its_own_condition_guidance_and_x0(rate: float, num_slots: int, batch_size: int) -> None:
    """Defects 1, 2 and 11: single trajectories, whatever is in the batch beside them."""
    bank = make_bank(rate=rate, num_slots=num_slots)
    for batch in run(bank, 60, batch_size):
        assert len(batch.states) == batch_size
        assert_true(batch, path(5))


def test_batches_may_be_of_any_size() -> None:
    bank = make_bank(rate=0.8)
    for batch_size in (1, 12, 5, 7, 12, 2, 11, 3) * 5:
        assert_true(bank.batch(bank.next_step, batch_size), path(5))


def test_what_a_path_gives_is_what_it_goes_on_with() -> None:
    """The x_{j-1} handed out is, bit for bit, the x_j handed out when its slot comes up again."""
    bank, latest = make_bank(dtype=torch.bfloat16), {}
    again = 0
    for batch in run(bank, 80, 5):
        assert batch.states.dtype == batch.next_states.dtype == batch.x0.dtype == torch.bfloat16
        for item, number in enumerate(batch.sample_numbers.tolist()):
            if number in latest:
                level_id, state = latest[number]
                assert level_id == batch.level_ids[item]
                assert torch.equal(state, batch.states[item])
                again += 1
            latest[number] = int(batch.next_level_ids[item]), batch.next_states[item]
    assert again > 250


def test_conditions_and_guidance_keep_their_precision() -> None:
    batch = make_bank(dtype=torch.float16).batch(0, 4)
    assert batch.conditions["with"].dtype == torch.float64
    assert batch.conditions["time_id"].dtype == torch.int64
    assert batch.guidance.dtype == torch.float64
    assert batch.level_ids.dtype == batch.next_level_ids.dtype == batch.sample_numbers.dtype == torch.int64
    plan = path(5)
    default = OnlineBank(draw_at(plan), Teacher(), path=plan, num_slots=2, seed=0).batch(0, 1)
    assert default.states.dtype == torch.float32 and default.states.device.type == "cpu"


@pytest.mark.parametrize("start", [1, 5, 8])
@pytest.mark.parametrize(("num_slots", "batch_size"), [(12, 4), (12, 5), (3, 2)])
def test_every_level_is_an_input_equally_often(start: int, num_slots: int, batch_size: int) -> None:
    """Defects 8 and 9. In K rounds of M draws every slot sees every level once: M times each, exactly."""
    bank = make_bank(start=start, num_slots=num_slots)
    ids = torch.cat([batch.level_ids for batch in run(bank, start * num_slots, batch_size)])
    counts = Counter(ids.tolist())
    assert counts == dict.fromkeys(range(1, start + 1), num_slots * batch_size)


def test_levels_stay_uniform_in_every_stretch() -> None:
    bank = make_bank(start=8, num_slots=32)
    for _ in range(50):
        counts = Counter(torch.cat([batch.level_ids for batch in run(bank, 4, 8)]).tolist())
        assert counts == dict.fromkeys(range(1, 9), 4), "one round of 32 draws"


def test_levels_of_a_batch_are_mixed() -> None:
    """Slots come in a new random order each round: levels of two items of a batch are unrelated."""
    batches = run(make_bank(start=8, num_slots=32), 2000, 2)
    first, second = torch.stack([batch.level_ids for batch in batches], 1)
    counts = torch.bincount((first - 1) * 8 + second - 1, minlength=64).double().reshape(8, 8)
    wanted = torch.full((8, 8), 2000 / 64 * 32 / 31, dtype=torch.float64)
    wanted.diagonal().mul_(0.75)  # without repetition: 3 other slots of 31 share a slot's level, not 4
    assert ((counts - wanted) ** 2 / wanted).sum() < 103.4, "63 degrees, p = 0.001"


@pytest.mark.parametrize("batch_size", [1, 5, 7, 12])
def test_slots_are_drawn_equally_often_and_never_twice(batch_size: int) -> None:
    """Defect 10: with batches of any size no slot starves, or comes twice in a batch."""
    bank = make_bank()
    bank.batch(0, 12)
    drawn = Counter(dict.fromkeys(range(12), 0))
    before = bank.state()["slots.states"]
    for _ in run_one_by_one(bank, 150, batch_size):
        after = bank.state()["slots.states"]
        moved = torch.nonzero((before != after).flatten(1).any(1)).flatten().tolist()
        assert len(moved) == batch_size, "as many different slots as the batch has items"
        drawn.update(moved)
        assert max(drawn.values()) - min(drawn.values()) <= 1
        before = after


def test_the_start_is_staggered() -> None:
    teacher = Teacher()
    bank = make_bank(start=5, num_slots=12, step=teacher)
    # slots 0..11 walk 0 0 0 1 1 2 2 2 3 3 4 4 steps = floor(5 m / 12)
    depths = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert (bank.stagger_steps, bank.teacher_steps) == (0, 0)
    batch = bank.batch(0, 12)
    levels = dict(zip(batch.sample_numbers.tolist(), batch.level_ids.tolist(), strict=True))
    assert levels == {slot: 5 - depth for slot, depth in enumerate(depths)}
    assert bank.stagger_steps == sum(depths) == 22
    assert bank.teacher_steps == 22 + 12 == sum(teacher.sizes)


def test_the_stagger_walks_in_batches() -> None:
    teacher = Teacher()
    bank = make_bank(start=5, num_slots=12, step=teacher)
    bank.batch(0, 4)
    # 9, 7, 4 and 2 slots walk at least 1, 2, 3 and 4 steps
    assert teacher.sizes == [4, 4, 1, 4, 3, 4, 2, 4]
    assert (bank.stagger_steps, bank.teacher_steps) == (22, 26)
    run(bank, 10, 3)
    assert bank.teacher_steps == sum(teacher.sizes)
    assert bank.stagger_steps == sum(teacher.sizes[:7])


def test_fewer_slots_than_levels_are_spread_over_the_whole_path() -> None:
    batch = make_bank(start=8, num_slots=4).batch(0, 4)
    assert sorted(batch.level_ids.tolist()) == [2, 4, 6, 8]


def test_a_slot_is_refilled_at_once() -> None:
    """Defect 9: no slot is ever empty and no path is dropped; sample n + 1 follows sample n."""
    bank = make_bank(start=5, num_slots=12)
    newest, seen = 11, Counter()
    for batch in run_one_by_one(bank, 200, 5):
        newest += int((batch.next_level_ids == 0).sum())
        state = bank.state()
        numbers, ids = state["slots.sample_numbers"].tolist(), state["slots.level_ids"].tolist()
        assert len(set(numbers)) == 12 and min(ids) >= 1 and max(ids) <= 5
        assert max(numbers) == newest, "as many new samples as paths that ended"
        seen.update(batch.sample_numbers.tolist())
    assert 11 + 195 < newest < 11 + 205, "1,000 moves of paths of 5"
    # slot m starts at level 5 - floor(5 m / 12); whoever came later is used at every level, then never again
    assert [seen[number] for number in range(12)] == [5, 5, 5, 4, 4, 3, 3, 3, 2, 2, 1, 1]
    assert {seen[number] for number in range(12, newest - 24)} == {5}


def test_the_new_path_starts_where_paths_start() -> None:
    plan = path(2)
    bank = make_bank(start=2, num_slots=1)
    first, second, third = run(bank, 3, 1)
    assert [int(b.level_ids) for b in (first, second, third)] == [2, 1, 2]
    assert [int(b.sample_numbers) for b in (first, second, third)] == [0, 0, 1]
    assert torch.equal(third.states[0], draw_at(plan)(1).state)


def test_without_the_bank_every_item_starts_a_path() -> None:
    teacher = Teacher()
    bank = make_bank(rate=0.0, step=teacher)
    batches = run(bank, 50, 5)
    assert all((batch.level_ids == 5).all() for batch in batches)
    numbers = torch.cat([batch.sample_numbers for batch in batches]).tolist()
    assert numbers == list(range(12, 12 + 250)), "a fresh path each, after those of the slots"
    assert bank.stagger_steps == 0 and bank.teacher_steps == sum(teacher.sizes) == 250


def test_the_rate_is_how_often_a_path_goes_on() -> None:
    """An item at the top is new unless its slot was there: told apart by whether its number was seen."""
    bank = make_bank(rate=0.5, num_slots=64)
    bank.batch(0, 1)
    fresh = total = 0
    for _ in range(500):
        known = set(bank.state()["slots.sample_numbers"].tolist())
        batch = bank.batch(bank.next_step, 4)
        is_new = torch.tensor([number not in known for number in batch.sample_numbers.tolist()])
        assert (batch.level_ids[is_new] == 5).all()
        fresh, total = fresh + int(is_new.sum()), total + 4
    assert fresh / total == pytest.approx(0.5, abs=3.3 * (0.25 / total) ** 0.5)


def test_new_paths_leave_the_slots_alone() -> None:
    bank = make_bank(rate=0.0, num_slots=3)
    bank.batch(0, 3)
    state = bank.state()
    assert state["slots.sample_numbers"].tolist() == [0, 1, 2]
    assert state["slots.level_ids"].tolist() == [5, 5, 5]
    assert (state["spare.sample_numbers"], state["spare.level_ids"]) == (5, 4)


def test_a_path_that_ends_is_followed_by_the_last_new_one() -> None:
    """Of one slot, so that all that is not new is its; and sample numbers are in order of drawing."""
    bank, spare, taken, drawn = make_bank(rate=0.5, num_slots=1, start=3), None, 0, 1
    for batch in run_one_by_one(bank, 80, 1):
        number, level_id = int(batch.sample_numbers), int(batch.level_ids)
        in_slot = bank.state()["slots.sample_numbers"].item()
        if number >= drawn and level_id == 3 and number != in_slot:  # a new path
            spare, drawn = number, drawn + 1
        elif level_id == 1:
            assert in_slot == (drawn if spare is None else spare)
            assert bank.state()["slots.level_ids"].item() == (3 if spare is None else 2)
            drawn, taken, spare = drawn + (spare is None), taken + (spare is not None), None
        else:
            assert in_slot == number
        assert_true(batch, path(3))
    assert taken > 5 and drawn > 20


def test_shares_of_levels_are_those_of_the_paper_s_rate() -> None:
    """A slot's path is K - 1 + q moves long on average, q of them at the start level."""
    plan, rate, start_level = make_teacher_path(SD, num_solver_steps=50, strength=0.74), 0.8, 37
    still = torch.zeros(1, 1, 1)
    start = PathStart(still, still, {}, 1.0)
    bank = OnlineBank(lambda number: start, lambda x, *_: x, path=plan, num_slots=128, seed=0, rate=rate)
    bank.batch(0, 32)
    drawn, known = 128, set(bank.state()["slots.sample_numbers"].tolist())
    counts, new, ended = torch.zeros(start_level + 1), 0, 0
    for batch in run_one_by_one(bank, 900, 32):
        counts += torch.bincount(batch.level_ids, minlength=start_level + 1)
        new += len(set(batch.sample_numbers.tolist()) - known)
        ended += int((batch.next_level_ids == 0).sum())
        known = set(bank.state()["slots.sample_numbers"].tolist())
        drawn = max(drawn, *batch.sample_numbers.tolist(), *known)
    q = (drawn + 1 - 128 - new) / ended
    shares = counts / counts.sum()
    assert 0.1 < q < 0.4
    assert shares[37].item() == pytest.approx(0.206, abs=0.006)
    assert shares[37].item() == pytest.approx(1 - rate + rate * q / (36 + q), abs=0.006)
    torch.testing.assert_close(shares[1:37], torch.full((36,), 0.0220), atol=0.001, rtol=0)
    assert shares[1:13].sum().item() == pytest.approx(12 * rate / (36 + q), rel=0.02)


@pytest.mark.parametrize("rate", [1.0, 0.7])
@pytest.mark.parametrize("stop", [0, 1, 7, 30])
def test_a_resumed_bank_goes_on_bit_for_bit(rate: float, stop: int) -> None:
    whole = make_bank(rate=rate, dtype=torch.bfloat16)
    run(whole, stop, 5)
    saved = whole.state()
    wanted = run(whole, 40, 5)
    resumed = make_bank(rate=rate, dtype=torch.bfloat16)
    resumed.restore(saved)
    assert resumed.next_step == stop
    for ours, theirs in zip(run(resumed, 40, 5), wanted, strict=True):
        assert_same(ours, theirs)
    ours, theirs = resumed.state(), whole.state()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (resumed.teacher_steps, resumed.stagger_steps) == (whole.teacher_steps, whole.stagger_steps)


def test_a_checkpoint_is_a_snapshot() -> None:
    """Neither later batches nor the trainer's own writing reach it, nor does it reach into the bank."""
    bank = make_bank()
    run(bank, 3, 5)
    saved = bank.state()
    copies = {name: tensor.clone() for name, tensor in saved.items()}
    other = make_bank()
    other.restore(saved)
    for batch in run(bank, 20, 5) + run(other, 20, 5):
        for tensor in tensors(batch).values():
            tensor.zero_()
    assert all(torch.equal(saved[name], copies[name]) for name in saved)
    for batch in run(bank, 5, 5):
        assert_true(batch, path(5))
    for tensor in saved.values():
        tensor.zero_()
    for batch in run(other, 5, 5):
        assert_true(batch, path(5))


def test_the_seed_decides_the_slots() -> None:
    def numbers(**changes: object) -> list[list[int]]:
        return [batch.sample_numbers.tolist() for batch in run(make_bank(**changes), 10, 5)]

    assert numbers() == numbers()
    assert numbers() != numbers(seed=1)


def test_coins_fall_by_seed_rank_and_step() -> None:
    """With one slot and one level, an item is new at a step or is the sample drawn at the last one."""

    def coins(*, first: int = 0, **changes: object) -> list[bool]:
        bank = make_bank(start=1, num_slots=1, rate=0.5, **changes)
        fell, waiting = [], -1
        for step in range(first, first + 40):
            batch = bank.batch(step, 1)
            fell.append(bool(batch.sample_numbers != waiting))
            waiting = bank.state()["slots.sample_numbers"][0]
        return fell[1:]

    plain = coins()
    assert plain == coins()
    assert plain != coins(seed=1)
    assert plain != coins(rank=1, num_ranks=2)
    assert plain[5:] == coins(first=5)[: len(plain) - 5]
    assert 8 < sum(plain) < 32


def test_rounds_differ() -> None:
    bank = make_bank(start=8)
    bank.batch(0, 12)
    order, before = [], bank.state()["slots.states"]
    for _ in run_one_by_one(bank, 60, 1):
        after = bank.state()["slots.states"]
        order += torch.nonzero((before != after).flatten(1).any(1)).flatten().tolist()
        before = after
    rounds = {tuple(order[start : start + 12]) for start in range(0, 60, 12)}
    assert len(rounds) == 5 and tuple(range(12)) not in rounds
    assert all(sorted(slots) == list(range(12)) for slots in rounds)


def test_ranks_share_no_sample_and_draw_other_slots() -> None:
    banks = [make_bank(rank=rank, num_ranks=3) for rank in range(3)]
    batches = [run(bank, 40, 5) for bank in banks]
    for rank, ours in enumerate(batches):
        numbers = {int(n) for batch in ours for n in batch.sample_numbers}
        assert {number % 3 for number in numbers} == {rank}
        assert len(numbers) > 40
        for batch in ours:
            assert_true(batch, path(5))
    slots = [[(batch.sample_numbers // 3).tolist() for batch in ours[:2]] for ours in batches]
    assert slots[0] != slots[1] != slots[2] != slots[0]


def test_explicit_timesteps_are_a_path_too() -> None:
    plan = make_sampling_path(SD, timesteps=[700, 350, 20])
    bank = OnlineBank(draw_at(plan), Teacher(), path=plan, num_slots=6, seed=0, dtype=torch.float64)
    for batch in run(bank, 20, 4):
        assert_true(batch, plan)


def test_no_gradient_comes_out_of_the_bank() -> None:
    weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    bank = make_bank(step=lambda states, *_: states * weight)
    for batch in run(bank, 8, 5):
        assert not any(tensor.requires_grad for tensor in tensors(batch).values())


def test_a_teacher_may_return_its_own_buffer_or_run_in_inference_mode() -> None:
    teacher = Teacher()
    buffer = torch.empty((12, *SHAPE), dtype=torch.float64)

    def step(states: Tensor, *rest: object) -> Tensor:
        with torch.inference_mode():
            return buffer[: len(states)].copy_(teacher(states, *rest))

    batches = run(make_bank(step=step), 30, 5)
    for batch in batches:
        assert_true(batch, path(5))
        assert not batch.next_states.is_inference()


@pytest.mark.parametrize("fails_at", ["teacher", "draw"])
@pytest.mark.parametrize("before", [0, 3])
def test_a_batch_that_fails_leaves_the_bank_as_it_was(fails_at: str, before: int) -> None:
    plan, plain, is_broken = path(5), Teacher(), [False]

    def step(states: Tensor, *rest: object) -> Tensor:
        if is_broken[0] and fails_at == "teacher":
            raise RuntimeError("out of memory")
        return plain(states, *rest)

    def draw(number: int) -> PathStart:
        if is_broken[0] and fails_at == "draw":
            raise RuntimeError("no such picture")
        return draw_at(plan)(number)

    bank, other = make_bank(step=step, draw=draw, rate=0.7), make_bank(rate=0.7)
    run(bank, before, 12), run(other, before, 12)
    is_broken[0] = True
    with pytest.raises(RuntimeError):
        bank.batch(bank.next_step, 12)
    is_broken[0] = False
    for ours, theirs in zip(run(bank, 10, 12), run(other, 10, 12), strict=True):
        assert_same(ours, theirs)
    assert bank.teacher_steps == other.teacher_steps


def test_a_broken_state_is_named_and_not_kept() -> None:
    plain = Teacher()

    def step(states: Tensor, level: Level, *rest: object) -> Tensor:
        made = plain(states, level, *rest)
        made[level.id == 1] = float("nan")
        return made

    bank = make_bank(start=2, num_slots=2, step=step)
    with pytest.raises(NumericsError, match="sample 1, level 1 to the next"):
        bank.batch(0, 2)
    assert bank.state()["slots.states"].isfinite().all()


def test_an_overflow_of_the_kept_dtype_is_found() -> None:
    bank = make_bank(step=lambda states, *_: states.double() * 1e6, dtype=torch.float16)
    with pytest.raises(NumericsError, match="float16"):
        bank.batch(0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_slots": 0}, "at least one slot, not 0"),
        ({"seed": -1}, "seed -1 is not in"),
        ({"seed": 2**63}, "is not in 0..2\\^63-1"),
        ({"rank": 1}, r"rank 1 is not in 0\.\.0"),
        ({"rank": -1, "num_ranks": 2}, r"rank -1 is not in 0\.\.1"),
        ({"rate": 1.01}, r"rate 1.01 is not in \[0, 1\]"),
        ({"rate": float("nan")}, r"rate nan is not in \[0, 1\]"),
        ({"dtype": torch.int64}, "cannot be kept in torch.int64"),
        (
            {"path": make_sampling_path(SD, steps=4, strength=0.8, num_solver_steps=10)},
            r"visits \[8, 6, 4, 2, 0\]",
        ),
        ({"path": SamplingPath((path(1).levels[0], CLEAN))}, r"visits \[1, -1\]"),
    ],
)
def test_bad_banks_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_bank(**changes)


@pytest.mark.parametrize("batch_size", [0, 13])
def test_bad_batch_sizes_are_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=rf"batches of {batch_size} are not in 1\.\.12"):
        make_bank().batch(0, batch_size)


def test_a_bank_does_not_go_back() -> None:
    bank = make_bank()
    bank.batch(4, 2)
    with pytest.raises(ValueError, match="past step 4; the next is 5"):
        bank.batch(4, 2)


def odd(start: PathStart, kind: str) -> PathStart:
    match kind:
        case "name":
            return replace(start, conditions={"with": start.x0})
        case "shape":
            return replace(start, conditions={**start.conditions, "time_id": torch.tensor([1])})
        case "dtype":
            return replace(start, conditions={**start.conditions, "time_id": torch.tensor([1.0, 2.0])})
    return replace(start, x0=start.x0[:1], state=start.state[:1])


@pytest.mark.parametrize("kind", ["name", "shape", "dtype", "latent"])
@pytest.mark.parametrize("number", [1, 12])
def test_starts_that_do_not_fit_are_refused(kind: str, number: int) -> None:
    """Among the first samples of the slots, and when a slot is refilled."""
    plan = path(5)

    def draw(asked: int) -> PathStart:
        start = draw_at(plan)(asked)
        return odd(start, kind) if asked == number else start

    with pytest.raises(ValueError, match=rf"sample {number} has other names, shapes or dtypes"):
        run(make_bank(draw=draw), 3, 12)


def test_a_state_of_another_shape_than_its_x0_is_refused() -> None:
    plan = path(5)
    bank = make_bank(draw=lambda number: replace(draw_at(plan)(number), state=torch.zeros(2, 3, 5)))
    with pytest.raises(ValueError, match=r"sample 0: state \(2, 3, 5\), x0 \(2, 3, 4\)"):
        bank.batch(0, 2)


def test_a_teacher_that_changes_the_shape_is_refused() -> None:
    bank = make_bank(step=lambda states, *_: states[:, :1])
    with pytest.raises(ValueError, match=r"made \(4, 1, 3, 4\) of states \(4, 2, 3, 4\)"):
        bank.batch(0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "another bank's state: identity"),
        ({"num_slots": 11}, "another bank's state: identity"),
        ({"rank": 1, "num_ranks": 2}, "another bank's state: identity"),
        ({"num_ranks": 2}, "another bank's state: identity"),
        ({"start": 4}, "another bank's state: path"),
        ({"dtype": torch.float32}, "kept in torch.float64, and now it is torch.float32"),
    ],
)
def test_another_bank_s_state_is_refused(changes: dict, message: str) -> None:
    saved = make_bank()
    saved.batch(0, 2)
    bank = make_bank(**changes)
    with pytest.raises(ValueError, match=message):
        bank.restore(saved.state())
    bank.batch(0, 2)


@pytest.mark.parametrize("rules", [None, [1]])
def test_the_state_of_an_older_version_is_refused(rules: list[int] | None) -> None:
    bank = make_bank()
    bank.batch(0, 2)
    saved = bank.state()
    del saved["rules"]
    older = saved if rules is None else {**saved, "rules": torch.tensor(rules)}
    with pytest.raises(ValueError, match="goes by other rules than this version's, and cannot go on"):
        make_bank().restore(older)


def test_half_a_spare_path_is_refused() -> None:
    bank = make_bank(rate=0.0)
    bank.batch(0, 2)
    saved = bank.state()
    for name in ("x0", "level_ids", "condition.with"):
        half = {key: tensor for key, tensor in saved.items() if key != f"spare.{name}"}
        with pytest.raises(ValueError, match="the spare path of the bank's state is not of the form"):
            make_bank(rate=0.0).restore(half)
    bank.restore({**saved, "spare.x0": saved["spare.x0"]})


def test_half_a_state_is_refused() -> None:
    bank = make_bank()
    bank.batch(0, 2)
    saved = bank.state()
    for name in ("queue", "counters", "identity", "path", "slots.guidance", "slots.x0", "slots.states"):
        with pytest.raises(ValueError, match=f"state lacks {name.removeprefix('slots.')}"):
            make_bank().restore({key: tensor for key, tensor in saved.items() if key != name})
    with pytest.raises(ValueError, match="has 12 slots, and x0 has 11 rows"):
        make_bank().restore({**saved, "slots.x0": saved["slots.x0"][:11]})
    with pytest.raises(ValueError, match="4 counters are not the bank's 5"):
        make_bank().restore({**saved, "counters": saved["counters"][:4]})


@pytest.mark.gpu
def test_a_bank_on_a_gpu_gives_what_one_on_the_cpu_gives() -> None:
    """The teacher itself works on the CPU here, so that every bit must agree."""

    def step(states: Tensor, level: Level, next_level: Level, conditions: dict, guidance: Tensor) -> Tensor:
        assert {row.device.type for row in (states, *conditions.values())} == {"cuda"}
        assert {row.device.type for row in (level.id, next_level.sigma, guidance)} == {"cpu"}
        on_cpu = {name: row.cpu() for name, row in conditions.items()}
        return Teacher()(states.cpu(), level, next_level, on_cpu, guidance).to("cuda")

    bank, wanted = make_bank(rate=0.7, device="cuda", step=step), make_bank(rate=0.7)
    run(bank, 10, 5), run(wanted, 10, 5)
    resumed = make_bank(rate=0.7, device="cuda", step=step)
    resumed.restore(bank.state())
    for ours, theirs in zip(run(resumed, 20, 5), run(wanted, 20, 5), strict=True):
        found = {name: row.cpu() for name, row in tensors(ours).items()}
        assert ours.states.device.type == ours.x0.device.type == "cuda"
        for name, row in tensors(theirs).items():
            assert torch.equal(found[name], row), name
