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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F

from stdcli.diffusion.colors import match_colors
from stdcli.diffusion.levels import Level
from stdcli.diffusion.predictions import Denoised, PredictionType, to_x0_eps
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.solvers import jump, start_state
from stdcli.models.patch_autoencoder import PatchAutoencoder
from stdcli.runtime.seeding import fold
from stdcli.teacher.networks import StylizerNetworks, encode_style, predict
from stdcli.teacher.painting import luminance, paint, stroke_strength
from stdcli.teacher.painting_losses import content_distance, fidelity_loss, texture_distance
from stdcli.teacher.pairs import StylePairBatch
from stdcli.teacher.teacher_training import TOTAL
from stdcli.training.train_step import Loss

P_DROP_STYLE = 0.1
LOWEST_START_T = 20
START_BIAS = 1.5
CONTENT_WEIGHT = 3.0
FIDELITY_WEIGHT = 0.15
EXACT_SHARE = 4  # one in so many photos is also decoded from its exact latents, which should stay faithful
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
class DenoiserTask:
    """A `teacher_training.TeacherTask`.

    Attributes:
        networks: trained in place.
        codec: its refinement is trained in place; its linear part is not.
        pairs: source of data.
        schedule: VP noise schedule with 1000 steps.
        texture_weight: of the texture distance; more means livelier strokes, not quite where they should be.
        batch_size: pairs per step.
        seed: of timesteps, noise, filters and style dropping.
        device: where the networks are.
        autocast: dtype of the UNet's matrix products; None leaves it at float32. The loss is float32 always.
    """

    networks: StylizerNetworks
    codec: PatchAutoencoder
    pairs: PairSource
    schedule: NoiseSchedule
    texture_weight: float
    batch_size: int
    seed: int
    device: torch.device
    autocast: torch.dtype | None = None
    helpers: ClassVar = frozenset()

    def __post_init__(self) -> None:
        self.codec.requires_grad_(False)
        self.codec.refine.requires_grad_(True)
        self.modules = self.networks.modules() | {"refine": self.codec.refine}
        self._painted: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def losses(self, number: int) -> Iterator[Loss]:
        """The total; reported are its unweighted parts `loss/content`, `loss/texture`, `loss/fidelity`."""
        began_s = time.perf_counter()
        batch = self.pairs.batch(number, self.batch_size)
        data_wait_ms = (time.perf_counter() - began_s) * 1e3
        parts = self._losses(batch, number)
        total = parts.pop(TOTAL)
        metrics = {f"loss/{name}": part.detach().reshape(1) for name, part in parts.items()}
        yield Loss(TOTAL, total, metrics | {"time/data_wait_ms": total.new_tensor([data_wait_ms])})

    def _losses(self, batch: StylePairBatch, step: int) -> dict[str, torch.Tensor]:
        """The total and its parts, scalars."""
        generator = fold(self.seed, "denoiser", step)
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
        return {TOTAL: total, "content": content, "texture": texture, "fidelity": fidelity}

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
