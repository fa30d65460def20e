"""One step of training: targets, timesteps, learning rate, averages, resuming."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from stdcli.diffusion.levels import Level
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import NumericsError
from stdcli.models.scratch import build_codec, build_networks, make_scheduler
from stdcli.runtime.seeding import fold
from stdcli.teacher import denoiser
from stdcli.teacher.codec import fit_components
from stdcli.teacher.denoiser import P_DROP_STYLE, DenoiserTrainer, _draw_timesteps, noisy_start
from stdcli.teacher.pairs import PairBatch

CHANNELS = 6


class RandomPairs:
    """Pictures of smooth noise; batch n depends on n alone."""

    def __init__(self, *, fill: float | None = None) -> None:
        self.fill = fill

    def batch(self, step: int, batch_size: int) -> PairBatch:
        generator = fold(5, "test", step)
        coarse = torch.rand(2 * batch_size, 3, 4, 4, generator=generator) * 2 - 1
        both = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
        if self.fill is not None:
            both = torch.full_like(both, self.fill)
        pictures, styles = both.chunk(2)
        return PairBatch(pictures, styles, pictures, is_native=torch.ones(batch_size, dtype=torch.bool))


def make_trainer(**changes: Any) -> DenoiserTrainer:
    codec = build_codec(latent_channels=CHANNELS, hidden_channels=4)
    fit_components(codec, RandomPairs().batch(0, 32).pictures, temper=0.5)
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
    return DenoiserTrainer(networks=networks, codec=codec.requires_grad_(False), **(settings | changes))


def stable_diffusion_alphas() -> np.ndarray:
    """sqrt(prod(1 - beta)), betas as in Stable Diffusion: squares of evenly spaced roots."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.sqrt(np.cumprod(1 - betas))


def test_timesteps_are_mostly_low_and_uniform_on_both_sides() -> None:
    count = 200_000
    t = _draw_timesteps(count, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    assert t.min() == 0 and t.max() == 999
    low = t < 450
    assert low.float().mean().item() == pytest.approx(0.85, abs=4 * (0.1275 / count) ** 0.5)
    for drawn, start, stop in ((t[low], 0, 450), (t[~low], 450, 1000)):
        bins = (stop - start) // 25
        counts = torch.histc(drawn.double(), bins=bins, min=start, max=stop)
        expected = len(drawn) / bins
        assert ((counts - expected) ** 2 / expected).sum() < 46.8  # chi squared, 21 degrees, p = 0.001


def test_the_target_is_v(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows x0 and returns alpha eps - sigma x0 has no error; and alpha x - sigma v is x0."""
    trainer = make_trainer()
    batch = trainer.pairs.batch(0, 4)
    x0 = trainer.codec.encode(batch.pictures).latents
    alphas = torch.tensor(stable_diffusion_alphas())
    seen = []

    def oracle(unet: object, x: torch.Tensor, t: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        alpha = alphas[t].view(-1, 1, 1, 1)
        sigma = (1 - alpha**2).sqrt()
        eps = (x - alpha * x0) / sigma
        v = alpha * eps - sigma * x0
        assert torch.allclose(alpha * x - sigma * v, x0.double(), atol=1e-5)
        assert eps.std().item() == pytest.approx(1, abs=0.15)
        seen.append(t)
        return v

    monkeypatch.setattr(denoiser, "predict", oracle)
    t, errors = trainer._errors(batch)
    assert torch.equal(t, seen[0])
    assert errors.shape == (4,)
    assert errors.max() < 1e-6


def test_the_error_is_the_mean_square_per_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a network that says zero, the error is the mean square of v, about 1 for latents like these."""
    trainer = make_trainer(batch_size=64)
    monkeypatch.setattr(denoiser, "predict", lambda unet, x, t, style: torch.zeros_like(x))
    _, errors = trainer._errors(trainer.pairs.batch(0, 64))
    assert errors.shape == (64,)
    assert errors.mean().item() == pytest.approx(1, abs=0.15)


def test_states_drift_towards_the_photo_in_the_colours_of_the_style() -> None:
    """x - sigma eps over alpha lies between x0 and the matched source, no further than t / 300 of the way."""
    trainer = make_trainer()
    base = trainer.pairs.batch(0, 64)
    batch = PairBatch(base.pictures, base.styles, base.pictures.flip(0), torch.arange(64) % 2 == 0)
    kinds = (batch.pictures, batch.sources, batch.styles)
    x0, source, style = (trainer.codec.encode(pictures).latents for pictures in kinds)
    mean, std = source.mean((2, 3), keepdim=True), source.std((2, 3), keepdim=True, correction=0)
    wanted_mean, wanted_std = style.mean((2, 3), keepdim=True), style.std((2, 3), keepdim=True, correction=0)
    matched = (source - mean) / std * wanted_std + wanted_mean
    for t in (30, 299, 600):
        alpha = stable_diffusion_alphas()[t]
        level = Level(id=t, t=torch.full((64,), t), alpha=alpha, sigma=(1 - alpha**2) ** 0.5)
        x = noisy_start(trainer.codec, batch, x0, level, torch.Generator().manual_seed(3))
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3))
        moved = (x - level.sigma * noise) / alpha - x0
        shares = (moved * (matched - x0)).sum((1, 2, 3)) / (matched - x0).square().sum((1, 2, 3))
        assert torch.allclose(moved, shares.view(-1, 1, 1, 1) * (matched - x0), atol=1e-3)
        assert shares[batch.is_native].abs().max() < 1e-4
        drifted = shares[~batch.is_native]
        assert drifted.min() >= -1e-4
        assert 0.7 * min(1, t / 300) < drifted.max() <= min(1, t / 300) + 1e-4


def test_the_style_is_dropped_for_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    dropped = []

    def note(unet: object, x: torch.Tensor, t: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        dropped.extend((style == 0).all(1).tolist())
        return torch.zeros_like(x)

    monkeypatch.setattr(denoiser, "predict", note)
    monkeypatch.setattr(denoiser, "encode_style", lambda encoder, styles: torch.ones(len(styles), 8))
    batch = trainer.pairs.batch(0, 64)
    for trainer.step in range(40):
        trainer._errors(batch)
    share = sum(dropped) / len(dropped)
    assert share == pytest.approx(P_DROP_STYLE, abs=4 * (0.09 / len(dropped)) ** 0.5)


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
    assert set(facts) == {"loss/total", "loss/low_noise", "grad/norm", "lr", "time/data_wait_ms"}


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
    assert {f"adam.0.{part}" for part in ("exp_avg", "exp_avg_sq", "step")} <= names.keys()
    assert names["counters"].tolist() == [1, 1]


@pytest.mark.parametrize("fill", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights(fill: float) -> None:
    trainer = make_trainer()
    trainer.train_step()
    before = {k: v.clone() for k, v in trainer.state().items()}
    trainer.pairs = RandomPairs(fill=fill)
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
    assert half._errors(half.pairs.batch(1, 4))[1].dtype == torch.float32
