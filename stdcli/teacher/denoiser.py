"""Train the small denoiser, its style encoder and the codec's decoder on photos and styles.

A state is what a stylizing job meets: the photo's latent with the style's statistics, noised to a level; or,
for half of a batch, such a state moved on along the network's own path to a lower level, so that the network
learns to finish what it began. From it the network, which predicts v, estimates a clean picture in one step,
x0 = alpha x - sigma v (Salimans and Ho 2022, section 4), and that picture is judged (`losses.py`):

    CONTENT_WEIGHT content_distance(picture, photo in the style's colours)
        + style_weight style_distance(picture, style) + FIDELITY_WEIGHT fidelity_loss(codec)

Where the style is dropped, for a tenth of the samples, only the content counts, so that guidance means "more
style". It knows nothing of files, reports or when to stop.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch

from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised, PredictionType, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import jump, start_state
from stdcli.diffusion.statistics import match_statistics
from stdcli.errors import NumericsError
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.models.scratch import StylizerNetworks, encode_style, predict
from stdcli.runtime.seeding import fold
from stdcli.teacher.colours import match_colours
from stdcli.teacher.losses import content_distance, fidelity_loss, style_distance
from stdcli.teacher.pairs import PairBatch
from stdcli.training.checkpoint import adam_tensors, restore_adam
from stdcli.training.ema import Ema

P_DROP_STYLE = 0.1
LOWEST_START_T = 20
CONTENT_WEIGHT = 3.0
FIDELITY_WEIGHT = 0.15
EXACT_SHARE = 4  # one in so many photos is also decoded from its exact latents, which should stay faithful
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
        codec: its refinement is trained in place; its linear part is not.
        pairs: source of data.
        schedule: VP noise schedule with 1000 steps.
        style_weight: of the style distance; more means more texture, less drawing.
        learning_rate: AdamW's after warm-up.
        warmup_steps: the first steps, over which the learning rate rises linearly.
        total_steps: where the learning rate reaches zero.
        cooldown_steps: the last steps, over which the learning rate falls linearly.
        batch_size: pairs per step.
        ema_decay: of the averaged weights.
        seed: of timesteps, noise, filters and style dropping.
        device: where the networks are.
        autocast: dtype of the UNet's matrix products; None leaves it at float32. The loss is float32 always.
        step: steps taken so far.
    """

    networks: StylizerNetworks
    codec: PatchAutoencoder
    pairs: PairSource
    schedule: NoiseSchedule
    style_weight: float
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
        self.codec.requires_grad_(False)
        self.codec.refine.requires_grad_(True)
        self._parameters = [*self.networks.parameters(), *self.codec.refine.parameters()]
        self.ema = Ema(self._named_tensors(), decay=self.ema_decay)
        self.optimiser = torch.optim.AdamW(
            self._parameters, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )

    def _named_tensors(self) -> dict[str, torch.Tensor]:
        refine = {f"refine.{k}": v for k, v in self.codec.refine.state_dict().items()}
        return self.networks.named_tensors() | refine

    def rate(self) -> float:
        """Learning rate of the current step: linear warm-up, constant, linear cool-down."""
        warm = min(1.0, (self.step + 1) / max(1, self.warmup_steps))
        cool = min(1.0, (self.total_steps - self.step) / max(1, self.cooldown_steps))
        return self.learning_rate * warm * cool

    def train_step(self) -> dict[str, float]:
        """One optimiser step.

        Returns:
            `loss/total`, its unweighted parts `loss/content`, `loss/style`, `loss/fidelity`, `grad/norm`
            before clipping, `lr`, `time/data_wait_ms`.

        Raises:
            NumericsError: the loss or a gradient is not finite; the weights are as before the step.
        """
        began_s = time.perf_counter()
        batch = self.pairs.batch(self.step, self.batch_size)
        data_wait_ms = (time.perf_counter() - began_s) * 1e3
        losses = self._losses(batch)
        self.optimiser.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        facts = {f"loss/{name}": loss.item() for name, loss in losses.items()}
        facts |= {"grad/norm": norm.item(), "lr": self.rate(), "time/data_wait_ms": data_wait_ms}
        self._check_finite(facts)
        for group in self.optimiser.param_groups:
            group["lr"] = facts["lr"]
        self.optimiser.step()
        self.ema.update()
        self.step += 1
        return facts

    def _losses(self, batch: PairBatch) -> dict[str, torch.Tensor]:
        """The total and its parts, scalars."""
        generator = fold(self.seed, "denoiser", self.step)
        photos, styles = batch.photos.to(self.device), batch.styles.to(self.device)
        targets = match_colours(batch.photos, batch.styles).to(self.device)
        kept = (torch.rand(len(photos), generator=generator) >= P_DROP_STYLE).to(self.device)
        vectors = encode_style(self.networks.style_encoder, styles * 2 - 1) * kept[:, None]
        x, level = self._states(photos, styles, vectors, generator)
        exact = photos[: math.ceil(len(photos) / EXACT_SHARE)]
        with torch.no_grad():
            exact_latents = self.codec.encode(exact * 2 - 1).latents
        latents = torch.cat([self._denoise(x, level, vectors).x0, exact_latents])
        decoded = self.codec.decode(latents).sample / 2 + 0.5
        pictures, rebuilt = decoded[: len(photos)], decoded[len(photos) :]
        content = content_distance(pictures, targets)
        style = style_distance(pictures, styles, generator=generator) * kept
        fidelity = fidelity_loss(rebuilt, exact)
        total = (CONTENT_WEIGHT * content + self.style_weight * style).mean() + FIDELITY_WEIGHT * fidelity
        return {"total": total, "content": content.mean(), "style": style.mean(), "fidelity": fidelity}

    @torch.no_grad()
    def _states(
        self, photos: torch.Tensor, styles: torch.Tensor, vectors: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, Level]:
        """States as a job meets them, the first half of them on the network's own path; with their levels."""
        latents = self.codec.encode(photos * 2 - 1).latents
        latents = match_statistics(latents, self.codec.encode(styles * 2 - 1).latents)
        t = torch.randint(LOWEST_START_T, len(self.schedule.alphas), (len(photos),), generator=generator)
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        x = start_state(latents, noise, self._level(t))
        half = len(photos) // 2
        lower = (torch.rand(half, generator=generator) * t[:half]).long()
        start = self._level(t[:half])
        seen = self._denoise(x[:half], start, vectors[:half])
        moved = jump(x[:half], seen, from_level=start, to_level=self._level(lower))
        return torch.cat([moved, x[half:]]), self._level(torch.cat([lower, t[half:]]))

    def _denoise(self, x: torch.Tensor, level: Level, vectors: torch.Tensor) -> Denoised:
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            output = predict(self.networks.unet, x, level.t.to(self.device), vectors)
        return to_x0_eps(output.float(), x, alpha=level.alpha, sigma=level.sigma, kind=PREDICTION)

    def _level(self, t: torch.Tensor) -> Level:
        return Level(id=t, t=t, alpha=self.schedule.alphas[t], sigma=self.schedule.sigmas[t])

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
        state = {f"live.{k}": v for k, v in self._named_tensors().items()}
        state |= {f"ema.{k}": v for k, v in self.ema.average.items()}
        state |= adam_tensors(self.optimiser)
        return state | {"counters": torch.tensor([self.step, self.ema.updates])}

    @torch.no_grad()
    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from `state()` of an earlier run with the same networks."""
        for name, tensor in self._named_tensors().items():
            tensor.copy_(state[f"live.{name}"])
        for name, tensor in self.ema.average.items():
            tensor.copy_(state[f"ema.{name}"])
        restore_adam(self.optimiser, state)
        self.step, self.ema.updates = state["counters"].tolist()
