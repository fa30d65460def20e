"""The conditional painter's loss, its checkpoints, and what the style encoder should foretell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import NumericsError
from stdcli.models.painter_unet import make_wide_scheduler
from stdcli.teacher.codec_fitting import SIGNAL
from stdcli.teacher.imitation import ImitationTask, measure_variances, principal_statistics
from stdcli.teacher.lapped import fit_lapped
from stdcli.teacher.lessons import Lesson
from stdcli.teacher.networks import build_lapped_codec, build_networks
from tests.tiny_teachers import training_of

CODEC = build_lapped_codec(latent_channels=6, widths=(4, 4, 4, 4))
NOISE = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(9))
fit_lapped(CODEC, NOISE * 2 - 1, signal=SIGNAL, steps=0, generator=torch.Generator())


class FixedLessons:
    """Noise pictures; what is painted is what is shown, plus `gap` times other noise."""

    def __init__(self, gap: float, sources: tuple[int, int] = (0, -1), plain: int = 1) -> None:
        self.gap, self.sources, self.plain = gap, torch.tensor(sources), plain

    def batch(self, step: int, batch_size: int) -> Lesson:
        generator = torch.Generator().manual_seed(step)
        shown, other = torch.rand(2, batch_size, 3, 32, 32, generator=generator)
        amounts = torch.ones(batch_size)
        amounts[: self.plain] = 0
        targets = shown + self.gap * amounts[:, None, None, None] * (other - 0.5)
        styles = torch.rand(2, 3, 32, 32, generator=generator)
        return Lesson(shown, targets, styles, torch.arange(batch_size) % 2, amounts, self.sources)


def make_task(lessons: FixedLessons) -> ImitationTask:
    networks = build_networks(
        latent_channels=6,
        channels=(32, 32),
        style_dim=16,
        style_width=32,
        style_layers=1,
        cross_dim=16,
        sees_photo=True,
    )
    return ImitationTask(
        networks=networks,
        codec=CODEC,
        lessons=lessons,
        schedule=NoiseSchedule.from_config(make_wide_scheduler().config),
        statistics=torch.tensor([[1.0, -2.0]]),
        batch_size=8,
        seed=0,
        device=torch.device("cpu"),
    )


def test_the_loss_is_that_of_the_best_linear_estimate_before_training() -> None:
    """Independent pixels differ by independent amounts, so each channel's error is known in closed form."""
    lessons = FixedLessons(0.6, plain=0)
    task = make_task(lessons)
    variances = measure_variances(CODEC, lessons, batches=3, batch_size=8)
    task.networks.unet.variances.copy_(variances)
    losses = [task._losses(lessons.batch(step, 8), step) for step in range(8)]
    found = torch.stack([torch.stack([loss[f"band{band}"] for band in range(4)]) for loss in losses])
    assert torch.allclose(found.mean(0), torch.ones(4), atol=0.2)
    ratios, d = task.schedule.sigmas / task.schedule.alphas, variances.double()
    for t in (0, 500, 999):
        expected = (d / (task.schedule.alphas[t] ** 2 * (d + ratios[t] ** 2))).mean()
        assert task._linear_errors(torch.tensor([t])).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_style_vector_foretells_known_artworks_alone() -> None:
    task = make_task(FixedLessons(0.5))
    losses = task._losses(task.lessons.batch(0, 8), 0)
    assert losses["foretell"].item() == pytest.approx((1 + 4) / 2)  # it says 0 before it is trained
    total = losses["v"] + 0.1 * losses["foretell"]
    assert losses["total"].item() == pytest.approx(total.item())
    unknown = make_task(FixedLessons(0.5, sources=(-1, -1)))
    assert unknown._losses(unknown.lessons.batch(0, 8), 0)["foretell"].item() == 0


def test_what_asks_for_nothing_is_told_no_style() -> None:
    for plain, is_told in ((8, False), (0, True)):
        task = make_task(FixedLessons(0.5))
        torch.nn.init.normal_(task.networks.unet.conv_out.weight, generator=torch.Generator().manual_seed(1))
        lesson = FixedLessons(0.5, plain=plain).batch(0, 8)
        other = replace(lesson, styles=1 - lesson.styles)
        losses = [task._losses(batch, 0)["v"].item() for batch in (lesson, other)]
        assert (losses[0] != losses[1]) == is_told


def test_variances_are_of_what_asks_for_all_of_the_painting() -> None:
    """Noise of variance g^2/12 in [0, 1], through orthonormal filters: 4 g^2/12 over the codec's scale."""
    gap, lessons = 0.5, FixedLessons(0.5)
    found = measure_variances(CODEC, lessons, batches=20, batch_size=8)
    weight = CODEC.project.weight.detach().double()
    expected = 4 * gap**2 / 12 * weight.square().sum((1, 2, 3))
    assert torch.allclose(found.double(), expected, rtol=0.1)


def test_a_checkpoint_of_another_run_is_told() -> None:
    """In a way that `training.trainer` knows: never a fault of the program."""
    training = training_of(make_task(FixedLessons(0.5)))
    state, metadata = training.state()
    name = next(name for name in state if name.startswith("live."))
    for broken in (
        {},
        state | {name: torch.zeros(7, 7, 7)},
        {k: v for k, v in state.items() if k != "counters"},
    ):
        with pytest.raises((KeyError, ValueError, RuntimeError)):
            training.restore(broken, metadata)


def test_training_learns_and_resumes_to_the_bit() -> None:
    whole, first, second = (training_of(make_task(FixedLessons(0.5)), steps=20) for _ in range(3))
    reports = [whole.train_step(step) for step in range(8)]
    assert reports[7]["loss/foretell"] < reports[0]["loss/foretell"]
    assert reports[0]["lr"] == pytest.approx(5e-4) and reports[1]["lr"] == pytest.approx(1e-3)
    names = {"loss/total", "loss/v", "loss/foretell", *(f"loss/band{band}" for band in range(4))}
    assert reports[0].keys() == names | {"grad/norm", "lr"}
    for step in range(4):
        first.train_step(step)
    second.restore(*first.state())
    for step in range(4, 8):
        second.train_step(step)
    ours, theirs = whole.state()[0], second.state()[0]
    assert ours.keys() == theirs.keys() and "live.foretell.weight" in ours
    assert not any(name.startswith("ema.foretell") for name in ours)  # it is no part of the teacher
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    moved = (whole.ema.average["unet.conv_in.weight"] - whole.task.networks.unet.conv_in.weight).abs().max()
    assert moved > 0


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    training = training_of(make_task(FixedLessons(float("nan"))))
    weight = training.task.networks.unet.conv_in.weight
    before = weight.clone()
    with pytest.raises(NumericsError, match="loss/total"):
        training.train_step(0)
    assert torch.equal(before, weight) and training.ema.updates == 0


def test_principal_statistics_are_scores_of_unit_variance() -> None:
    random = np.random.default_rng(0)
    moments = random.normal(size=(40, 5)) * [9, 4, 1, 0.1, 0.01] + 3
    found = principal_statistics(torch.from_numpy(moments), kept=2).double().numpy()
    centered = moments - moments.mean(0)
    _, _, axes = np.linalg.svd(centered)
    scores = centered @ axes[:2].T
    scores /= scores.std(0)
    assert np.allclose(np.abs(found), np.abs(scores), atol=1e-5)
    assert principal_statistics(torch.from_numpy(moments[:3]), kept=9).shape == (3, 3)
