"""Laws of the bank's order and of the online bank, for all sizes."""

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from stdcli.bank.online_bank import OnlineBank, PathStart
from stdcli.bank.order import PairOrder
from stdcli.diffusion.levels import make_teacher_path
from stdcli.diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.scaled_linear(0.00085, 0.012, 1000)
seeds = st.integers(0, 2**62)


@given(st.integers(1, 6), st.sets(st.integers(0, 50), min_size=1, max_size=5), seeds, st.data())
def test_every_cut_of_the_order_covers_whole_epochs(num_paths, levels, seed, data):
    """Ranks and steps side by side give each pair once before any comes again, however they are cut."""
    order = PairOrder(num_paths, tuple(levels), seed)
    batch_size, num_ranks = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    steps = data.draw(st.integers(1, 6))
    parts = [
        order.batch(step, batch_size=batch_size, rank=rank, num_ranks=num_ranks)
        for step in range(steps)
        for rank in range(num_ranks)
    ]
    pairs = [
        pair for part in parts for pair in zip(part.paths.tolist(), part.level_ids.tolist(), strict=True)
    ]
    draws = torch.cat([part.draws for part in parts])
    whole = order.batch(0, batch_size=len(pairs))
    assert pairs == list(zip(whole.paths.tolist(), whole.level_ids.tolist(), strict=True))
    assert torch.equal(draws, whole.draws)
    every = {(path, level) for path in range(num_paths) for level in levels}
    for start in range(0, len(pairs), len(every)):
        epoch = pairs[start : start + len(every)]
        assert len(set(epoch)) == len(epoch) and set(epoch) <= every


@given(st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.0, 0.4, 1.0]), seeds, st.data())
def test_paths_of_the_online_bank_never_mix(start, num_slots, rate, seed, data):
    """A teacher that adds the sample's own condition: states say whose path they are on, and how far down."""
    plan = make_teacher_path(SCHEDULE, num_solver_steps=10, strength=start / 10)

    def draw(number):
        own = torch.full((1, 1, 1), number + 1.0)
        return PathStart(x0=own, state=own * 1000, conditions={"own": own}, guidance=0.5 * number)

    def step(states, level, next_level, conditions, guidance):
        return states + conditions["own"]

    rank = data.draw(st.integers(0, 2))
    bank = OnlineBank(
        draw, step, path=plan, num_slots=num_slots, seed=seed, rank=rank, num_ranks=3, rate=rate
    )
    drawn = Counter()
    for index, size in enumerate(data.draw(st.lists(st.integers(1, num_slots), min_size=1, max_size=12))):
        batch = bank.batch(index, size)
        assert len(batch.states) == size
        own = batch.sample_numbers.float() + 1
        assert torch.equal(batch.x0.flatten(), own)
        assert torch.equal(batch.conditions["own"].flatten(), own)
        assert batch.guidance.tolist() == [0.5 * number for number in batch.sample_numbers.tolist()]
        assert torch.equal(batch.states.flatten(), own * (1000 + start - batch.level_ids))
        assert torch.equal(batch.next_states.flatten(), own * (1000 + start - batch.next_level_ids))
        assert (batch.sample_numbers % 3 == rank).all()
        pairs = list(zip(batch.sample_numbers.tolist(), batch.level_ids.tolist(), strict=True))
        drawn.update(pairs)
        assert len(set(batch.sample_numbers.tolist())) == size
    assert set(drawn.values()) == {1}, "no state is handed out twice"
