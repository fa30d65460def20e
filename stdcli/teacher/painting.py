"""The painting that training aims at, in closed form.

Fine detail of the recoloured photo is flattened (Kuwahara filter), and brush strokes are put on top: the
state's own noise, smeared along the edges of what the state shows. So the painting is a function of what the
network sees: it can be learned without blur, every noise gives other strokes, and more noise gives more of
them. How strongly they stand out is the style's own contrast of fine detail.

Legend: B batch, H W pixels, N orientations or sectors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

SECTORS = 8
SECTOR_PX = 4  # radius of the flattening
SHARPNESS = 8.0  # how strongly the flattest sector is preferred
ORIENTATIONS = 12
STROKE_LENGTH_PX, STROKE_WIDTH_PX = 5.0, 0.7  # standard deviations of a stroke
GUIDE_PX, ORIENTATION_PX = 2.0, 4.0  # blur of what strokes follow, and of its orientation
FOLLOWING = 6.0  # how exclusively a stroke takes its pixel's orientation
STROKE_GAIN = 0.5
FULL_RATIO = 0.15  # sigma / alpha from which on strokes have their full strength
DETAIL_PX = 7
LUMINANCE = (0.299, 0.587, 0.114)


def paint(
    pictures: torch.Tensor, styles: torch.Tensor, *, noise: torch.Tensor, ratio: torch.Tensor
) -> torch.Tensor:
    """Pictures as paintings.

    Args:
        pictures: [B, 3, H, W] in [0, 1], in the styles' colours.
        styles: [B, 3, h, w] in [0, 1].
        noise: [B, 1, H, W], luminance of the state's noise in pixels, for sigma 1.
        ratio: float [B], sigma / alpha of the state; 0 leaves strokes out.

    Returns:
        [B, 3, H, W], about [0, 1].
    """
    ratio = ratio.to(pictures).view(-1, 1, 1, 1)
    strokes = brush_strokes(luminance(pictures) + ratio * noise, noise)
    strength = STROKE_GAIN * detail_contrast(styles) * (ratio / FULL_RATIO).clamp(max=1)
    return flatten_detail(pictures) + strength * strokes


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


def brush_strokes(guide: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Noise smeared along the edges of a guide.

    Args:
        guide: [B, 1, H, W].
        noise: [B, 1, H, W].

    Returns:
        [B, 1, H, W] with standard deviation 1 over each picture.

    Source: Cabral and Leedom 1993 (line integral convolution), here with straight lines;
        Bigun and Granlund 1987 (orientation by the doubled angle of the gradient).
    """
    smooth = F.pad(_blur(guide, GUIDE_PX), (1, 1, 1, 1), mode="replicate")
    along_x = smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]
    along_y = smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]
    gradient = torch.cat([along_x.square() - along_y.square(), 2 * along_x * along_y], 1)
    tangent = -F.normalize(_blur(gradient, ORIENTATION_PX), dim=1, eps=1e-12)
    doubled = 2 * math.pi * torch.arange(ORIENTATIONS) / ORIENTATIONS
    axes = torch.stack([doubled.cos(), doubled.sin()], 1).to(guide)
    weights = (FOLLOWING * F.conv2d(tangent, axes[:, :, None, None])).softmax(1)
    lines = _lines().to(noise)
    smeared = F.conv2d(F.pad(noise, (lines.shape[-1] // 2,) * 4, mode="reflect"), lines)
    strokes = (weights * smeared).sum(1, keepdim=True)
    return strokes / strokes.std((2, 3), keepdim=True).clamp(min=1e-6)


def detail_contrast(pictures: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the luminance's fine detail: [B, 1, 1, 1] of pictures [B, 3, H, W]."""
    grey = luminance(pictures)
    padded = F.pad(grey, (DETAIL_PX // 2,) * 4, mode="reflect")
    return (grey - F.avg_pool2d(padded, DETAIL_PX, stride=1)).std((1, 2, 3), keepdim=True)


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


def _lines() -> torch.Tensor:
    """Long thin Gaussians of all orientations: [ORIENTATIONS, 1, k, k], each of unit norm."""
    x, y = _grid(round(2 * STROKE_LENGTH_PX) - 1)
    angle = math.pi * torch.arange(ORIENTATIONS).view(-1, 1, 1) / ORIENTATIONS
    along = (x * angle.cos() + y * angle.sin()) / STROKE_LENGTH_PX
    across = (y * angle.cos() - x * angle.sin()) / STROKE_WIDTH_PX
    return F.normalize(torch.exp(-(along**2 + across**2) / 2).flatten(1)).view(ORIENTATIONS, 1, *x.shape)


def _blur(fields: torch.Tensor, sigma_px: float) -> torch.Tensor:
    """Gaussian blur of [B, C, H, W]."""
    radius = math.ceil(2.5 * sigma_px)
    kernel = torch.exp(-((torch.arange(-radius, radius + 1.0) / sigma_px) ** 2) / 2)
    kernel = (kernel / kernel.sum()).to(fields)
    flat = fields.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))
    return flat.view_as(fields)
