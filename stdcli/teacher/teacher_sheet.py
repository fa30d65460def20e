"""A sheet of photos in styles, made the same way at every step of a run, so that progress shows.

The way is that of `stdcli stylize`: encode, give the latents the style's statistics, add one fixed noise,
walk the planned levels with guidance, decode. It knows nothing of training.

Legend: P photos, S styles, H W pixels, h w latent cells, C latent channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stdcli.config.recipe import Recipe
from stdcli.diffusion.colors import match_colors
from stdcli.diffusion.guidance import guide
from stdcli.diffusion.levels import Level, LevelError, SamplingPath, make_sampling_path
from stdcli.diffusion.noise import make_noise
from stdcli.diffusion.predictions import Denoised, to_x0_eps
from stdcli.diffusion.sample import sample, start_state
from stdcli.diffusion.schedule import NoiseSchedule
from stdcli.diffusion.statistics import match_statistics
from stdcli.errors import ConfigError
from stdcli.media.tensors import to_uint8
from stdcli.models.painter_unet import sees_photo
from stdcli.teacher.denoiser_task import PREDICTION
from stdcli.teacher.networks import SmallCodec, StylizerNetworks, encode_style, predict

NOISE_ID = 0  # one noise for every picture, as in stylize


def plan_samples(recipe: Recipe, schedule: NoiseSchedule) -> SamplingPath:
    """The levels that a recipe visits.

    Raises:
        ConfigError: it fits no path of levels.
    """
    try:
        return make_sampling_path(schedule, **recipe.path())
    except LevelError as error:
        raise ConfigError("the recipe fits no path", [("recipe", str(error))]) from error


@dataclass(frozen=True)
class TeacherSheet:
    """What is drawn, and how.

    Attributes:
        photos: float32 [P, 3, H, W] in [-1, 1].
        styles: float32 [S, 3, H, W] in [-1, 1].
        codec: fitted codec.
        schedule: of the denoiser.
        recipe: start, guidance and sampler.
        path: levels of the recipe.
        seed: of the noise.
    """

    photos: Tensor
    styles: Tensor
    codec: SmallCodec
    schedule: NoiseSchedule
    recipe: Recipe
    path: SamplingPath
    seed: int

    @torch.no_grad()
    def render(self, networks: StylizerNetworks) -> np.ndarray:
        """Styles in the first row, photos in the first column, results between.

        Returns:
            uint8 [(P + 1) H, (S + 1) W, 3].

        Raises:
            NumericsError: a state became NaN or infinite.
        """
        device = next(networks.unet.parameters()).device
        styles = self.styles.to(device)
        vectors = encode_style(networks.style_encoder, styles)
        rows = [torch.cat([torch.ones_like(self.styles[:1]), self.styles])]
        for photo in self.photos:
            results = self._stylize(networks, photo[None].to(device), styles, vectors)
            rows.append(torch.cat([photo[None], results.cpu()]))
        sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
        return to_uint8(sheet[None])[0]

    def _stylize(self, networks: StylizerNetworks, photo: Tensor, styles: Tensor, vectors: Tensor) -> Tensor:
        photos = photo.expand(len(styles), -1, -1, -1)
        if self.recipe.start.transform == "colours":
            photos = match_colors(photos.cpu() / 2 + 0.5, self.styles / 2 + 0.5).to(photo) * 2 - 1
        latents = self.codec.encode(photos).latents
        if self.recipe.start.transform == "adain":
            latents = match_statistics(latents, self.codec.encode(styles).latents)

        def make_step_noise(step: int | None) -> Tensor:
            noise = make_noise(latents.shape[1:], self.seed, NOISE_ID, step=step)
            return noise.to(latents.device).expand_as(latents)

        concat_latents = latents if sees_photo(networks.unet) else None
        state = sample(
            lambda x, level: self._denoise(networks, x, level, vectors, concat_latents),
            start_state(latents, make_step_noise(None), self.path.levels[0]),
            self.path,
            schedule=self.schedule,
            sampler=self.recipe.sampler,
            gamma=self.recipe.gamma,
            make_step_noise=make_step_noise,
        )
        return self.codec.decode(state).sample

    def _denoise(
        self,
        networks: StylizerNetworks,
        x: Tensor,
        level: Level,
        style: Tensor,
        concat_latents: Tensor | None,
    ) -> Denoised:
        if self.recipe.guidance == 1:
            output = predict(networks.unet, x, _times(x, level), style, concat_latents)
        else:
            both = torch.cat([x, x])
            vectors = torch.cat([style, torch.zeros_like(style)])
            seen = None if concat_latents is None else torch.cat([concat_latents, concat_latents])
            cond, uncond = predict(networks.unet, both, _times(both, level), vectors, seen).chunk(2)
            output = guide(cond, uncond, self.recipe.guidance)
        return to_x0_eps(output, x, alpha=level.alpha, sigma=level.sigma, kind=PREDICTION)


def _times(x: Tensor, level: Level) -> Tensor:
    return torch.full((len(x),), level.t, device=x.device)
