"""The embedded model's latent codec: a linear patch transform with a small learned correction.

Each 8x8 RGB patch is projected on its first principal components (fitted in `stdcli/teacher/codec.py`), so
that low frequencies keep a high signal-to-noise ratio under noise; the decoder adds what neighbouring patches
tell about the components that were dropped, and about what a denoiser got wrong. The class has the interface
that diffusers' pipelines expect of an autoencoder. It knows nothing of training, files or styles.

Legend: B batch, C latent channels, H W pixels, h w latent cells (h = H / patch_size).
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Linear patch codec with a convolutional refinement of the decoded patches.

    encode: z = P (x - mean); decode: x = P^-1 z + mean + R(z), R a few convolutions over the latent grid.

    Args:
        in_channels: picture channels, 3.
        latent_channels: kept components per patch, C.
        patch_size: pixels of a patch's side, the codec's downsampling factor.
        hidden_channels: width of the refinement R.
        hidden_layers: convolutions of R between its first and its last.
        scaling_factor: latents given to a denoiser are z * scaling_factor (diffusers' convention).
        force_upcast: False; the codec is safe in half precision. Read by diffusers' pipelines.
        block_out_channels: only its length matters: pipelines derive the factor as 2 ** (len - 1).
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 48,
        patch_size: int = 8,
        hidden_channels: int = 128,
        hidden_layers: int = 1,
        scaling_factor: float = 1.0,
        force_upcast: bool = False,
        block_out_channels: tuple[int, ...] = (1, 1, 1, 1),
    ):
        super().__init__()
        if 2 ** (len(block_out_channels) - 1) != patch_size:
            raise ValueError(f"block_out_channels must have log2({patch_size}) + 1 entries")
        patch_dim = in_channels * patch_size**2
        self.project = nn.Conv2d(in_channels, latent_channels, patch_size, stride=patch_size)
        self.reconstruct = nn.Conv2d(latent_channels, patch_dim, 1)
        layers: list[nn.Module] = [nn.Conv2d(latent_channels, hidden_channels, 3, padding=1), nn.SiLU()]
        for _ in range(hidden_layers):
            layers += [nn.Conv2d(hidden_channels, hidden_channels, 3, padding=1), nn.SiLU()]
        self.refine = nn.Sequential(*layers, nn.Conv2d(hidden_channels, patch_dim, 3, padding=1))
        self.unpatch = nn.PixelShuffle(patch_size)
        nn.init.zeros_(self.refine[-1].weight)
        nn.init.zeros_(self.refine[-1].bias)

    def encode(self, x: torch.Tensor, return_dict: bool = True):
        """Project pictures on the patch components.

        Args:
            x: [B, 3, H, W] in [-1, 1]; H and W multiples of `patch_size`.
            return_dict: diffusers' convention; False gives a one-tuple.

        Returns:
            Output whose `latents` are [B, C, h, w], not scaled.
        """
        latents = self.project(x)
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
        sample = self.unpatch(self.reconstruct(z) + self.refine(z))
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, x: torch.Tensor, return_dict: bool = True):
        """Encode and decode pictures [B, 3, H, W]; see `encode` and `decode`."""
        return self.decode(self.encode(x).latents, return_dict=return_dict)
