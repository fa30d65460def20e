"""Where a path begins: a picture's latent, moved towards a style as the model's recipe says.

Legend: B batch, H W pixels (multiples of the model's), C h w latents.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from stdcli.diffusion.colors import ColorStatistics, color_statistics, match_colors
from stdcli.diffusion.statistics import Statistics, channel_statistics, match_statistics
from stdcli.models.codec import Codec

Measured = Statistics | ColorStatistics
Transform = Literal["none", "adain", "colours"]


def measure(codec: Codec, pixels: Tensor, transform: Transform, *, device: torch.device) -> Measured | None:
    """What a transform needs to know of a style, or of content: None for `none`.

    Args:
        codec: encodes, for `adain`.
        pixels: [B, 3, H, W] in [-1, 1]; for `colours` of any size.
        transform: as in `config.recipe.Start`.
        device: of the codec.
    """
    if transform == "none":
        return None
    if transform == "colours":
        return color_statistics(pixels / 2 + 0.5)
    return channel_statistics(codec.encode(pixels.to(device)))


def encode_towards(
    codec: Codec,
    pixels: Tensor,
    style: Measured | None,
    *,
    content: Measured | None = None,
    device: torch.device,
) -> Tensor:
    """Clean latents, moved towards a style.

    Args:
        codec: encodes.
        pixels: [B, 3, H, W] in [-1, 1].
        style: measured by `measure`; None moves nothing.
        content: of the kind of `style`, of a whole clip: one map for all its frames. None: every picture is
            moved by its own.
        device: of the codec.

    Returns:
        [B, C, h, w] float32 on `device`.
    """
    if isinstance(style, ColorStatistics):
        pixels = match_colors(pixels / 2 + 0.5, style, content=content) * 2 - 1
    latents = codec.encode(pixels.to(device))
    return match_statistics(latents, style, content=content) if isinstance(style, Statistics) else latents
