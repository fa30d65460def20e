"""How far a result is from the painting it should be: in its drawing, in its texture; and a codec from exact.

The texture distance is a sliced Wasserstein distance between patches: both pictures are seen through random
small filters, and for each filter the sorted responses are compared. It needs no network, and unlike a
regression it does not punish a brush stroke for lying a little elsewhere, so it leaves no blur.

Legend: B batch, H W pixels, N filters.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

CONTENT_SCALES = ((1, 1.0), (2, 1.0), (4, 2.0), (8, 4.0))  # pixels averaged, weight
COLOR_WEIGHT = 4.0
TEXTURE_SCALES = (1, 2, 4)
FILTER_PX = 7
FILTERS = 24  # per scale and call
RANDOM_ONE_IN = 4  # of the filters; the others are oriented waves
PALETTE_SLICES = 16
RESPONSES = 600  # compared per filter
STRIDE = 2  # of the filters at the finest scale, where neighbours say much the same
CHROMA_WEIGHT = 0.5  # of colour differences against luminance
LUMINANCE_CHROMA = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (0.5, 0.5, -1.0))


def content_distance(pictures: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared differences at four scales, the coarse ones weighing more, since texture may change detail.

    Where the channels differ from their mean they weigh `COLOR_WEIGHT` times as much: strokes are grey, so
    errors of brightness abound, and coloured grain would pass among them.

    Args:
        pictures: [B, 3, H, W] in about [0, 1], H and W at least 8.
        targets: the same shape.

    Returns:
        [B], 0 for equal pictures.
    """
    difference = pictures - targets
    gray = difference.mean(1, keepdim=True)
    difference = gray + COLOR_WEIGHT**0.5 * (difference - gray)
    terms = (weight * F.avg_pool2d(difference, px).square() for px, weight in CONTENT_SCALES)
    return sum(term.mean((1, 2, 3)) for term in terms)


def texture_distance(
    pictures: torch.Tensor, targets: torch.Tensor, *, generator: torch.Generator
) -> torch.Tensor:
    """Sliced Wasserstein-1 distance of small patches at three scales, and of colours.

    Args:
        pictures: [B, 3, H, W] in about [0, 1].
        targets: [B, 3, h, w] in about [0, 1].
        generator: draws the filters and the places, on the CPU.

    Returns:
        [B], 0 in expectation for pictures with the same patches wherever they lie.

    Source: Elnekave and Weiss 2022 (GPDM), sliced Wasserstein distance of patches; Bonneel 2015 (slices).
    """
    smallest = min(*pictures.shape[-2:], *targets.shape[-2:])
    total = pictures.new_zeros(len(pictures))
    for px in TEXTURE_SCALES:
        if smallest // px < FILTER_PX:
            continue
        filters = draw_filters(FILTERS, generator).to(pictures)
        stride = STRIDE if px == 1 else 1
        responses = (F.conv2d(F.avg_pool2d(x, px), filters, stride=stride) for x in (pictures, targets))
        total = total + _wasserstein(*responses, generator=generator)
    slices = _color_slices(PALETTE_SLICES, generator).to(pictures)[:, :, None, None]
    return total + _wasserstein(F.conv2d(pictures, slices), F.conv2d(targets, slices), generator=generator)


def fidelity_loss(decoded: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """L1 of pixels and of differences between neighbours (these for the seams between patches).

    Args:
        decoded: [B, 3, H, W].
        pictures: the same shape.

    Returns:
        A scalar, 0 for equal pictures.
    """
    error = decoded - pictures
    return error.abs().mean() + error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()


def draw_filters(count: int, generator: torch.Generator) -> torch.Tensor:
    """Random filters without response to flat areas: oriented waves, and every fourth one plain noise.

    Args:
        count: how many, N.
        generator: source of randomness, on the CPU.

    Returns:
        [N, 3, FILTER_PX, FILTER_PX], each of unit norm.
    """
    noise = torch.randn(count, FILTER_PX, FILTER_PX, generator=generator)
    is_noise = torch.arange(count).view(-1, 1, 1) % RANDOM_ONE_IN == 0
    shapes = torch.where(is_noise, noise, _waves(count, generator))
    shapes = shapes - shapes.mean((1, 2), keepdim=True)
    shapes = shapes / shapes.flatten(1).norm(dim=1).view(-1, 1, 1)
    return shapes[:, None] * _color_slices(count, generator)[:, :, None, None]


def _waves(count: int, generator: torch.Generator) -> torch.Tensor:
    """Gabor functions of all orientations and phases, 2 to 7 pixels long: [N, FILTER_PX, FILTER_PX]."""
    at = torch.arange(FILTER_PX) - FILTER_PX // 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    draws = torch.rand(4, count, 1, 1, generator=generator)
    angle, phase = math.pi * draws[0], 2 * math.pi * draws[1]
    across_px, along_px = 0.6 + 1.2 * draws[2], 1 + 2 * draws[3]  # the second in units of the first
    across = (x * angle.cos() + y * angle.sin()) / across_px
    along = (y * angle.cos() - x * angle.sin()) / (across_px * along_px)
    return torch.exp(-(across**2 + along**2) / 2) * torch.cos(1.6 * across + phase)


def _color_slices(count: int, generator: torch.Generator) -> torch.Tensor:
    """Random unit directions in RGB, mostly near grey: [N, 3]."""
    axes = F.normalize(torch.tensor(LUMINANCE_CHROMA), dim=1)
    weights = torch.tensor((1.0, CHROMA_WEIGHT, CHROMA_WEIGHT))
    return F.normalize(torch.randn(count, 3, generator=generator) * weights, dim=1) @ axes


def _wasserstein(ours: torch.Tensor, theirs: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
    """Mean over N of the Wasserstein-1 distance of responses [B, N, h, w] at random places: [B]."""
    count = min(RESPONSES, ours[0, 0].numel(), theirs[0, 0].numel())
    drawn = []
    for responses in (ours, theirs):
        sampled = torch.randperm(responses[0, 0].numel(), generator=generator)[:count].to(responses.device)
        drawn.append(responses.flatten(2)[..., sampled].sort(-1).values)
    return (drawn[0] - drawn[1]).abs().mean((1, 2))
