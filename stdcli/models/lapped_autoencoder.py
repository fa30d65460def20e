"""A latent codec whose patches overlap: a lapped linear transform, decoded with a correction in stages.

Each latent cell sees a window of 2 x 2 cells through its own set of filters, and the linear reconstruction
adds up windows of the same size, so no seam runs along the borders of cells. The correction goes from the
latent grid to full size in doublings, at each of which it sees the linear reconstruction at that size. The
filters are fitted in `stdcli/teacher/lapped.py`. The class has the interface that diffusers' pipelines expect
of an autoencoder. It knows nothing of training, files or styles.

Legend: B batch, C latent channels, H W pixels, h w latent cells (h = H / 8).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

CELL_PX = 8
WINDOW_PX = 2 * CELL_PX
MARGIN_PX = (WINDOW_PX - CELL_PX) // 2


class LappedAutoencoder(ModelMixin, ConfigMixin):
    """Lapped linear codec with a convolutional refinement of the decoded picture.

    encode: z = E x + e over windows of 16 pixels every 8, the picture mirrored at its border;
    decode: x = D z + d + R(z, D z + d).

    Args:
        in_channels: picture channels, 3.
        latent_channels: filters per window, C.
        widths: channels of the refinement R at 1/8, 1/4, 1/2 and full size.
        scaling_factor: latents given to a denoiser are z * scaling_factor (diffusers' convention).
        force_upcast: False; the codec is safe in half precision. Read by diffusers' pipelines.
        block_out_channels: only its length matters: pipelines derive the factor as 2 ** (len - 1).
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 48,
        widths: tuple[int, ...] = (96, 64, 32, 16),
        scaling_factor: float = 1.0,
        force_upcast: bool = False,
        block_out_channels: tuple[int, ...] = (1, 1, 1, 1),
    ):
        super().__init__()
        if 2 ** (len(block_out_channels) - 1) != CELL_PX:
            raise ValueError(f"block_out_channels must have log2({CELL_PX}) + 1 entries")
        self.project = nn.Conv2d(in_channels, latent_channels, WINDOW_PX, stride=CELL_PX)
        self.reconstruct = nn.ConvTranspose2d(
            latent_channels, in_channels, WINDOW_PX, stride=CELL_PX, bias=False
        )
        self.mean = nn.Parameter(torch.zeros(in_channels))
        self.refine = _Refinement(in_channels, latent_channels, tuple(widths))

    def encode(self, x: torch.Tensor, return_dict: bool = True):
        """Filter pictures into latents.

        Args:
            x: [B, 3, H, W] in [-1, 1]; H and W multiples of 8.
            return_dict: diffusers' convention; False gives a one-tuple.

        Returns:
            Output whose `latents` are [B, C, h, w], not scaled.
        """
        latents = self.project(F.pad(x, (MARGIN_PX,) * 4, mode="reflect"))
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)

    def decode(self, z: torch.Tensor, generator: torch.Generator | None = None, return_dict: bool = True):
        """Rebuild pictures from unscaled latents.

        Args:
            z: [B, C, h, w].
            generator: accepted because pipelines pass one; decoding is deterministic.
            return_dict: diffusers' convention; False gives a one-tuple.

        Returns:
            Output whose `sample` is [B, 3, H, W], about [-1, 1], not clamped.
        """
        linear = self.decode_linear(z)
        sample = linear + self.refine(z, linear)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def decode_linear(self, z: torch.Tensor) -> torch.Tensor:
        """The linear part of `decode`: [B, 3, H, W]. Beyond the border latents repeat."""
        overlapping = self.reconstruct(F.pad(z, (1, 1, 1, 1), mode="replicate"))
        cut = CELL_PX + MARGIN_PX
        return overlapping[..., cut:-cut, cut:-cut] + self.mean[:, None, None]

    def forward(self, x: torch.Tensor, return_dict: bool = True):
        """Encode and decode pictures [B, 3, H, W]; see `encode` and `decode`."""
        return self.decode(self.encode(x).latents, return_dict=return_dict)


class _Refinement(nn.Module):
    """What to add to the linear reconstruction, from the latent grid up to full size."""

    def __init__(self, in_channels: int, latent_channels: int, widths: tuple[int, ...]):
        super().__init__()
        if 2 ** (len(widths) - 1) != CELL_PX:
            raise ValueError(f"widths must have log2({CELL_PX}) + 1 entries")
        before = (latent_channels, *widths[:-1])
        self.enter = nn.ModuleList(
            nn.Conv2d(b + in_channels, w, 3, padding=1) for b, w in zip(before, widths, strict=True)
        )
        self.stay = nn.ModuleList(nn.Conv2d(w, w, 3, padding=1) for w in widths)
        self.leave = nn.Conv2d(widths[-1], in_channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
        """[B, 3, H, W] from latents [B, C, h, w] and their linear reconstruction [B, 3, H, W]."""
        x = z
        for stage, (enter, stay) in enumerate(zip(self.enter, self.stay, strict=True)):
            if stage:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            seen = F.avg_pool2d(linear, CELL_PX >> stage)
            x = F.silu(enter(torch.cat([x, seen], dim=1)))
            x = x + F.silu(stay(x))
        return self.leave(x)
