"""Predictions and targets of single trajectory distillation, held against plain numbers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from stdcli.diffusion.levels import Level, level_table, pick_levels
from stdcli.diffusion.predictions import PredictionType, to_x0_eps
from stdcli.diffusion.solvers import jump
from stdcli.distill.batch import Batch
from stdcli.distill.distances import distance, jump_gain
from stdcli.distill.loss_terms import LossTerms
from stdcli.distill.methods.std import Std
from stdcli.distill.target_sampler import TargetSampler
from stdcli.distill.task import DistillTask
from tests.tiny_methods import (
    AVERAGE_STD,
    SD,
    STD,
    condition_of,
    guidance_of,
    mean_of,
    moved,
    noise_in,
    path_of,
    roles_of,
    scales,
    time_of,
    unmean_of,
)

TABLE = level_table(SD, 50)
TARGETS = TargetSampler({}, {})
PATHS, J, S = (0, 3, 1, 4), (37, 20, 2, 1), (28, 19, 0, 0)  # a jump, an anchor, a jump to 0, an anchor at 0


def batch_of(paths=PATHS, j=J, s=S, *, next_ids=None) -> Batch:
    walks = [path_of(path) for path in paths]
    below = next_ids or [id_ - 1 for id_ in j]

    def states(ids):
        return torch.stack([walk[id_] for walk, id_ in zip(walks, ids, strict=True)]).float()

    return Batch(
        sample_ids=torch.tensor(paths),
        sample_index=torch.arange(len(paths)),
        level_ids=torch.tensor(j),
        target_ids=torch.tensor(s),
        states=states(j),
        next_ids=torch.tensor(below),
        next_states=states(below),
        targets=states(s),
        real_latents=None,
        cond=condition_of([mean_of(path) for path in paths]),
        uncond=condition_of([unmean_of(path) for path in paths]),
        guidance=torch.tensor([guidance_of(path) for path in paths], dtype=torch.float64),
    )


def jumped(path: int, j: int, s: int, *, std: float) -> torch.Tensor:
    """Where the student of this `std` lands from the teacher's state at j."""
    x = path_of(path)[j]
    eps = noise_in(x, time_of(j), mean=mean_of(path), std=std)
    return moved(x, eps, time_of(j), time_of(s))


def close(found: torch.Tensor, expected: list[torch.Tensor]) -> None:
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=0, atol=2e-5)


def test_predictions_are_jumps_of_the_student_from_the_stored_states() -> None:
    roles = roles_of()
    prediction = Std(TABLE, TARGETS).predict(roles, batch_of())
    close(prediction.state, [jumped(p, j, s, std=STD) for p, j, s in zip(PATHS, J, S, strict=True)])
    for k, (path, j) in enumerate(zip(PATHS, J, strict=True)):
        alpha, sigma = scales(time_of(j))
        back = alpha * prediction.denoised.x0[k] + sigma * prediction.denoised.eps[k]
        torch.testing.assert_close(back.double(), path_of(path)[j], rtol=0, atol=2e-5)
    prediction.state.sum().backward()
    assert roles.module.std.grad is not None


def test_defect_7_times_of_both_ends_are_those_of_their_levels() -> None:
    roles = roles_of()
    Std(TABLE, TARGETS).predict(roles, batch_of())
    assert roles.module.asked == [([739, 399, 39, 19], [559, 379, 0, 0], 4)]


def test_the_teachers_target_is_the_stored_state() -> None:
    batch = batch_of()
    assert Std(TABLE, TARGETS, "teacher").target(roles_of(), batch) is batch.targets


def test_the_students_own_target_is_its_jump_from_the_next_state() -> None:
    roles, batch = roles_of(), batch_of()
    target = Std(TABLE, TARGETS, "consistency").target(roles, batch)
    close(target, [jumped(p, j - 1, s, std=STD) for p, j, s in zip(PATHS, J, S, strict=True)])
    assert roles.module.asked == [([719, 379, 19, 0], [559, 379, 0, 0], 4)]
    assert not target.requires_grad


def test_defect_8_the_anchors_target_is_exactly_the_teachers_state() -> None:
    batch = batch_of()
    target = Std(TABLE, TARGETS, "consistency").target(roles_of(), batch)
    assert torch.equal(target[1], batch.next_states[1]) and torch.equal(target[3], batch.next_states[3])
    assert torch.equal(batch.next_states[1], batch.targets[1])  # both targets agree there


def test_next_states_of_banks_with_kept_levels_are_where_they_say() -> None:
    target = Std(TABLE, TARGETS, "consistency").target(
        roles_of(), batch_of((2, 4), (37, 30), (10, 24), next_ids=[30, 24])
    )
    expected = [jumped(2, 30, 10, std=STD), path_of(4)[24]]
    close(target, expected)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_mixed_target_is_a_mean_of_the_two(share) -> None:
    target = Std(TABLE, TARGETS, "mix", mix=share).target(roles_of(), batch_of())
    expected = []
    for path, j, s in zip(PATHS, J, S, strict=True):
        expected.append(share * jumped(path, j - 1, s, std=STD) + (1 - share) * path_of(path)[s])
    close(target, expected)


def test_averaged_weights_make_the_students_own_target_and_nothing_else() -> None:
    roles = roles_of(ema=AVERAGE_STD)
    method = Std(TABLE, TARGETS, "consistency", ema_decay=0.9)
    close(method.target(roles, batch_of((0,), (37,), (28,))), [jumped(0, 36, 28, std=AVERAGE_STD)])
    close(method.predict(roles, batch_of((0,), (37,), (28,))).state, [jumped(0, 37, 28, std=STD)])
    assert float(roles.module.std.detach()) == STD


@pytest.mark.parametrize(
    ("kind", "reads"), [("teacher", {"target"}), ("consistency", {"next"}), ("mix", {"target", "next"})]
)
def test_only_what_is_read_is_asked_for(kind, reads) -> None:
    assert Std(TABLE, TARGETS, kind).needs == reads


def test_defect_11_a_batch_is_its_items_one_by_one() -> None:
    for method in (Std(TABLE, TARGETS, "mix"), Std(TABLE, TARGETS, "consistency")):
        together, roles = batch_of(), roles_of()
        state = method.predict(roles, together).state
        target = method.target(roles, together)
        for k, (path, j, s) in enumerate(zip(PATHS, J, S, strict=True)):
            alone = batch_of((path,), (j,), (s,))
            torch.testing.assert_close(method.predict(roles, alone).state[0], state[k])
            torch.testing.assert_close(method.target(roles, alone)[0], target[k])


def test_jump_weights_by_hand() -> None:
    assert Std(TABLE, TARGETS).scale(batch_of()) is None
    scale = Std(TABLE, TARGETS, weighs_jumps=True).scale(batch_of())
    expected = []
    for j, s in zip(J, S, strict=True):
        (alpha, sigma), (to_alpha, to_sigma) = scales(time_of(j)), scales(time_of(s))
        expected.append(abs(to_sigma - to_alpha * sigma / alpha))
    assert scale.tolist() == pytest.approx(expected, rel=1e-9)
    # an error of the noise by e moves the jump by e times the weight
    x, eps = path_of(0)[37], torch.zeros(2, 3, 3, dtype=torch.float64)
    shift = moved(x, eps + 0.5, 739, 559) - moved(x, eps, 739, 559)
    assert shift.abs().mean().item() == pytest.approx(0.5 * expected[0], rel=1e-9)


def test_a_jump_to_where_it_is_has_no_weight() -> None:
    level = pick_levels(TABLE, torch.tensor([5, 37]))
    assert jump_gain(level, level).tolist() == [0, 0]


ENDS = pick_levels((*TABLE[:37], Level(37, 999, 0.0, 1.0)), torch.tensor([37, 20]))  # pure noise, and not


@pytest.mark.parametrize("kind", list(PredictionType)[1:])
def test_jump_weights_are_what_an_error_of_the_output_does_in_pure_noise_too(kind) -> None:
    """By moving states: a unit of the network's own output, and no states."""
    to_level, one = pick_levels(TABLE, torch.tensor([28, 3])), torch.ones(2, 1, dtype=torch.float64)
    denoised = to_x0_eps(one, 0 * one, alpha=ENDS.alpha, sigma=ENDS.sigma, kind=kind)
    shift = jump(0 * one, denoised, from_level=ENDS, to_level=to_level).flatten()
    gain = jump_gain(ENDS, to_level, kind=kind)
    torch.testing.assert_close(gain, shift.abs(), rtol=0, atol=1e-12)
    assert gain[0].item() == pytest.approx(scales(time_of(28))[0])


def test_pure_noise_has_its_share_of_weighed_losses() -> None:
    """A v network's error there is neither dropped nor infinite: its target is 1/alpha_s of the state's."""
    table = (*TABLE[:37], Level(37, 999, 0.0, 1.0))
    method = Std(table, TARGETS, weighs_jumps=True, prediction=PredictionType.V)
    assert method.scale(batch_of())[0].item() == pytest.approx(scales(time_of(28))[0])


class Given:
    """A source of one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch_ = batch

    def batch(self, number: int) -> Batch:
        return self.batch_


def task_of(method: Std, batch: Batch, **options) -> DistillTask:
    return DistillTask(method, Given(batch), roles_of(), LossTerms(37, **({"kind": "l2"} | options)))


def errors_by_hand(*, weighed: bool) -> list[torch.Tensor]:
    found = []
    for path, j, s in zip(PATHS, J, S, strict=True):
        error = jumped(path, j, s, std=STD) - path_of(path)[s]
        (alpha, sigma), (to_alpha, to_sigma) = scales(time_of(j)), scales(time_of(s))
        found.append(error / abs(to_sigma - to_alpha * sigma / alpha) if weighed else error)
    return found


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("loss", ["l2", "huber"])
def test_the_loss_by_hand(weighed, loss) -> None:
    task = task_of(Std(TABLE, TARGETS, weighs_jumps=weighed), batch_of(), kind=loss, huber_c=0.03)
    (found,) = task.losses(0)
    errors = errors_by_hand(weighed=weighed)
    if loss == "l2":
        expected = [float((e**2).mean()) for e in errors]
    else:
        expected = [float(((e**2 + 0.03**2).sqrt() - 0.03).mean()) for e in errors]
    assert found.learner == "student"
    assert float(found.value.detach()) == pytest.approx(sum(expected) / 4, rel=1e-4)
    assert found.metrics["loss/distance"].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_losses_are_told_by_level() -> None:
    (found,) = task_of(Std(TABLE, TARGETS), batch_of()).losses(0)
    counts = {name: len(v) for name, v in found.metrics.items() if "level_" in name}
    assert counts == {
        "loss/level_1_to_9": 2,
        "loss/level_10_to_18": 0,
        "loss/level_19_to_28": 1,
        "loss/level_29_to_37": 1,
    }
    assert found.metrics["loss/level_29_to_37"][0] == found.metrics["loss/distance"][0]


def test_the_batch_at_hand_is_named() -> None:
    task = task_of(Std(TABLE, TARGETS), batch_of())
    list(task.losses(0))
    assert task.describe() == "samples 0, 3, 1, 4"


def test_distances_by_hand() -> None:
    predicted = torch.tensor([[[3.0, 0.0]], [[1.0, 1.0]]], dtype=torch.float16)
    target = torch.tensor([[[0.0, 4.0]], [[1.0, 1.0]]], dtype=torch.float64)
    assert distance(predicted, target, kind="l2").tolist() == [12.5, 0]
    by_hand = (math.hypot(3, 0.5) + math.hypot(4, 0.5)) / 2 - 0.5
    found = distance(predicted, target, kind="huber", huber_c=0.5)
    assert found.tolist() == pytest.approx([by_hand, 0]) and found.dtype == torch.float32


def test_a_student_like_its_teacher_has_no_loss_with_anchors() -> None:
    """With guidance 1 and the teacher's own weights one step of the student is the teacher's."""
    roles = roles_of()
    batch = batch_of((0,), (20,), (19,))  # path 0 has guidance 1
    with roles.module.as_teacher():
        state = Std(TABLE, TARGETS).predict(roles, batch).state
    torch.testing.assert_close(state, batch.targets, rtol=0, atol=2e-6)
    other = dataclasses.replace(batch, cond=batch.uncond)
    with roles.module.as_teacher():
        assert (Std(TABLE, TARGETS).predict(roles, other).state - batch.targets).abs().max() > 1e-3
