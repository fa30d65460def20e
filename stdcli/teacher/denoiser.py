"""Train the small denoiser and its style encoder on style pairs.

Plain denoising score matching in the codec's latent space with v-prediction:
    x_t = alpha_t x0 + sigma_t eps,   v = alpha_t eps - sigma_t x0,   loss = mean |net(x_t, t, style) - v|^2
(Salimans and Ho 2022, section 4). The style is dropped for a tenth of the samples, so that guidance works. It
knows nothing of files, reports or when to stop.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch

from stdcli.diffusion.combine import combine
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised, PredictionType, from_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import start_state
from stdcli.diffusion.statistics import match_statistics
from stdcli.errors import NumericsError
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.models.scratch import StylizerNetworks, encode_style, predict
from stdcli.runtime.seeding import fold
from stdcli.teacher.pairs import PairBatch
from stdcli.training.checkpoint import adam_tensors, restore_adam
from stdcli.training.ema import Ema

P_DROP_STYLE = 0.1
P_LOW_NOISE = 0.85  # of the samples, drawn below LOW_NOISE_T: where a stylizing job walks
LOW_NOISE_T = 450
DRIFT_T = 300  # from here on a state may stem from the photo alone
MAX_GRAD_NORM = 1.0
PREDICTION = PredictionType.V


class PairSource(Protocol):
    """What the trainer learns from; batch n is always the same."""

    def batch(self, step: int, batch_size: int) -> PairBatch:
        """Batch number `step`, of `batch_size` pairs."""


@dataclass
class DenoiserTrainer:
    """State of one training run: networks, optimiser, average, step.

    Attributes:
        networks: trained in place.
        codec: fixed.
        pairs: source of data.
        schedule: VP noise schedule with 1000 steps.
        learning_rate: AdamW's after warm-up.
        warmup_steps: the first steps, over which the learning rate rises linearly.
        total_steps: where the learning rate reaches zero.
        cooldown_steps: the last steps, over which the learning rate falls linearly.
        batch_size: pairs per step.
        ema_decay: of the averaged weights.
        seed: of timesteps, noise and style dropping.
        device: where the networks are.
        autocast: dtype of the UNet's matrix products; None leaves it at float32. The loss is float32 always.
        step: steps taken so far.
    """

    networks: StylizerNetworks
    codec: PatchAutoencoder
    pairs: PairSource
    schedule: NoiseSchedule
    learning_rate: float
    total_steps: int
    cooldown_steps: int
    batch_size: int
    ema_decay: float
    seed: int
    device: torch.device
    warmup_steps: int = 200
    autocast: torch.dtype | None = None
    step: int = 0

    def __post_init__(self) -> None:
        self.ema = Ema(self.networks.named_tensors(), decay=self.ema_decay)
        self.optimiser = torch.optim.AdamW(
            self.networks.parameters(), lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )

    def rate(self) -> float:
        """Learning rate of the current step: linear warm-up, constant, linear cool-down."""
        warm = min(1.0, (self.step + 1) / max(1, self.warmup_steps))
        cool = min(1.0, (self.total_steps - self.step) / max(1, self.cooldown_steps))
        return self.learning_rate * warm * cool

    def train_step(self) -> dict[str, float]:
        """One optimiser step.

        Returns:
            `loss/total` (mean squared v error), `loss/low_noise` (of samples with t < 400, nan when there is
            none), `grad/norm` before clipping, `lr`, `time/data_wait_ms`.

        Raises:
            NumericsError: the loss or a gradient is not finite; the weights are as before the step.
        """
        began_s = time.perf_counter()
        batch = self.pairs.batch(self.step, self.batch_size)
        data_wait_ms = (time.perf_counter() - began_s) * 1e3
        t, per_sample = self._errors(batch)
        loss = per_sample.mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.networks.parameters(), MAX_GRAD_NORM)
        low = per_sample[(t < 400).to(per_sample.device)]
        facts = {
            "loss/total": loss.item(),
            "grad/norm": norm.item(),
            "lr": self.rate(),
            "loss/low_noise": low.mean().item() if len(low) else math.nan,
            "time/data_wait_ms": data_wait_ms,
        }
        self._check_finite(facts)
        for group in self.optimiser.param_groups:
            group["lr"] = facts["lr"]
        self.optimiser.step()
        self.ema.update()
        self.step += 1
        return facts

    def _errors(self, batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise a batch and predict its v: timesteps [B] on the CPU, mean squared errors [B]."""
        generator = fold(self.seed, "denoiser", self.step)
        with torch.no_grad():
            x0 = self.codec.encode(batch.pictures.to(self.device)).latents
        t = _draw_timesteps(len(x0), generator)
        level = Level(id=t, t=t, alpha=self.schedule.alphas[t], sigma=self.schedule.sigmas[t])
        with torch.no_grad():
            x = noisy_start(self.codec, batch, x0, level, generator)
            eps = combine((1 / level.sigma, x), (-level.alpha / level.sigma, x0))
            target = from_x0_eps(Denoised(x0, eps), alpha=level.alpha, sigma=level.sigma, kind=PREDICTION)
        kept = (torch.rand(len(x0), generator=generator) >= P_DROP_STYLE).to(self.device)
        style = encode_style(self.networks.style_encoder, batch.styles.to(self.device)) * kept[:, None]
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            output = predict(self.networks.unet, x, t.to(self.device), style)
        return t, (output.float() - target).square().mean((1, 2, 3))

    def _check_finite(self, facts: dict[str, float]) -> None:
        for name in ("loss/total", "grad/norm"):
            if not math.isfinite(facts[name]):
                raise NumericsError(
                    f"{name} is not finite",
                    where=f"step {self.step}",
                    got=facts[name],
                    hint="a lower --set train.learning_rate=..., with --overwrite to begin anew",
                )

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that resuming needs, as named tensors."""
        state = {f"live.{k}": v for k, v in self.networks.named_tensors().items()}
        state |= {f"ema.{k}": v for k, v in self.ema.average.items()}
        state |= adam_tensors(self.optimiser)
        return state | {"counters": torch.tensor([self.step, self.ema.updates])}

    @torch.no_grad()
    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from `state()` of an earlier run with the same networks."""
        for name, tensor in self.networks.named_tensors().items():
            tensor.copy_(state[f"live.{name}"])
        for name, tensor in self.ema.average.items():
            tensor.copy_(state[f"ema.{name}"])
        restore_adam(self.optimiser, state)
        self.step, self.ema.updates = state["counters"].tolist()


def noisy_start(
    codec: PatchAutoencoder,
    batch: PairBatch,
    x0: torch.Tensor,
    level: Level,
    generator: torch.Generator,
) -> torch.Tensor:
    """States as a stylizing job meets them: between a noised painting and a noised photo in its colours.

    A job starts from the photo with matched statistics, not from the painting that training aims at. So the
    clean part of the state drifts from x0 towards the matched source by a random share, up to t / `DRIFT_T`.

    Args:
        codec: encodes sources and styles.
        batch: B pairs.
        x0: [B, C, h, w], latents of `batch.pictures`.
        level: per sample, on the CPU.
        generator: source of the drift and the noise.

    Returns:
        [B, C, h, w].
    """
    sources = codec.encode(batch.sources.to(x0.device)).latents
    sources = match_statistics(sources, codec.encode(batch.styles.to(x0.device)).latents)
    noise = torch.randn(x0.shape, generator=generator).to(x0.device)
    drift = torch.rand(len(x0), generator=generator) * (level.t / DRIFT_T).clamp(max=1) * ~batch.is_native
    return start_state(torch.lerp(x0, sources, drift.to(x0).view(-1, 1, 1, 1)), noise, level)


def _draw_timesteps(count: int, generator: torch.Generator) -> torch.Tensor:
    low = torch.randint(0, LOW_NOISE_T, (count,), generator=generator)
    high = torch.randint(LOW_NOISE_T, 1000, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < P_LOW_NOISE, low, high)
