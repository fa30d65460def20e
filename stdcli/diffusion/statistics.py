"""Channel statistics of latents: giving a content's latent the palette of a style's.

Legend: B batch, C latent channels, space: h w of pictures, F h w of clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALLEST_STD = 1e-3
"""Flatter channels (latents are of order 1) count as this flat, so that rounding noise is not blown up."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean and population standard deviation over space, both [B, C, 1, ...], float32 at least."""

    mean: Tensor
    std: Tensor


def channel_statistics(z: Tensor) -> Statistics:
    """Mean and standard deviation of every channel of latents [B, C, *space].

    Source: Huang 2017 (AdaIN) eq. 5 and 6, without the epsilon.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    space = tuple(range(2, z.ndim))
    return Statistics(z.mean(dim=space, keepdim=True), z.std(dim=space, correction=0, keepdim=True))


def mix_statistics(statistics: Sequence[Statistics], weights: Sequence[float]) -> Statistics:
    """Weighted mean of several styles' statistics.

    Args:
        statistics: of S styles.
        weights: S numbers >= 0, not all 0; only their ratios count.

    Raises:
        ValueError: the numbers of styles and weights differ, or the weights are not as described.
    Source: Huang 2017 (AdaIN) eq. 15 (style interpolation).
    """
    total = sum(weights)
    if len(statistics) != len(weights) or not total > 0 or min(weights) < 0:
        raise ValueError(f"{len(statistics)} styles need as many weights >= 0, not all 0; got {weights}")
    shares = [weight / total for weight in weights]
    mean = sum(share * style.mean for share, style in zip(shares, statistics, strict=True))
    std = sum(share * style.std for share, style in zip(shares, statistics, strict=True))
    return Statistics(mean, std)


def pool_statistics(statistics: Sequence[Statistics]) -> Statistics:
    """Statistics of several latents of one size taken together, as if they lay side by side.

    Args:
        statistics: at least one, each of any batch.

    Returns:
        Of batch 1: the mean of the means, and the root of the mean variance plus the variance of the means.

    Raises:
        ValueError: nothing to pool.
    Source: law of total variance.
    """
    if not statistics:
        raise ValueError("no statistics to pool")
    means = torch.cat([latents.mean for latents in statistics])
    variances = torch.cat([latents.std for latents in statistics]).square()
    mean = means.mean(0, keepdim=True)
    variance = (variances + (means - mean).square()).mean(0, keepdim=True)
    return Statistics(mean, variance.sqrt())


def match_statistics(z: Tensor, style: Tensor | Statistics, *, content: Statistics | None = None) -> Tensor:
    """Latents with every channel's mean and standard deviation moved to the style's (AdaIN).

    Args:
        z: [B, C, *space], content latents.
        style: [B or 1, C, *space], style latents of any size, or their statistics.
        content: of batch 1, to be moved to the style's in place of each latent's own: one map for all
            latents, as the frames of a clip need it.

    Returns:
        [B, C, *space], dtype of `z`.
    Source: Huang 2017 (AdaIN) eq. 8; on the start latent as in Chung 2024 (StyleID), initial latent AdaIN.
    """
    target = style if isinstance(style, Statistics) else channel_statistics(style)
    source = channel_statistics(z) if content is None else content
    scale = target.std / source.std.clamp_min(_SMALLEST_STD)
    return ((z.to(source.mean.dtype) - source.mean) * scale + target.mean).to(z.dtype)
