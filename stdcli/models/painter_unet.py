"""A UNet that sees the photo: what is known without it is worked out, and it says the rest.

Its input is the noisy state x and beside it the photo's clean latents c. A painting y differs from them by so
much per channel (variances d) that, given both, its best linear estimate is

    y* = c + a d (x - a c) / (a^2 d + s^2),   a, s: the state's scales of signal and noise.

The network sees the difference x - a c and the photo, and predicts how v is off from that of y*, all in units
of the deviations that these have: the preconditioning of Karras et al. 2022, "Elucidating the design space of
diffusion models", section 5, around a photo instead of nothing. To pipelines it is a UNet that predicts v.

Legend: B batch, C latent channels, h w latent cells.
"""

from __future__ import annotations

from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from diffusers import DDIMScheduler, ModelMixin, UNet2DConditionModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

LOWEST, HIGHEST = 0.03, 2.0
"""Noise over signal at the first and the last time; between them it rises geometrically."""
TIMES = 1000
RANGE = 4.0
"""What the photo is divided by before it is looked at: about the deviation of its strongest component."""


# diffusers loads a class only out of a module that names ModelMixin too, as the functions below do
class PainterUNet(UNet2DConditionModel):
    """diffusers' UNet around the best linear estimate; arguments are diffusers' own.

    Attributes:
        variances: [C], of paintings' latents less the photos'; set from data before training.
    """

    @wraps(UNet2DConditionModel.__init__)
    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.register_buffer("variances", torch.ones(self.config.out_channels))

    def forward(self, sample: Tensor, timestep: Tensor | float | int, *args: Any, **settings: Any):
        """Predict v.

        Args:
            sample: [B, 2 C, h, w], the state and the photo's latents.
            timestep: model time, a number or [B], from 0 to 999.
            args: as of diffusers' UNet, like `settings`.

        Returns:
            As diffusers' UNet; `sample` is [B, C, h, w] float32.
        """
        x, photo = sample.float().chunk(2, dim=1)
        ratio = noise_ratio(torch.as_tensor(timestep).reshape(-1, 1, 1, 1)).to(x)
        alpha = (1 + ratio.square()).rsqrt()
        sigma = ratio * alpha
        variances = self.variances.float().view(1, -1, 1, 1)
        spread = alpha.square() * variances + sigma.square()
        off = x - alpha * photo
        estimate = photo + alpha * variances / spread * off
        seen = torch.cat([off * spread.rsqrt(), photo / RANGE], dim=1)
        settings["return_dict"], as_dict = False, settings.get("return_dict", True)
        (output,) = super().forward(seen.to(self.dtype), timestep, *args, **settings)
        v = (alpha * x - estimate) / sigma + (variances / spread).sqrt() * output.float()
        return UNet2DConditionOutput(sample=v) if as_dict else (v,)


def sees_photo(unet: ModelMixin) -> bool:
    """Whether a network is shown the photo at every step."""
    return isinstance(unet, PainterUNet)


def noise_ratio(t: Tensor) -> Tensor:
    """Noise over signal at model times: float64, the shape of `t`."""
    return LOWEST * (HIGHEST / LOWEST) ** (t.double() / (TIMES - 1))


def make_wide_scheduler() -> DDIMScheduler:
    """Noise whose sigma / alpha rises geometrically from 0.03 to 2, for a network that predicts v.

    So much of it that strokes are drawn out of noise; a network that sees the photo beside it loses nothing.
    """
    bars = (1 / (1 + noise_ratio(torch.arange(TIMES)).square())).tolist()
    return DDIMScheduler(
        num_train_timesteps=TIMES,
        trained_betas=[1 - after / before for before, after in pairwise([1.0, *bars])],
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        timestep_spacing="trailing",
    )
