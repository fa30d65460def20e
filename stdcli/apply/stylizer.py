"""The stylizing loop of one model in one style: a batch of pictures in, the same pictures restyled out.

Encode, with the style's colours or statistics, add one fixed noise, walk the planned levels, decode. It
knows nothing of files, sizes or alpha.

Legend: B batch, C latent channels, H W pixels (multiples of the model's), h w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stdcli.apply.settings import Settings
from stdcli.diffusion.levels import Level
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.sample import sample, step_targets
from stdcli.diffusion.solvers import start_state
from stdcli.models.bundle import Bundle, Condition
from stdcli.models.start import Measured, encode_towards

FRAME_ID = 0  # every picture and frame starts from the same noise: steady video, and batching changes nothing


@dataclass(frozen=True)
class Stylizer:
    """A model, a style and settings, ready to run.

    Attributes:
        bundle: the model.
        settings: levels, guidance, sampler.
        condition: prompt and style.
        unconditional: for guidance; None when it is off.
        style_statistics: of the style's latents or colours, for matching them; None when that is off.
        seed: of the noise.
        content_statistics: of the kind of `style_statistics`, of a whole clip: one map for all its frames.
            None: every picture is matched by its own.
    """

    bundle: Bundle
    settings: Settings
    condition: Condition
    unconditional: Condition | None
    style_statistics: Measured | None
    seed: int
    content_statistics: Measured | None = None

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Restyle a batch.

        Args:
            pixels: [B, 3, H, W] in [-1, 1], on the CPU, H and W multiples of `bundle.multiple_px`.

        Returns:
            [B, 3, H, W] float32 on the CPU, about [-1, 1].

        Raises:
            NumericsError: a state became NaN or infinite.
        """
        bundle, settings = self.bundle, self.settings
        sampling = {
            "schedule": bundle.schedule,
            "sampler": settings.recipe.sampler,
            "gamma": settings.recipe.gamma,
        }
        aims = dict(zip(settings.plan.levels[:-1], step_targets(settings.plan, **sampling), strict=True))
        latents = encode_towards(
            bundle.codec,
            pixels,
            self.style_statistics,
            content=self.content_statistics,
            device=bundle.device,
        )
        noise = self._noise(latents)
        state = sample(
            lambda x, level: self._denoise(x, level, aims[level]),
            start_state(latents, noise, settings.plan.levels[0]),
            settings.plan,
            make_step_noise=lambda step: self._noise(latents, step=step),
            **sampling,
        )
        return bundle.codec.decode(state).float().cpu()

    def _noise(self, latents: torch.Tensor, *, step: int | None = None) -> torch.Tensor:
        noise = make_noise((1, *latents.shape[1:]), self.seed, FRAME_ID, step=step)
        return noise.to(latents).expand_as(latents)

    def _denoise(self, x: torch.Tensor, level: Level, to_level: Level) -> Denoised:
        guidance = self.settings.recipe.guidance
        conditions = (self.condition, self.unconditional)
        return self.bundle.denoise(x, level, *conditions, guidance=guidance, to_level=to_level)
