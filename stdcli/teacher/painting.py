"""The painting that training aims at, in closed form.

Fine detail of the recoloured photo is flattened (Kuwahara filter), a little of the state's own noise is laid
over it, and then its small patches of luminance are moved until they are distributed as the style's: a soft
style softens, an engraving draws lines, a canvas gives its grain, out of whatever lies there, edges or noise.
So the painting is a function of what the network sees: it can be learned without blur, and every noise gives
other strokes. More noise, as more strength brings, gives more of them.

Legend: B batch, H W pixels, D directions, R rows, K knots.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

SECTORS = 8
SECTOR_PX = 4  # radius of the flattening
SHARPNESS = 8.0  # how strongly the flattest sector is preferred
PATCH_PX = 7
SCALES_PX = (4, 2, 1) * 2  # pixels averaged, in the order in which patches are moved
STRIDE = 2  # between patches at the finest scale
KNOTS, BINS = 65, 256  # of a distribution; of the map between two
GRAIN = 0.03  # standard deviation of the noise that strokes grow from, in flat areas too
HALF_RATIO, HIGHEST_RATIO = 0.05, 0.4  # sigma / alpha where strokes have about half and all of their strength
LUMINANCE = (0.299, 0.587, 0.114)


def paint(
    pictures: torch.Tensor, styles: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures as paintings, in two layers.

    Args:
        pictures: [B, 3, H, W] in [0, 1], in the styles' colours; H and W multiples of 4.
        styles: [B, 3, h, w] in [0, 1], h and w at least 28.
        noise: [B, 1, H, W], luminance of the state's noise in pixels; its scale does not matter.

    Returns:
        The picture without fine detail, [B, 3, H, W], and what to add for all strokes, [B, 1, H, W].
    """
    flat = flatten_detail(pictures)
    drawn = luminance(flat)
    grain = GRAIN * noise / noise.std((1, 2, 3), keepdim=True).clamp(min=1e-6)
    return flat, transport_patches(drawn + grain, luminance(styles)) - drawn


def stroke_strength(ratio: torch.Tensor) -> torch.Tensor:
    """How much of the strokes a state shows: 0 without noise, then rising ever more slowly to 1.

    Args:
        ratio: sigma / alpha, any shape, not negative; infinite in pure noise.
    """
    rising = (1 + HALF_RATIO / HIGHEST_RATIO) / (1 + HALF_RATIO / ratio)  # also of 0 and infinity
    return rising.clamp(max=1)


def transport_patches(pictures: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    """Pictures whose patches, less their means, are distributed about as those of the styles.

    At each scale patches are seen along an orthonormal set of directions, along each the values are moved to
    the style's by the monotone map that does it, and overlapping patches are averaged. The directions are the
    same for all pictures, so this is one function of the two.

    Args:
        pictures: [B, 1, H, W], H and W multiples of 4.
        styles: [B, 1, h, w], h and w at least 28.

    Returns:
        [B, 1, H, W].

    Source: Rabin et al. 2011, "Wasserstein barycenter and its application to texture mixing", section 4
        (sliced transport); Elnekave and Weiss 2022 (of patches).
    """
    for turn, px in enumerate(SCALES_PX):
        directions = _directions(turn).to(pictures)
        stride = STRIDE if px == 1 else 1
        coarse, style = F.avg_pool2d(pictures, px), F.avg_pool2d(styles, px)
        (height, width), margin = coarse.shape[-2:], PATCH_PX - 1
        padded = F.pad(coarse, (margin, margin + 1) * 2, mode="reflect")
        seen, wanted = (F.conv2d(x, directions, stride=stride) for x in (padded, style))
        moves = _moves(seen.flatten(2).flatten(0, 1), wanted.flatten(2).flatten(0, 1)).view_as(seen)
        total = F.conv_transpose2d(moves, directions, stride=stride)
        patches = F.conv_transpose2d(
            torch.ones_like(seen[:1, :1]), torch.ones_like(directions[:1]), stride=stride
        )
        move = (total / patches)[..., margin : margin + height, margin : margin + width]
        if px > 1:
            move = F.interpolate(move, scale_factor=px, mode="bilinear", align_corners=False)
        pictures = pictures + move
    return pictures


def flatten_detail(pictures: torch.Tensor) -> torch.Tensor:
    """Generalised Kuwahara filter: every pixel becomes the mean of the flattest of eight sectors around it.

    Args:
        pictures: [B, 3, H, W] in [0, 1].

    Returns:
        [B, 3, H, W]; flat areas and straight edges stay as they are.

    Source: Papari, Petkov and Campisi 2007, "Artistic edge and corner enhancing smoothing", section III.
    """
    padded = F.pad(pictures, (SECTOR_PX,) * 4, mode="reflect")
    both = torch.cat([padded, padded.square()], 1)
    seen = F.conv2d(both.flatten(0, 1)[:, None], _sectors().to(both))
    mean, square = seen.view(len(pictures), 2, 3, SECTORS, *pictures.shape[-2:]).unbind(1)
    spread = (square - mean.square()).clamp(min=0).sum(1, keepdim=True).sqrt()
    weights = (spread + 0.005) ** -SHARPNESS
    return (mean * weights / weights.sum(2, keepdim=True)).sum(2)


def luminance(pictures: torch.Tensor) -> torch.Tensor:
    """Rec. 601 luma [B, 1, H, W] of pictures [B, 3, H, W]."""
    return F.conv2d(pictures, torch.tensor(LUMINANCE).to(pictures).view(1, 3, 1, 1))


def _grid(radius_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    at = torch.arange(-radius_px, radius_px + 1.0)
    y, x = torch.meshgrid(at, at, indexing="ij")
    return x, y


def _sectors() -> torch.Tensor:
    """Gaussian windows cut into soft sectors: [SECTORS, 1, 2 r + 1, 2 r + 1], each of sum 1."""
    x, y = _grid(SECTOR_PX)
    window = torch.exp(-2 * (x**2 + y**2) / SECTOR_PX**2)
    middle = 2 * math.pi * torch.arange(SECTORS).view(-1, 1, 1) / SECTORS
    off = torch.remainder(torch.atan2(y, x) - middle + math.pi, 2 * math.pi) - math.pi
    inside = torch.exp(-((off * SECTORS / math.pi) ** 2) / 2)
    inside[:, SECTOR_PX, SECTOR_PX] = 1  # the pixel itself belongs to all
    sectors = window * inside
    return (sectors / sectors.sum((1, 2), keepdim=True))[:, None]


@cache
def _directions(turn: int) -> torch.Tensor:
    """Orthonormal patches without a mean, turned at random: [PATCH_PX^2 - 1, 1, PATCH_PX, PATCH_PX]."""
    size = PATCH_PX**2
    generator = torch.Generator().manual_seed(turn)
    basis = torch.randn(size, size, generator=generator, dtype=torch.float64)
    basis[:, 0] = 1  # the mean comes first and is then left out
    return torch.linalg.qr(basis)[0].T[1:].float().view(size - 1, 1, PATCH_PX, PATCH_PX)


def _moves(values: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """What to add to values [R, n] so that each row is distributed as the same row of `wanted` [R, m]."""
    source, target = _quantiles(values), _quantiles(wanted)
    lowest, reach = source[:, :1], (source[:, -1:] - source[:, :1]).clamp(min=1e-6)
    grid = lowest + reach * torch.linspace(0, 1, BINS, device=values.device)
    above = torch.searchsorted(source, grid).clamp(1, KNOTS - 1)
    (x0, x1), (y0, y1) = ((x.gather(1, above - 1), x.gather(1, above)) for x in (source, target))
    table = y0 + (y1 - y0) * ((grid - x0) / (x1 - x0).clamp(min=1e-9)).clamp(0, 1) - grid
    bin_position = (values - lowest) * ((BINS - 1) / reach)
    bin_id = bin_position.long().clamp(0, BINS - 2)
    left, right = table.gather(1, bin_id), table.gather(1, bin_id + 1)
    return left + (right - left) * (bin_position - bin_id)


def _quantiles(values: torch.Tensor) -> torch.Tensor:
    """`KNOTS` values of each row [R, n], the lowest, the highest and those between: [R, KNOTS]."""
    if values.device.type == "cpu":
        ordered = torch.from_numpy(np.sort(values.numpy(), axis=1))  # nine times as fast as torch's
    else:
        ordered = values.sort(1).values
    at = torch.linspace(0, values.shape[1] - 1, KNOTS).round().long()
    return ordered[:, at.to(values.device)].contiguous()
