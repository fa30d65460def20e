"""States that the student makes itself: those that its own walks have, by hand and by the sampler."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from stdcli.bank.order import PairOrder, draws_at
from stdcli.diffusion.levels import SamplingPath, level_table, pick_levels
from stdcli.diffusion.sample import sample
from stdcli.distill.batch_sources import BankSource, Ranks
from stdcli.distill.methods.dmd2 import Dmd2, Dmd2Section
from stdcli.distill.own_states import OwnStates, walked_x0
from stdcli.errors import NumericsError
from stdcli.runtime.seeding import fold
from tests.tiny_methods import (
    SD,
    SHAPE,
    START,
    STD,
    condition_of,
    guidance_of,
    mean_of,
    noise_in,
    path_of,
    roles_of,
    scales,
    time_of,
    unmean_of,
    write_known_bank,
)

TABLE, COUNTS, SEED = level_table(SD, 50), (2, 4, 6), 5
PLANS = {2: (37, 19), 4: (37, 28, 19, 10), 6: (37, 31, 25, 19, 13, 7)}
DRAWS = torch.tensor([[0.1, 0.2], [0.4, 0.9], [0.99, 0.99], [0.4, 0.8], [0.2, 0.6], [0.5, 0.3]]).double()
DRAWN = [(2, 0), (4, 3), (6, 5), (4, 3), (2, 1), (4, 1)]
NUMBERS = torch.tensor([3, 14, 15, 92, 65, 35])
MEANS = [0.3, -0.1, 0.5, 0.9, -0.4, 0.0]


def own_of(roles=None, counts=COUNTS) -> OwnStates:
    roles = roles or roles_of()

    def denoise(x, level, cond):
        return roles.student(x, level, cond, to_level=TABLE[0])

    return OwnStates(denoise, SD, TABLE, START, counts, SEED)


def starts() -> torch.Tensor:
    return torch.stack([path_of(k % 5)[START] for k in range(6)]).float()


def noise(number: int, index: int) -> torch.Tensor:
    return torch.randn(SHAPE, generator=fold(SEED, "own noise", number, index))


def by_hand(x: torch.Tensor, mean: float, plan: tuple[int, ...], done: int, number: int) -> torch.Tensor:
    """x0 from the noise that the student sees, renoised at the next level of the plan, k times."""
    x = x.double()
    for index in range(done):
        t, (alpha, sigma) = time_of(plan[index]), scales(time_of(plan[index]))
        x0 = (x - sigma * noise_in(x, t, mean=mean, std=STD)) / alpha
        alpha, sigma = scales(time_of(plan[index + 1]))
        x = alpha * x0 + sigma * noise(number, index + 1).double()
    return x


def test_states_are_those_of_a_loop_by_hand() -> None:
    own = own_of()
    assert own.draw(DRAWS) == DRAWN
    states, ids = own.make(starts(), condition_of(MEANS), draws=DRAWS, sample_index=NUMBERS)
    assert ids.tolist() == [PLANS[steps][done] for steps, done in DRAWN]
    for k, (steps, done) in enumerate(DRAWN):
        expected = by_hand(starts()[k], MEANS[k], PLANS[steps], done, NUMBERS[k].item())
        torch.testing.assert_close(states[k].double(), expected, rtol=0, atol=2e-5)
    assert torch.equal(states[0], starts()[0]), "nothing is evaluated before the first level"
    assert not states.requires_grad and states.dtype == torch.float32


def test_they_are_what_the_sampler_comes_through() -> None:
    """The same walk as a job's, to its end, with the state kept that is there before each evaluation."""
    roles, cond = roles_of(), condition_of(MEANS)
    states, _ = own_of(roles).make(starts(), cond, draws=DRAWS, sample_index=NUMBERS)
    for k, (steps, done) in enumerate(DRAWN):
        seen, row = [], torch.tensor([k])
        sample(
            lambda x, level, row=row: roles.student(x, level, cond.rows(row), to_level=TABLE[0]),
            starts()[row],
            SamplingPath(tuple(TABLE[id_] for id_ in (*PLANS[steps], 0))),
            schedule=SD,
            sampler="renoise",
            make_step_noise=lambda index, k=k: noise(NUMBERS[k].item(), index)[None],
            on_step=lambda index, level, x, seen=seen: seen.append(x.detach().float()),
        )
        torch.testing.assert_close(states[row], seen[done], rtol=0, atol=1e-6)


def test_a_batch_is_its_items_one_by_one() -> None:
    own, cond = own_of(), condition_of(MEANS)
    together, ids = own.make(starts(), cond, draws=DRAWS, sample_index=NUMBERS)
    for k in range(6):
        row = torch.tensor([k])
        alone, id_ = own.make(starts()[row], cond.rows(row), draws=DRAWS[row], sample_index=NUMBERS[row])
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-6)
        assert id_.item() == ids[k]


def test_the_student_is_told_the_same_end_at_every_level_and_asked_no_more_than_needed() -> None:
    roles = roles_of()
    draws = DRAWS[[1, 3]]
    own_of(roles).make(starts()[:2], condition_of(MEANS[:2]), draws=draws, sample_index=NUMBERS[:2])
    assert roles.module.asked == [([time_of(j)] * 2, [0, 0], 2) for j in PLANS[4][:3]]


def test_step_counts_and_positions_come_alike() -> None:
    draws = torch.stack([draws_at(0, place) for place in range(6000)])
    found = Counter(own_of().draw(draws))
    assert set(found) == {(steps, k) for steps in COUNTS for k in range(steps)}
    chi_square = sum((found[item] - 2000 / item[0]) ** 2 / (2000 / item[0]) for item in found)
    assert chi_square < 27  # 11 degrees of freedom, 0.5 %


def test_clean_latents_after_one_evaluation_of_states_at_levels_of_their_own() -> None:
    level = pick_levels(TABLE, torch.tensor([30, 12]))
    x = torch.stack([path_of(1)[30], path_of(2)[12]]).float()
    roles, cond = roles_of(), condition_of(MEANS[:2])
    found = walked_x0(
        lambda x, level: roles.student(x, level, cond, to_level=TABLE[0]), x, [level], schedule=SD
    )
    for k, j in enumerate((30, 12)):
        alpha, sigma = scales(time_of(j))
        eps = noise_in(x[k].double(), time_of(j), mean=MEANS[k], std=STD)
        torch.testing.assert_close(found[k].double(), (x[k] - sigma * eps) / alpha, rtol=0, atol=2e-5)
    assert not found.requires_grad


def test_a_student_that_breaks_is_told_of_by_level() -> None:
    def denoise(x, level, cond):
        return roles_of().student(x * torch.inf, level, cond, to_level=TABLE[0])

    own = OwnStates(denoise, SD, TABLE, START, COUNTS, SEED)
    with pytest.raises(NumericsError, match="NaN or infinity"):
        own.make(starts(), condition_of(MEANS), draws=DRAWS, sample_index=NUMBERS)


def test_batches_of_a_bank_have_states_of_the_students_own(tmp_path) -> None:
    """However they are cut up; with everything that belongs to their own paths."""
    bank = write_known_bank(tmp_path, kept=(37, 10, 0))
    method = Dmd2(TABLE, START, Dmd2Section())

    def batches(ranks: Ranks, numbers):
        order = PairOrder(len(bank), (START,), 3)
        source = BankSource(bank, method, TABLE, order, ranks, torch.device("cpu"), own_states=own_of())
        found = [source.batch(number) for number in numbers]
        source.close()
        return found

    (whole,) = batches(Ranks(6), [0])
    drawn = own_of().draw(torch.stack([draws_at(3, place) for place in range(6)]))
    paths = [int(number) - 100 for number in whole.sample_ids]
    for k, (steps, done) in enumerate(drawn):
        x = path_of(paths[k])[START].float()
        expected = by_hand(x, mean_of(paths[k]), PLANS[steps], done, k)
        torch.testing.assert_close(whole.states[k].double(), expected, rtol=0, atol=2e-5)
        assert whole.level_ids[k] == PLANS[steps][done] and whole.target_ids[k] == 0
        assert whole.guidance[k] == guidance_of(paths[k])
        assert whole.uncond.encoder_hidden_states[k].mean() == pytest.approx(unmean_of(paths[k]), abs=1e-6)
    assert sorted(paths[:5]) == [0, 1, 2, 3, 4] and whole.next_states is None
    parts = [batches(Ranks(3, rank, 2), [0])[0] for rank in range(2)] + batches(Ranks(2), [0, 1, 2])
    joined = torch.cat([part.states for part in parts])
    torch.testing.assert_close(joined, whole.states.repeat(2, 1, 1, 1), rtol=0, atol=1e-6)
