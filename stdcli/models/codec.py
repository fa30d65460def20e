"""Latent codec: pictures to the latents a denoiser works on, and back.

Hides the autoencoder's class, its scaling and shift, and its dtype: weights stay in float32 where half
precision overflows (SDXL's decoder in float16) or would show. Knows nothing of schedules or prompts.

Legend: B batch, C latent channels, h w latent cells, H W pixels; h = H / factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stdcli.errors import ModelError, NumericsError

SMALL_CODEC = (
    10_000_000  # parameters; below this float32 costs little and bfloat16's 8 bits would show in pixels
)
UNTILED_PX = 2**21
"""Pixels of a picture that are coded in one piece, such as 1920 x 1080. Stable Diffusion's decoder takes 3.6
GiB per million of them in float32 (measured on a CPU, sides of 256 to 512 pixels), so about 8 GiB here."""


def codec_dtype(dtype: torch.dtype, *, num_parameters: int) -> torch.dtype:
    """The dtype of an autoencoder's weights beside a denoiser of the given dtype.

    float16 never: decoders overflow in it. bfloat16 has the range, and saves memory for large autoencoders.
    """
    return dtype if dtype == torch.bfloat16 and num_parameters > SMALL_CODEC else torch.float32


class Codec:
    """An autoencoder in diffusers' form.

    Args:
        vae: AutoencoderKL, AutoencoderTiny or PatchAutoencoder.
        factor: pixels of a latent cell's side.
        notes: list that takes what the user should know, shared with the bundle.
    """

    def __init__(self, vae: torch.nn.Module, *, factor: int, notes: list[str]) -> None:
        self.vae = vae
        self.factor = factor
        self.scaling, self.shift = _scale_and_shift(vae.config)
        self._notes = notes
        size = sum(p.numel() for p in vae.parameters())
        self._can_tile = size > SMALL_CODEC and hasattr(vae, "enable_tiling")
        self._tiled = self._told = False

    def encode(self, pixels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Encode pictures: z = (latent - shift) * scaling, for each channel where the config has statistics.

        Pictures of more than `UNTILED_PX` go through large codecs one by one and in tiles; `decode` alike.

        Args:
            pixels: [B, 3, H, W] in [-1, 1], H and W multiples of `factor`.
            generator: draws from the posterior; None takes its mode, which needs no randomness.

        Returns:
            Latents [B, C, h, w], float32.

        Raises:
            NumericsError: a latent is NaN or infinite.
        """
        self._tile(pixels.shape[-2] * pixels.shape[-1])
        encoded = self.vae.encode(pixels.to(self.vae.dtype))
        if hasattr(encoded, "latent_dist"):
            posterior = encoded.latent_dist
            latents = posterior.mode() if generator is None else posterior.sample(generator)
        else:
            latents = encoded.latents
        z = (latents.float() - _on(self.shift, latents)) * _on(self.scaling, latents)
        if not z.isfinite().all():
            raise NumericsError("the codec encoded a picture to NaN or infinity", got=str(self.vae.dtype))
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Decode latents: picture of z / scaling + shift.

        Where the weights are not float32 and the picture comes out NaN or infinite, they become float32 for
        good and the decoding is repeated; the bundle's notes say so.

        Args:
            z: latents [B, C, h, w], any float dtype.

        Returns:
            Pictures [B, 3, H, W], float32, about [-1, 1], not clamped.

        Raises:
            NumericsError: the latents, or the picture decoded in float32, are NaN or infinite.
        """
        if not z.isfinite().all():
            raise NumericsError(
                "the latents to decode hold NaN or infinity", got=f"{_bad(z)} of {z.numel()} values"
            )
        pixels = self._decode(z)
        if pixels.isfinite().all():
            return pixels
        if self.vae.dtype != torch.float32:
            self._notes.append(
                f"decoding overflowed in {self.vae.dtype}; the codec runs in float32 from here on"
            )
            self.vae.to(torch.float32)
            pixels = self._decode(z)
            if pixels.isfinite().all():
                return pixels
        raise NumericsError("the codec decoded finite latents to NaN or infinity, in float32 too")

    def _tile(self, size_px: int) -> None:
        """Switch tiling on or off as pictures of so many pixels need it."""
        wanted = self._can_tile and size_px > UNTILED_PX
        if wanted == self._tiled:
            return
        if wanted:
            self.vae.enable_tiling()
            self.vae.enable_slicing()
            if not self._told:
                self._notes.append("large pictures are encoded and decoded in tiles, to save memory")
            self._told = True
        else:
            self.vae.disable_tiling()
            self.vae.disable_slicing()
        self._tiled = wanted

    def _decode(self, z: Tensor) -> Tensor:
        self._tile(z.shape[-2] * z.shape[-1] * self.factor**2)
        latents = z.float() / _on(self.scaling, z) + _on(self.shift, z)
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float()


def _scale_and_shift(config: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """What latents are multiplied by and, before that, lessened by: float32 [1 or C, 1, 1].

    With `latents_mean` and `latents_std`, one of each a channel, z = (latent - mean) * scaling / std.

    Raises:
        ModelError: not as many finite numbers as channels, or deviations that are not positive.
    Source: diffusers, StableDiffusionXLPipeline.
    """
    factor, shift = config["scaling_factor"], config.get("shift_factor") or 0.0
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    count = config.get("latent_channels")
    try:
        if (mean is None) != (deviation is None):
            raise ValueError("one of the two alone")
        rows = [[shift], [1.0]] if mean is None else [mean, deviation]
        shifts, deviations = (torch.tensor(row, dtype=torch.float32).view(-1, 1, 1) for row in rows)
        if len(shifts) != len(deviations) or (mean is not None and count not in (None, len(shifts))):
            raise ValueError(f"{len(shifts)} and {len(deviations)} numbers for {count} channels")
        if not (shifts.isfinite().all() and deviations.isfinite().all() and (deviations > 0).all()):
            raise ValueError("a number is not finite, or a deviation not positive")
    except (TypeError, ValueError, RuntimeError) as error:
        what = "cannot read this autoencoder's latents_mean and latents_std"
        raise ModelError(what, got=f"{error}", expected="a finite number for each channel") from error
    return factor / deviations, shifts


def _on(values: Tensor, latents: Tensor) -> Tensor:
    return values.to(latents.device)


def _bad(z: Tensor) -> int:
    return int((~z.isfinite()).sum())
