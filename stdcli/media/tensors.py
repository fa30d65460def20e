"""Pictures as tensors: range and padding.

An array is uint8 [H, W, 3] in 0..255, a tensor float32 [B, 3, H, W] in [-1, 1]; both are sRGB. Knows nothing
of files.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from stdcli.errors import NumericsError
from stdcli.media.arrays import check_rgb


class Crop(NamedTuple):
    """Where the picture lies inside its padding, in pixels."""

    top: int
    left: int
    height: int
    width: int


def to_tensor(rgb: np.ndarray) -> torch.Tensor:
    """x = rgb / 127.5 - 1.

    Args:
        rgb: uint8 [H, W, 3].

    Returns:
        float32 [1, 3, H, W] in [-1, 1].

    Raises:
        ValueError: another shape or dtype.
    """
    check_rgb(rgb)
    return torch.tensor(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_uint8(x: torch.Tensor) -> np.ndarray:
    """The inverse of `to_tensor`: clamped to [-1, 1], rounded to the nearest, halves to even.

    Args:
        x: [B, 3, H, W], any float dtype and device.

    Returns:
        uint8 [B, H, W, 3].

    Raises:
        ValueError: another shape.
        NumericsError: NaN or infinity, which no pixel can show.
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"expected [B, 3, H, W], got {list(x.shape)}")
    if not torch.isfinite(x).all():
        raise NumericsError("a picture contains NaN or infinite values")
    levels = ((x.float().clamp(-1, 1) + 1) * 127.5).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous().numpy()


def pad_to_multiple(x: torch.Tensor, multiple: int) -> tuple[torch.Tensor, Crop]:
    """Pad by reflection, half on each side, until both sides are multiples.

    The picture is mirrored about its edge pixels as often as it takes, so it may be smaller than the padding;
    a side of one pixel is repeated.

    Args:
        x: [B, C, H, W].
        multiple: in pixels, at least 1.

    Returns:
        ([B, C, H', W'], where the picture lies in it).

    Raises:
        ValueError: `multiple` below 1, or an empty picture.
    """
    height, width = x.shape[-2:]
    if multiple < 1 or min(height, width) < 1:
        raise ValueError(f"cannot pad {height}x{width} to multiples of {multiple}")
    top, left = (-height % multiple) // 2, (-width % multiple) // 2
    rows = _reflected(height, before=top, total=height + -height % multiple)
    columns = _reflected(width, before=left, total=width + -width % multiple)
    padded = x[..., rows.to(x.device), :][..., columns.to(x.device)]
    return padded, Crop(top, left, height, width)


def _reflected(length: int, *, before: int, total: int) -> torch.Tensor:
    """For each of `total` positions, the pixel 0..length-1 that a mirror at both edge pixels shows."""
    period = max(2 * (length - 1), 1)
    position = torch.arange(-before, total - before) % period
    return torch.minimum(position, (period - position) % period) if length > 1 else torch.zeros_like(position)


def crop_back(x: torch.Tensor, crop: Crop) -> torch.Tensor:
    """Cut the picture out of its padding.

    Args:
        x: [B, C, H', W'] as padded.
        crop: as `pad_to_multiple` returned it.

    Returns:
        [B, C, H, W], a view.

    Raises:
        ValueError: `x` is smaller than the crop.
    """
    bottom, right = crop.top + crop.height, crop.left + crop.width
    if x.shape[-2] < bottom or x.shape[-1] < right:
        raise ValueError(f"{tuple(x.shape[-2:])} does not contain {crop}")
    return x[..., crop.top : bottom, crop.left : right]
