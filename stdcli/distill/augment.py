"""Random changes of pictures that a discriminator must not learn from; differentiable.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BRIGHTNESS = 0.5
SATURATION = 1.0
CONTRAST = 0.5
TRANSLATION = 1 / 8  # of a side
CUTOUT = 0.2  # of a side


def augment(pictures: Tensor, *, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Change each picture's brightness, saturation and contrast, shift it and cut a rectangle out.

    Brightness moves by up to +-0.5 (of a range of 2), saturation is multiplied by 0..2 and contrast by
    0.5..1.5, pictures move by up to 1/8 of a side, and a rectangle of 0.2 of the sides is grey.

    Args:
        pictures: [B, 3, H, W] in about [-1, 1].
        generator: CPU; takes seven draws per picture.
        strength: of all that, in [0, 1]; 0 changes nothing.

    Returns:
        [B, 3, H, W]; what came in from outside, and what was cut out, is 0.
    Source: Zhao 2020 (DiffAugment).
    """
    draws = torch.rand(len(pictures), 7, generator=generator)
    change = (strength * (2 * draws[:, :3] - 1)).to(pictures).view(-1, 3, 1, 1, 1)
    x = pictures + BRIGHTNESS * change[:, 0]
    x = torch.lerp(x.mean(1, keepdim=True), x, 1 + SATURATION * change[:, 1])
    x = torch.lerp(x.mean((1, 2, 3), keepdim=True), x, 1 + CONTRAST * change[:, 2])
    x = _shift(x, draws[:, 3:5].tolist(), reach=TRANSLATION * strength)
    return _cut(x, draws[:, 5:].tolist(), share=CUTOUT * strength)


def _shift(pictures: Tensor, draws: list[list[float]], *, reach: float) -> Tensor:
    """Move each picture by whole pixels, down and right by up to `reach` of a side or as far back."""
    height, width = pictures.shape[-2:]
    y_px, x_px = round(height * reach), round(width * reach)
    padded = F.pad(pictures, (x_px, x_px, y_px, y_px))
    shifted = []
    for picture, (y, x) in zip(padded, draws, strict=True):
        top, left = int(y * (2 * y_px + 1)), int(x * (2 * x_px + 1))
        shifted.append(picture[:, top : top + height, left : left + width])
    return torch.stack(shifted)


def _cut(pictures: Tensor, draws: list[list[float]], *, share: float) -> Tensor:
    """Set a rectangle of each picture to 0; its centre is anywhere, so it may reach out."""
    height, width = pictures.shape[-2:]
    y_px, x_px = round(height * share), round(width * share)
    visible = torch.ones_like(pictures[:, :1])
    for mask, (y, x) in zip(visible, draws, strict=True):
        top, left = int(y * (height + 1)) - y_px // 2, int(x * (width + 1)) - x_px // 2
        mask[:, max(top, 0) : max(top + y_px, 0), max(left, 0) : max(left + x_px, 0)] = 0
    return pictures * visible
