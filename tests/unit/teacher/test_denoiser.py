"""One step of training: states, losses, learning rate, averages, resuming."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import NumericsError
from stdcli.models.scratch import build_codec, build_networks, make_scheduler
from stdcli.runtime.seeding import fold
from stdcli.teacher import denoiser
from stdcli.teacher.codec import fit_components
from stdcli.teacher.colours import match_colours
from stdcli.teacher.denoiser import P_DROP_STYLE, DenoiserTrainer
from stdcli.teacher.losses import content_distance, fidelity_loss
from stdcli.teacher.pairs import PairBatch

CHANNELS = 6


class RandomPairs:
    """Pictures of smooth noise; batch n depends on n alone."""

    def batch(self, step: int, batch_size: int) -> PairBatch:
        generator = fold(5, "test", step)
        coarse = torch.rand(2 * batch_size, 3, 4, 4, generator=generator)
        both = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
        photos, styles = both.chunk(2)
        return PairBatch(photos, styles)


def make_trainer(**changes: Any) -> DenoiserTrainer:
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
        "style_weight": 0.5,
        "learning_rate": 1e-3,
        "total_steps": 10,
        "cooldown_steps": 4,
        "warmup_steps": 2,
        "batch_size": 4,
        "ema_decay": 0.9,
        "seed": 0,
        "device": torch.device("cpu"),
        "schedule": NoiseSchedule.from_config(make_scheduler().config),
    }
    return DenoiserTrainer(networks=networks, codec=codec, **(settings | changes))


def all_alphas() -> np.ndarray:
    """sqrt(prod(1 - beta)), betas a tenth of Stable Diffusion's: squares of evenly spaced roots."""
    betas = 0.1 * np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.sqrt(np.cumprod(1 - betas))


def matched_latents(trainer: DenoiserTrainer, batch: PairBatch) -> torch.Tensor:
    """Latents of the photos with every channel's mean and standard deviation as in the style's."""
    photo, style = (trainer.codec.encode(x * 2 - 1).latents for x in (batch.photos, batch.styles))
    mean, std = photo.mean((2, 3), keepdim=True), photo.std((2, 3), keepdim=True, correction=0)
    wanted_mean, wanted_std = style.mean((2, 3), keepdim=True), style.std((2, 3), keepdim=True, correction=0)
    return (photo - mean) / std * wanted_std + wanted_mean


def true_v(x: torch.Tensor, t: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """v = alpha eps - sigma x0 of states that stem from `clean`."""
    alpha = torch.tensor(all_alphas())[t].view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    return (alpha * (x - alpha * clean) / sigma - sigma * clean).float()


def test_states_are_those_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """x = alpha z + sigma eps with z matched to the style and t uniform from 20 to 999.

    With a network that sees the true noise, the half that has moved down the path lies there too.
    """
    count, trainer = 400, make_trainer()
    batch = trainer.pairs.batch(0, count)
    clean = matched_latents(trainer, batch)
    starts = {}

    def oracle(unet: object, x: torch.Tensor, t: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        alpha = torch.tensor(all_alphas())[t].view(-1, 1, 1, 1)
        starts["t"] = t
        starts["noise"] = (x - alpha * clean[: len(x)]) / (1 - alpha**2).sqrt()
        return true_v(x, t, clean[: len(x)])

    monkeypatch.setattr(denoiser, "predict", oracle)
    x, level = trainer._states(batch.photos, batch.styles, torch.zeros(count, 8), fold(0, "x"))
    half = count // 2
    assert starts["t"].shape == (half,)
    for t in (starts["t"], level.t[half:]):
        assert t.min() >= 20 and t.max() > 900
        assert t.double().mean().item() == pytest.approx(509.5, abs=4 * 283 / half**0.5)
    shares = (level.t[:half] / starts["t"]).double()
    assert shares.max() < 1
    assert shares.mean().item() == pytest.approx(0.5, abs=4 * 0.29 / half**0.5)  # uniform from 0 to the start
    alpha = torch.tensor(all_alphas())[level.t].view(-1, 1, 1, 1)
    sigma = (1 - alpha**2).sqrt()
    noise = (x - alpha * clean) / sigma
    assert torch.allclose(noise[:half], starts["noise"], atol=0.05)  # level 3 of 1000 has sigma 0.018
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert noise[0].sub(noise[half]).std() > 1  # every sample has its own


def test_a_perfect_network_has_no_content_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose estimate is the target's latent is left with what the codec loses of the target."""
    trainer = make_trainer(style_weight=1e-9)
    batch = trainer.pairs.batch(0, 8)
    targets = match_colours(batch.photos, batch.styles)
    aim = trainer.codec.encode(targets * 2 - 1).latents
    untrained = trainer._losses(batch)
    monkeypatch.setattr(denoiser, "predict", lambda unet, x, t, style: true_v(x, t, aim[: len(x)]))
    perfect = trainer._losses(batch)
    lost = content_distance(trainer.codec.decode(aim).sample / 2 + 0.5, targets).mean()
    assert perfect["content"].item() == pytest.approx(lost.item(), rel=1e-3)
    assert untrained["content"] > 2 * lost
    photos = batch.photos[:2]  # one in four
    fidelity = fidelity_loss(trainer.codec(photos * 2 - 1).sample / 2 + 0.5, photos)
    assert perfect["fidelity"].item() == pytest.approx(fidelity.item(), rel=1e-5)


def test_the_style_is_dropped_for_a_tenth_and_then_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(batch_size=64)
    dropped, judged = [], []

    def note(unet: object, x: torch.Tensor, t: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        dropped.append((style == 0).all(1))
        return torch.zeros_like(x)

    monkeypatch.setattr(denoiser, "predict", note)
    monkeypatch.setattr(denoiser, "encode_style", lambda encoder, styles: torch.ones(len(styles), 8))
    monkeypatch.setattr(denoiser, "style_distance", lambda a, b, generator: torch.ones(len(a)))
    batch = trainer.pairs.batch(0, 64)
    for trainer.step in range(40):
        judged.append(trainer._losses(batch)["style"].item())
    whole = dropped[1::2]  # the first call is on the path, without gradient, for half of the batch
    assert all(torch.equal(half, full[:32]) for half, full in zip(dropped[::2], whole, strict=True))
    assert judged == pytest.approx([1 - full.double().mean().item() for full in whole])
    share = torch.cat(whole).double().mean().item()
    assert share == pytest.approx(P_DROP_STYLE, abs=4 * (0.09 / 2560) ** 0.5)


def test_the_total_is_the_weighted_sum_of_its_parts() -> None:
    """The parts are means over the batch, the style's over dropped samples too, as zeros."""
    trainer = make_trainer(style_weight=2.0)
    parts = {name: loss.item() for name, loss in trainer._losses(trainer.pairs.batch(0, 8)).items()}
    expected = 3 * parts["content"] + 2 * parts["style"] + 0.15 * parts["fidelity"]
    assert parts["total"] == pytest.approx(expected, rel=1e-5)
    assert min(parts.values()) > 0


def test_the_learning_rate_rises_stays_and_falls() -> None:
    trainer = make_trainer(total_steps=20, warmup_steps=4, cooldown_steps=5, learning_rate=8.0)
    rates = []
    for trainer.step in range(20):
        rates.append(trainer.rate())
    assert rates[:4] == pytest.approx([2, 4, 6, 8])
    assert rates[4:16] == [8] * 12
    assert rates[16:] == pytest.approx([6.4, 4.8, 3.2, 1.6])


@pytest.mark.parametrize(("warmup", "cooldown"), [(0, 0), (1, 1)])
def test_no_warm_up_and_no_cool_down(warmup: int, cooldown: int) -> None:
    trainer = make_trainer(total_steps=3, warmup_steps=warmup, cooldown_steps=cooldown, learning_rate=8.0)
    for trainer.step in range(3):
        assert trainer.rate() == 8


def test_a_step_moves_weights_as_adam_does() -> None:
    """The first step of Adam is lr sign(g), wherever g is not tiny, after decay by 1 - lr 0.01."""
    trainer = make_trainer(warmup_steps=0, cooldown_steps=0)
    weight = trainer.networks.unet.conv_out.weight
    before = weight.detach().clone()
    facts = trainer.train_step()
    moved = weight.detach() - before * (1 - 1e-5)
    assert moved.abs().max().item() == pytest.approx(1e-3, rel=1e-3)
    assert (moved.abs() > 0.98e-3).float().mean() > 0.98
    assert facts["lr"] == 1e-3
    assert trainer.step == 1
    parts = {"loss/total", "loss/content", "loss/style", "loss/fidelity"}
    assert set(facts) == parts | {"grad/norm", "lr", "time/data_wait_ms"}


def test_the_average_follows_the_weights() -> None:
    """After two steps: d = 1/10, then 2/11, so a = 9/11 w2 + 2/11 (9/10 w1 + 1/10 w0)."""
    trainer = make_trainer()
    name = "unet.conv_in.weight"
    weights = [trainer.networks.named_tensors()[name].clone()]
    for _ in range(2):
        trainer.train_step()
        weights.append(trainer.networks.named_tensors()[name].clone())
    w0, w1, w2 = (w.double() for w in weights)
    expected = 9 / 11 * w2 + 2 / 11 * (0.9 * w1 + 0.1 * w0)
    assert torch.allclose(trainer.ema.average[name].double(), expected, atol=1e-7)
    assert not torch.allclose(w0, w2, atol=1e-5)


def test_a_restored_trainer_goes_on_bit_by_bit() -> None:
    straight = make_trainer()
    for _ in range(2):
        straight.train_step()
    kept = {k: v.clone() for k, v in straight.state().items()}
    resumed = make_trainer(network_seed=9)
    resumed.restore(kept)
    for trainer in (straight, resumed):
        for _ in range(2):
            trainer.train_step()
    ours, theirs = straight.state(), resumed.state()
    assert ours.keys() == theirs.keys()
    assert any(key.startswith("adam.") for key in ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_state_names_do_not_change() -> None:
    """Checkpoints on disk outlive the program."""
    trainer = make_trainer()
    trainer.train_step()
    names = trainer.state()
    assert {name.split(".")[0] for name in names} == {"live", "ema", "adam", "counters"}
    assert {"live.unet.conv_in.weight", "ema.style_encoder.visual_projection.weight"} <= names.keys()
    assert {"live.refine.0.weight", "ema.refine.0.weight"} <= names.keys()
    assert {f"adam.0.{part}" for part in ("exp_avg", "exp_avg_sq", "step")} <= names.keys()
    assert names["counters"].tolist() == [1, 1]


@pytest.mark.parametrize("fill", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights(fill: float) -> None:
    trainer = make_trainer()
    trainer.train_step()
    before = {k: v.clone() for k, v in trainer.state().items()}
    trainer.style_weight = fill
    with pytest.raises(NumericsError, match="loss/total is not finite") as caught:
        trainer.train_step()
    assert caught.value.where == "step 1"
    assert all(torch.equal(v, before[k]) for k, v in trainer.state().items())


def test_bfloat16_products_leave_weights_and_loss_in_float32() -> None:
    plain, half = make_trainer(), make_trainer(autocast=torch.bfloat16)
    exact, rounded = plain.train_step(), half.train_step()
    assert rounded["loss/total"] != exact["loss/total"]
    assert rounded["loss/total"] == pytest.approx(exact["loss/total"], rel=1e-2)
    assert {p.dtype for p in half.networks.parameters()} == {torch.float32}
    assert half._losses(half.pairs.batch(1, 4))["total"].dtype == torch.float32
