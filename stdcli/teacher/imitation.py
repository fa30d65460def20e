"""Train a conditional painter: a diffusion of paintings by a network that sees the photo beside the noise.

The state is a noised painting; the photo's clean latents are further input channels (Brooks et al. 2023,
"InstructPix2Pix", section 3.2), the style is a vector, scaled by how much of it is asked for. The loss
is the squared error of v on latents (Salimans and Ho 2022) in units of the one that the best linear estimate
has at that noise, so that all noise weighs the same (Karras et al. 2022, section 5), and one of the style
encoder: its vector has to foretell what the artwork's features are like (`StyleStatistics.moments`), which a
stroke's share in the loss of v teaches only slowly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.errors import NumericsError
from stdcli.runtime.seeding import fold
from stdcli.teacher.lessons import Lesson
from stdcli.teacher.networks import StylizerNetworks, encode_style, predict
from stdcli.teacher.trained_state import restore_state, state_of
from stdcli.training.ema import Ema

FORETELL_WEIGHT = 0.1
MAX_GRAD_NORM = 1.0
BANDS = 4  # of the noise range, in which the loss is reported


class LessonSource(Protocol):
    """What the trainer learns from; batch n is always the same."""

    def batch(self, step: int, batch_size: int) -> Lesson:
        """Batch number `step`, of `batch_size` items."""


class LatentCodec(Protocol):
    """What makes latents of pictures."""

    def encode(self, x: torch.Tensor):
        """Output whose `latents` are [B, C, h, w]."""


@dataclass
class ImitationTrainer:
    """State of one training run: networks, optimiser, average, step.

    Attributes:
        networks: trained in place; the UNet sees the photo.
        codec: fitted, not trained.
        lessons: source of data.
        schedule: VP noise schedule.
        statistics: float32 [N, D], what the style encoder should foretell of artworks, each column of unit
            variance; N may be 0.
        learning_rate: AdamW's after warm-up.
        total_steps: where the learning rate reaches zero.
        cooldown_steps: the last steps, over which it falls linearly.
        batch_size: items per step.
        ema_decay: of the averaged weights.
        seed: of timesteps and noise.
        device: where the networks are.
        warmup_steps: the first steps, over which the learning rate rises linearly.
        autocast: dtype of the UNet's matrix products; None leaves it at float32.
        step: steps taken so far.
    """

    networks: StylizerNetworks
    codec: LatentCodec
    lessons: LessonSource
    schedule: NoiseSchedule
    statistics: torch.Tensor
    learning_rate: float
    total_steps: int
    cooldown_steps: int
    batch_size: int
    ema_decay: float
    seed: int
    device: torch.device
    warmup_steps: int = 100
    autocast: torch.dtype | None = None
    step: int = 0
    foretell: torch.nn.Linear = field(init=False)

    def __post_init__(self) -> None:
        width = self.networks.style_encoder.config.projection_dim
        self.foretell = torch.nn.Linear(width, self.statistics.shape[1]).to(self.device)
        torch.nn.init.zeros_(self.foretell.weight)
        torch.nn.init.zeros_(self.foretell.bias)
        self._parameters = [*self.networks.parameters(), *self.foretell.parameters()]
        self.ema = Ema(self.networks.named_tensors(), decay=self.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self._parameters, lr=self.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )

    def lr(self) -> float:
        """Learning rate of the current step: linear warm-up, constant, linear cool-down."""
        warm = min(1.0, (self.step + 1) / max(1, self.warmup_steps))
        cool = min(1.0, (self.total_steps - self.step) / max(1, self.cooldown_steps))
        return self.learning_rate * warm * cool

    def train_step(self) -> dict[str, float]:
        """One optimiser step.

        Returns:
            `loss/total`, `loss/v` (1 is the best linear estimate's), `loss/foretell`, that of v by bands of
            noise from low to high (if a batch has two for each), `grad/norm` before clipping, `lr`.

        Raises:
            NumericsError: the loss or a gradient is not finite; the weights are as before the step.
        """
        losses = self._losses(self.lessons.batch(self.step, self.batch_size))
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss/total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        metrics = {name: loss.item() for name, loss in losses.items()}
        metrics |= {"grad/norm": norm.item(), "lr": self.lr()}
        for name in ("loss/total", "grad/norm"):
            if not math.isfinite(metrics[name]):
                raise NumericsError(
                    f"{name} is not finite",
                    where=f"step {self.step}",
                    got=metrics[name],
                    hint="a lower --set train.learning_rate=..., with --overwrite to begin anew",
                )
        for group in self.optimizer.param_groups:
            group["lr"] = metrics["lr"]
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return metrics

    def _losses(self, lesson: Lesson) -> dict[str, torch.Tensor]:
        generator = fold(self.seed, "imitation", self.step)
        count = len(lesson.shown)
        t = self._draw_times(count, generator)
        with torch.no_grad():
            concat_latents = self.codec.encode(lesson.shown.to(self.device) * 2 - 1).latents
            clean = self.codec.encode(lesson.targets.to(self.device) * 2 - 1).latents
            noise = torch.randn(clean.shape, generator=generator).to(self.device)
            alpha, sigma = (
                table[t].float().view(-1, 1, 1, 1).to(self.device)
                for table in (self.schedule.alphas, self.schedule.sigmas)
            )
            x, target = alpha * clean + sigma * noise, alpha * noise - sigma * clean
        vectors = encode_style(self.networks.style_encoder, lesson.styles.to(self.device) * 2 - 1)
        seen = vectors[lesson.style_of.to(self.device)] * lesson.amounts[:, None].to(self.device)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            output = predict(self.networks.unet, x, t.to(self.device), seen, concat_latents)
        errors = (output.float() - target).square().mean((1, 2, 3)) / self._linear_errors(t)
        foretold = self._foretell_loss(vectors, lesson.sources)
        v = errors.mean()
        losses = {"loss/total": v + FORETELL_WEIGHT * foretold, "loss/v": v, "loss/foretell": foretold}
        if count >= 2 * BANDS:  # of which each holds one at least
            bands = (t * BANDS).div(len(self.schedule.alphas), rounding_mode="floor").to(self.device)
            losses |= {f"loss/band{band}": errors[bands == band].mean() for band in range(BANDS)}
        return losses

    def _linear_errors(self, t: Tensor) -> Tensor:
        """Squared error of v of the best linear estimate, mean over channels: [B]."""
        alpha, sigma = (
            table[t].float().view(-1, 1) for table in (self.schedule.alphas, self.schedule.sigmas)
        )
        variances = self.networks.unet.variances.cpu()
        return (variances / (alpha.square() * variances + sigma.square())).mean(1).to(self.device)

    def _draw_times(self, count: int, generator: torch.Generator) -> Tensor:
        """One time out of each of `count` equal parts of the schedule, in random order: int64 [count]."""
        share = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        order = torch.randperm(count, generator=generator)
        return (share * len(self.schedule.alphas)).long().clamp(max=len(self.schedule.alphas) - 1)[order]

    def _foretell_loss(self, vectors: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        """Squared error of what the vectors say of their artworks, of those that are known."""
        known = sources >= 0
        if not known.any():
            return vectors.new_zeros(())
        predicted = self.foretell(vectors[known.to(self.device)])
        return F.mse_loss(predicted, self.statistics[sources[known]].to(self.device))

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that resuming needs, as named tensors."""
        return state_of(self._named_tensors(), self.ema, self.optimizer, step=self.step)

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from `state()` of an earlier run with the same networks.

        Raises:
            StdcliError: it is of another run, or of another version of this program.
        """
        self.step = restore_state(state, self._named_tensors(), self.ema, self.optimizer)

    def _named_tensors(self) -> dict[str, torch.Tensor]:
        foretell = {f"foretell.{k}": v for k, v in self.foretell.state_dict().items()}
        return self.networks.named_tensors() | foretell


@torch.no_grad()
def measure_variances(codec: LatentCodec, lessons: LessonSource, *, batches: int, batch_size: int) -> Tensor:
    """Variances of painted latents less those shown, per channel: float32 [C]; of what asks for all of it."""
    sums, count = None, 0
    for step in range(batches):
        lesson = lessons.batch(step, batch_size)
        full = lesson.amounts == 1
        painted, shown = (codec.encode(part[full] * 2 - 1).latents for part in (lesson.targets, lesson.shown))
        square = (painted - shown).double().square().mean((2, 3)).sum(0)
        sums, count = square if sums is None else sums + square, count + int(full.sum())
    return (sums / max(1, count)).clamp(min=1e-6).float()


def principal_statistics(moments: torch.Tensor, *, kept: int) -> torch.Tensor:
    """First principal components of artworks' moments [N, D]: float32 [N, kept], each of unit variance."""
    centered = moments.double() - moments.double().mean(0)
    u, s, _ = torch.linalg.svd(centered, full_matrices=False)
    kept = min(kept, len(s))
    return (u[:, :kept] * len(moments) ** 0.5).float()
