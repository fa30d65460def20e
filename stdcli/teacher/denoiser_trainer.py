"""Train the small denoiser, its style encoder and the codec's decoder on photos and styles.

A state is what a stylizing job meets: the photo in the style's colours, encoded and noised to a level; or,
for half of a batch, such a state moved on along the network's own path to a lower level, so that the network
learns to finish what it began. From it the network, which predicts v, estimates a clean picture in one step,
x0 = alpha x - sigma v (Salimans and Ho 2022, section 4), and that picture is compared with the photo painted
with the style and the state's noise (`painting.py`):

    CONTENT_WEIGHT content_distance(picture, painting)
        + texture_weight texture_distance(picture, painting) + FIDELITY_WEIGHT fidelity_loss(codec)

Where the style is dropped, for a tenth of the samples, the painting has no strokes, so that guidance means
more of them. It knows nothing of files, reports or when to stop.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

from stdcli.diffusion.colors import match_colors
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised, PredictionType, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import jump, start_state
from stdcli.errors import NumericsError
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.runtime.seeding import fold
from stdcli.teacher.networks import StylizerNetworks, encode_style, predict
from stdcli.teacher.painting import luminance, paint, stroke_strength
from stdcli.teacher.painting_losses import content_distance, fidelity_loss, texture_distance
from stdcli.teacher.pairs import StylePairBatch
from stdcli.teacher.trained_state import restore_state, state_of
from stdcli.training.ema import Ema

P_DROP_STYLE = 0.1
LOWEST_START_T = 20
START_BIAS = 1.5
CONTENT_WEIGHT = 3.0
FIDELITY_WEIGHT = 0.15
EXACT_SHARE = 4  # one in so many photos is also decoded from its exact latents, which should stay faithful
MAX_GRAD_NORM = 1.0
PREDICTION = PredictionType.V


class PairSource(Protocol):
    """What the trainer learns from; batch n is always the same.

    Attributes:
        repeats: True if the batches come again.
    """

    repeats: bool

    def batch(self, step: int, batch_size: int) -> StylePairBatch:
        """Batch number `step`, of `batch_size` pairs."""


@dataclass
class DenoiserTrainer:
    """State of one training run: networks, optimiser, average, step.

    Attributes:
        networks: trained in place.
        codec: its refinement is trained in place; its linear part is not.
        pairs: source of data.
        schedule: VP noise schedule with 1000 steps.
        texture_weight: of the texture distance; more means livelier strokes, not quite where they should be.
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
    texture_weight: float
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
        self._painted: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.ema = Ema(self._named_tensors(), decay=self.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self._parameters, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )

    def _named_tensors(self) -> dict[str, torch.Tensor]:
        refine = {f"refine.{k}": v for k, v in self.codec.refine.state_dict().items()}
        return self.networks.named_tensors() | refine

    def lr(self) -> float:
        """Learning rate of the current step: linear warm-up, constant, linear cool-down."""
        warm = min(1.0, (self.step + 1) / max(1, self.warmup_steps))
        cool = min(1.0, (self.total_steps - self.step) / max(1, self.cooldown_steps))
        return self.learning_rate * warm * cool

    def train_step(self) -> dict[str, float]:
        """One optimiser step.

        Returns:
            `loss/total`, its unweighted parts `loss/content`, `loss/texture`, `loss/fidelity`, `grad/norm`
            before clipping, `lr`, `time/data_wait_ms`.

        Raises:
            NumericsError: the loss or a gradient is not finite; the weights are as before the step.
        """
        began_s = time.perf_counter()
        batch = self.pairs.batch(self.step, self.batch_size)
        data_wait_ms = (time.perf_counter() - began_s) * 1e3
        losses = self._losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        metrics = {f"loss/{name}": loss.item() for name, loss in losses.items()}
        metrics |= {"grad/norm": norm.item(), "lr": self.lr(), "time/data_wait_ms": data_wait_ms}
        self._check_finite(metrics)
        for group in self.optimizer.param_groups:
            group["lr"] = metrics["lr"]
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return metrics

    def _losses(self, batch: StylePairBatch) -> dict[str, torch.Tensor]:
        """The total and its parts, scalars."""
        generator = fold(self.seed, "denoiser", self.step)
        photos, styles = batch.photos.to(self.device), batch.styles.to(self.device)
        recolored = match_colors(batch.photos, batch.styles).to(self.device)
        kept = (torch.rand(len(photos), generator=generator) >= P_DROP_STYLE).to(self.device)
        vectors = encode_style(self.networks.style_encoder, styles * 2 - 1) * kept[:, None]
        t = self._draw_starts(len(photos), generator)
        start = self._level(t)
        with torch.no_grad():
            clean = self.codec.encode(recolored * 2 - 1).latents
            noise = torch.randn(clean.shape, generator=fold(self.seed, "noise", batch.number)).to(self.device)
            flat, strokes = self._paint(batch.number, recolored, styles, noise)
            ratio = (start.sigma / start.alpha).float().to(self.device).where(kept, 0)
            paintings = flat + stroke_strength(ratio).view(-1, 1, 1, 1) * strokes
            x, level = self._rollout(start_state(clean, noise, start), start, vectors, generator)
        exact = recolored[: math.ceil(len(photos) / EXACT_SHARE)]
        latents = torch.cat([self._denoise(x, level, vectors).x0, clean[: len(exact)]])
        decoded = self.codec.decode(latents).sample / 2 + 0.5
        pictures, rebuilt = decoded[: len(photos)], decoded[len(photos) :]
        content = content_distance(pictures, paintings).mean()
        texture = texture_distance(pictures, paintings, generator=generator).mean()
        fidelity = fidelity_loss(rebuilt, exact)
        total = CONTENT_WEIGHT * content + self.texture_weight * texture + FIDELITY_WEIGHT * fidelity
        return {"total": total, "content": content, "texture": texture, "fidelity": fidelity}

    def _paint(
        self, number: int, pictures: torch.Tensor, styles: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What batch `number` should become, painted anew or, where batches repeat, only once.

        What is kept is in half precision, and used so from the first time on: a resumed run paints again.
        """
        if not self.pairs.repeats:
            return paint(pictures, styles, self._seen_noise(noise))
        if number not in self._painted:
            flat, strokes = paint(pictures, styles, self._seen_noise(noise))
            self._painted[number] = flat.half(), strokes.half()
        flat, strokes = self._painted[number]
        return flat.float(), strokes.float()

    def _draw_starts(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Timesteps where jobs start: all that there are, the lower half, where most jobs do, more often."""
        share = torch.rand(count, generator=generator) ** START_BIAS
        return (LOWEST_START_T + share * (len(self.schedule.alphas) - LOWEST_START_T)).long()

    def _rollout(
        self, x: torch.Tensor, start: Level, vectors: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, Level]:
        """States of which the first half has jumped down the network's own path, and where they are."""
        half = len(x) // 2
        if half == 0:
            return x, start
        high = self._level(start.t[:half])
        low = self._level((torch.rand(half, generator=generator) * high.t).long())
        moved = jump(x[:half], self._denoise(x[:half], high, vectors[:half]), from_level=high, to_level=low)
        return torch.cat([moved, x[half:]]), self._level(torch.cat([low.t, start.t[half:]]))

    def _seen_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Luminance of latent noise [B, C, h, w] in pixels of a picture in [0, 1]: [B, 1, H, W]."""
        patches = F.conv2d(noise, self.codec.reconstruct.weight) / 2
        return luminance(self.codec.unpatch(patches))

    def _denoise(self, x: torch.Tensor, level: Level, vectors: torch.Tensor) -> Denoised:
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            output = predict(self.networks.unet, x, level.t.to(self.device), vectors)
        return to_x0_eps(output.float(), x, alpha=level.alpha, sigma=level.sigma, kind=PREDICTION)

    def _level(self, t: torch.Tensor) -> Level:
        return Level(id=t, t=t, alpha=self.schedule.alphas[t], sigma=self.schedule.sigmas[t])

    def _check_finite(self, metrics: dict[str, float]) -> None:
        for name in ("loss/total", "grad/norm"):
            if not math.isfinite(metrics[name]):
                raise NumericsError(
                    f"{name} is not finite",
                    where=f"step {self.step}",
                    got=metrics[name],
                    hint="a lower --set train.learning_rate=..., with --overwrite to begin anew",
                )

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that resuming needs, as named tensors."""
        return state_of(self._named_tensors(), self.ema, self.optimizer, step=self.step)

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from `state()` of an earlier run with the same networks.

        Raises:
            StdcliError: it is of another run, or of another version of this program.
        """
        self.step = restore_state(state, self._named_tensors(), self.ema, self.optimizer)
