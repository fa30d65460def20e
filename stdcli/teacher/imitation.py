"""Train a conditional painter: a diffusion of paintings by a network that sees the photo beside the noise.

The state is a noised painting; the photo's clean latents are further input channels (Brooks et al. 2023,
"InstructPix2Pix", section 3.2), the style is a vector, scaled by how much of it is asked for. The loss
is the squared error of v on latents (Salimans and Ho 2022) in units of the one that the best linear estimate
has at that noise, so that all noise weighs the same (Karras et al. 2022, section 5), and one of the style
encoder: its vector has to foretell what the artwork's features are like (`StyleStatistics.moments`), which a
stroke's share in the loss of v teaches only slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.runtime.seeding import fold
from stdcli.teacher.lessons import Lesson
from stdcli.teacher.networks import StylizerNetworks, encode_style, predict
from stdcli.teacher.teacher_training import TOTAL
from stdcli.training.train_step import Loss

FORETELL_WEIGHT = 0.1
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
class ImitationTask:
    """A `teacher_training.TeacherTask`.

    Attributes:
        networks: trained in place; the UNet sees the photo.
        codec: fitted, not trained.
        lessons: source of data.
        schedule: VP noise schedule.
        statistics: float32 [N, D], what the style encoder should foretell of artworks, each column of unit
            variance; N may be 0.
        batch_size: items per step.
        seed: of timesteps and noise.
        device: where the networks are.
        autocast: dtype of the UNet's matrix products; None leaves it at float32.
    """

    networks: StylizerNetworks
    codec: LatentCodec
    lessons: LessonSource
    schedule: NoiseSchedule
    statistics: torch.Tensor
    batch_size: int
    seed: int
    device: torch.device
    autocast: torch.dtype | None = None
    helpers: ClassVar = frozenset({"foretell"})

    def __post_init__(self) -> None:
        width = self.networks.style_encoder.config.projection_dim
        self.foretell = torch.nn.Linear(width, self.statistics.shape[1]).to(self.device)
        torch.nn.init.zeros_(self.foretell.weight)
        torch.nn.init.zeros_(self.foretell.bias)
        self.modules = self.networks.modules() | {"foretell": self.foretell}

    def losses(self, number: int) -> Iterator[Loss]:
        """The total; reported are `loss/v` (1 is the best linear estimate's), also by bands of noise from low
        to high (if a batch has two items for each), and `loss/foretell`."""
        parts = self._losses(self.lessons.batch(number, self.batch_size), number)
        total = parts.pop(TOTAL)
        yield Loss(TOTAL, total, {f"loss/{name}": part.detach().reshape(1) for name, part in parts.items()})

    def _losses(self, lesson: Lesson, step: int) -> dict[str, torch.Tensor]:
        """The total and its parts, scalars."""
        generator = fold(self.seed, "imitation", step)
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
        losses = {TOTAL: v + FORETELL_WEIGHT * foretold, "v": v, "foretell": foretold}
        if count >= 2 * BANDS:  # of which each holds one at least
            bands = (t * BANDS).div(len(self.schedule.alphas), rounding_mode="floor").to(self.device)
            losses |= {f"band{band}": errors[bands == band].mean() for band in range(BANDS)}
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
