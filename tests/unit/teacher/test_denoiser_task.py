"""What the denoiser learns, and a step of a teacher's training: learning rate, averages, state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stdcli.config.teacher import TrainSection
from stdcli.diffusion.colors import match_colors
from stdcli.diffusion.levels import Level
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import NumericsError
from stdcli.runtime.seeding import fold
from stdcli.teacher import denoiser_task
from stdcli.teacher.codec_fitting import fit_components
from stdcli.teacher.denoiser_task import P_DROP_STYLE, DenoiserTask
from stdcli.teacher.networks import build_codec, build_networks, make_scheduler
from stdcli.teacher.painting import luminance, paint, stroke_strength
from stdcli.teacher.painting_losses import content_distance, fidelity_loss
from stdcli.teacher.pairs import StylePairBatch
from stdcli.teacher.teacher_training import lr_schedule
from tests.tiny_teachers import tensors_of, training_of

CHANNELS = 6


class RandomPairs:
    """Pictures of smooth noise; batch n depends on n alone."""

    repeats = False

    def batch(self, step: int, batch_size: int) -> StylePairBatch:
        generator = fold(5, "test", step)
        coarse = torch.rand(2 * batch_size, 3, 4, 4, generator=generator)
        both = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
        photos, styles = both.chunk(2)
        return StylePairBatch(photos, styles, step)


def make_task(**changes: Any) -> DenoiserTask:
    codec = build_codec(latent_channels=CHANNELS, hidden_channels=4)
    fit_components(codec, RandomPairs().batch(0, 32).photos * 2 - 1, temper=0.5)
    networks = build_networks(
        latent_channels=CHANNELS,
        channels=(32, 32),
        style_dim=8,
        style_width=32,
        style_layers=1,
        cross_dim=8,
        seed=changes.pop("network_seed", 0),
    )
    settings = {
        "pairs": RandomPairs(),
        "texture_weight": 0.5,
        "batch_size": 4,
        "seed": 0,
        "device": torch.device("cpu"),
        "schedule": NoiseSchedule.from_config(make_scheduler().config),
    }
    return DenoiserTask(networks=networks, codec=codec, **(settings | changes))


def all_alphas() -> np.ndarray:
    """sqrt(prod(1 - beta)), betas 0.03 of Stable Diffusion's: squares of evenly spaced roots."""
    betas = 0.03 * np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.sqrt(np.cumprod(1 - betas))


def true_v(x: torch.Tensor, t: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """v = alpha eps - sigma x0 of states that stem from `clean`."""
    alpha = torch.tensor(all_alphas())[t].view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    return (alpha * (x - alpha * clean) / sigma - sigma * clean).float()


def recolored_latents(task: DenoiserTask, batch: StylePairBatch) -> torch.Tensor:
    return task.codec.encode(match_colors(batch.photos, batch.styles) * 2 - 1).latents


def test_half_of_the_states_walk_down_their_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a network that sees the true noise, a state that jumps is alpha z + sigma eps where it lands."""
    count, task = 400, make_task()
    generator = fold(0, "x")
    clean, noise = torch.randn(2, count, CHANNELS, 4, 4, generator=generator).unbind(0)
    t = torch.randint(20, 1000, (count,), generator=generator)
    alpha = torch.tensor(all_alphas())[t].view(-1, 1, 1, 1)
    x = (alpha * clean + (1 - alpha**2).sqrt() * noise).float()
    start = Level(id=t, t=t, alpha=alpha.flatten(), sigma=(1 - alpha**2).sqrt().flatten())
    monkeypatch.setattr(denoiser_task, "predict", lambda unet, x, t, style: true_v(x, t, clean[: len(x)]))
    states, level = task._rollout(x, start, torch.zeros(count, 8), generator)
    half = count // 2
    assert torch.equal(states[half:], x[half:]) and torch.equal(level.t[half:], t[half:])
    shares = (level.t[:half] / t[:half]).double()
    assert shares.max() < 1
    assert shares.mean().item() == pytest.approx(0.5, abs=4 * 0.29 / half**0.5)  # uniform from 0 to the start
    alpha = torch.tensor(all_alphas())[level.t].view(-1, 1, 1, 1)
    assert torch.allclose(states, (alpha * clean + (1 - alpha**2).sqrt() * noise).float(), atol=1e-4)


def test_a_batch_of_one_has_no_half_to_walk() -> None:
    (loss,) = make_task(batch_size=1).losses(0)
    assert math.isfinite(loss.value.item())


def test_states_start_from_the_recolored_photo_and_are_judged_by_its_painting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network that takes the paintings' latents for x0 is left with what the codec loses of them.

    The state's noise, found from x and the recoloured photo, is the one that the strokes are made of.
    """
    count, task = 64, make_task(texture_weight=1e-9, batch_size=64)
    batch = task.pairs.batch(0, count)
    clean = recolored_latents(task, batch)
    made, starts, strengths = {}, [], []

    def note(pictures: torch.Tensor, styles: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat, strokes = paint(pictures, styles, noise)
        made.update(pictures=pictures, noise=noise, flat=flat, strokes=strokes)
        return flat, strokes

    def measure(ratio: torch.Tensor) -> torch.Tensor:
        strengths.append(ratio)
        strength = stroke_strength(ratio)
        made["result"] = made["flat"] + strength.view(-1, 1, 1, 1) * made["strokes"]
        return strength

    def oracle(unet: object, x: torch.Tensor, t: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        alpha = torch.tensor(all_alphas())[t].view(-1, 1, 1, 1)
        if not starts:  # the call on the path, whose states are still those of the start
            eps = (x - alpha * clean[: len(x)]) / (1 - alpha**2).sqrt()
            ratio, kept = (1 / alpha**2 - 1).sqrt().flatten(), style.any(1)
            assert torch.allclose(strengths[0][: len(x)].double(), ratio * kept, atol=1e-6)
            seen = task.codec.decode(clean[: len(x)] + eps.float()).sample
            seen = (seen - task.codec.decode(clean[: len(x)]).sample) / 2  # the codec is linear so far
            assert torch.allclose(made["noise"][: len(x)], luminance(seen), atol=2e-2)
            assert eps.std().item() == pytest.approx(1, abs=0.02)
            starts.append(t)
        aim = task.codec.encode(made["result"] * 2 - 1).latents
        return true_v(x, t, aim[: len(x)])

    monkeypatch.setattr(denoiser_task, "paint", note)
    monkeypatch.setattr(denoiser_task, "stroke_strength", measure)
    monkeypatch.setattr(denoiser_task, "predict", oracle)
    perfect = task._losses(batch, 0)
    assert starts[0].shape == (count // 2,) and starts[0].min() >= 20 and starts[0].max() > 800
    aim = task.codec.encode(made["result"] * 2 - 1).latents
    lost = content_distance(task.codec.decode(aim).sample / 2 + 0.5, made["result"]).mean()
    assert perfect["content"].item() == pytest.approx(lost.item(), rel=1e-3)
    photos = match_colors(batch.photos, batch.styles)[:16]  # one in four
    fidelity = fidelity_loss(task.codec(photos * 2 - 1).sample / 2 + 0.5, photos)
    assert perfect["fidelity"].item() == pytest.approx(fidelity.item(), rel=1e-5)


def test_starts_are_drawn_from_everywhere_the_lower_half_more_often() -> None:
    """Of u^1.5 the mean is 2/5 and half lies below 0.5^1.5."""
    t = make_task()._draw_starts(20_000, fold(0, "t"))
    shares = (t - 20).double() / 980
    assert t.min() >= 20 and t.max() <= 999 and t.max() > 990
    assert shares.mean().item() == pytest.approx(0.4, abs=0.01)
    assert (shares < 0.5**1.5).double().mean().item() == pytest.approx(0.5, abs=0.015)


def test_batches_that_come_again_are_painted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = []

    def note(*pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count.append(1)
        return paint(*pictures)

    monkeypatch.setattr(denoiser_task, "paint", note)
    endless, repeating = make_task(), make_task()
    repeating.pairs.repeats = True
    batch = endless.pairs.batch(3, 4)
    fresh = [endless._losses(batch, 0)["total"].item() for _ in range(3)]
    assert len(count) == 3
    kept = [repeating._losses(batch, 0)["total"].item() for _ in range(3)]
    assert len(count) == 4 and len(set(kept)) == 1
    assert kept == pytest.approx(fresh, rel=1e-3)  # kept in half precision
    repeating._losses(endless.pairs.batch(4, 4), 4)
    assert len(count) == 5


def test_the_style_is_dropped_for_a_tenth_and_then_leaves_no_strokes(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(batch_size=64)
    dropped, bare = [], []

    def predict(unet: object, x: torch.Tensor, t: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        dropped.append((style == 0).all(1))
        return torch.zeros_like(x)

    def note(ratio: torch.Tensor) -> torch.Tensor:
        bare.append(ratio == 0)
        return stroke_strength(ratio)

    monkeypatch.setattr(denoiser_task, "predict", predict)
    monkeypatch.setattr(denoiser_task, "paint", lambda pictures, styles, noise: (pictures, pictures[:, :1]))
    monkeypatch.setattr(denoiser_task, "stroke_strength", note)
    monkeypatch.setattr(denoiser_task, "encode_style", lambda encoder, styles: torch.ones(len(styles), 8))
    batch = task.pairs.batch(0, 64)
    for step in range(20):
        task._losses(batch, step)
    whole = dropped[1::2]  # the first call is on the path, without gradient, for half of the batch
    assert all(torch.equal(half, full[:32]) for half, full in zip(dropped[::2], whole, strict=True))
    assert all(torch.equal(none, full) for none, full in zip(bare, whole, strict=True))
    share = torch.cat(whole).double().mean().item()
    assert share == pytest.approx(P_DROP_STYLE, abs=4 * (0.09 / 1280) ** 0.5)


def test_the_total_is_the_weighted_sum_of_its_parts() -> None:
    task = make_task(texture_weight=2.0)
    parts = {name: loss.item() for name, loss in task._losses(task.pairs.batch(0, 8), 0).items()}
    expected = 3 * parts["content"] + 2 * parts["texture"] + 0.15 * parts["fidelity"]
    assert parts["total"] == pytest.approx(expected, rel=1e-5)
    assert min(parts.values()) > 0


def test_what_is_reported_are_the_parts_of_the_total() -> None:
    task = make_task(texture_weight=2.0)
    (loss,) = task.losses(3)
    parts = {name: part.item() for name, part in task._losses(task.pairs.batch(3, 4), 3).items()}
    assert loss.learner == "total" and loss.value.item() == parts.pop("total")
    reported = {name: value.item() for name, value in loss.metrics.items()}
    assert reported.pop("time/data_wait_ms") >= 0
    assert reported == {f"loss/{name}": part for name, part in parts.items()}


def test_the_learning_rate_rises_stays_and_falls() -> None:
    lr = lr_schedule(TrainSection(steps=20, warmup_steps=4, cooldown=0.25, learning_rate=8.0))
    rates = [lr(step) for step in range(20)]
    assert rates[:4] == pytest.approx([2, 4, 6, 8])
    assert rates[4:16] == [8] * 12
    assert rates[16:] == pytest.approx([6.4, 4.8, 3.2, 1.6])


@pytest.mark.parametrize(("warmup", "cooldown"), [(0, 0), (1, 0.34)])
def test_no_warm_up_and_no_cool_down(warmup: int, cooldown: float) -> None:
    lr = lr_schedule(TrainSection(steps=3, warmup_steps=warmup, cooldown=cooldown, learning_rate=8.0))
    assert [lr(step) for step in range(3)] == [8] * 3


def test_a_step_moves_weights_as_adam_does() -> None:
    """The first step of Adam is lr sign(g), wherever g is not tiny, after decay by 1 - lr 0.01."""
    training = training_of(make_task(), warmup_steps=0, cooldown=0)
    weight = training.task.networks.unet.conv_out.weight
    before = weight.detach().clone()
    metrics = training.train_step(0)
    moved = weight.detach() - before * (1 - 1e-5)
    assert moved.abs().max().item() == pytest.approx(1e-3, rel=1e-3)
    assert (moved.abs() > 0.98e-3).float().mean() > 0.98
    assert metrics["lr"] == 1e-3
    parts = {"loss/total", "loss/content", "loss/texture", "loss/fidelity"}
    assert set(metrics) == parts | {"grad/norm", "lr", "time/data_wait_ms"}


def test_gradients_that_fitting_the_codec_left_are_forgotten() -> None:
    tasks = [make_task(), make_task()]
    for parameter in tasks[1].codec.refine.parameters():
        parameter.grad = torch.ones_like(parameter)
    first, second = (training_of(task).train_step(0)["grad/norm"] for task in tasks)
    assert first == second > 0


def test_the_average_follows_the_weights() -> None:
    """After two steps: d = 1/10, then 2/11, so a = 9/11 w2 + 2/11 (9/10 w1 + 1/10 w0)."""
    training = training_of(make_task())
    name, networks = "unet.conv_in.weight", training.task.networks
    weights = [tensors_of(networks)[name].clone()]
    for step in range(2):
        training.train_step(step)
        weights.append(tensors_of(networks)[name].clone())
    w0, w1, w2 = (w.double() for w in weights)
    expected = 9 / 11 * w2 + 2 / 11 * (0.9 * w1 + 0.1 * w0)
    assert torch.allclose(training.ema.average[name].double(), expected, atol=1e-7)
    assert not torch.allclose(w0, w2, atol=1e-5)


def test_a_restored_training_goes_on_bit_by_bit() -> None:
    straight = training_of(make_task())
    for step in range(2):
        straight.train_step(step)
    state, metadata = straight.state()
    stored = {k: v.clone() for k, v in state.items()}
    resumed = training_of(make_task(network_seed=9))
    resumed.restore(stored, metadata)
    for training in (straight, resumed):
        for step in range(2, 4):
            training.train_step(step)
    ours, theirs = straight.state()[0], resumed.state()[0]
    assert ours.keys() == theirs.keys()
    assert any(key.startswith("adam.") for key in ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_draws_depend_on_seed_and_step() -> None:
    """On one batch, without learning: another seed or step means other noise, hence another loss."""

    class OneBatch(RandomPairs):
        def batch(self, step: int, batch_size: int) -> StylePairBatch:
            return super().batch(0, batch_size)

    first, same, other = (make_task(seed=seed, pairs=OneBatch()) for seed in (0, 0, 1))
    losses = [next(task.losses(0)).value.item() for task in (first, same, other)]
    assert losses[0] == losses[1] != losses[2]
    assert next(first.losses(1)).value.item() != losses[0]


def test_state_names_do_not_change() -> None:
    """Checkpoints on disk outlive the program."""
    training = training_of(make_task())
    training.train_step(0)
    names, metadata = training.state()
    assert {name.split(".")[0] for name in names} == {"live", "ema", "adam", "counters"}
    assert {"live.unet.conv_in.weight", "ema.style_encoder.visual_projection.weight"} <= names.keys()
    assert {"live.refine.0.weight", "ema.refine.0.weight"} <= names.keys()
    assert {f"adam.0.{part}" for part in ("exp_avg", "exp_avg_sq", "step")} <= names.keys()
    assert names["counters"].tolist() == [1, 1] and metadata == {}


@pytest.mark.parametrize("fill", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights(fill: float) -> None:
    training = training_of(make_task())
    training.train_step(0)
    before = {k: v.clone() for k, v in training.state()[0].items()}
    training.task.texture_weight = fill
    with pytest.raises(NumericsError, match="loss/total is not finite"):
        training.train_step(1)
    assert all(torch.equal(v, before[k]) for k, v in training.state()[0].items())


def test_bfloat16_products_leave_weights_and_loss_in_float32() -> None:
    plain, half = (next(make_task(autocast=dtype).losses(0)) for dtype in (None, torch.bfloat16))
    assert half.value.item() != plain.value.item()
    assert half.value.item() == pytest.approx(plain.value.item(), rel=1e-2)
    assert half.value.dtype == torch.float32
    training = training_of(make_task(autocast=torch.bfloat16))
    training.train_step(0)
    assert {parameter.dtype for parameter in training.module.parameters()} == {torch.float32}
