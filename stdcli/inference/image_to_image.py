"""The stylizing loop of one model in one style: a batch of pictures in, the same pictures restyled out.

Encode, with the style's colours or statistics, add one fixed noise, walk the planned levels, decode. It
knows nothing of files, sizes or alpha.

Legend: B batch, C latent channels, H W pixels (multiples of the model's), h w latent cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from stdcli.diffusion.levels import Level
from stdcli.diffusion.masks import LatentBlend, shrink_mask
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.predictions import Denoised
from stdcli.diffusion.sample import sample, target_levels
from stdcli.diffusion.solvers import start_state
from stdcli.inference.settings import SamplingSettings
from stdcli.models.bundle import Bundle
from stdcli.models.condition import Condition
from stdcli.models.start import Measured, encode_towards

FRAME_ID = 0  # every picture and frame starts from the same noise: steady video, and batching changes nothing


@dataclass(frozen=True)
class ImageToImage:
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
        tell: told before each evaluation which one it is, and of the codec's work; None tells nobody.
    """

    bundle: Bundle
    settings: SamplingSettings
    condition: Condition
    unconditional: Condition | None
    style_statistics: Measured | None
    seed: int
    content_statistics: Measured | None = None
    tell: Callable[[str], None] | None = None

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Restyle a batch, or only a part of each picture.

        Args:
            pixels: [B, 3, H, W] in [-1, 1], on the CPU, H and W multiples of `bundle.multiple_px`.
            mask: [B, 1, H, W], 1 where to repaint; outside it pixels come back about as they were. A network
                that sees masks needs one.

        Returns:
            [B, 3, H, W] float32 on the CPU, about [-1, 1].

        Raises:
            NumericsError: a state became NaN or infinite.
        """
        bundle, settings = self.bundle, self.settings
        sampling = {
            "schedule": bundle.network.schedule,
            "sampler": settings.recipe.sampler,
            "gamma": settings.recipe.gamma,
        }
        targets = dict(zip(settings.plan.levels[:-1], target_levels(settings.plan, **sampling), strict=True))
        self._say("encoding")
        latents = encode_towards(
            bundle.codec,
            pixels,
            self.style_statistics,
            content=self.content_statistics,
            device=bundle.network.device,
        )
        noise, keep = self._noise(latents), None
        concat_latents = latents if bundle.network.denoiser.sees_photo else None
        if mask is not None and bundle.network.denoiser.sees_mask:
            concat_latents = self._concat_latents(pixels, mask, latents)
        elif mask is not None:
            known = bundle.codec.encode(pixels.to(bundle.network.device))
            cells = shrink_mask(mask.to(known), known.shape[-2:])
            keep = LatentBlend(known, noise, cells, settings.plan.evaluations)
        state = sample(
            lambda x, level: self._denoise(x, level, targets[level], concat_latents=concat_latents),
            start_state(latents, noise, settings.plan.levels[0]),
            settings.plan,
            make_step_noise=lambda step: self._noise(latents, step=step),
            on_step=keep,
            **sampling,
        )
        self._say("decoding")
        return bundle.codec.decode(state).float().cpu()

    def _say(self, what: str) -> None:
        if self.tell is not None:
            self.tell(what)

    def _noise(self, latents: torch.Tensor, *, step: int | None = None) -> torch.Tensor:
        noise = make_noise((1, *latents.shape[1:]), self.seed, FRAME_ID, step=step)
        return noise.to(latents).expand_as(latents)

    def _concat_latents(
        self, pixels: torch.Tensor, mask: torch.Tensor, latents: torch.Tensor
    ) -> torch.Tensor:
        """What a network that sees masks is shown: the mask, and what it leaves; [B, 1 + C, h, w].

        Source: diffusers' inpainting pipelines, whose masked picture is grey where it is to be repainted.
        """
        left = self.bundle.codec.encode((pixels * (mask < 0.5)).to(self.bundle.network.device))
        return torch.cat([shrink_mask(mask.to(latents), latents.shape[-2:]), left], dim=1)

    def _denoise(
        self, x: torch.Tensor, level: Level, to_level: Level, *, concat_latents: torch.Tensor | None
    ) -> Denoised:
        plan = self.settings.plan
        self._say(f"step {plan.levels.index(level) + 1} of {plan.evaluations}")
        guidance = self.settings.recipe.guidance
        conditions = [self.condition, self.unconditional]
        if concat_latents is not None:
            conditions = [c and replace(c.expand(len(x)), concat_latents=concat_latents) for c in conditions]
        return self.bundle.network.denoise(x, level, *conditions, guidance=guidance, to_level=to_level)
