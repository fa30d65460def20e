"""Give pictures a style's colours in closed form: the linear map between two Gaussians in RGB.

The pixel counterpart of matching latent statistics (`statistics.py`): it moves palette and contrast and
leaves every edge where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SMALLEST_VARIANCE = 1e-4
"""Added to every variance (pictures are in [0, 1]), so that a flat picture is not stretched into noise."""


@dataclass(frozen=True, slots=True)
class ColorStatistics:
    """Mean [B, 3, 1] and population covariance [B, 3, 3] of RGB over a picture, float64."""

    mean: Tensor
    covariance: Tensor


def color_statistics(pictures: Tensor) -> ColorStatistics:
    """Mean and covariance of the colours of pictures [B, 3, H, W] in [0, 1]."""
    flat = pictures.flatten(2).double()
    mean = flat.mean(2, keepdim=True)
    centered = flat - mean
    return ColorStatistics(mean, centered @ centered.transpose(1, 2) / flat.shape[2])


def mix_colors(statistics: Sequence[ColorStatistics], weights: Sequence[float]) -> ColorStatistics:
    """Weighted mean of several styles' colours.

    Args:
        statistics: of S styles.
        weights: S numbers >= 0, not all 0; only their ratios count.
    """
    shares = [weight / sum(weights) for weight in weights]
    both = list(zip(shares, statistics, strict=True))
    return ColorStatistics(
        sum(share * style.mean for share, style in both),
        sum(share * style.covariance for share, style in both),
    )


def pool_colors(statistics: Sequence[ColorStatistics]) -> ColorStatistics:
    """Colours of several pictures of one size taken together, as if they hung side by side.

    Args:
        statistics: at least one, each of any batch.

    Returns:
        Of batch 1: the mean of the means, and the mean covariance plus the covariance of the means.

    Raises:
        ValueError: nothing to pool.
    Source: law of total (co)variance.
    """
    if not statistics:
        raise ValueError("no statistics to pool")
    means = torch.cat([picture.mean for picture in statistics])
    mean = means.mean(0, keepdim=True)
    between = (means - mean) @ (means - mean).transpose(1, 2)
    within = torch.cat([picture.covariance for picture in statistics])
    return ColorStatistics(mean, (within + between).mean(0, keepdim=True))


def match_colors(
    pictures: Tensor, style: Tensor | ColorStatistics, *, content: ColorStatistics | None = None
) -> Tensor:
    """Pictures with the mean and covariance of a style's colours.

    T = S_p^-1/2 (S_p^1/2 S_s S_p^1/2)^1/2 S_p^-1/2, the optimal transport map between Gaussians.

    Args:
        pictures: [B, 3, H, W] in [0, 1].
        style: [B or 1, 3, h, w] in [0, 1], or its statistics.
        content: of batch 1, to be moved to the style's in place of each picture's own: one map for all
            pictures, as the frames of a clip need it.

    Returns:
        [B, 3, H, W], clamped to [0, 1], dtype of `pictures`.

    Source: Pitie and Kokaram 2007, "The linear Monge-Kantorovitch colour mapping", eq. 11.
    """
    ours = color_statistics(pictures) if content is None else content
    theirs = style if isinstance(style, ColorStatistics) else color_statistics(style)
    root = _sqrt(_regular(ours.covariance))
    inverse = torch.linalg.inv(root)
    transport = inverse @ _sqrt(root @ _regular(theirs.covariance) @ root) @ inverse
    offset = theirs.mean - transport @ ours.mean
    flat = pictures.flatten(2)
    moved = torch.baddbmm(*(part.expand(len(flat), -1, -1).to(flat) for part in (offset, transport)), flat)
    return moved.view(pictures.shape).clamp(0, 1)


def _regular(covariance: Tensor) -> Tensor:
    return covariance + _SMALLEST_VARIANCE * torch.eye(3, dtype=covariance.dtype, device=covariance.device)


def _sqrt(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.transpose(1, 2)
